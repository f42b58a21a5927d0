package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// makeCSR has openssl make a key and a certificate request with no names, as
// the help of sealwrightd init says.
func makeCSR(t testing.TB, csr, private string) {
	t.Helper()
	run(t, require(t, "openssl", "openssl"), "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/", "-keyout", private, "-out", csr)
}

// run runs a program that has to work and returns all it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// site is a production installation: a configuration, a token, an administrator's key.
type site struct {
	t      testing.TB
	dir    string
	config string
	token  []string // the environment that leads to the token
}

const sitePIN = "site-pin-48151623"

// newSite writes the configuration for a store and makes a token with Debian's own tool.
func newSite(t testing.TB, store, more string) *site {
	t.Helper()
	needSoftHSM(t)
	s := &site{t: t, dir: t.TempDir()}
	s.config = filepath.Join(s.dir, "config.yaml")
	tokens := filepath.Join(s.dir, "tokens")
	s.write("softhsm2.conf", "directories.tokendir = "+tokens+"\n")
	s.write("pin", sitePIN+"\n")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	s.token = []string{"SOFTHSM2_CONF=" + filepath.Join(s.dir, "softhsm2.conf")}
	maker := exec.Command(require(t, "softhsm", "softhsm2-util"), "--init-token", "--free", "--label", "site", "--so-pin", "so-"+sitePIN, "--pin", sitePIN)
	maker.Env = append(os.Environ(), s.token...)
	if out, err := maker.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	makeCSR(t, filepath.Join(s.dir, "admin.csr"), filepath.Join(s.dir, "key.pem"))
	if !strings.Contains(more, "crl_listen") {
		more += "crl_url: http://crl.example.internal/crl/\n"
	}
	s.write("config.yaml", "listen: 127.0.0.1:0\nnames: [localhost, 127.0.0.1]\ndomain: example.internal\nenvironments: [prod, staging]\nstate: state\nstore: \""+store+
		"\"\ndevice: \"pkcs11:token=site?module-path="+softHSM+"&pin-source=file:"+filepath.Join(s.dir, "pin")+"\"\n"+more)
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// daemon runs sealwrightd to its end.
func (s *site) daemon(args ...string) (out string, code int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "sealwrightd"), args...)
	cmd.Env = append(os.Environ(), s.token...)
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	text, _ := cmd.CombinedOutput()
	return string(text), cmd.ProcessState.ExitCode()
}

func (s *site) init(more ...string) (string, int) {
	s.t.Helper()
	return s.daemon(append([]string{"init", "--config", s.config, "--admin-csr", filepath.Join(s.dir, "admin.csr"), "--online-root", "--out", s.dir}, more...)...)
}

var servingLine = regexp.MustCompile(`"msg":"serving","address":"([^"]+)"`)

// serve runs sealwrightd serve and waits until it says that it serves.
func (s *site) serve(environ ...string) *service {
	s.t.Helper()
	run := spawn(s.t, s.dir, append(environ, s.token...), filepath.Join(bin, "sealwrightd"), "serve", "--config", s.config)
	run.wait(30*time.Second, func() bool { return servingLine.MatchString(run.output.String()) })
	address := servingLine.FindStringSubmatch(run.output.String())[1]
	run.vars = []string{"SEALWRIGHT_ADDR=https://" + address, "SEALWRIGHT_ENVIRONMENT=prod"}
	for name, file := range map[string]string{"CERT": "cert.pem", "KEY": "key.pem", "CA": "ca.pem"} {
		run.vars = append(run.vars, fmt.Sprintf("SEALWRIGHT_%s=%s", name, filepath.Join(s.dir, file)))
	}
	return run
}
