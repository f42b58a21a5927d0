package hsm_test

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// The tests of this file take something away from a token in use. They do not
// run in parallel: what they do to the library they do to every token of the process.

func signing(label string) key.Spec {
	return key.Spec{ID: key.NewID(), Label: label, Algorithm: key.ECDSAP256, Usage: key.UsageSign}
}

func wrapping(label string) key.Spec {
	return key.Spec{ID: key.NewID(), Label: label, Algorithm: key.AES256, Usage: key.UsageWrap}
}

func generate(t testing.TB, d key.Device, spec key.Spec) key.Ref {
	t.Helper()
	ref, err := d.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// sign returns the device's error, and fails the test if the device released
// a signature that does not verify.
func sign(t testing.TB, d key.Device, ref key.Ref, text string) error {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	sig, err := d.Sign(t.Context(), ref, digest[:], crypto.SHA256)
	if err != nil {
		if sig != nil {
			t.Errorf("a signature came with the error %v", err)
		}
		return err
	}
	if err := ref.CheckSignature(digest[:], sig); err != nil {
		t.Errorf("released signature: %v", err)
	}
	return nil
}

// thefts are the ways in which a process loses what it has in a token.
var thefts = map[string]func(*pkcs11.Ctx, uint, pkcs11.SessionHandle){
	"C_Logout":           func(lib *pkcs11.Ctx, _ uint, pinned pkcs11.SessionHandle) { _ = lib.Logout(pinned) },
	"C_CloseSession":     func(lib *pkcs11.Ctx, _ uint, pinned pkcs11.SessionHandle) { _ = lib.CloseSession(pinned) },
	"C_CloseAllSessions": func(lib *pkcs11.Ctx, slot uint, _ pkcs11.SessionHandle) { _ = lib.CloseAllSessions(slot) },
	"C_Finalize":         func(lib *pkcs11.Ctx, _ uint, _ pkcs11.SessionHandle) { _ = lib.Finalize() },
	"C_Finalize and C_Initialize": func(lib *pkcs11.Ctx, _ uint, _ pkcs11.SessionHandle) {
		_ = lib.Finalize()
		_ = lib.Initialize()
	},
}

func TestSessionsTaken(t *testing.T) {
	for name, steal := range thefts {
		t.Run(name, func(t *testing.T) {
			d := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
			var refs [4]key.Ref
			for i := range refs {
				refs[i] = generate(t, d, signing(fmt.Sprintf("ca/%d", i)))
			}
			root := generate(t, d, wrapping("root"))
			stop := make(chan struct{})
			var done, lost atomic.Int64
			var running sync.WaitGroup
			for worker := range 8 {
				running.Go(func() {
					for round := 0; ; round++ {
						select {
						case <-stop:
							return
						default:
						}
						text := fmt.Sprintf("%d/%d", worker, round)
						err := sign(t, d, refs[worker%len(refs)], text)
						if err == nil && worker == 0 {
							err = wrapAndUnwrap(t, d, root, text)
						}
						switch {
						case err == nil:
							done.Add(1)
						case errors.Is(err, key.ErrUnavailable):
							lost.Add(1)
						default:
							t.Errorf("worker %d: %v", worker, err)
							return
						}
					}
				})
			}
			for range 20 {
				time.Sleep(5 * time.Millisecond)
				d.Steal(steal)
			}
			time.Sleep(5 * time.Millisecond)
			close(stop)
			running.Wait()
			stats := d.Stats()
			t.Logf("%d operations done, %d unavailable; %+v", done.Load(), lost.Load(), stats)
			// Losing the pinned session alone hurts nobody while others are open: keepalive renews it.
			if stats.Recoveries == 0 && name != "C_CloseSession" || done.Load() == 0 {
				t.Error("nothing was taken, or nothing came back")
			}
			if stats.InUse != 0 || stats.Open > stats.Sessions {
				t.Errorf("sessions leak: %+v", stats)
			}
			if err := sign(t, d, refs[0], "afterwards"); err != nil {
				t.Errorf("the device did not come back: %v", err)
			}
		})
	}
}

func wrapAndUnwrap(t testing.TB, d key.Device, root key.Ref, text string) error {
	wrapped, err := d.Wrap(t.Context(), root, []byte(text), nil)
	if err != nil {
		return err
	}
	back, err := d.Unwrap(t.Context(), root, wrapped, nil)
	if err == nil && string(back) != text {
		t.Errorf("%q came back as %q", text, back)
	}
	return err
}

// TestEachOperationSurvives takes the sessions away before each single operation: none notices.
func TestEachOperationSurvives(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	ca, root := generate(t, d, signing("ca")), generate(t, d, wrapping("root"))
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for name, steal := range thefts {
		for operation, run := range map[string]func() error{
			"Sign":       func() error { return sign(t, d, ca, name) },
			"Wrap":       func() error { return wrapAndUnwrap(t, d, root, name) },
			"Unwrap":     func() error { _, err := d.Unwrap(t.Context(), root, wrapped, nil); return err },
			"Find":       func() error { _, err := d.Find(t.Context(), ca.ID); return err },
			"Attributes": func() error { _, err := d.Attributes(t.Context(), root); return err },
			"Random":     func() error { _, err := d.Random(t.Context(), 16); return err },
			"Health":     func() error { return d.Health(t.Context()) },
			"Generate": func() error {
				made++
				spec := signing(fmt.Sprintf("made/%d", made))
				ref, err := d.Generate(t.Context(), spec)
				if err != nil {
					return err
				}
				d.Steal(steal)
				return d.Destroy(t.Context(), ref)
			},
		} {
			d.Steal(steal)
			if err := run(); err != nil {
				t.Errorf("%s after %s: %v", operation, name, err)
			}
		}
		d.Steal(steal)
		if _, err := d.Find(t.Context(), key.NewID()); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("an unknown key after %s: %v, want ErrNotFound", name, err)
		}
	}
}

