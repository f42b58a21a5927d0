package client

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/key"
)

// Status says what runs, and who the caller is to it.
func (c *Client) Status(ctx context.Context) (out api.Status, err error) {
	return out, c.do(ctx, call{pattern: api.RouteStatus, out: &out})
}

// CreateKey creates a key.
func (c *Client) CreateKey(ctx context.Context, in api.CreateKeyRequest) (out api.Key, err error) {
	return out, c.do(ctx, call{pattern: api.RouteCreateKey, in: in, out: &out})
}

// Page continues a list. The zero Page is its beginning.
type Page struct {
	After string // Next of the page before
	Limit int    // at most so many; 0: the server's default
}

func (p Page) values(pairs ...string) url.Values {
	v := url.Values{}
	if p.Limit > 0 {
		v.Set("limit", strconv.Itoa(p.Limit))
	}
	set(v, append(pairs, "after", p.After)...)
	return v
}

// set adds the pairs whose value is not empty.
func set(v url.Values, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
}

// ListKeys lists the keys of an environment ("": all) that the caller may describe.
func (c *Client) ListKeys(ctx context.Context, environment string, page Page) (out api.KeyList, err error) {
	return out, c.do(ctx, call{pattern: api.RouteListKeys, query: page.values("environment", environment), out: &out})
}

// onKey makes a call about the key called name, environment/service/name.
func (c *Client) onKey(ctx context.Context, pattern, name string, query url.Values, in, out any) error {
	n, err := key.ParseName(name)
	if err != nil {
		return err
	}
	return c.do(ctx, call{pattern: pattern, args: []string{n.Environment, n.Service, n.Key}, query: query, in: in, out: out})
}

// DescribeKey returns a key with its versions.
func (c *Client) DescribeKey(ctx context.Context, name string) (out api.Key, err error) {
	return out, c.onKey(ctx, api.RouteDescribeKey, name, nil, nil, &out)
}

// RotateKey adds a version to a key.
func (c *Client) RotateKey(ctx context.Context, name string) (out api.Key, err error) {
	return out, c.onKey(ctx, api.RouteRotateKey, name, nil, nil, &out)
}

// EnableKey switches a key on.
func (c *Client) EnableKey(ctx context.Context, name string) (out api.Key, err error) {
	return out, c.onKey(ctx, api.RouteEnableKey, name, nil, nil, &out)
}

// DisableKey switches a key off.
func (c *Client) DisableKey(ctx context.Context, name string) (out api.Key, err error) {
	return out, c.onKey(ctx, api.RouteDisableKey, name, nil, nil, &out)
}

// Encrypt encrypts under the newest version of a key.
func (c *Client) Encrypt(ctx context.Context, name string, plaintext []byte, encryptionContext map[string]string) (out api.EncryptResponse, err error) {
	in := api.EncryptRequest{Plaintext: plaintext, Context: encryptionContext}
	return out, c.onKey(ctx, api.RouteEncrypt, name, nil, in, &out)
}

// Decrypt opens a ciphertext, which names its key.
func (c *Client) Decrypt(ctx context.Context, ciphertext string, encryptionContext map[string]string) (out api.DecryptResponse, err error) {
	in := api.DecryptRequest{Ciphertext: ciphertext, Context: encryptionContext}
	return out, c.do(ctx, call{pattern: api.RouteDecrypt, in: in, out: &out})
}

// Rewrap moves a ciphertext to the newest version of its key.
func (c *Client) Rewrap(ctx context.Context, ciphertext string, encryptionContext map[string]string) (out api.RewrapResponse, err error) {
	in := api.RewrapRequest{Ciphertext: ciphertext, Context: encryptionContext}
	return out, c.do(ctx, call{pattern: api.RouteRewrap, in: in, out: &out})
}

// DataKey makes a data key; without plaintext only its wrapped form is returned.
func (c *Client) DataKey(ctx context.Context, name string, encryptionContext map[string]string, plaintext bool) (out api.DataKeyResponse, err error) {
	in := api.DataKeyRequest{Context: encryptionContext, Plaintext: plaintext}
	return out, c.onKey(ctx, api.RouteDataKey, name, nil, in, &out)
}

// Sign signs a SHA-256 digest or a message.
func (c *Client) Sign(ctx context.Context, name string, in api.SignRequest) (out api.SignResponse, err error) {
	return out, c.onKey(ctx, api.RouteSign, name, nil, in, &out)
}

