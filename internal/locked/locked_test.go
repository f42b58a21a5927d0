package locked

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealwright/sealwright/key"
)

func TestBufferHoldsAndWipes(t *testing.T) {
	for _, n := range []int{1, 16, 32, 33, 4096, 5000} {
		source := bytes.Repeat([]byte{0xa5}, n)
		b, err := From(source)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(source, []byte{0xa5}) {
			t.Errorf("%d bytes: the source was not wiped", n)
		}
		use(t, b, func(mem []byte) {
			if len(mem) != n || cap(mem) != n || bytes.Count(mem, []byte{0xa5}) != n {
				t.Errorf("%d bytes: read back %d of capacity %d", n, len(mem), cap(mem))
			}
		})
		b.Close()
		b.Close()
		if err := b.Use(func([]byte) { t.Error("a closed buffer was lent") }); !errors.Is(err, ErrClosed) {
			t.Errorf("using a closed buffer: %v", err)
		}
	}
	for _, n := range []int{0, -1, maxSize + 1} {
		if _, err := New(n); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("New(%d): %v, want ErrInvalid", n, err)
		}
	}
	secret := []byte{}
	if _, err := NewArena().From(secret); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an empty secret: %v, want ErrInvalid", err)
	}
}

func TestArenaSharesPages(t *testing.T) {
	a := NewArena()
	defer a.Close()
	const keys = 10_000
	bufs := make([]*Buffer, keys)
	for i := range bufs {
		b, err := a.From(fmt.Appendf(nil, "%032d", i))
		if err != nil {
			t.Fatal(err)
		}
		bufs[i] = b
	}
	if most := keys*slotSize/os.Getpagesize() + 1; len(a.pages) > most {
		t.Errorf("%d keys took %d pages, want at most %d", keys, len(a.pages), most)
	}
	for i, b := range bufs {
		use(t, b, func(mem []byte) {
			if want := fmt.Sprintf("%032d", i); string(mem) != want {
				t.Fatalf("key %d reads %q", i, mem)
			}
		})
	}
	pages := len(a.pages)
	for _, b := range bufs {
		b.Close()
	}
	for range keys {
		b, err := a.New(32)
		if err != nil {
			t.Fatal(err)
		}
		use(t, b, func(mem []byte) {
			if !bytes.Equal(mem, make([]byte, 32)) {
				t.Fatal("a slot was handed out with the last secret in it")
			}
			mem[0] = 1
		})
	}
	if len(a.pages) != pages {
		t.Errorf("the second round took new pages: %d, then %d", pages, len(a.pages))
	}
}

func TestArenaClose(t *testing.T) {
	a := NewArena()
	small, err := a.New(32)
	if err != nil {
		t.Fatal(err)
	}
	large, err := a.New(8192)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	a.Close()
	for _, b := range []*Buffer{small, large} {
		if err := b.Use(func([]byte) {}); !errors.Is(err, ErrClosed) {
			t.Errorf("using a secret of a closed arena: %v", err)
		}
		b.Close()
	}
	if _, err := a.New(32); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed arena handed out memory: %v", err)
	}
}

// TestForgottenBuffer loses a buffer and expects its slot back, wiped.
func TestForgottenBuffer(t *testing.T) {
	a := NewArena()
	defer a.Close()
	if _, err := a.From(bytes.Repeat([]byte{7}, 32)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		runtime.GC()
		a.mu.Lock()
		held := len(a.taken)
		a.mu.Unlock()
		if held == 0 {
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, m := range a.pages {
				if bytes.Contains(m.data, []byte{7}) {
					t.Error("the forgotten secret is still in memory")
				}
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a forgotten buffer was never wiped")
}

func TestConcurrentUseAndClose(t *testing.T) {
	a := NewArena()
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for i := range 500 {
				b, err := a.From(bytes.Repeat([]byte{byte(i)}, 1+i%40))
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				var other sync.WaitGroup
				other.Go(b.Close)
				err = b.Use(func(mem []byte) {
					if mem[0] != byte(i) {
						t.Errorf("read %d, want %d", mem[0], byte(i))
					}
				})
				if err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				other.Wait()
			}
		})
	}
	running.Wait()
	a.Close()
}

// wrapped has secrets where fmt does not ask for their methods.
type wrapped struct {
	secret Secret
	buffer *Buffer
	value  Buffer
	Open   Secret
	Locked *Buffer
}

