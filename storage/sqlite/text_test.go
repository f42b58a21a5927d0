package sqlite

import (
	"fmt"
	"strings"
	"testing"
)

func TestRewrite(t *testing.T) {
	for query, want := range map[string]string{
		"":                               "",
		"SELECT 1":                       "SELECT 1",
		"UPDATE t SET a=$2 WHERE b=$1":   "UPDATE t SET a=?2 WHERE b=?1",
		"SELECT '$1', $1, \"$1\"":        "SELECT '$1', ?1, \"$1\"",
		"SELECT 'it''s $1', $12":         "SELECT 'it''s $1', ?12",
		"SELECT $1 -- not $2\n, $3":      "SELECT ?1 -- not $2\n, ?3",
		"SELECT $1 -- not $2":            "SELECT ?1 -- not $2",
		"SELECT $name, $, a-$1, 'open $": "SELECT $name, $, a-?1, 'open $",
	} {
		if got := rewrite(query); got != want {
			t.Errorf("%q became %q, want %q", query, got, want)
		}
	}
}

func TestTextsAreBounded(t *testing.T) {
	var known texts
	for i := range 2 * maxTexts {
		if got, want := known.text(fmt.Sprintf("SELECT %d, $1", i)), fmt.Sprintf("SELECT %d, ?1", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if n := known.count.Load(); n > maxTexts {
		t.Errorf("%d texts remembered", n)
	}
}

func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{"SELECT $1", "'$1' $2", "-- $1\n$2", "\"", "$", "'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got := rewrite(query)
		if len(got) != len(query) {
			t.Fatalf("%q became %q", query, got)
		}
		for i := range len(query) {
			if got[i] != query[i] && (query[i] != '$' || got[i] != '?') {
				t.Fatalf("byte %d of %q became %q", i, query, got)
			}
		}
		// What is quoted as a whole stays as it is.
		if quoted := "'" + strings.ReplaceAll(query, "'", "''") + "'"; rewrite(quoted) != quoted {
			t.Fatalf("literal %q became %q", quoted, rewrite(quoted))
		}
	})
}
