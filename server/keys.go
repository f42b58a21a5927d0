package server

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
)

// keyName is the key of the path, as it was asked for.
func (c *call) keyName() (string, error) {
	name := c.r.PathValue("environment") + "/" + c.r.PathValue("service") + "/" + c.r.PathValue("name")
	_, err := key.ParseName(name)
	return name, err
}

// onKey looks the key up, asks the door for the actions on it, and runs act.
func (c *call) onKey(name string, encryption map[string]string, act func(context.Context, guard.Grant) error, actions ...policy.Action) error {
	if err := api.CheckContext(encryption); err != nil {
		return err
	}
	return c.enter(func(ctx context.Context) ([]guard.Act, error) {
		object, err := c.Keys.Lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		return actsOn(object, actions), nil
	}, encryption, act)
}

// onCiphertext is onKey for the key a ciphertext names.
func (c *call) onCiphertext(ciphertext string, encryption map[string]string, act func(context.Context, guard.Grant) error, actions ...policy.Action) error {
	if err := api.CheckContext(encryption); err != nil {
		return err
	}
	return c.enter(func(ctx context.Context) ([]guard.Act, error) {
		object, err := c.Keys.LookupCiphertext(ctx, ciphertext)
		if err != nil {
			return nil, err
		}
		acts := actsOn(object, actions)
		for i := range acts {
			acts[i].Asked = "the key of this ciphertext"
		}
		return acts, nil
	}, encryption, act)
}

func actsOn(object policy.Object, actions []policy.Action) []guard.Act {
	acts := make([]guard.Act, len(actions))
	for i, a := range actions {
		acts[i] = guard.Act{Action: a, Object: object}
	}
	return acts
}

func (c *call) createKey() (any, error) {
	var in api.CreateKeyRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if _, err := key.ParseName(in.Name); err != nil {
		return nil, err
	}
	var out kms.Key
	err := c.onKey(in.Name, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.Create(ctx, g, kms.NewKey{Name: in.Name, Tier: key.Tier(in.Tier), Algorithm: key.Algorithm(in.Algorithm), Owner: in.Owner, Classification: in.Classification})
		return err
	}, policy.CreateKey)
	return wireKey(out), err
}

func (c *call) listKeys() (any, error) {
	after, limit, err := c.page()
	if err != nil {
		return nil, err
	}
	environment := c.query.Get("environment")
	act := guard.Act{Action: policy.ListKeys, Object: kms.ListObject(environment)}
	out := api.KeyList{Keys: []api.Key{}}
	err = c.enter(on(act), nil, func(ctx context.Context, g guard.Grant) error {
		list, next, err := c.Keys.List(ctx, g, environment, after, limit)
		out.Keys = out.Keys[:0] // the door may run an act again
		for _, k := range list {
			out.Keys = append(out.Keys, wireKey(k))
		}
		out.Next = next
		return err
	})
	return out, err
}

// keyAct answers the routes that do one thing to the key of the path.
func (c *call) keyAct(action policy.Action, do func(context.Context, guard.Grant, string) (kms.Key, error)) (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var out kms.Key
	err = c.onKey(name, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = do(ctx, g, name)
		return err
	}, action)
	return wireKey(out), err
}

func (c *call) describeKey() (any, error) { return c.keyAct(policy.DescribeKey, c.Keys.Describe) }
func (c *call) rotateKey() (any, error)   { return c.keyAct(policy.RotateKey, c.Keys.Rotate) }
func (c *call) enableKey() (any, error)   { return c.keyAct(policy.EnableKey, c.Keys.Enable) }
func (c *call) disableKey() (any, error)  { return c.keyAct(policy.DisableKey, c.Keys.Disable) }

func (c *call) encrypt() (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var in api.EncryptRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	var out kms.Sealed
	err = c.onKey(name, in.Context, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.Encrypt(ctx, g, name, in.Plaintext)
		return err
	}, policy.Encrypt)
	return api.EncryptResponse{Ciphertext: out.Text, Key: name, Version: out.Version}, err
}

