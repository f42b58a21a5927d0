package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A person whom the operator of the host enrols can ask; nobody else gets such a certificate.
func TestEnrol(t *testing.T) {
	s := newSite(t, "sqlite:store.db", "")
	if out, code := s.init("--no-recovery"); code != 0 {
		t.Fatalf("init ended with %d:\n%s", code, out)
	}
	ada := filepath.Join(s.dir, "ada")
	if err := os.Mkdir(ada, 0o700); err != nil {
		t.Fatal(err)
	}
	csr := filepath.Join(ada, "ada.csr")
	makeCSR(t, csr, filepath.Join(ada, "key.pem"))
	enrol := func(args ...string) (string, int) {
		return s.daemon(append([]string{"enrol", "--config", s.config}, args...)...)
	}

	serving := s.serve()
	serving.must("sealwright principal register user/ada --role security")
	if out, code := enrol("user/ada", "--csr", csr, "--out", ada); code == 0 || !strings.Contains(out, "another sealwrightd serves this store") {
		t.Errorf("enrolling beside the service ended with %d:\n%s", code, out)
	}
	serving.stop()
	for want, args := range map[string][]string{
		"sealwright principal register user/bob": {"user/bob", "--csr", csr, "--out", ada},
		"sealwright cert issue":                  {"prod/service/x", "--csr", csr, "--out", ada},
		"name the certificate request":           {"user/ada", "--out", ada},
		"takes one identity":                     {"--csr", csr},
		"more than the 2160h":                    {"user/ada", "--csr", csr, "--out", ada, "--ttl", "8760h"},
		"is not a directory":                     {"user/ada", "--csr", csr, "--out", filepath.Join(s.dir, "nowhere")},
	} {
		if out, code := enrol(args...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("enrol %s\nended with %d, without %q:\n%s", strings.Join(args, " "), code, want, out)
		}
	}
	if out, code := enrol("user/ada", "--csr", csr, "--out", ada); code != 0 || !strings.Contains(out, "Enrolled spiffe://ops.example.internal/user/ada") {
		t.Fatalf("enrol ended with %d:\n%s", code, out)
	}

	serving = s.serve()
	as := "SEALWRIGHT_CERT=" + ada + "/cert.pem SEALWRIGHT_KEY=" + ada + "/key.pem SEALWRIGHT_CA=" + ada + "/ca.pem "
	if out, problems, code := serving.sh(as + "sealwright status"); code != 3 || !strings.Contains(problems, "user/ada may not system:Status") {
		t.Errorf("status as ada ended with %d:\n%s%s", code, out, problems)
	}
	if out := serving.must("sealwright audit list --limit 50"); !strings.Contains(out, "enrolment by the operator of the host") {
		t.Errorf("the log does not tell of the enrolment:\n%s", out)
	}
}
