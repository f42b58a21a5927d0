package kms_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/postgres"
	"github.com/sealwright/sealwright/storage/sqlite"
	"github.com/sealwright/sealwright/storage/storagetest"
)

// grounds are what every service test stands on, one after another.
var grounds = map[string]func(testing.TB) *house{
	"softhsm": func(t testing.TB) *house { return newHouse(t, softhsmtest.Device(t)) },
	"swtpm":   func(t testing.TB) *house { return newHouse(t, softhsmtest.TPMDevice(t)) },
	"softhsm and postgres": func(t testing.TB) *house {
		db, err := postgres.Create(t.Context(), storagetest.Postgres(t))
		must(t, err)
		return newHouseOn(t, softhsmtest.Device(t), db)
	},
}

func onEachGround(t *testing.T, test func(*testing.T, *house)) {
	for name, build := range grounds {
		t.Run(name, func(t *testing.T) { test(t, build(t)) })
	}
}

// house is a service with everything it stands on.
type house struct {
	*guardtest.Kit
	t       testing.TB
	device  key.Device
	rings   *keyring.Set
	ringsOf keyring.Config
	keys    *kms.Service
}

// newHouse builds a house on a fresh SQLite store.
func newHouse(t testing.TB, device key.Device) *house {
	t.Helper()
	db, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	must(t, err)
	return newHouseOn(t, device, db)
}

// newHouseOn builds a house with the environments ops, dev and prod.
func newHouseOn(t testing.TB, device key.Device, db *storage.DB) *house {
	t.Helper()
	t.Cleanup(func() { _ = db.Close() })
	root, err := device.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "root", Algorithm: key.AES256, Usage: key.UsageWrap})
	must(t, err)
	h := &house{t: t, device: device, ringsOf: keyring.Config{DB: db, StoreID: "store", Device: device, Root: root}}
	h.rings, err = keyring.Create(t.Context(), h.ringsOf, nil, "dev", "prod")
	must(t, err)
	t.Cleanup(h.rings.Close)
	h.Kit = guardtest.New(t, guardtest.WithDB(db), guardtest.WithRows(h.rings))
	h.keys = h.service(device)
	return h
}

// service returns another service on the same store.
func (h *house) service(device key.Device) *kms.Service {
	h.t.Helper()
	s, err := kms.New(kms.Config{DB: h.DB, Door: h.Door, Rings: h.rings, Device: device})
	must(h.t, err)
	h.t.Cleanup(func() { must(h.t, s.Close()) })
	return s
}

// enter asks the door as who for the actions on what resolve finds, as the server does.
func (h *house) enter(who guard.Credential, encryption map[string]string, resolve func(context.Context) (policy.Object, error), act func(context.Context, guard.Grant) error, actions ...policy.Action) error {
	r := guardtest.Request(who)
	r.Context = encryption
	r.Resolve = func(ctx context.Context) ([]guard.Act, error) {
		object, err := resolve(ctx)
		var acts []guard.Act
		for _, a := range actions {
			acts = append(acts, guard.Act{Action: a, Object: object})
		}
		return acts, err
	}
	_, err := h.Door.Enter(h.t.Context(), r, act)
	return err
}

// on does something with a key by name, as the administrator.
func (h *house) on(name string, action policy.Action, act func(context.Context, guard.Grant) error) error {
	return h.enter(h.Admin, nil, func(ctx context.Context) (policy.Object, error) { return h.keys.Lookup(ctx, name) }, act, action)
}

func (h *house) create(n kms.NewKey) (out kms.Key, err error) {
	return out, h.on(n.Name, policy.CreateKey, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.Create(ctx, g, n)
		return err
	})
}

// key creates a key that must succeed.
func (h *house) key(n kms.NewKey) kms.Key {
	h.t.Helper()
	k, err := h.create(n)
	must(h.t, err)
	return k
}

func (h *house) manage(name string, action policy.Action) (out kms.Key, err error) {
	do := map[policy.Action]func(context.Context, guard.Grant, string) (kms.Key, error){
		policy.DescribeKey: h.keys.Describe, policy.RotateKey: h.keys.Rotate, policy.DisableKey: h.keys.Disable, policy.EnableKey: h.keys.Enable,
	}[action]
	return out, h.on(name, action, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = do(ctx, g, name)
		return err
	})
}

