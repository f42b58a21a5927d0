// Package kms keeps named keys and works with them: it encrypts, decrypts,
// makes data keys, signs.
//
// A key of tier wrapped is 32 random bytes sealed by the keyring of its
// environment; it is opened into memory when it is used. A key of tier device
// never leaves the device, which performs each signature.
//
// Every method takes a grant of the door and redeems it before it does anything
// else. Every row it decides by carries a MAC, which is checked whenever the row
// is read. What is cached is good for one authz_epoch: a key that was disabled
// does not serve one more request.
package kms

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/storage"
)

// Config is what a Service stands on. Zero numbers mean the defaults.
type Config struct {
	DB     *storage.DB
	Door   *guard.Door
	Rings  *keyring.Set
	Device key.Device // for tier device

	CacheKeys int           // opened key versions kept in memory; 10,000
	CacheLife time.Duration // how long one is kept at most; 5 minutes
}

func (c Config) keys() int           { return cmp.Or(c.CacheKeys, 10_000) }
func (c Config) life() time.Duration { return cmp.Or(c.CacheLife, 5*time.Minute) }

// loadTimeout bounds a load that several callers wait for.
const loadTimeout = 10 * time.Second

// Service is the keys of one store. It is safe for concurrent use.
type Service struct {
	db     *storage.DB // immutable after New
	door   *guard.Door
	rings  *keyring.Set
	device key.Device
	arena  *locked.Arena // for material on its way into a key schedule

	records  *cache[string, *record]      // enabled keys, by name and by id
	versions *cache[versionKey, *version] // opened versions
	flights  singleflight.Group
}

// New returns a service on an open store, door and keyrings. Close it before them.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Door == nil || c.Rings == nil || c.Device == nil {
		return nil, fmt.Errorf("%w: keys need a store, a door, keyrings and a device", key.ErrInvalid)
	}
	return &Service{
		db: c.DB, door: c.Door, rings: c.Rings, device: c.Device, arena: locked.NewArena(),
		records:  newCache[string, *record](2*c.keys(), c.life()),
		versions: newCache[versionKey, *version](c.keys(), c.life()),
	}, nil
}

// Close forgets every opened key.
func (s *Service) Close() error {
	s.records.clear()
	s.versions.clear()
	s.arena.Close()
	return nil
}

// State is where a key is in its life.
type State string

// The states of a key.
const (
	Enabled            State = "enabled"
	Disabled           State = "disabled"
	PendingDestruction State = "pending-destruction"
	Destroyed          State = "destroyed"
)

// VersionState is where one version of a key is in its life.
type VersionState string

// The states of a version.
const (
	VersionEnabled   VersionState = "enabled"
	VersionRetired   VersionState = "retired" // nothing opens under it any more
	VersionDestroyed VersionState = "destroyed"
)

// Key is a named key. It holds nothing secret.
type Key struct {
	ID             key.ID
	Name           key.Name
	Tier           key.Tier
	Algorithm      key.Algorithm
	State          State
	CurrentVersion int64
	Owner          string
	Classification string
	CreatedBy      string // a SPIFFE ID
	CreatedAt      time.Time
	ExpiresAt      time.Time // zero: never
	DisabledAt     time.Time // zero: enabled
	Versions       []Version // newest first; only from Describe
}

// Version is one version of a key.
type Version struct {
	Version   int64
	State     VersionState
	CreatedAt time.Time
}

// share runs load once for all callers that ask for the same thing at the same
// time. The load outlives a caller that gives up, because others wait for it.
// what must differ wherever the answer may: it has the epoch and the generation.
func share[V any](ctx context.Context, s *Service, what string, load func(context.Context) (V, error)) (V, error) {
	done := s.flights.DoChan(what, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return load(ctx)
	})
	var zero V
	select {
	case r := <-done:
		if r.Err != nil {
			return zero, r.Err
		}
		return r.Val.(V), nil
	case <-ctx.Done():
		return zero, fmt.Errorf("loading a key: %w", context.Cause(ctx))
	}
}

// moment names a state of the store as this process knows it.
func moment(epoch int64, generation uint64) string {
	return "@" + strconv.FormatInt(epoch, 10) + "." + strconv.FormatUint(generation, 10)
}