func TestTokensShareALibrary(t *testing.T) {
	one := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	two := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	a, b := generate(t, one, signing("ca")), generate(t, two, signing("ca"))
	for range 3 {
		one.Steal(thefts["C_Finalize"])
		if err := sign(t, one, a, "one"); err != nil {
			t.Error(err)
		}
		if err := sign(t, two, b, "two"); err != nil {
			t.Error(err)
		}
	}
	if _, err := two.Find(t.Context(), a.ID); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("a token shows the key of another: %v", err)
	}
}

func TestIdleLossIsHealed(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{Keepalive: 5 * time.Millisecond})
	ca := generate(t, d, signing("ca"))
	for name, steal := range thefts {
		before := d.Stats().Recoveries
		d.Steal(steal)
		for deadline := time.Now().Add(5 * time.Second); d.Stats().Recoveries == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: keepalive healed nothing in 5 s", name)
			}
		}
		healed := d.Stats().Recoveries
		if err := sign(t, d, ca, name); err != nil || d.Stats().Recoveries != healed {
			t.Errorf("%s: the first caller met the loss: %v", name, err)
		}
	}
}

func TestIdleSessionsAreTouched(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{Keepalive: 5 * time.Millisecond})
	ca := generate(t, d, signing("ca"))
	time.Sleep(20 * time.Millisecond)
	if s := d.Stats(); s.Recoveries != 0 {
		t.Errorf("touching sound sessions renewed them: %+v", s)
	}
	if d.LoseIdle() == 0 {
		t.Fatal("no session was idle")
	}
	for deadline := time.Now().Add(5 * time.Second); d.Stats().Recoveries == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("keepalive noticed nothing in 5 s")
		}
	}
	if err := sign(t, d, ca, "touched"); err != nil || d.Stats().Logins != 1 {
		t.Errorf("after idle sessions were lost: %v, %+v", err, d.Stats())
	}
}

func TestTokenMovedAwayAndBack(t *testing.T) {
	uri := softhsmtest.Token(t)
	d := mustOpen(t, uri, hsm.Config{})
	ca, root := generate(t, d, signing("ca")), generate(t, d, wrapping("root"))
	if err := sign(t, d, ca, "before"); err != nil {
		t.Fatal(err)
	}
	u, err := hsm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	dir := softhsmtest.TokenDir(u)
	away := filepath.Join(filepath.Dir(u.PINSource), "away") // not among the tokens
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]func() error{
		"Sign":     func() error { return sign(t, d, ca, "away") },
		"Wrap":     func() error { return wrapAndUnwrap(t, d, root, "away") },
		"Find":     func() error { _, err := d.Find(t.Context(), ca.ID); return err },
		"Health":   func() error { return d.Health(t.Context()) },
		"Generate": func() error { _, err := d.Generate(t.Context(), signing("away")); return err },
	} {
		if err := run(); !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("%s without the token: %v, want ErrUnavailable", name, err)
		}
	}
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return sign(t, d, ca, "back") })
	if err := wrapAndUnwrap(t, d, root, "back"); err != nil {
		t.Error(err)
	}
}

// TestManyProcesses lets processes start on one token four at a time, each
// making and destroying a key: SoftHSM2 shows a process half-written tokens
// while another writes. What that breaks is "unavailable" and heals by itself.
func TestManyProcesses(t *testing.T) {
	if task, uri := childTask(); task != "" {
		shareToken(t, task, uri)
		return
	}
	if testing.Short() {
		t.Skip("starts many processes")
	}
	uri := softhsmtest.Token(t)
	d := mustOpen(t, uri, hsm.Config{})
	kept := generate(t, d, signing("kept"))
	var running sync.WaitGroup
	for worker := range 4 {
		running.Go(func() {
			for round := range 6 {
				child(t, t.Name(), fmt.Sprintf("%d.%d", worker, round), uri)
				eventually(t, func() error { return sign(t, d, kept, "meanwhile") })
			}
		})
	}
	running.Wait()
}

