package storagetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// crashStore tells a re-executed test binary which store to write to until it dies.
const crashStore = "SEALWRIGHT_TEST_CRASH_STORE"

// Doomed is the other half of [Crash]: called first by a test named TestDoomed,
// it writes to the store of the environment until the process is killed. It
// returns when this is an ordinary run of the tests.
func Doomed(t *testing.T, open func(ctx context.Context, where string) (*storage.DB, error)) {
	where := os.Getenv(crashStore)
	if where == "" {
		t.Skip("this is the process that the crash tests kill")
	}
	db, err := open(context.Background(), where)
	if err != nil {
		t.Fatal(err)
	}
	db.SetLog(Log{})
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, format, args...)
	}
	say("ready\n")
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d-%d-%d", os.Getpid(), caller, i)
				c := storage.Change{Entries: []storage.Entry{entry(text)}}
				if i%2 == 0 {
					c.Apply = func(tx *storage.Tx) error { return put(tx, text) }
				}
				index, err := db.Commit(context.Background(), c)
				switch {
				case err == nil:
					say("done %d %s\n", index, text)
				case errors.Is(err, storage.ErrOutcomeUnknown):
					say("unknown -1 %s\n", text)
				case errors.Is(err, key.ErrUnavailable):
					say("refused -1 %s\n", text)
				default:
					say("surprise -1 %s %v\n", text, err)
				}
			}
		})
	}
	wg.Wait()
}

// Fate is what became of the changes of processes that died.
type Fate struct {
	Done, Refused, Unknown map[string]int64 // by text; Done holds the index
	Ends                   int              // processes that died as they should
}

// Crash runs the test binary again, as TestDoomed on the store where, under the
// command of wrap (nil: none), and kills it after a while if it lives that long.
func (f *Fate) Crash(t *testing.T, where string, wrap []string, after time.Duration) {
	t.Helper()
	if f.Done == nil {
		f.Done, f.Refused, f.Unknown = map[string]int64{}, map[string]int64{}, map[string]int64{}
	}
	args := append(append([]string{}, wrap...), os.Args[0], "-test.run=^TestDoomed$", "-test.v")
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), crashStore+"="+where)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The clock starts when the child writes; a child that never does is killed all the same.
	// The whole group is killed: a tracer that dies sets its child free.
	kill := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	ready := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var index int64
		var verdict, text string
		if lines.Text() == "ready" {
			ready = true
			kill.Reset(after)
			continue
		}
		if n, _ := fmt.Sscan(lines.Text(), &verdict, &index, &text); n != 3 {
			continue // of the testing package, or cut off by the kill
		}
		switch verdict {
		case "done":
			f.Done[text] = index
		case "refused":
			f.Refused[text] = index
		case "unknown":
			f.Unknown[text] = index
		case "surprise":
			t.Errorf("the doomed process: %s", lines.Text())
		}
	}
	err = cmd.Wait()
	kill.Stop()
	if err == nil {
		t.Errorf("the doomed process ended by itself: %s", problems.String())
	}
	if ready {
		f.Ends++
	}
}

// Check compares the store with what the processes said: nothing acknowledged is
// lost or moved, nothing refused is there, rows and entries agree, no gaps.
func (f *Fate) Check(t *testing.T, db *storage.DB) {
	t.Helper()
	all := CheckLog(t, db)
	for text, index := range f.Done {
		if index >= int64(len(all)) || all[index] != text {
			t.Errorf("acknowledged entry %d %q is lost", index, text)
		}
	}
	logged := map[string]bool{}
	for _, text := range all {
		if logged[text] {
			t.Errorf("entry %q is there twice", text)
		}
		logged[text] = true
		if _, ok := f.Refused[text]; ok {
			t.Errorf("refused entry %q is there", text)
		}
	}
	rows, err := db.Query(context.Background(), "SELECT nonce FROM nonce")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		n++
		if !logged[text] {
			t.Errorf("row %q has no entry: the change was torn", text)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for text := range logged {
		if strings.HasSuffix(text, "0") || strings.HasSuffix(text, "2") || strings.HasSuffix(text, "4") || strings.HasSuffix(text, "6") || strings.HasSuffix(text, "8") {
			n--
		}
	}
	if n != 0 {
		t.Errorf("%d rows too many or too few", n)
	}
}
