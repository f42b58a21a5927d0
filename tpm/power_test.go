package tpm_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
	"github.com/sealwright/sealwright/tpm/swtpm"
)

func TestLockout(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	auth := tpm2.TPM2BAuth{Buffer: []byte("not the device's value")}
	victim := protectedKey(t, uri, auth)
	d := softhsmtest.OpenTPM(t, uri)
	ours := generate(t, d, "ours", key.UsageSign)
	for try := range 10 {
		err := sign(t, d, victim)
		if errors.Is(err, key.ErrLockedOut) {
			if try < 1 || !strings.Contains(err.Error(), "tpm2_dictionarylockout") {
				t.Errorf("locked out at try %d: %v", try, err)
			}
			mustSign(t, d, ours) // what we make does not count for lockout and is not stopped by it
			return
		}
		want(t, "a wrong authorisation", err, key.ErrAuth)
	}
	t.Error("ten wrong authorisations did not lock the TPM")
}

// protectedKey is a reference to a key that makeByHand made.
func protectedKey(t testing.TB, uri string, auth tpm2.TPM2BAuth) key.Ref {
	t.Helper()
	made := makeByHand(t, uri, auth)
	area, err := made.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	d := softhsmtest.OpenTPM(t, uri)
	parent := generate(t, d, "parent", key.UsageSign)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return tpm.Reparent(key.Ref{ID: key.NewID(), Label: "by-hand", Algorithm: key.ECDSAP256, Usage: key.UsageSign,
		Public: tpm.PublicOf(area), Blob: tpm.BlobOf([]byte("anyone"), made.OutPublic.Bytes(), made.OutPrivate.Buffer)}, parent)
}

// makeByHand makes under the storage root a signing key that counts for lockout.
func makeByHand(t testing.TB, uri string, auth tpm2.TPM2BAuth) *tpm2.CreateResponse {
	t.Helper()
	s := bare(t, uri)
	defer s.Close()
	root, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	made, err := tpm2.Create{
		ParentHandle: tpm2.NamedHandle{Handle: root.ObjectHandle, Name: root.Name},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: auth}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
				CurveID: tpm2.TPMECCNistP256,
				Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
					Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			}),
		}),
	}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: root.ObjectHandle}).Execute(s); err != nil {
		t.Fatal(err)
	}
	return made
}

// Another authorisation value is refused once, as such, and is not taken for an altered ciphertext.
func TestWrongAuth(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	d := softhsmtest.OpenTPM(t, uri)
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	u, _ := tpm.ParseURI(uri)
	u.Auth = filepath.Join(t.TempDir(), "auth")
	for _, auth := range []string{strings.Repeat("0123456789abcdef", 4), ""} {
		if auth == "" {
			u.Auth = ""
		} else if err := os.WriteFile(u.Auth, []byte(auth), 0o600); err != nil {
			t.Fatal(err)
		}
		d = softhsmtest.OpenTPM(t, u.String())
		for range 6 { // more often than a TPM that counts would allow
			err := sign(t, d, ca)
			want(t, "signing", err, key.ErrAuth)
			if auth != "" && strings.Contains(err.Error(), auth) {
				t.Error("the error shows the authorisation value")
			}
			_, err = d.Unwrap(t.Context(), root, wrapped, nil)
			want(t, "unwrapping", err, key.ErrAuth)
			_, err = d.Wrap(t.Context(), root, []byte("secret"), nil)
			want(t, "wrapping", err, key.ErrAuth)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	mustSign(t, softhsmtest.OpenTPM(t, uri), ca)
}

// Power goes and comes back, again and again, while eight callers work.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	uri, running := softhsmtest.SoftwareTPM(t)
	u, _ := tpm.ParseURI(uri)
	dir := filepath.Dir(u.Keys)
	d := softhsmtest.OpenTPM(t, uri)
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	secret := []byte("secret")
	wrapped, err := d.Wrap(t.Context(), root, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	var good, made atomic.Int32
	stop := make(chan struct{})
	allowed := func(what string, err error) {
		if err == nil {
			good.Add(1)
		} else if !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for range 8 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				allowed("signing", sign(t, d, ca))
				back, err := d.Unwrap(t.Context(), root, wrapped, nil)
				allowed("unwrapping", err)
				if err == nil && !bytes.Equal(back, secret) {
					t.Error("unwrapped something else")
				}
				if made.Load() > 100 {
					continue
				}
				spec := key.Spec{ID: key.NewID(), Algorithm: key.ECDSAP256, Usage: key.UsageSign}
				spec.Label = spec.ID.String()
				ref, err := d.Generate(t.Context(), spec)
				allowed("generating", err)
				if _, found := d.Find(t.Context(), spec.ID); (err == nil) != (found == nil) {
					t.Errorf("generating says %v, finding %v", err, found)
				} else if err == nil && made.Add(1)%4 == 0 {
					allowed("destroying", d.Destroy(t.Context(), ref))
				}
			}
		})
	}
	for range 10 {
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
		if err := syscall.Kill(running.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		next, err := swtpm.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = next.Stop() })
		running = next
	}
	time.Sleep(50 * time.Millisecond)
	close(stop)
	callers.Wait()
	if good.Load() == 0 || made.Load() == 0 {
		t.Error("nothing ever worked")
	}
	mustSign(t, d, ca)
	if back, err := d.Unwrap(t.Context(), root, wrapped, nil); err != nil || !bytes.Equal(back, secret) {
		t.Errorf("after ten power losses: %v", err)
	}
}

// A TPM that comes back without firmware to start it is started.
func TestResetWithoutStartup(t *testing.T) {
	t.Parallel()
	uri, running := softhsmtest.SoftwareTPM(t)
	u, _ := tpm.ParseURI(uri)
	d := softhsmtest.OpenTPM(t, uri)
	ca := generate(t, d, "ca", key.UsageSign)
	if err := running.Stop(); err != nil {
		t.Fatal(err)
	}
	want(t, "signing without a TPM", sign(t, d, ca), key.ErrUnavailable)
	want(t, "health without a TPM", d.Health(t.Context()), key.ErrUnavailable)

	c := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(filepath.Dir(u.Keys), "state"),
		"--server", "type=unixio,path="+u.Socket, "--flags", "not-need-init")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(u.Socket); err == nil || time.Now().After(deadline) {
			break
		}
	}
	var err error
	for range 100 { // the socket may be there before it listens
		if err = sign(t, d, ca); !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("after a reset without startup: %v", err)
	}
}

// Nothing stays in the TPM's slots, not even what an earlier client left there.
func TestSlots(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	s := bare(t, uri)
	for range 3 {
		if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(s); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tpm2.HMACSession(s, tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()

	d := softhsmtest.OpenTPM(t, uri)
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for range 5 {
				mustSign(t, d, ca)
				wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
				if err == nil {
					_, err = d.Unwrap(t.Context(), root, wrapped, nil)
				}
				if err != nil {
					t.Error(err)
				}
				if _, err := d.Unwrap(t.Context(), root, wrapped, []byte("other")); !errors.Is(err, key.ErrInvalidCiphertext) {
					t.Error(err)
				}
				if err := d.Health(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if left := loaded(t, bare(t, uri)); len(left) != 0 {
		t.Errorf("left in the TPM: %x", left)
	}
}
