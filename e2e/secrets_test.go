package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecretsStayOut plants secrets wherever they may be given and looks for
// them, in every encoding we use, wherever they must not be.
func TestSecretsStayOut(t *testing.T) {
	s := newSite(t, "sqlite:store.db", "log_level: debug\n")
	initialised, code := s.init("--no-recovery")
	if code != 0 {
		t.Fatal(initialised)
	}
	run := s.serve()
	const canary = "canary-plaintext-7f3a9c-must-stay-in"
	work := t.TempDir()
	out, problems, code := run.sh("cd " + work + "; set -x; set -e\n" +
		"sealwright key create prod/canary/key; sealwright key create prod/canary/sign --tier device --algorithm ecdsa-p256\n" +
		"printf '%s' " + canary + " > plain\n" +
		"sealwright encrypt prod/canary/key --context tenant=42 < plain > sealed; sealwright rewrap --context tenant=42 < sealed > rewrapped\n" +
		"sealwright decrypt --context tenant=42 < sealed > opened; cmp plain opened\n" +
		"sealwright datakey prod/canary/key -o json > datakey.json\n" +
		"sealwright key sign prod/canary/sign < plain > signature; sealwright key verify prod/canary/sign --signature signature < plain\n" +
		"sealwright cert issue --spiffe service/canary --ttl 1h --out tls\n" +
		// Requests that are refused: errors and denials must not repeat the body either.
		"sealwright encrypt prod/canary/absent < plain || true; sealwright encrypt prod/Canary < plain || true; sealwright decrypt < plain || true\n" +
		`send() { curl -sS --cacert "$SEALWRIGHT_CA" --cert "$SEALWRIGHT_CERT" --key "$SEALWRIGHT_KEY" -H 'Content-Type: application/json' -d "$2" "$SEALWRIGHT_ADDR$1"; echo; }` + "\n" +
		"send /v1/keys/prod/canary/key/encrypt '{\"plaintext\":\"" + canary + "\"}' > answers; send /v1/decrypt '{\"ciphertext\":\"" + canary + "\"}' >> answers\n" +
		"send /v1/keys/prod/canary/key/encrypt '{\"plaintext\":\"" + base64.StdEncoding.EncodeToString([]byte(canary)) + "\",\"extra\":1}' >> answers; send /v1/decrypt " + canary + " >> answers\n" +
		"export SEALWRIGHT_LOG_KEY=$(sealwright audit keys); sealwright audit export LOG; sealwright audit list --limit 1000 -o json > list.json\n")
	if code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, problems)
	}
	run.stop()

	var dataKey struct{ Plaintext []byte }
	text := contents(t, filepath.Join(work, "datakey.json"))
	if err := json.Unmarshal([]byte(text), &dataKey); err != nil || len(dataKey.Plaintext) != 32 {
		t.Fatalf("%v\n%s", err, text)
	}
	secrets := map[string][]byte{"the plaintext": []byte(canary), "the data key": dataKey.Plaintext, "the PIN": []byte(sitePIN)}
	var printed []string // the shell's trace shows what it was given
	for _, line := range strings.Split(problems, "\n") {
		if !strings.HasPrefix(line, "+") {
			printed = append(printed, line)
		}
	}
	places := map[string]string{
		"what init printed": initialised, "what serve printed": run.output.String(),
		"what the CLI printed": out + strings.Join(printed, "\n"), "the answers to bad requests": contents(t, filepath.Join(work, "answers")),
		"the listed log": contents(t, filepath.Join(work, "list.json")), "the exported log": tree(t, filepath.Join(work, "LOG")),
		"the state directory": tree(t, filepath.Join(s.dir, "state")), "the token": tree(t, filepath.Join(s.dir, "tokens")),
	}
	stores, err := filepath.Glob(filepath.Join(s.dir, "store.db*"))
	if err != nil || len(stores) == 0 {
		t.Fatalf("no store: %v", err)
	}
	for _, file := range stores {
		places["the store's "+filepath.Base(file)] = contents(t, file)
	}
	for place, text := range places {
		for what, secret := range secrets {
			if place == "the token" && what != "the PIN" {
				continue
			}
			for _, form := range forms(secret) {
				if strings.Contains(text, form) {
					t.Errorf("%s holds %s", place, what)
				}
			}
		}
	}
	if len(places["the exported log"]) < 1000 || !strings.Contains(places["the exported log"], "prod/canary/key") || !strings.Contains(places["what serve printed"], "serving") {
		t.Error("the places are empty: nothing was proved")
	}
	// In the running process's environment and arguments it would be for all to see.
	if strings.Contains(strings.Join(run.cmd.Args, " "), sitePIN) {
		t.Error("the PIN is an argument")
	}
}

// forms are the encodings a leak could come in.
func forms(secret []byte) []string {
	list := []string{string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret))}
	for shift := range 3 { // inside a longer base64 text it starts at any of three places
		padded := append(bytes.Repeat([]byte{0}, shift), secret...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(padded)
			list = append(list, text[(shift*8+5)/6:len(text)-2])
		}
	}
	return list
}

func contents(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tree is all files beneath dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// The search itself finds what is there.
func TestForms(t *testing.T) {
	secret := []byte("canary-plaintext")
	for _, text := range []string{
		"a canary-plaintext b", hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(append([]byte("x"), secret...)),
		base64.RawURLEncoding.EncodeToString(append([]byte(`{"`), secret...)), base64.StdEncoding.EncodeToString([]byte(`abc` + string(secret) + `tail`)),
	} {
		found := false
		for _, form := range forms(secret) {
			found = found || strings.Contains(text, form)
		}
		if !found {
			t.Errorf("not found in %s", text)
		}
	}
}