func (c *call) decrypt() (any, error) {
	var in api.DecryptRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	var out kms.Opened
	err := c.onCiphertext(in.Ciphertext, in.Context, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.Decrypt(ctx, g, in.Ciphertext)
		return err
	}, policy.Decrypt)
	return api.DecryptResponse{Plaintext: out.Plaintext, Key: out.Key, Version: out.Version}, err
}

func (c *call) rewrap() (any, error) {
	var in api.RewrapRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	var out kms.Rewrapped
	err := c.onCiphertext(in.Ciphertext, in.Context, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.Rewrap(ctx, g, in.Ciphertext)
		return err
	}, policy.RewrapFrom, policy.RewrapTo)
	return api.RewrapResponse{Ciphertext: out.Text, Key: out.Key, FromVersion: out.From, Version: out.Version}, err
}

func (c *call) dataKey() (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var in api.DataKeyRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	action := policy.GenerateDataKeyWithoutPlaintext
	if in.Plaintext {
		action = policy.GenerateDataKey
	}
	var out kms.DataKey
	err = c.onKey(name, in.Context, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.DataKey(ctx, g, name, in.Plaintext)
		return err
	}, action)
	return api.DataKeyResponse{Plaintext: out.Plaintext, Wrapped: out.Wrapped, Key: name, Version: out.Version}, err
}

// digestOf is the digest given, or that of the message given.
func digestOf(digest, message []byte) ([]byte, error) {
	switch {
	case (digest == nil) == (message == nil):
		return nil, fmt.Errorf("%w: give either a digest or a message", key.ErrInvalid)
	case digest == nil:
		sum := sha256.Sum256(message)
		return sum[:], nil
	case len(digest) != sha256.Size:
		return nil, fmt.Errorf("%w: a digest is the 32 bytes of SHA-256", key.ErrInvalid)
	}
	return digest, nil
}

func (c *call) sign() (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var in api.SignRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	digest, err := digestOf(in.Digest, in.Message)
	if err != nil {
		return nil, err
	}
	var out kms.Signature
	err = c.onKey(name, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.Sign(ctx, g, name, digest)
		return err
	}, policy.Sign)
	return api.SignResponse{Signature: out.Signature, Key: name, Version: out.Version, Algorithm: string(out.Algorithm)}, err
}

func (c *call) verify() (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var in api.VerifyRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	digest, err := digestOf(in.Digest, in.Message)
	if err != nil {
		return nil, err
	}
	out := api.VerifyResponse{Key: name}
	err = c.onKey(name, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out.Valid, out.Version, err = c.Keys.Verify(ctx, g, name, in.Version, digest, in.Signature)
		return err
	}, policy.Verify)
	return out, err
}

func wireKey(k kms.Key) api.Key {
	out := api.Key{
		ID: k.ID.String(), Name: k.Name.String(), Tier: string(k.Tier), Algorithm: string(k.Algorithm), State: string(k.State), CurrentVersion: k.CurrentVersion,
		Owner: k.Owner, Classification: k.Classification, CreatedBy: k.CreatedBy, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, DisabledAt: k.DisabledAt,
	}
	for _, v := range k.Versions {
		out.Versions = append(out.Versions, api.KeyVersion{Version: v.Version, State: string(v.State), CreatedAt: v.CreatedAt})
	}
	return out
}

func (c *call) publicKey() (any, error) {
	name, err := c.keyName()
	if err != nil {
		return nil, err
	}
	version, err := number(c.query.Get("version"), 0)
	if err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	var out kms.PublicKey
	err = c.onKey(name, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.Keys.PublicKey(ctx, g, name, version)
		return err
	}, policy.GetPublicKey)
	return api.PublicKey{Key: name, Version: out.Version, Algorithm: string(out.Algorithm), PEM: out.PEM}, err
}
