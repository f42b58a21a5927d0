package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealwright/sealwright/storage/storagetest"
)

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// postgresURL is the throwaway database of storagetest as a URL.
func postgresURL(t testing.TB) string {
	t.Helper()
	c, err := pgx.ParseConfig(storagetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://%s@/%s?host=%s&sslmode=disable", c.User, c.Database, c.Host)
}

// init, serve, use, restart: as in production, on both stores.
func TestInitAndServe(t *testing.T) {
	for name, store := range map[string]func(testing.TB) string{
		"sqlite":   func(testing.TB) string { return "sqlite:store.db" },
		"postgres": postgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			public := freePort(t)
			s := newSite(t, store(t), "metrics_listen: "+public+"\ncrl_listen: "+freePort(t)+"\n")
			if out, code := s.daemon("config", "check", "--config", s.config); code != 0 || !strings.Contains(out, "good") {
				t.Fatalf("config check: %d\n%s", code, out)
			}
			if out, code := s.daemon("serve", "--config", s.config); code != 1 || !strings.Contains(out, "sealwrightd init") {
				t.Errorf("serve without a store: %d\n%s", code, out)
			}
			if exists(filepath.Join(s.dir, "store.db")) {
				t.Error("serve created a store")
			}
			if out, code := s.init(); code != 2 || !strings.Contains(out, "--no-recovery") {
				t.Errorf("init without a word about recovery: %d\n%s", code, out)
			}
			recovery := []string{"--no-recovery"}
			if name == "sqlite" {
				recovery = makeRecovery(t, s)
			}
			out, code := s.init(recovery...)
			if code != 0 || !strings.Contains(out, "Root CA fingerprint") || strings.Contains(out, sitePIN) {
				t.Fatalf("init: %d\n%s", code, out)
			}
			before := keep(t, s, name)
			if out, code := s.init(recovery...); code != 1 || !strings.Contains(out, "exists") {
				t.Errorf("init over a store: %d\n%s", code, out)
			}
			if after := keep(t, s, name); after != before {
				t.Error("the second init changed something")
			}
			run := s.serve()
			health(t, public, true)
			sealed := run.must("sealwright status >&2; sealwright key create prod/shop/orders >&2; sealwright cert issue --spiffe service/shop --ttl 1h --out tls >&2; printf secret | sealwright encrypt prod/shop/orders")
			if out := run.must("sealwright status; sealwright --environment staging cert issue --spiffe service/shop --ttl 1h --out tls; openssl x509 -in tls/cert.pem -noout -text"); !strings.Contains(out, "root made online") || !strings.Contains(out, "production") || !strings.Contains(out, "spiffe://staging.example.internal/service/shop") {
				t.Errorf("status and a certificate of staging:\n%s", out)
			}
			if name == "sqlite" {
				if out, code := s.daemon("serve", "--config", s.config); code != 1 || !strings.Contains(out, "another sealwrightd") {
					t.Errorf("a second server: %d\n%s", code, out)
				}
			}
			run.stop()
			run = s.serve()
			if got := run.must("printf %s '" + strings.TrimSpace(sealed) + "' | sealwright decrypt; sealwright audit verify --log-key \"$(sealwright audit keys)\" >&2"); got != "secret" {
				t.Errorf("after a restart: %q", got)
			}
			run.kill()
			run = s.serve()
			run.must("printf %s '" + strings.TrimSpace(sealed) + "' | sealwright decrypt; sealwright audit verify --log-key \"$(sealwright audit keys)\"")
			run.stop()
			health(t, public, false)
			if strings.Contains(run.output.String(), sitePIN) {
				t.Error("the PIN is in the log")
			}
		})
	}
}

func makeRecovery(t *testing.T, s *site) []string {
	t.Helper()
	file := filepath.Join(s.dir, "recovery")
	if out, code := s.daemon("init", "--make-recovery-key", file); code != 0 || !strings.Contains(out, "fingerprint") {
		t.Fatalf("--make-recovery-key: %d\n%s", code, out)
	}
	if out, code := s.daemon("init", "--make-recovery-key", file); code != 1 || !strings.Contains(out, "never overwrites") {
		t.Errorf("--make-recovery-key twice: %d\n%s", code, out)
	}
	if out, code := s.init("--recovery-recipient", file); code == 0 {
		t.Errorf("the recovery key itself is taken for a recipient: %s", out)
	} else if secret, err := os.ReadFile(file); err != nil || strings.Contains(out, strings.TrimSpace(string(secret))) {
		t.Errorf("the recovery key is in the message, or %v", err)
	}
	return []string{"--recovery-recipient", file + ".pub"}
}

