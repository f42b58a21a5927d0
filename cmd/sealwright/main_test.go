package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sealwright": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }})
}

// TestOffline runs, as a user types them, the commands that need no server, on
// an export, a proof and a key of a real log.
func TestOffline(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/offline", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"SEALWRIGHT_ADDR", "SEALWRIGHT_CERT", "SEALWRIGHT_KEY", "SEALWRIGHT_CA", "SEALWRIGHT_LOG_KEY", "SEALWRIGHT_ENVIRONMENT", "SEALWRIGHT_STATE"} {
				env.Setenv(name, "")
			}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("VKEY", writeLog(t, env.WorkDir))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"flip": flip, "code": code},
	})
}

// code runs a command line and demands its exit code: code 2 sealwright ...
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("running %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// flip changes one byte in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	data, err := os.ReadFile(file)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(file, data, 0o600))
}

// writeLog makes a log of 300 entries and writes its export, a proof of entry 7
// and the public key.
func writeLog(t *testing.T, dir string) (vkey string) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := audit.Open(t.Context(), audit.Config{DB: db, Signer: signer, Origin: "sealwright.test/log", StateDir: t.TempDir(), Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var entries []storage.Entry
	for i := range 300 {
		e := audit.Entry{Time: time.Unix(int64(1800000000+i), 0).UTC(), Principal: "spiffe://dev.test/service/payments", Action: "kms:Decrypt", Outcome: audit.OK,
			Objects: []audit.Object{{Kind: "Key", Name: "dev/payments/orders", Version: 1}}}
		record, err := e.Record()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, record)
	}
	if _, err := db.Commit(t.Context(), storage.Change{Entries: entries}); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Export(t.Context(), filepath.Join(dir, "export"), nil); err != nil {
		t.Fatal(err)
	}
	proof, err := log.Prove(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "entry.tlog-proof"), proof, 0o600); err != nil {
		t.Fatal(err)
	}
	return log.VerifierKey()
}

func call(args ...string) (code int, out, problems string) {
	var o, p bytes.Buffer
	code = run(args, strings.NewReader(""), &o, &p)
	return code, o.String(), p.String()
}

// Whatever is wrong with a command line is code 2, says what, and hints.
func TestMisuse(t *testing.T) {
	for _, name := range []string{"SEALWRIGHT_ADDR", "SEALWRIGHT_CA", "SEALWRIGHT_LOG_KEY"} {
		t.Setenv(name, "")
	}
	for line, want := range map[string]string{
		"":                                 "needs a command",
		"key":                              "needs a command",
		"key creat x":                      "did you mean sealwright key create?",
		"statu":                            "did you mean sealwright status?",
		"key create":                       "usage: sealwright key create NAME",
		"key create a b":                   "usage: sealwright key create NAME",
		"status x":                         "usage: sealwright status",
		"status --bogus":                   "unknown flag: --bogus",
		"status --output xml":              "--output table or --output json",
		"status --timeout soon":            "--timeout",
		"status":                           "no server address",
		"status --addr https://h":          "no roots to trust",
		"encrypt dev/a/b --context tenant": "key=value",
		"encrypt dev/a/b --context a=1 --context a=2": "each key once",
		"decrypt":                              "standard input is empty",
		"rewrap":                               "standard input is empty",
		"cert issue":                           "no directory given",
		"cert issue --out x":                   "needs a name",
		"cert issue --out x --dns a --ttl -1h": "negative",
		"cert issue --out x --ip localhost":    "host names go to --dns",
		"cert list --expires-before tomorrow":  "write a duration",
		"cert revoke 1 --why because":          "key-compromise",
		"audit list --limit 0":                 "1 to 1000",
		"audit prove -- -1":                    "the index of an entry",
		"audit prove x":                        "the index of an entry",
		"audit verify":                         "needs the log's public key",
		"audit verify x --log-key k":           "there is no x",
		"audit verify a b":                     "usage:",
		"audit export x":                       "needs the log's public key",
		"policy explain":                       "--principal, --action and --object",
		"policy diff x --source home":          "reading the policy",
		"key verify dev/a/b":                   "--signature FILE",
	} {
		code, out, problems := call(strings.Fields(line)...)
		wantCode := cli.Misused
		if want == "reading the policy" {
			wantCode = cli.Failed
		}
		if code != wantCode || !strings.Contains(problems, want) || out != "" {
			t.Errorf("sealwright %s: code %d, %q; want %d and %q", line, code, problems, wantCode, want)
		}
	}
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{nil, cli.Done, ""},
		{api.ErrDenied, cli.Denied, "policy explain"},
		{api.ErrUnauthenticated, cli.Denied, "principal register"},
		{api.ErrNeedsApproval, cli.NeedsApproval, "approvals"},
		{api.ErrUnavailable, cli.Failed, "sealwrightd dev"},
		{api.ErrIntegrity, cli.Failed, "evidence"},
		{api.ErrInvalid, cli.Misused, ""},
		{api.ErrInvalidCiphertext, cli.Failed, ""},
		{api.ErrNotFound, cli.Failed, ""},
		{errors.New("x"), cli.Failed, ""},
	} {
		var b bytes.Buffer
		err := c.err
		if err != nil {
			err = fmt.Errorf("calling: %w", err)
		}
		if code := cli.Report(&b, "sealwright", advise(err)); code != c.code || !strings.Contains(b.String(), c.hint) {
			t.Errorf("%v: code %d, %q; want %d and %q", c.err, code, b.String(), c.code, c.hint)
		}
	}
}

// Every command says what it does and shows an example that parses.
func TestHelp(t *testing.T) {
	a := &app{in: strings.NewReader(""), out: io.Discard, problems: io.Discard, getenv: func(string) string { return "" }}
	root := a.root()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no summary or no example", c.CommandPath())
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "sealwright ") {
				continue
			}
			line, _, _ = strings.Cut(line, " < ")
			line, _, _ = strings.Cut(line, " > ")
			found, rest, err := root.Find(strings.Fields(line)[1:])
			if err != nil {
				t.Errorf("example %q: %v", line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("example %q: %v", line, err)
			} else if found.Args != nil && found.Args(found, found.Flags().Args()) != nil {
				t.Errorf("example %q: arguments", line)
			}
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(root)
}

// The key of a user never crosses a command line.
func TestNoSecretsInFlags(t *testing.T) {
	a := &app{getenv: func(string) string { return "" }}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, name := range []string{"plaintext", "secret", "password", "pin", "token"} {
			if c.Flags().Lookup(name) != nil {
				t.Errorf("%s has a flag --%s", c.CommandPath(), name)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}

func TestParsePairs(t *testing.T) {
	got, err := parsePairs([]string{"tenant=42", "note=a=b", "empty="})
	if err != nil || len(got) != 3 || got["tenant"] != "42" || got["note"] != "a=b" || got["empty"] != "" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parsePairs(make([]string, 1)); cli.Code(err) != cli.Misused {
		t.Errorf("an empty pair: %v", err)
	}
}

func TestSerial(t *testing.T) {
	for in, want := range map[string]string{"3f2a": "3f2a", "3F:2A": "3f2a", "00:0A:1B": "a1b", "0": "0", "": "0"} {
		if got := serial(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add("policy: a\ntests:\n- {principal: service/a, action: kms:Sign, object: dev/a/b, expect: allow}\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseTable("t", []byte(text))
		if err != nil {
			return
		}
		for i := range table.Tests {
			_, _ = table.Tests[i].query()
		}
	})
}