// shareToken is the child of TestManyProcesses. It repeats what is unavailable,
// as every caller does; a key whose generation is in doubt gets a successor.
func shareToken(t *testing.T, task, uri string) {
	var d *hsm.Device
	eventually(t, func() (err error) { d, err = hsm.Open(t.Context(), uri, hsm.Config{}); return err })
	defer d.Close()
	var ref key.Ref
	tries := 0
	eventually(t, func() (err error) {
		tries++
		ref, err = d.Generate(t.Context(), signing(fmt.Sprintf("process/%s/%d", task, tries)))
		return err
	})
	eventually(t, func() error { return sign(t, d, ref, task) })
	eventually(t, func() error { return d.Health(t.Context()) })
	eventually(t, func() error {
		err := d.Destroy(t.Context(), ref)
		if errors.Is(err, key.ErrNotFound) {
			return nil // an attempt that was "unavailable" had removed it
		}
		return err
	})
}

// child runs one test of this binary in a process of its own, which then
// finds task in its environment.
func child(t *testing.T, test, task, uri string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SEALWRIGHT_HSM_TEST_TASK="+task, "SEALWRIGHT_HSM_TEST_URI="+uri)
	out, err := cmd.CombinedOutput()
	if err != nil { // not Fatal: callers run children from other goroutines
		t.Errorf("child process %s: %v\n%s", task, err, out)
	}
	return string(out)
}

// childTask returns what child asked this process to do, if it did.
func childTask() (task, uri string) {
	return os.Getenv("SEALWRIGHT_HSM_TEST_TASK"), os.Getenv("SEALWRIGHT_HSM_TEST_URI")
}

func TestKeyDestroyedElsewhere(t *testing.T) {
	if task, uri := childTask(); task != "" {
		id, err := key.ParseID(task)
		if err != nil {
			t.Fatal(err)
		}
		d := mustOpen(t, uri, hsm.Config{})
		ref, err := d.Find(t.Context(), id)
		if err == nil {
			err = d.Destroy(t.Context(), ref)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	uri := softhsmtest.Token(t)
	d := mustOpen(t, uri, hsm.Config{})
	ca, kept, root := generate(t, d, signing("ca")), generate(t, d, signing("kept")), generate(t, d, wrapping("root"))
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []key.Ref{ca, kept} {
		if err := sign(t, d, ref, "before"); err != nil {
			t.Fatal(err)
		}
	}
	child(t, t.Name(), ca.ID.String(), uri)
	child(t, t.Name(), root.ID.String(), uri)
	if err := sign(t, d, ca, "after"); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("signing with a key another process destroyed: %v", err)
	}
	if _, err := d.Unwrap(t.Context(), root, wrapped, nil); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("unwrapping with a key another process destroyed: %v", err)
	}
	if err := sign(t, d, kept, "after"); err != nil {
		t.Errorf("the other key: %v", err)
	}
	if err := d.Health(t.Context()); err != nil {
		t.Errorf("a token whose key was destroyed is healthy: %v", err)
	}
}

// TestStaleHandle lets handles denote other keys, as they may after a device restarted.
func TestStaleHandle(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	one, two := generate(t, d, signing("ca/one")), generate(t, d, signing("ca/two"))
	if err := errors.Join(sign(t, d, one, "fine"), sign(t, d, two, "fine")); err != nil {
		t.Fatal(err)
	}
	d.Confuse(one, two)
	if err := sign(t, d, one, "confused"); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("signing with another key's handle: %v, want ErrIntegrity", err)
	}
	if got := d.Stats().Integrity; got != 1 {
		t.Errorf("%d integrity failures counted, want 1", got)
	}
	if err := sign(t, d, one, "looked up again"); err != nil {
		t.Error(err)
	}

	a, b := generate(t, d, wrapping("root/one")), generate(t, d, wrapping("root/two"))
	wrapped, err := d.Wrap(t.Context(), a, []byte("secret"), nil)
	if err == nil {
		err = wrapAndUnwrap(t, d, b, "fine")
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Confuse(a, b)
	if _, err := d.Wrap(t.Context(), a, []byte("secret"), nil); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("wrapping with another key's handle: %v, want ErrIntegrity", err)
	}
	// An unwrapping that fails looks the key up again before it blames the text.
	if back, err := d.Unwrap(t.Context(), a, wrapped, nil); err != nil || string(back) != "secret" {
		t.Errorf("unwrapping with another key's handle: %q, %v", back, err)
	}
}

// eventually waits until run succeeds, as long as it says that it is only unavailable.
func eventually(t testing.TB, run func() error) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := run()
		if err == nil {
			return
		}
		if !errors.Is(err, key.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("the device did not come back: %v", err)
		}
	}
}
