package kms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// intentGenerate is the kind of the intents of this package.
const intentGenerate = "kms.generate"

// intent says which device key is about to be made, so that it can be found
// when nobody learned whether it was. The door authenticates it.
type intent struct {
	DeviceKey key.ID `json:"device_key"`
	Key       key.ID `json:"key"`
	Version   int64  `json:"version"`
}

// label is the device's name for the key. It has no room for the key's name, and
// every version needs one of its own.
func (i intent) label() string { return "kms/" + i.DeviceKey.String() }

// addDeviceVersion makes a version in the device: intent, act, outcome.
func (s *Service) addDeviceVersion(ctx context.Context, g guard.Grant, use guard.Use, r *record, v *versionRow, change func(*storage.Tx) error) error {
	i := intent{DeviceKey: key.NewID(), Key: r.ID, Version: v.number}
	data, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("writing an intent: %w", err)
	}
	use.Detail("device_key", i.DeviceKey.String())
	if err := g.Intent(ctx, intentGenerate, r.object.Name, data); err != nil {
		return err
	}
	ref, err := s.device.Generate(ctx, key.Spec{ID: i.DeviceKey, Label: i.label(), Algorithm: r.Algorithm, Usage: key.UsageSign})
	if err != nil {
		return err // the intent stays open: Reconcile finds out what the device did
	}
	v.ref, v.public = ref.Encode(), ref.Public
	err = s.storeVersion(ctx, g, v, change)
	if err != nil && !errors.Is(err, storage.ErrOutcomeUnknown) {
		// Nobody will ever name this key. If it cannot be destroyed now, Reconcile does it.
		_ = s.device.Destroy(context.WithoutCancel(ctx), ref)
	}
	return err
}

// Reconcile finds out what became of device keys that were about to be made
// when the service ended, destroys those that no key names, and records it.
// Call it at the start, before the first request. A device that is away leaves
// the intents open, and the error says so.
func (s *Service) Reconcile(ctx context.Context) error {
	open, err := s.door.Intents(ctx, intentGenerate)
	if err != nil {
		return err
	}
	var problems []error
	for _, o := range open {
		if err := s.reconcile(ctx, o); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (s *Service) reconcile(ctx context.Context, open guard.Intent) error {
	var i intent
	if err := json.Unmarshal(open.Data, &i); err != nil {
		return fmt.Errorf("%w: reading intent %s: %w", key.ErrIntegrity, open.ID, err)
	}
	action := policy.RotateKey
	if i.Version == 1 {
		action = policy.CreateKey
	}
	act := guard.Act{Action: action, Object: policy.Object{Kind: policy.KindKey, Name: open.Object, ID: i.Key.String()}}
	return s.door.Reconcile(ctx, open, act, func(ctx context.Context) (string, error) { return s.settle(ctx, i) })
}

// settle mends the outside world. The intent is open, so its outcome was not
// stored, and no key names what the device may hold.
func (s *Service) settle(ctx context.Context, i intent) (outcome string, err error) {
	ref, err := s.device.Find(ctx, i.DeviceKey)
	if errors.Is(err, key.ErrNotFound) {
		return "the device key was not made", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for device key %s: %w", i.DeviceKey, err)
	}
	used, err := s.uses(ctx, i.DeviceKey)
	if err != nil {
		return "", err
	}
	if used || ref.Label != i.label() {
		return "", fmt.Errorf("%w: device key %s is in use although its intent is open", key.ErrIntegrity, i.DeviceKey)
	}
	if err := s.device.Destroy(ctx, ref); err != nil && !errors.Is(err, key.ErrNotFound) {
		return "", fmt.Errorf("destroying orphaned device key %s: %w", i.DeviceKey, err)
	}
	return "the device key was made, named by no key, and destroyed", nil
}

// uses reports whether any version is made of a device key. Destroying is for
// ever, so this is asked although the answer should be known: somebody may have
// opened an old intent again.
func (s *Service) uses(ctx context.Context, deviceKey key.ID) (bool, error) {
	rows, err := s.db.Query(ctx, `SELECT ref FROM kms_key_version WHERE keyring_version = 0`)
	if err != nil {
		return false, fmt.Errorf("looking for versions made of device key %s: %w", deviceKey, err)
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return false, err
		}
		if ref, err := key.DecodeRef(b); err == nil && ref.ID == deviceKey {
			return true, nil
		}
	}
	return false, rows.Err()
}
