// Package guardtest gives tests of services a real door: a fresh SQLite store,
// a real log, the default policy and two principals, an administrator and a
// service that may do nothing.
package guardtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
)

// Domain is the domain of the kit's trust domains.
const Domain = "sealwright.test"

// Kit is a door and what stands behind it.
type Kit struct {
	DB    *storage.DB
	Log   *audit.Log
	Door  *guard.Door
	Rows  guard.Authenticator
	Admin guard.Credential // spiffe://ops.sealwright.test/user/admin, role administrator
	Plain guard.Credential // spiffe://dev.sealwright.test/service/payments, no role
	Path  string           // of the SQLite file
}

// Option changes the kit before it is built.
type Option func(*guard.Config)

// WithRows sets who authenticates rows; by default a MAC with a random key.
func WithRows(rows guard.Authenticator) Option { return func(c *guard.Config) { c.Rows = rows } }

// WithDB sets the store; by default a fresh SQLite file.
func WithDB(db *storage.DB) Option { return func(c *guard.Config) { c.DB = db } }

// Credentials is an inventory that knows serials by heart.
type Credentials map[string]string

// Identity implements guard.Inventory.
func (c Credentials) Identity(_ context.Context, serial string) (string, error) {
	if id, ok := c[serial]; ok {
		return id, nil
	}
	return "", fmt.Errorf("%w: certificate %s is not in the inventory", key.ErrUnauthenticated, serial)
}

// New returns a kit that ends with the test.
func New(t testing.TB, options ...Option) *Kit {
	t.Helper()
	ctx := context.Background()
	k := &Kit{
		Admin: guard.Credential{Method: "mtls", Serial: "a1", SPIFFEID: "spiffe://ops." + Domain + "/user/admin", NotAfter: time.Now().Add(time.Hour)},
		Plain: guard.Credential{Method: "mtls", Serial: "b2", SPIFFEID: "spiffe://dev." + Domain + "/service/payments", NotAfter: time.Now().Add(time.Hour)},
	}
	config := guard.Config{Rows: newRows(), Inventory: Credentials{k.Admin.Serial: k.Admin.SPIFFEID, k.Plain.Serial: k.Plain.SPIFFEID}}
	for _, o := range options {
		o(&config)
	}
	if config.DB == nil {
		k.Path = filepath.Join(t.TempDir(), "store.db")
		db, err := sqlite.Create(ctx, k.Path)
		must(t, err)
		t.Cleanup(func() { must(t, db.Close()) })
		config.DB = db
	}
	k.DB, k.Rows = config.DB, config.Rows
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	k.Log, err = audit.Open(ctx, audit.Config{DB: k.DB, Signer: private, Origin: Domain + "/log", StateDir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, k.Log.Close()) })
	config.Log = k.Log
	k.Door, err = guard.Open(ctx, config)
	must(t, err)
	t.Cleanup(func() { must(t, k.Door.Close()) })
	k.System(t, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text()})
		return err
	})
	k.Register(t, guard.Principal{SPIFFEID: k.Admin.SPIFFEID, Roles: []string{"administrator"}})
	k.Register(t, guard.Principal{SPIFFEID: k.Plain.SPIFFEID})
	return k
}

// Register registers a principal as the service itself.
func (k *Kit) Register(t testing.TB, p guard.Principal) {
	t.Helper()
	k.System(t, guard.Act{Action: policy.RegisterPrincipal, Object: p.Object()}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Register(ctx, g, p)
		return err
	})
}

// System runs an act as the service itself and fails the test if it fails.
func (k *Kit) System(t testing.TB, act guard.Act, do func(context.Context, guard.Grant) error) {
	t.Helper()
	_, err := k.Door.System(context.Background(), "test", []guard.Act{act}, do)
	must(t, err)
}

// Enter asks the door as who for the acts.
func (k *Kit) Enter(ctx context.Context, who guard.Credential, do func(context.Context, guard.Grant) error, acts ...guard.Act) (int64, error) {
	return k.Door.Enter(ctx, Request(who, acts...), do)
}

// Request is a request of who for the acts, from loopback.
func Request(who guard.Credential, acts ...guard.Act) guard.Request {
	return guard.Request{
		Credential: who,
		Source:     netip.MustParseAddr("127.0.0.1"),
		Resolve:    func(context.Context) ([]guard.Act, error) { return append([]guard.Act(nil), acts...), nil },
		RequestID:  "test",
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rows authenticates rows with a key of its own, in place of a keyring.
type rows struct{ secret []byte }

func newRows() rows {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return rows{secret}
}

func (r rows) RowMAC(table string, columns ...any) []byte {
	mac := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(mac, "%q", table)
	for _, c := range columns {
		fmt.Fprintf(mac, "|%T:%q", c, fmt.Sprint(c))
	}
	return mac.Sum(nil)
}

func (r rows) CheckRow(mac []byte, table string, columns ...any) error {
	if !hmac.Equal(mac, r.RowMAC(table, columns...)) {
		return fmt.Errorf("%w: a row of table %s was changed outside Sealwright", key.ErrIntegrity, table)
	}
	return nil
}
