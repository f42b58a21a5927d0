package server

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
)

func (c *call) issue() (any, error) {
	var in api.IssueRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	order, err := c.order(in)
	if err != nil {
		return nil, err
	}
	acts, err := c.CA.Acts(order)
	if err != nil {
		return nil, err
	}
	var out *ca.Issued
	err = c.enter(on(acts...), nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = c.CA.Issue(ctx, g, order)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.IssueResponse{Certificate: wireCertificate(&out.Certificate), PEM: string(pki.EncodePEM(out.Leaf)), Chain: string(out.Chain), CA: string(out.Root)}, nil
}

// order reads a request. The environment is the one asked for, or the
// identity's, or the caller's own.
func (c *call) order(in api.IssueRequest) (ca.Order, error) {
	out := ca.Order{CSR: []byte(in.CSR), Profile: cmp.Or(in.Profile, "service"), Environment: in.Environment, Identity: in.SPIFFE, DNS: in.DNS, TTL: time.Duration(in.TTL)}
	profile, err := pki.ProfileNamed(out.Profile)
	if err != nil {
		return out, err
	}
	if profile.Enrolled {
		return out, fmt.Errorf("%w: certificates of profile %s come through enrolment of a principal, not through a request: use service, server or client", key.ErrUnsupported, profile.Name)
	}
	if len(in.CSR) > api.MaxCSR || len(in.DNS)+len(in.IP) > api.MaxNames {
		return out, fmt.Errorf("%w: a request has at most %d bytes of CSR and %d names", key.ErrInvalid, api.MaxCSR, api.MaxNames)
	}
	own, _, _, err := guard.ParseSPIFFE(c.who.SPIFFEID)
	if err != nil {
		return out, err
	}
	if in.SPIFFE == "" {
		out.Environment = cmp.Or(in.Environment, own)
	} else if out.Identity, err = c.spiffeID(in.SPIFFE, cmp.Or(in.Environment, own)); err != nil {
		return out, err
	}
	for _, text := range in.IP {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return out, fmt.Errorf("%w: %.60q is not an IP address", key.ErrInvalid, text)
		}
		out.IPs = append(out.IPs, ip.Unmap())
	}
	return out, nil
}

func (c *call) listCertificates() (any, error) {
	after, limit, err := c.page()
	if err != nil {
		return nil, err
	}
	f := ca.Filter{Identity: c.query.Get("identity"), After: after, Limit: limit}
	if text := c.query.Get("expires_before"); text != "" {
		if f.ExpiresBefore, err = time.Parse(time.RFC3339, text); err != nil {
			return nil, fmt.Errorf("%w: expires_before: write a time like 2026-01-31T00:00:00Z", key.ErrInvalid)
		}
	}
	out := api.CertificateList{Certificates: []api.Certificate{}}
	err = c.enter(on(guard.Act{Action: policy.ListCertificates, Object: ca.CertificatesObject(f.Environment)}), nil, func(ctx context.Context, g guard.Grant) error {
		list, next, err := c.CA.List(ctx, g, f)
		out.Certificates = out.Certificates[:0] // the door may run an act again
		for _, one := range list {
			out.Certificates = append(out.Certificates, wireCertificate(&one))
		}
		out.Next = next
		return err
	})
	return out, err
}

func (c *call) getCertificate() (any, error) {
	return c.onCertificate(policy.ListCertificates, c.CA.Get)
}

func (c *call) revoke() (any, error) {
	var in api.RevokeRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	reason := -1
	for _, r := range api.Reasons() {
		if r.Name == in.Reason || in.Reason == "" && r.Code == 0 {
			reason = r.Code
		}
	}
	if reason < 0 {
		return nil, fmt.Errorf("%w: unknown reason %.60q", key.ErrInvalid, in.Reason)
	}
	return c.onCertificate(policy.RevokeCertificate, func(ctx context.Context, g guard.Grant, serial string) (*ca.Certificate, error) {
		return c.CA.Revoke(ctx, g, serial, reason)
	})
}