func (h *house) encrypt(name, plaintext string, encryption map[string]string) (out kms.Sealed, err error) {
	resolve := func(ctx context.Context) (policy.Object, error) { return h.keys.Lookup(ctx, name) }
	return out, h.enter(h.Admin, encryption, resolve, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.Encrypt(ctx, g, name, []byte(plaintext))
		return err
	}, policy.Encrypt)
}

func (h *house) decrypt(text string, encryption map[string]string) (kms.Opened, error) {
	return h.decryptWith(h.keys, text, encryption)
}

func (h *house) decryptWith(s *kms.Service, text string, encryption map[string]string) (out kms.Opened, err error) {
	resolve := func(ctx context.Context) (policy.Object, error) { return s.LookupCiphertext(ctx, text) }
	return out, h.enter(h.Admin, encryption, resolve, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = s.Decrypt(ctx, g, text)
		return err
	}, policy.Decrypt)
}

func (h *house) rewrap(text string, encryption map[string]string) (out kms.Rewrapped, err error) {
	resolve := func(ctx context.Context) (policy.Object, error) { return h.keys.LookupCiphertext(ctx, text) }
	return out, h.enter(h.Admin, encryption, resolve, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.Rewrap(ctx, g, text)
		return err
	}, policy.RewrapFrom, policy.RewrapTo)
}

func (h *house) dataKey(name string, encryption map[string]string, plaintext bool) (out kms.DataKey, err error) {
	action := policy.GenerateDataKeyWithoutPlaintext
	if plaintext {
		action = policy.GenerateDataKey
	}
	resolve := func(ctx context.Context) (policy.Object, error) { return h.keys.Lookup(ctx, name) }
	return out, h.enter(h.Admin, encryption, resolve, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.DataKey(ctx, g, name, plaintext)
		return err
	}, action)
}

func (h *house) sign(name string, digest []byte) (out kms.Signature, err error) {
	return out, h.on(name, policy.Sign, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.Sign(ctx, g, name, digest)
		return err
	})
}

func (h *house) verify(name string, version int64, digest, signature []byte) (valid bool, used int64, err error) {
	err = h.on(name, policy.Verify, func(ctx context.Context, g guard.Grant) (err error) {
		valid, used, err = h.keys.Verify(ctx, g, name, version, digest, signature)
		return err
	})
	return valid, used, err
}

func (h *house) publicKey(name string, version int64) (out kms.PublicKey, err error) {
	return out, h.on(name, policy.GetPublicKey, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = h.keys.PublicKey(ctx, g, name, version)
		return err
	})
}

func (h *house) list(who guard.Credential, environment, after string, limit int) (out []kms.Key, next string, err error) {
	resolve := func(context.Context) (policy.Object, error) { return kms.ListObject(environment), nil }
	err = h.enter(who, nil, resolve, func(ctx context.Context, g guard.Grant) (err error) {
		out, next, err = h.keys.List(ctx, g, environment, after, limit)
		return err
	}, policy.ListKeys)
	return out, next, err
}

// last is the newest entry of the log.
func (h *house) last() audit.Entry {
	h.t.Helper()
	list, _, err := h.Log.List(h.t.Context(), audit.Filter{Limit: 1})
	if err != nil || len(list) != 1 {
		h.t.Fatalf("reading the newest entry: %d, %v", len(list), err)
	}
	return list[0].Entry
}

// rules puts statements beside the default policy.
func (h *house) rules(more string) {
	h.t.Helper()
	h.System(h.t, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text() + "\n" + more})
		return err
	})
}

// tamper runs one statement behind the service's back.
func (h *house) tamper(query string, args ...any) {
	h.t.Helper()
	must(h.t, h.DB.Update(h.t.Context(), func(tx *storage.Tx) error {
		n, err := tx.Exec(query, args...)
		if err == nil && n == 0 {
			h.t.Errorf("%s changed nothing", query)
		}
		return err
	}))
}

func want(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}