func TestNothingPrintsASecret(t *testing.T) {
	const plain = "correct horse battery staple 42!"
	b, err := From([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := NewSecret([]byte(plain))
	if string(s.Bytes()) != plain {
		t.Fatalf("Bytes() = %q", s.Bytes())
	}
	things := []any{s, &s, b, *b, wrapped{s, b, *b, s, b}, &wrapped{s, b, *b, s, b}, []any{s, b}, map[string]any{"s": s, "b": b}, []Secret{s}}
	var out strings.Builder
	for _, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%o", "%b", "%c", "%U", "%08v", "% x"} {
			fmt.Fprintf(&out, verb+"\n", thing)
		}
		fmt.Fprintln(&out, thing)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "thing", thing)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "thing", thing)
		text, err := json.Marshal(thing)
		if err != nil {
			t.Errorf("JSON of %T: %v", thing, err)
		}
		out.Write(text)
	}
	fmt.Fprintln(&out, fmt.Errorf("wrapping: %v %s", s, b), s.String(), b.String())
	printed := out.String()
	for _, form := range []string{plain, "horse", fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain), "99 111 114", "0x63, 0x6f", "Y29ycmVjd", "143 157", "636f"} {
		if strings.Contains(printed, form) {
			t.Errorf("a secret was printed as %q", form)
		}
	}
	if !strings.Contains(printed, redacted) {
		t.Error("nothing says [redacted]")
	}
	if text, _ := json.Marshal(s); string(text) != `"[redacted]"` {
		t.Errorf("JSON of a secret: %s", text)
	}
	if text, err := s.MarshalText(); string(text) != redacted || err != nil {
		t.Errorf("text of a secret: %s, %v", text, err)
	}
	if text, _ := json.Marshal(map[string]any{"b": b}); string(text) != `{"b":"[redacted]"}` {
		t.Errorf("JSON of a buffer: %s", text)
	}
	s.Wipe()
	if !bytes.Equal(s.Bytes(), make([]byte, len(plain))) {
		t.Error("Wipe left something")
	}
	if empty := NewSecret(nil); len(empty.Bytes()) != 0 {
		t.Error("an empty secret has bytes")
	}
}

func TestPagesAreLockedAndKeptOut(t *testing.T) {
	b, err := New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skipf("reading the process's own memory map: %v", err)
	}
	var flags string
	use(t, b, func(mem []byte) {
		at := fmt.Sprintf("%x-", addressOf(mem))
		_, after, found := strings.Cut(string(maps), "\n"+at)
		if !found {
			t.Fatalf("no mapping begins at %s", at)
		}
		_, after, _ = strings.Cut(after, "VmFlags:")
		flags, _, _ = strings.Cut(after, "\n")
	})
	for flag, meaning := range map[string]string{"lo": "locked", "dd": "left out of dumps", "wf": "wiped on fork"} {
		if !strings.Contains(flags+" ", " "+flag+" ") {
			t.Errorf("the page is not %s (flags%s)", meaning, flags)
		}
	}
}

// TestSmallLockLimit and TestHardenProcess change the whole process, so they run in a child.
func TestSmallLockLimit(t *testing.T) {
	inChild(t, "limit", func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 4096, Max: 4096}); err != nil {
			fatal("%v", err)
		}
		dropPrivileges()
		a := NewArena()
		if _, err := a.New(32); err != nil {
			fatal("the first page: %v", err)
		}
		_, err := a.New(4096)
		if !errors.Is(err, key.ErrUnavailable) || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK is 4096") || !strings.Contains(err.Error(), "LimitMEMLOCK") {
			fatal("beyond the limit: %v", err)
		}
		if _, err := a.New(32); err != nil {
			fatal("the arena is of no more use after a refusal: %v", err)
		}
	})
}

func TestHardenProcess(t *testing.T) {
	inChild(t, "harden", func() {
		if err := HardenProcess(); err != nil {
			fatal("%v", err)
		}
		var core unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
			fatal("RLIMIT_CORE is %+v, %v", core, err)
		}
		if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
			fatal("PR_GET_DUMPABLE is %d, %v", dumpable, err)
		}
	})
}

func TestDo(t *testing.T) {
	ran := false
	Do(func() { ran = true })
	if !ran {
		t.Error("Do did not call its function")
	}
	t.Logf("this build erases what Do leaves behind: %v", Erases)
}

func BenchmarkUse(b *testing.B) {
	buf, err := New(32)
	if err != nil {
		b.Fatal(err)
	}
	defer buf.Close()
	for b.Loop() {
		if err := buf.Use(func([]byte) {}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkArenaNewClose(b *testing.B) {
	a := NewArena()
	defer a.Close()
	for b.Loop() {
		buf, err := a.New(32)
		if err != nil {
			b.Fatal(err)
		}
		buf.Close()
	}
}

func use(t *testing.T, b *Buffer, f func([]byte)) {
	t.Helper()
	if err := b.Use(f); err != nil {
		t.Fatal(err)
	}
}

const childVariable = "SEALWRIGHT_LOCKED_TEST_CHILD"

// inChild runs f in a fresh process of this test binary.
func inChild(t *testing.T, name string, f func()) {
	t.Helper()
	if os.Getenv(childVariable) == name {
		f()
		os.Exit(0)
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), childVariable+"="+name)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func fatal(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}
