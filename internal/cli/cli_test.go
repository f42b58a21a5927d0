package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/key"
)

func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, cli.Done},
		{errors.New("x"), cli.Failed},
		{cli.Misuse("try this", "no such flag"), cli.Misused},
		{fmt.Errorf("encrypting: %w", key.ErrDenied), cli.Denied},
		{cli.Hint(fmt.Errorf("encrypting: %w", key.ErrNeedsApproval), "ask"), cli.NeedsApproval},
		{cli.Hint(cli.Misuse("", "x"), "ask"), cli.Misused},
		{&cli.Error{Err: key.ErrNotFound, Code: cli.Denied}, cli.Denied},
		{cli.Hint(nil, "nothing"), cli.Done},
	} {
		if got := cli.Code(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	code := cli.Report(&b, "sealwright", cli.Hint(fmt.Errorf("reading \x1b[31mkey: %w", key.ErrDenied), "ask %s", "ada"))
	if want := "sealwright: reading \\x1b[31mkey: denied\nhint: ask ada\n"; b.String() != want || code != cli.Denied {
		t.Errorf("%q, %d; want %q", b.String(), code, want)
	}
	b.Reset()
	if code := cli.Report(&b, "sealwright", nil); code != cli.Done || b.Len() > 0 {
		t.Errorf("no error reports %q, %d", b.String(), code)
	}
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	v := map[string]string{"name": "<a>"}
	if err := (cli.Printer{Out: &b, JSON: true}).Print(v, nil); err != nil || b.String() != "{\n  \"name\": \"<a>\"\n}\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	err := (cli.Printer{Out: &b}).Print(v, func(t *cli.Table) {
		t.Row("NAME", "VERSION")
		t.Row("dev/payments/orders", 3)
		t.Row("evil\x1b[2J\nname", "")
	})
	want := "NAME                   VERSION\ndev/payments/orders    3\nevil\\x1b[2J name       -\n"
	if err != nil || strings.Join(strings.Fields(b.String()), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%q, %v; want %q", b.String(), err, want)
	}
}

// Nothing but a terminal sees progress.
func TestProgressIsSilent(t *testing.T) {
	var b bytes.Buffer
	p := cli.NewProgress(&b, "reading")
	p.Set(1, 2)
	p.Set(2, 2)
	p.Done()
	if b.Len() > 0 {
		t.Errorf("wrote %q", b.String())
	}
}
