package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// production is a store made by init as OPERATIONS.md says, on a SoftHSM2 token.
type production struct {
	t   *testing.T
	dir string
	env []string
}

const productionConfig = `listen: 127.0.0.1:%d
domain: example.internal
environments: [prod]
store: sqlite:store.db
state: state
device: pkcs11:token=prod?module-path=%s&pin-source=file:%s
log_level: warn
`

func newProduction(t *testing.T) *production {
	t.Helper()
	util := require(t, "softhsm", "softhsm2-util")
	require(t, "openssl", "openssl")
	var module string
	for _, m := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"} {
		if exists(m) {
			module = m
			break
		}
	}
	softhsmtest.Require(t, "softhsm", module != "", "SoftHSM2 is not installed")
	p := &production{t: t, dir: t.TempDir()}
	p.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + p.dir, "SOFTHSM2_CONF=" + filepath.Join(p.dir, "softhsm2.conf")}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(p.dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("softhsm2.conf", "directories.tokendir = "+filepath.Join(p.dir, "tokens")+"\nlog.level = ERROR\n")
	write("pin", "123456\n")
	p.must(util + " --init-token --free --label prod --so-pin 12345678 --pin 123456")
	port := 20000 + os.Getpid()%20000
	write("config.yaml", fmt.Sprintf(productionConfig, port, module, filepath.Join(p.dir, "pin")))
	p.request("admin")
	return p
}

// request makes NAME.key and NAME.csr, and the directory NAME.
func (p *production) request(name string) {
	p.t.Helper()
	p.must("mkdir " + name + " && openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout " + name + ".key -out " + name + ".csr")
}

func (p *production) sh(line string) (string, int) {
	shell := exec.Command("bash", "-c", "cd "+p.dir+"; "+line)
	shell.Env = p.env
	out, _ := shell.CombinedOutput()
	return string(out), shell.ProcessState.ExitCode()
}

func (p *production) must(line string) string {
	p.t.Helper()
	out, code := p.sh(line)
	if code != 0 {
		p.t.Fatalf("%s\nended with %d\n%s", line, code, out)
	}
	return out
}

// serve runs sealwrightd serve until stop.
func (p *production) serve() (stop func()) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "sealwrightd"), "serve", "--config", "config.yaml")
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(os.Interrupt)
			if err := cmd.Wait(); err != nil {
				p.t.Errorf("sealwrightd serve ended: %v", err)
			}
		}
	}
	p.t.Cleanup(stop)
	return stop
}

// as runs a command of the CLI with NAME's certificate, until the server answers.
func (p *production) as(name, line string) (string, int) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "config.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	address := strings.TrimPrefix(strings.SplitN(string(text), "\n", 2)[0], "listen: ")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, code := p.sh("sealwright --addr https://" + address + " --cert " + name + "/cert.pem --key " + name + ".key --ca " + name + "/ca.pem " + line)
		if code == 0 || time.Now().After(end) || !strings.Contains(out, "is the server running") {
			return out, code
		}
	}
}

// A person whom the operator of the host enrols can ask; nobody else gets such a certificate.
func TestEnrol(t *testing.T) {
	p := newProduction(t)
	p.must("sealwrightd config check --config config.yaml")
	out := p.must("sealwrightd init --config config.yaml --admin-csr admin.csr --online-root --no-recovery --out admin")
	if !strings.Contains(out, "Root CA fingerprint") || !strings.Contains(out, "Log key") {
		t.Errorf("init said:\n%s", out)
	}
	stop := p.serve()
	if out, code := p.as("admin", "status"); code != 0 || !strings.Contains(out, "production, root made online") {
		t.Fatalf("status ended with %d:\n%s", code, out)
	}
	if out, code := p.as("admin", "principal register user/ada --role administrator"); code != 0 {
		t.Fatalf("register ended with %d:\n%s", code, out)
	}
	p.request("ada")
	if out, code := p.sh("sealwrightd enrol user/ada --config config.yaml --csr ada.csr --out ada"); code == 0 || !strings.Contains(out, "another sealwrightd serves this store") {
		t.Errorf("enrolling beside the service ended with %d:\n%s", code, out)
	}
	stop()
	for line, want := range map[string]string{
		"sealwrightd enrol user/bob --config config.yaml --csr ada.csr --out ada":             "principal register user/bob",
		"sealwrightd enrol prod/service/x --config config.yaml --csr ada.csr --out ada":       "sealwright cert issue",
		"sealwrightd enrol user/ada --config config.yaml --out ada":                           "--csr FILE",
		"sealwrightd enrol --config config.yaml --csr ada.csr":                                "one identity",
		"sealwrightd enrol user/ada --config config.yaml --csr ada.csr --out ada --ttl 8760h": "more than the 2160h",
		"sealwrightd enrol user/ada --config config.yaml --csr ada.csr --out nowhere":         "mkdir nowhere",
	} {
		if out, code := p.sh(line); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s\nended with %d, without %q:\n%s", line, code, want, out)
		}
	}
	p.must("sealwrightd enrol user/ada --config config.yaml --csr ada.csr --out ada")
	p.serve()
	if out, code := p.as("ada", "status"); code != 0 || !strings.Contains(out, "user/ada") {
		t.Errorf("status as ada ended with %d:\n%s", code, out)
	}
	if out, code := p.as("ada", "audit list --limit 100"); code != 0 || !strings.Contains(out, "enrolment by the operator of the host") {
		t.Errorf("the log does not tell of the enrolment (%d):\n%s", code, out)
	}
}
