package e2e

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
)

// A writer to the database puts back former rows, whose MACs are good: a
// disabled key works again, a revocation is gone. The log remembers; readiness
// and 'audit verify' say so until it is mended.
func TestRowsSetBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	tamper := func(statements ...string) {
		t.Helper()
		db, err := sql.Open("sqlite3", filepath.Join(dir, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, statement := range statements {
			if _, err := db.Exec(statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	s := start(t, dir)
	s.must("sealwright key create dev/payments/orders")
	s.must("mkdir -p " + dir + "/pay && sealwright cert issue --spiffe service/payments --out " + dir + "/pay")
	serial := strings.TrimSpace(s.must(`openssl x509 -in ` + dir + `/pay/cert.pem -noout -serial | cut -d= -f2 | tr A-F a-f | sed 's/^0*//'`))
	s.stop()
	tamper(`CREATE TABLE kept AS SELECT * FROM kms_key`)
	s = start(t, dir)
	s.must("sealwright key disable dev/payments/orders && sealwright cert revoke " + serial)
	s.must("sealwright audit verify")
	s.stop()
	tamper(`DELETE FROM kms_key`, `INSERT INTO kms_key SELECT * FROM kept`, `DELETE FROM revocation`)
	s = start(t, dir)
	ready := func() string {
		return s.must(`curl -s -o /dev/null -w '%{http_code}' --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/readyz"`)
	}
	s.wait(20*time.Second, func() bool { return ready() == "503" })
	out, problems, code := s.sh("sealwright audit verify")
	if all := out + problems; code != 1 || !strings.Contains(all, "key dev/payments/orders is enabled, the log says that it was disabled") || !strings.Contains(all, "the revocation of certificate "+serial+" is gone") {
		t.Errorf("audit verify: code %d\n%s%s", code, out, problems)
	}
	s.must("sealwright key disable dev/payments/orders && sealwright cert revoke " + serial)
	s.must("sealwright audit verify")
	s.wait(20*time.Second, func() bool { return ready() == "200" })
	s.stop()
	// Who also changes the entry that tells is found out by the log's hashes.
	tamper(`UPDATE log_entry SET data = CAST(replace(CAST(data AS TEXT), 'kms:DisableKey', 'kms:DescribeKey') AS BLOB)`)
	s = start(t, dir)
	s.wait(20*time.Second, func() bool { return ready() == "503" })
	if out, problems, code := s.sh("sealwright audit verify"); code != 1 {
		t.Errorf("audit verify: code %d\n%s%s", code, out, problems)
	}
}
