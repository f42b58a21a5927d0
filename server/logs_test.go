package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
)

// logged is all that any test of this package made the service log, at level
// debug; secrets is what must not be in it.
var (
	logged  = &logBook{}
	secrets sync.Map
)

type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// secret notes a value that no log line may hold, in any usual form.
func secret(value []byte) {
	for _, form := range []string{string(value), base64.StdEncoding.EncodeToString(value), base64.RawURLEncoding.EncodeToString(value), hex.EncodeToString(value), fmt.Sprint(value)} {
		secrets.Store(form, true)
	}
}

// leaked returns the secrets in text.
func leaked(text string) (found []string) {
	secrets.Range(func(form, _ any) bool {
		if strings.Contains(text, form.(string)) {
			found = append(found, form.(string))
		}
		return true
	})
	return found
}

// TestMain looks through the logs of the whole suite when it is over.
func TestMain(m *testing.M) {
	code := m.Run()
	if found := leaked(logged.String()); len(found) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: the logs of the suite hold secrets: %q\n", found)
		code = 1
	}
	os.Exit(code)
}

func notePIN(t testing.TB, uri string) {
	t.Helper()
	u, err := hsm.ParseURI(uri)
	must(t, err)
	pin, err := os.ReadFile(u.PINSource)
	must(t, err)
	secret(bytes.TrimSpace(pin))
}

func TestTheLogScanFinds(t *testing.T) {
	if len(leaked("nothing")) != 0 {
		t.Error("found a secret in nothing")
	}
	value := []byte("a plaintext of TestTheLogScanFinds")
	secret(value)
	if len(leaked(`{"x":"`+base64.StdEncoding.EncodeToString(value)+`"}`)) == 0 {
		t.Error("missed a secret")
	}
}

func decode(t testing.TB, text []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
}

// fragile is a device that can be made to fail.
type fragile struct {
	*hsm.Device
	mu   sync.Mutex
	harm error
}

func (f *fragile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.harm = err
}

// Health implements key.Device.
func (f *fragile) Health(ctx context.Context) error {
	f.mu.Lock()
	harm := f.harm
	f.mu.Unlock()
	if harm != nil {
		return harm
	}
	return f.Device.Health(ctx)
}

var _ key.Device = (*fragile)(nil)
