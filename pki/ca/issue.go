package ca

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Order asks for a certificate.
type Order struct {
	CSR         []byte // PKCS #10, PEM or DER
	Profile     string // "" is service
	Environment string // "" only where Identity is a whole SPIFFE ID
	Identity    string // service/payments, or a whole SPIFFE ID; "" for profiles without
	DNS         []string
	IPs         []netip.Addr
	TTL         time.Duration // zero: the profile's default
}

// Issued is a certificate and what goes with it.
type Issued struct {
	Certificate Certificate
	Leaf        *x509.Certificate
	Chain       []byte // PEM: what to send after the leaf
	Root        []byte // PEM: what peers trust
}

// normal is an order whose names are whole and well-formed, so that they can
// become names of objects at the door.
type normal struct {
	Order
	profile pki.Profile
	id      pki.SPIFFEID // zero without identity
}

func (s *Service) normalize(o Order) (*normal, error) {
	p, err := pki.ProfileNamed(cmp.Or(o.Profile, "service"))
	if err != nil {
		return nil, err
	}
	n := &normal{Order: o, profile: p}
	if n.Identity != "" || p.Identity != "" {
		if err := s.identify(n); err != nil {
			return nil, err
		}
	}
	if _, err := pki.TrustDomain(n.Environment, s.config.Domain); err != nil {
		return nil, err
	}
	if len(o.DNS)+len(o.IPs) > pki.MaxNames {
		return nil, fmt.Errorf("%w: %d names: at most %d in one certificate", key.ErrInvalid, len(o.DNS)+len(o.IPs), pki.MaxNames)
	}
	for _, name := range o.DNS {
		if err := pki.CheckDNS(name, p.Wildcards); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// identify completes a short identity and finds the environment of a whole one.
func (s *Service) identify(n *normal) error {
	if !strings.Contains(n.Identity, "://") {
		domain, err := pki.TrustDomain(n.Environment, s.config.Domain)
		if err != nil {
			return err
		}
		n.Identity = "spiffe://" + domain + "/" + n.Identity
	}
	id, err := pki.ParseSPIFFEID(n.Identity)
	if err != nil {
		return err
	}
	environment, ok := strings.CutSuffix(id.TrustDomain, "."+s.config.Domain)
	if !ok || n.Environment != "" && n.Environment != environment {
		return fmt.Errorf("%w: %s does not lie in %s.%s", key.ErrInvalid, id, cmp.Or(n.Environment, "<environment>"), s.config.Domain)
	}
	n.Environment, n.id = environment, id
	return nil
}

// Acts returns what must be allowed for an order: its identity and, each for
// itself, its hosts, because an identity gives no right to a host name. A
// profile that makes principals demands the right to register that principal as
// well.
func (s *Service) Acts(o Order) ([]guard.Act, error) {
	n, err := s.normalize(o)
	if err != nil {
		return nil, err
	}
	return n.acts(), nil
}

func (n *normal) acts() []guard.Act {
	var acts []guard.Act
	if n.profile.Enrolled {
		acts = append(acts, guard.Act{Action: policy.RegisterPrincipal, Object: guard.PrincipalObject(n.id.String())})
	}
	issue := func(name, identity, service string) {
		acts = append(acts, guard.Act{Action: policy.IssueCertificate, Object: policy.Object{Kind: policy.KindCertificate, Name: name, Attributes: map[string]string{
			"environment": n.Environment, "service": service, "profile": n.profile.Name, "issuer": n.Environment, "identity": identity,
		}}})
	}
	if n.id.TrustDomain != "" {
		issue(n.Environment+n.id.Path, n.id.String(), serviceOf(n.id))
	}
	for _, name := range n.DNS {
		issue(n.Environment+"/dns/"+name, "", "")
	}
	for _, ip := range n.IPs {
		issue(n.Environment+"/ip/"+ip.String(), "", "")
	}
	if len(acts) == 0 { // no name at all; the profile will refuse it, but the door comes first
		issue(n.Environment+"/"+n.profile.Name, "", "")
	}
	return acts
}

func serviceOf(id pki.SPIFFEID) string {
	if id.Kind() != "service" {
		return ""
	}
	return id.Name()
}

// Issue has the environment's issuer sign a certificate. The grant is for
// [Service.Acts] of the same order. The certificate is returned when its row
// and its entry are durable, never before.
func (s *Service) Issue(ctx context.Context, g guard.Grant, o Order) (*Issued, error) {
	n, err := s.normalize(o)
	if err != nil {
		return nil, err
	}
	uses, err := s.redeem(g, n.acts())
	if err != nil {
		return nil, err
	}
	i, err := s.find(ctx, n.Environment)
	if err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(n.CSR)
	if err != nil {
		return nil, err
	}
	checked, err := i.issuer.Check(pki.Order{Profile: n.profile, CSR: csr, SPIFFEID: n.Identity, DNS: n.DNS, IPs: n.IPs, TTL: n.TTL}, time.Now())
	if err != nil {
		return nil, err
	}
	leaf, err := checked.Sign()
	if err != nil {
		return nil, err
	}
	row := rowOf(leaf, i.ID, n.profile.Name, n.Identity, uses[0].Principal.SPIFFEID)
	uses[0].Detail(detailSerial, row.Serial)
	uses[0].Detail("issuer", i.ID)
	if err := g.Update(ctx, row.insert); err != nil {
		return nil, err
	}
	out := &Issued{Certificate: row, Leaf: leaf, Chain: i.Chain}
	out.Certificate.Environment = i.Environment
	all := s.issuers.Load()
	if root := all.byID[i.Parent]; root != nil {
		out.Root = pki.EncodePEM(root.Certificate)
	}
	return out, nil
}

func (s *Service) redeem(g guard.Grant, acts []guard.Act) ([]guard.Use, error) {
	uses := make([]guard.Use, len(acts))
	for n, a := range acts {
		var err error
		if uses[n], err = s.config.Door.Redeem(g, a.Action, a.Object.Name); err != nil {
			return nil, err
		}
	}
	return uses, nil
}

// Certificate is one row of the inventory.
type Certificate struct {
	Serial      string // lower-case hex, no leading zeros
	Issuer      string // id
	Environment string
	Profile     string
	Identity    string // SPIFFE ID; "" if none
	Names       string // DNS and IP names, comma-separated
	SPKI        string // SHA-256 of the public key, hex
	IssuedBy    string
	NotBefore   time.Time
	NotAfter    time.Time
	RevokedAt   time.Time // zero: not revoked
	RevokedBy   string
	Reason      int // RFC 5280 5.3.1
}

// Hosts splits the names.
func (c *Certificate) Hosts() (dns []string, ips []netip.Addr) {
	if c.Names == "" {
		return nil, nil
	}
	for name := range strings.SplitSeq(c.Names, ",") {
		if ip, err := netip.ParseAddr(name); err == nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, name)
		}
	}
	return dns, ips
}

func rowOf(c *x509.Certificate, issuer, profile, identity, by string) Certificate {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	spki := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return Certificate{
		Serial: c.SerialNumber.Text(16), Issuer: issuer, Profile: profile, Identity: identity, Names: strings.Join(names, ","),
		SPKI: hex.EncodeToString(spki[:]), IssuedBy: by, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
}

// insert adds the row. The CRL shard is 0, the complete CRL, until there are more.
func (c Certificate) insert(tx *storage.Tx) error {
	_, err := tx.Exec(`INSERT INTO certificate (serial, issuer, profile, identity, names, spki, shard, issued_by, not_before, not_after)
		VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9)`, c.Serial, c.Issuer, c.Profile, c.Identity, c.Names, c.SPKI, c.IssuedBy, c.NotBefore.UnixMicro(), c.NotAfter.UnixMicro())
	return err
}