// Verify checks a signature.
func (c *Client) Verify(ctx context.Context, name string, in api.VerifyRequest) (out api.VerifyResponse, err error) {
	return out, c.onKey(ctx, api.RouteVerify, name, nil, in, &out)
}

// PublicKey returns the public half of a key's version (0: the current one).
func (c *Client) PublicKey(ctx context.Context, name string, version int64) (out api.PublicKey, err error) {
	query := url.Values{}
	if version != 0 {
		query.Set("version", strconv.FormatInt(version, 10))
	}
	return out, c.onKey(ctx, api.RoutePublicKey, name, query, nil, &out)
}

// IssueCertificate issues a certificate for a CSR of the caller's. Issue makes the key and the CSR too.
func (c *Client) IssueCertificate(ctx context.Context, in api.IssueRequest) (out api.IssueResponse, err error) {
	return out, c.do(ctx, call{pattern: api.RouteIssue, in: in, out: &out})
}

// ListCertificates lists the inventory, of one SPIFFE ID if given, and only what ends before a time if given.
func (c *Client) ListCertificates(ctx context.Context, identity string, expiresBefore time.Time, page Page) (out api.CertificateList, err error) {
	before := ""
	if !expiresBefore.IsZero() {
		before = expiresBefore.UTC().Format(time.RFC3339)
	}
	query := page.values("identity", identity, "expires_before", before)
	return out, c.do(ctx, call{pattern: api.RouteListCertificates, query: query, out: &out})
}

// Certificate returns one certificate of the inventory.
func (c *Client) Certificate(ctx context.Context, serial string) (out api.Certificate, err error) {
	return out, c.do(ctx, call{pattern: api.RouteGetCertificate, args: []string{serial}, out: &out})
}

// Revoke revokes a certificate for one of api.Reasons ("": unspecified).
func (c *Client) Revoke(ctx context.Context, serial, reason string) (out api.Certificate, err error) {
	return out, c.do(ctx, call{pattern: api.RouteRevoke, args: []string{serial}, in: api.RevokeRequest{Reason: reason}, out: &out})
}

// Issuers returns the issuers.
func (c *Client) Issuers(ctx context.Context) (out api.IssuerList, err error) {
	return out, c.do(ctx, call{pattern: api.RouteIssuers, out: &out})
}

// Bundle returns what to trust.
func (c *Client) Bundle(ctx context.Context) (out api.Bundle, err error) {
	return out, c.do(ctx, call{pattern: api.RouteBundle, out: &out})
}

// CA returns the roots, PEM. It needs no principal.
func (c *Client) CA(ctx context.Context) (pem []byte, err error) {
	return pem, c.do(ctx, call{pattern: api.RouteCA, out: &pem})
}

// CRL returns an issuer's CRL, DER. It needs no principal.
func (c *Client) CRL(ctx context.Context, issuer string) (der []byte, err error) {
	return der, c.do(ctx, call{pattern: api.RouteCRL, args: []string{issuer + ".crl"}, out: &der})
}

// ApplyPolicy makes a text the active policy.
func (c *Client) ApplyPolicy(ctx context.Context, in api.ApplyPolicyRequest) (out api.Policy, err error) {
	return out, c.do(ctx, call{pattern: api.RouteApplyPolicy, in: in, out: &out})
}

// Policy returns the active policy.
func (c *Client) Policy(ctx context.Context) (out api.Policy, err error) {
	return out, c.do(ctx, call{pattern: api.RouteGetPolicy, out: &out})
}

// Explain says what the policy would decide, and why.
func (c *Client) Explain(ctx context.Context, in api.ExplainRequest) (out api.ExplainResponse, err error) {
	return out, c.do(ctx, call{pattern: api.RouteExplain, in: in, out: &out})
}

// RegisterPrincipal makes an identity a principal.
func (c *Client) RegisterPrincipal(ctx context.Context, in api.RegisterRequest) (out api.Principal, err error) {
	return out, c.do(ctx, call{pattern: api.RouteRegisterPrincipal, in: in, out: &out})
}

// ListPrincipals lists the principals.
func (c *Client) ListPrincipals(ctx context.Context, page Page) (out api.PrincipalList, err error) {
	return out, c.do(ctx, call{pattern: api.RouteListPrincipals, query: page.values(), out: &out})
}

// DisablePrincipal disables a principal; its next request is refused.
func (c *Client) DisablePrincipal(ctx context.Context, id string) (out api.Principal, err error) {
	return out, c.do(ctx, call{pattern: api.RouteDisablePrincipal, args: []string{id}, out: &out})
}