// onCertificate does one thing to the certificate of the path.
func (c *call) onCertificate(action policy.Action, do func(context.Context, guard.Grant, string) (*ca.Certificate, error)) (any, error) {
	serial := strings.ToLower(c.r.PathValue("serial"))
	var out *ca.Certificate
	err := c.enter(func(ctx context.Context) ([]guard.Act, error) {
		object, err := c.CA.ObjectOf(ctx, serial)
		return []guard.Act{{Action: action, Object: object, Asked: "certificate " + serial}}, err
	}, nil, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = do(ctx, g, serial)
		return err
	})
	if err != nil {
		return nil, err
	}
	return wireCertificate(out), nil
}

func (c *call) listIssuers() (any, error) {
	out := api.IssuerList{Issuers: []api.Issuer{}}
	err := c.withIssuers(func(list []ca.Issuer) error {
		out.Issuers = out.Issuers[:0] // the door may run an act again
		for _, i := range list {
			out.Issuers = append(out.Issuers, api.Issuer{
				ID: i.ID, Environment: i.Environment, Parent: i.Parent, Subject: i.Certificate.Subject.String(), State: i.State, Mode: i.Mode,
				NotAfter: i.Certificate.NotAfter, Fingerprint: pki.Fingerprint(i.Certificate), PEM: string(pki.EncodePEM(i.Certificate)),
			})
		}
		return nil
	})
	return out, err
}

func (c *call) bundle() (any, error) {
	var out api.Bundle
	err := c.withIssuers(func(list []ca.Issuer) error {
		out = api.Bundle{} // the door may run an act again
		for _, i := range list {
			if i.Parent != "" {
				out.Issuers += string(pki.EncodePEM(i.Certificate))
				continue
			}
			out.Roots += string(pki.EncodePEM(i.Certificate))
			out.Fingerprints = append(out.Fingerprints, pki.Fingerprint(i.Certificate))
		}
		return nil
	})
	return out, err
}

func (c *call) withIssuers(use func([]ca.Issuer) error) error {
	return c.enter(on(guard.Act{Action: policy.DescribeIssuer, Object: ca.IssuersObject()}), nil, func(ctx context.Context, g guard.Grant) error {
		list, err := c.CA.Issuers(ctx, g)
		if err != nil {
			return err
		}
		return use(list)
	})
}

// crl serves an issuer's CRL as ISSUER.crl, for anybody.
func (c *call) crl() (any, error) {
	issuer, ok := strings.CutSuffix(c.r.PathValue("issuer"), ".crl")
	if !ok {
		return nil, fmt.Errorf("%w: no such CRL: ask for ISSUER.crl", key.ErrNotFound)
	}
	der, err := c.CA.CRL(c.r.Context(), issuer)
	return raw{media: "application/pkix-crl", body: der, cache: "public, max-age=60"}, err
}

// roots serves the root certificates, for anybody: pin their fingerprint.
func (c *call) roots() (any, error) {
	roots, _, err := c.CA.Trust(c.r.Context())
	return raw{media: "application/x-pem-file", body: pki.EncodePEM(roots...), cache: "public, max-age=60"}, err
}

func wireCertificate(in *ca.Certificate) api.Certificate {
	dns, ips := in.Hosts()
	out := api.Certificate{
		Serial: in.Serial, Issuer: in.Issuer, Profile: in.Profile, Identity: in.Identity, DNS: dns, SPKI: in.SPKI,
		NotBefore: in.NotBefore, NotAfter: in.NotAfter, IssuedBy: in.IssuedBy, RevokedAt: in.RevokedAt,
	}
	for _, ip := range ips {
		out.IP = append(out.IP, ip.String())
	}
	if !in.RevokedAt.IsZero() {
		for _, r := range api.Reasons() {
			if r.Code == in.Reason {
				out.Reason = r.Name
			}
		}
	}
	return out
}