// keep is what must stay as it is when init is called again.
func keep(t *testing.T, s *site, store string) string {
	t.Helper()
	all := ""
	for _, file := range []string{"cert.pem", "ca.pem"} {
		text, err := os.ReadFile(filepath.Join(s.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	tokens, _ := filepath.Glob(filepath.Join(s.dir, "tokens", "*", "*.object"))
	all += fmt.Sprint(len(tokens))
	if store == "sqlite" {
		info, err := os.Stat(filepath.Join(s.dir, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		all += fmt.Sprint(info.Size())
	}
	return all
}

// health asks the plain HTTP address that supervisors and Prometheus ask.
func health(t *testing.T, address string, up bool) {
	t.Helper()
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "sealwright_"} {
		answer, err := http.Get("http://" + address + path)
		if !up {
			if err == nil {
				t.Errorf("%s still answers", path)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %v\n%s", path, answer.Status, err, text)
		}
	}
	if up {
		if answer, err := http.Get("http://" + address + "/v1/status"); err != nil || answer.StatusCode < 400 {
			t.Errorf("the API answers without TLS: %v", err)
		} else {
			_ = answer.Body.Close()
		}
	}
}

// A store of sealwrightd dev is for development for ever.
func TestServeRefusesDev(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	start(t, dir).stop()
	s := newSite(t, "sqlite:"+filepath.Join(dir, "store.db"), "")
	if out, code := s.daemon("serve", "--config", s.config); code != 1 || !strings.Contains(out, "for development for ever") {
		t.Errorf("serve on a dev store: %d\n%s", code, out)
	}
	if out, code := s.init("--no-recovery"); code != 1 || !strings.Contains(out, "exists") {
		t.Errorf("init on a dev store: %d\n%s", code, out)
	}
	start(t, dir).stop()
}

// A supervisor hears when the service is ready and when it stops, and a request
// in flight is finished first.
func TestSupervised(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	s := newSite(t, "sqlite:store.db", "")
	if out, code := s.init("--no-recovery"); code != 0 {
		t.Fatal(out)
	}
	run := s.serve("NOTIFY_SOCKET=" + socket)
	next := func() string {
		_ = heard.SetReadDeadline(time.Now().Add(10 * time.Second))
		text := make([]byte, 4096)
		n, err := heard.Read(text)
		if err != nil {
			t.Fatalf("no word from the service: %v", err)
		}
		return string(text[:n])
	}
	if got := next(); !strings.Contains(got, "READY=1") {
		t.Errorf("first word %q", got)
	}
	run.must("sealwright key create prod/slow/key")
	// The body arrives slowly: half before the signal, half after.
	reader, writer := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		request, err := http.NewRequest(http.MethodPost, strings.TrimPrefix(run.vars[0], "SEALWRIGHT_ADDR=")+"/v1/keys/prod/slow/key/encrypt", reader)
		if err != nil {
			answered <- err
			return
		}
		request.Header.Set("Content-Type", "application/json")
		answer, err := mtls(t, s.dir).Do(request)
		if err == nil {
			defer answer.Body.Close()
			text, _ := io.ReadAll(answer.Body)
			if answer.StatusCode != http.StatusOK || !strings.Contains(string(text), "sw1:") {
				err = fmt.Errorf("%s: %s", answer.Status, text)
			}
		}
		answered <- err
	}()
	fmt.Fprint(writer, `{"plaintext":`)
	time.Sleep(300 * time.Millisecond)
	stopped := make(chan struct{})
	go func() { run.stop(); close(stopped) }()
	if got := next(); !strings.Contains(got, "STOPPING=1") {
		t.Errorf("last word %q", got)
	}
	fmt.Fprint(writer, `"c2VjcmV0"}`)
	_ = writer.Close()
	if err := <-answered; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	<-stopped
}
