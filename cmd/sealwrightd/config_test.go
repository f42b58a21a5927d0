package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
)

// least is the shortest configuration that is accepted.
const least = "domain: example.internal\nstore: sqlite:store.db\ndevice: pkcs11:token=x?module-path=/lib/x.so&pin-source=file:/pin\nstate: state\ncrl_url: http://crl.example.internal/crl/\n"

func load(t testing.TB, text string) (Config, string, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(path)
	return c, dir, err
}

func TestConfigDefaults(t *testing.T) {
	c, dir, err := load(t, least)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen: "127.0.0.1:8470", Names: []string{"localhost", "127.0.0.1"}, Domain: "example.internal", Environments: []string{"prod"},
		Store: "sqlite:" + filepath.Join(dir, "store.db"), Device: "pkcs11:token=x?module-path=/lib/x.so&pin-source=file:/pin", State: filepath.Join(dir, "state"),
		CRLURL: "http://crl.example.internal/crl/", LogLevel: "info", ShutdownGrace: 10 * time.Second,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	for text, names := range map[string][]string{
		"listen: 0.0.0.0:1":           {"localhost"},
		"listen: :1":                  {"localhost"},
		"listen: '[2001:db8::1]:1'":   {"localhost", "2001:db8::1"},
		"listen: kms.example.org:1":   {"localhost", "kms.example.org"},
		"names: [a.example.org, ::1]": {"a.example.org", "::1"},
	} {
		if c, _, err := load(t, least+text+"\n"); err != nil || !reflect.DeepEqual(c.Names, names) {
			t.Errorf("%s: names %v, want %v: %v", text, c.Names, names, err)
		}
	}
	c, _, err = load(t, strings.Replace(least, "crl_url: http://crl.example.internal/crl/", "crl_listen: 10.0.0.5:8471", 1))
	if err != nil || c.CRLURL != "http://10.0.0.5:8471/crl/" {
		t.Errorf("CRLs at %q, %v", c.CRLURL, err)
	}
	if c, _, err := load(t, strings.Replace(least, "sqlite:store.db", "sqlite:/var/lib/x.db", 1)); err != nil || c.Store != "sqlite:/var/lib/x.db" {
		t.Errorf("store %q, %v", c.Store, err)
	}
}

func TestConfigRefusals(t *testing.T) {
	without := func(key string) string {
		var kept []string
		for _, line := range strings.SplitAfter(least, "\n") {
			if !strings.HasPrefix(line, key) {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	long := strings.Repeat("a.", 100) + "a"
	for name, c := range map[string]struct{ text, says string }{
		"empty":                     {"", "domain: required"},
		"no domain":                 {without("domain"), "domain: required"},
		"long domain":               {without("domain") + "domain: " + long, "domain: required"},
		"domain out of the grammar": {without("domain") + "domain: Example.org", "domain: "},
		"no store":                  {without("store"), "store: required"},
		"empty SQLite path":         {without("store") + "store: 'sqlite:'", "sqlite:PATH"},
		"unknown store":             {without("store") + "store: mysql://x", "store: required"},
		"password in the store":     {without("store") + "store: postgres://a:hunter2@h/db", "no password here"},
		"password parameter":        {without("store") + "store: postgres://a@h/db?password=hunter2", "no password here"},
		"store that does not parse": {without("store") + "store: 'postgres://a:hunter2@h:port/%zz'", "does not parse"},
		"no device":                 {without("device"), "required: pkcs11:"},
		"unknown device":            {without("device") + "device: /dev/tpm0", "required: pkcs11:"},
		"no state":                  {without("state"), "state: required"},
		"listen":                    {least + "listen: 8470", "listen: write host:port"},
		"crl_listen":                {least + "crl_listen: nowhere", "crl_listen: write host:port"},
		"metrics_listen":            {least + "metrics_listen: nowhere", "metrics_listen: write host:port"},
		"name":                      {least + "names: ['not a name']", "names: "},
		"environment":               {least + "environments: [Prod]", "environments: "},
		"dev":                       {least + "environments: [dev]", "dev is reserved"},
		"ops":                       {least + "environments: [prod, ops]", "ops is reserved"},
		"root":                      {least + "environments: [root]", "root is reserved"},
		"environment twice":         {least + "environments: [prod, prod]", "named twice"},
		"log level":                 {least + "log_level: loud", "log_level: use debug"},
		"short grace":               {least + "shutdown_grace: 1ms", "shutdown_grace: use"},
		"long grace":                {least + "shutdown_grace: 1h", "shutdown_grace: use"},
		"negative grace":            {least + "shutdown_grace: -1s", "shutdown_grace: use"},
		"no CRL address":            {without("crl_url"), "crl_url: required"},
		"CRLs on every address":     {without("crl_url") + "crl_listen: 0.0.0.0:8471", "crl_url: required"},
		"CRLs over https":           {without("crl_url") + "crl_url: https://crl.example.org/", "crl_url: write"},
		"CRLs without a slash":      {without("crl_url") + "crl_url: http://crl.example.org/crl", "crl_url: write"},
		"a second document":         {least + "---\nlisten: 127.0.0.1:1\n", "second document"},
		"a key twice":               {least + "state: other\n", "state"},
		"dev is no key":             {least + "dev: true\n", `"dev"`},
		"too large":                 {least + strings.Repeat("# filler\n", maxConfig/8), "larger"},
		"not a mapping":             {"- a\n- b\n", "line 1"},
		"not YAML":                  {"domain: [", "line 1"},
	} {
		_, _, err := load(t, c.text)
		if !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "config.yaml") {
			t.Errorf("%s: %v, want it to say %q and where", name, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
	if _, err := loadConfig(filepath.Join(t.TempDir(), "missing.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// An error of the file names the key and its line, and shows no other line.
func TestConfigErrorsShowNoNeighbours(t *testing.T) {
	const near = "crl_url: http://hunter2.example.org/\n"
	for name, line := range map[string]string{"unknown key": "lisen: 127.0.0.1:1\n", "wrong type": "names: {a: b}\n", "wrong duration": "shutdown_grace: soon\n", "tab": "\tlisten: x\n", "key twice": "crl_url: http://a/\n"} {
		_, _, err := load(t, near+line+"# hunter2\n")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(err.Error(), "line 2") && !strings.Contains(err.Error(), "shutdown_grace") {
			t.Errorf("%s: %v does not name the line", name, err)
		}
	}
	if _, _, err := load(t, least+"lisen: 127.0.0.1:1\n"); err == nil || !strings.Contains(err.Error(), `"lisen"`) || !strings.Contains(err.Error(), "line 6") {
		t.Errorf("unknown key: %v", err)
	}
}

func FuzzLoadConfig(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte(least + "names: [a, b]\nenvironments: [x]\nshutdown_grace: 3s\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? - a\n: b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err != nil {
			return
		}
		if err := c.complete("/etc/sealwright"); err != nil {
			return
		}
		if c.dev || c.crl != nil || c.Domain == "" || len(c.Names) == 0 || !filepath.IsAbs(c.State) {
			t.Errorf("%q is accepted as %+v", text, c)
		}
	})
}
