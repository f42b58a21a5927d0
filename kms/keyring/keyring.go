// Package keyring keeps one key-encryption key per environment and seals values
// under it.
//
// A keyring key is made of randomness of the device and of this machine, so it
// is as good as the better of the two. The store holds it only wrapped: by the
// root key of one or more devices, and for an offline recovery recipient. It is
// unwrapped once per process, into locked memory; from then on sealing needs no
// device. Environments share no key, so what one seals no other opens.
//
// Nothing this package returns or stores survives a changed byte: slots are
// bound to their store, environment and version, keyring rows carry a MAC under
// their own key, and a sealed value opens only at its own place.
package keyring

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Ops is the environment of people and of this service. Every store has it; row
// MACs are made under its keyring.
const Ops = "ops"

// Config says where keyrings live and which device opens them.
type Config struct {
	DB      *storage.DB
	StoreID string     // binds wrapped keys to this store; 1 to 128 bytes
	Device  key.Device // holds Root
	Root    key.Ref    // the wrapping root key
}

// Update runs apply in a transaction that is durable when it returns:
// [storage.DB.Update], or a grant's Update, so that the change is recorded.
type Update func(ctx context.Context, apply func(*storage.Tx) error) error

// Set is the opened keyrings of a store. It is safe for concurrent use.
type Set struct {
	config Config // immutable after open
	arena  *locked.Arena

	rings atomic.Pointer[map[string]*environment] // replaced, never written to

	mu sync.Mutex // held while rings are loaded or made
}

// environment is the keyring of one environment in all its versions.
type environment struct {
	current  *ring
	versions map[int64]*ring
}

// Create makes the keyrings of a new store, ops included, each with a slot for
// the device and one for every recovery recipient, and opens them. It returns
// key.ErrExists when the store has keyrings already.
func Create(ctx context.Context, c Config, recovery []Recipient, environments ...string) (*Set, error) {
	if !slices.Contains(environments, Ops) {
		environments = append([]string{Ops}, environments...)
	}
	s, err := newSet(c)
	if err != nil {
		return nil, err
	}
	made := make([]*ring, 0, len(environments))
	for i, name := range environments {
		if slices.Contains(environments[:i], name) {
			s.Close()
			return nil, fmt.Errorf("%w: environment %.80q is named twice", key.ErrInvalid, name)
		}
		r, err := s.generate(ctx, name, recovery)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("creating the keyring of %s: %w", name, err)
		}
		made = append(made, r)
	}
	err = c.DB.Update(ctx, func(tx *storage.Tx) error {
		if exist, err := countKeyrings(tx); err != nil || exist > 0 {
			return cmpErr(err, fmt.Errorf("%w: the store has keyrings: open it instead", key.ErrExists))
		}
		for _, r := range made {
			if err := r.insert(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("storing keyrings: %w", err)
	}
	s.publish(made)
	return s, nil
}

// Open reads the keyrings of a store and unwraps each once. It returns
// key.ErrNotFound when the store has none or none is wrapped for this root key,
// key.ErrInvalidCiphertext for a slot that the device refuses, and
// key.ErrIntegrity for a row that was changed.
func Open(ctx context.Context, c Config) (*Set, error) {
	s, err := newSet(c)
	if err != nil {
		return nil, err
	}
	opened, err := s.openAll(ctx)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("opening keyrings: %w", err)
	}
	s.publish(opened)
	return s, nil
}

func (s *Set) openAll(ctx context.Context) ([]*ring, error) {
	rows, err := loadRows(ctx, s.config.DB, "")
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.environment == Ops }) {
		return nil, fmt.Errorf("%w: the store has no keyring of %s: create the store first", key.ErrNotFound, Ops)
	}
	var opened []*ring
	for _, w := range rows {
		r, err := s.open(ctx, w)
		if err != nil {
			return nil, err
		}
		opened = append(opened, r)
	}
	return opened, nil
}

func newSet(c Config) (*Set, error) {
	if c.DB == nil || c.Device == nil || c.StoreID == "" || len(c.StoreID) > 128 || c.Root.Usage != key.UsageWrap {
		return nil, fmt.Errorf("%w: keyrings need a store with an id, a device and a wrapping root key", key.ErrInvalid)
	}
	s := &Set{config: c, arena: locked.NewArena()}
	s.rings.Store(&map[string]*environment{})
	return s, nil
}

// Add makes the keyring of another environment, wrapped for the same recovery
// recipients as the keyring of ops, and stores it through update. It returns
// key.ErrExists when there is one.
func (s *Set) Add(ctx context.Context, name string, update Update) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops := s.opsRing()
	if ops == nil {
		return locked.ErrClosed
	}
	recovery, err := ops.recipients()
	if err != nil {
		return fmt.Errorf("creating the keyring of %s: %w", name, err)
	}
	r, err := s.generate(ctx, name, recovery)
	if err != nil {
		return fmt.Errorf("creating the keyring of %s: %w", name, err)
	}
	err = update(ctx, func(tx *storage.Tx) error {
		rows, err := queryRows(tx.Query, name)
		if err != nil || len(rows) > 0 {
			return cmpErr(err, fmt.Errorf("%w: environment %s has a keyring", key.ErrExists, name))
		}
		return r.insert(tx)
	})
	if err != nil {
		r.close()
		return fmt.Errorf("storing the keyring of %s: %w", name, err)
	}
	s.publish([]*ring{r})
	return nil
}

// Environments lists the environments whose keyrings are open, sorted.
func (s *Set) Environments() []string {
	return slices.Sorted(maps.Keys(*s.rings.Load()))
}

// Check returns key.ErrNotFound, saying which environments there are, when name
// has no keyring.
func (s *Set) Check(ctx context.Context, name string) error {
	_, err := s.ring(ctx, name, 0)
	return err
}

// Close wipes every key from memory. What is sealed or checked after it fails.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rings.Store(&map[string]*environment{})
	s.arena.Close()
}

// publish adds opened rings to what callers see.
func (s *Set) publish(opened []*ring) {
	next := map[string]*environment{}
	for name, e := range *s.rings.Load() {
		next[name] = &environment{e.current, maps.Clone(e.versions)}
	}
	for _, r := range opened {
		e := next[r.environment]
		if e == nil {
			e = &environment{versions: map[int64]*ring{}}
			next[r.environment] = e
		}
		e.versions[r.version] = r
		if r.state == stateActive && (e.current == nil || r.version > e.current.version) {
			e.current = r
		}
	}
	s.rings.Store(&next)
}

// opsRing is the ring of row MACs; nil after Close.
func (s *Set) opsRing() *ring {
	if e := (*s.rings.Load())[Ops]; e != nil {
		return e.current
	}
	return nil
}

// ring finds a version of a keyring, 0 for the current one. Another server of
// this store may have made it, so what is not known is looked for once.
func (s *Set) ring(ctx context.Context, name string, version int64) (*ring, error) {
	if r := s.known(name, version); r != nil {
		return r, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.known(name, version); r != nil {
		return r, nil
	}
	rows, err := loadRows(ctx, s.config.DB, name)
	if err != nil {
		return nil, err
	}
	var opened []*ring
	for _, w := range rows {
		if s.known(name, w.version) != nil {
			continue
		}
		r, err := s.open(ctx, w)
		if err != nil {
			return nil, err
		}
		opened = append(opened, r)
	}
	s.publish(opened)
	if r := s.known(name, version); r != nil {
		return r, nil
	}
	if len(rows) > 0 {
		return nil, fmt.Errorf("%w: version %d of the keyring of %s: was the store restored from an older copy?", key.ErrNotFound, version, name)
	}
	return nil, fmt.Errorf("%w: environment %q has no keyring; this server has %s: use one of them or have an operator add this one", key.ErrNotFound, name, strings.Join(s.Environments(), ", "))
}

func (s *Set) known(name string, version int64) *ring {
	e := (*s.rings.Load())[name]
	if e == nil {
		return nil
	}
	if version == 0 {
		return e.current
	}
	return e.versions[version]
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
