package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/internal/durable"
)

func (a *app) certCommand() *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Issue, list and revoke certificates", Example: "  sealwright cert list"}
	c.AddCommand(a.certIssue(), a.certList(), a.certShow(), a.certRevoke())
	return c
}

// issueFlags is the command line of cert issue.
type issueFlags struct {
	in      api.IssueRequest
	ttl     time.Duration
	csr     string
	out     string
	replace bool
}

func (a *app) certIssue() *cobra.Command {
	var f issueFlags
	c := &cobra.Command{Use: "issue --out DIR", Short: "Make a key here and have a certificate issued for it", Args: exactly(0),
		Long: `Makes a private key on this machine, has a certificate issued for it, and writes
DIR/key.pem, DIR/cert.pem (with its chain) and DIR/ca.pem, readable by you alone.
The key never leaves this machine. Run again, it renews: a new key, a new certificate
of the same identity, replaced in one step.`,
		Example: "  sealwright cert issue --spiffe service/payments --dns localhost --ip 127.0.0.1 --ttl 1h --out tls",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			f.in.Environment = a.environment
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				info, err := issue(ctx, server, &f)
				if err != nil {
					return err
				}
				return a.print(info, func(t *cli.Table) {
					t.Row("serial", info.Serial)
					t.Row("identity", info.Identity)
					t.Row("names", strings.Join(append(info.DNS, info.IP...), " "))
					t.Row("ends", stamp(info.NotAfter))
					t.Row("written to", f.out)
				})
			})
		}}
	c.Flags().StringVar(&f.in.SPIFFE, "spiffe", "", "`IDENTITY`: service/NAME in --environment, ENVIRONMENT/service/NAME, or a SPIFFE ID")
	c.Flags().StringSliceVar(&f.in.DNS, "dns", nil, "DNS `NAME`; repeatable")
	c.Flags().StringSliceVar(&f.in.IP, "ip", nil, "IP `ADDRESS`; repeatable")
	c.Flags().DurationVar(&f.ttl, "ttl", 0, "good for this `DURATION`, like 1h; by default 24h, at most 720h (service) or 2160h")
	c.Flags().StringVar(&f.in.Profile, "profile", "service", "`PROFILE`: service (with --spiffe, for both ends of mutual TLS), client or server (with --dns or --ip)")
	c.Flags().StringVar(&f.out, "out", "", "`DIR` to write to; made if it does not exist (required)")
	c.Flags().StringVar(&f.csr, "csr", "", "`FILE` of a CSR of your own, PEM; then no key is made")
	c.Flags().BoolVar(&f.replace, "replace", false, "replace files in DIR that are not an earlier certificate of this identity")
	return c
}

func (f *issueFlags) check() error {
	f.in.TTL = api.Duration(f.ttl)
	switch {
	case f.out == "":
		return cli.Misuse("--out DIR says where the key and the certificate go", "no directory given")
	case f.ttl < 0:
		return cli.Misuse("write it like 90s, 1h or 24h", "--ttl %s is negative", f.ttl)
	case f.csr == "" && f.in.SPIFFE == "" && len(f.in.DNS) == 0 && len(f.in.IP) == 0:
		return cli.Misuse("name it: --spiffe service/NAME, --dns NAME or --ip ADDRESS", "a certificate needs a name")
	}
	for _, ip := range f.in.IP {
		if _, err := netip.ParseAddr(ip); err != nil {
			return cli.Misuse("write an address like 127.0.0.1 or ::1; host names go to --dns", "--ip %q", ip)
		}
	}
	return nil
}

// issue has the certificate issued and writes the files.
func issue(ctx context.Context, server *client.Client, f *issueFlags) (api.Certificate, error) {
	if f.csr != "" {
		return issueForCSR(ctx, server, f)
	}
	// Before anything is issued: what is in the directory, and can it be written to.
	if err := os.MkdirAll(f.out, 0o700); err != nil {
		return api.Certificate{}, fmt.Errorf("making the directory: %w", err)
	}
	old, err := readLeaf(f.out)
	if err == nil && old == nil && exists(filepath.Join(f.out, "key.pem")) {
		err = errors.New("it holds a key.pem without its cert.pem")
	}
	if err != nil && !f.replace {
		return api.Certificate{}, cli.Misuse("choose another --out, or --replace what is there", "%s: %w", f.out, err)
	}
	issued, err := server.Issue(ctx, f.in)
	if err != nil {
		return api.Certificate{}, err
	}
	if old != nil && !f.replace && !sameIdentity(old, issued.Leaf) {
		return api.Certificate{}, cli.Misuse("choose another --out, or --replace it; the new certificate "+issued.Info.Serial+" was issued and its key dropped",
			"%s holds a certificate of another identity", f.out)
	}
	key, err := issued.KeyPEM()
	if err != nil {
		return api.Certificate{}, err
	}
	return issued.Info, durable.WriteFiles(f.out,
		durable.File{Name: "ca.pem", Data: issued.CA, Perm: 0o600},
		durable.File{Name: "key.pem", Data: key, Perm: 0o600},
		durable.File{Name: "cert.pem", Data: issued.Chain, Perm: 0o600})
}

func issueForCSR(ctx context.Context, server *client.Client, f *issueFlags) (api.Certificate, error) {
	csr, err := os.ReadFile(f.csr)
	if err != nil {
		return api.Certificate{}, fmt.Errorf("reading the CSR: %w", err)
	}
	if err := os.MkdirAll(f.out, 0o700); err != nil {
		return api.Certificate{}, fmt.Errorf("making the directory: %w", err)
	}
	f.in.CSR = string(csr)
	answer, err := server.IssueCertificate(ctx, f.in)
	if err != nil {
		return api.Certificate{}, err
	}
	return answer.Certificate, durable.WriteFiles(f.out,
		durable.File{Name: "ca.pem", Data: []byte(answer.CA), Perm: 0o600},
		durable.File{Name: "cert.pem", Data: []byte(answer.PEM + answer.Chain), Perm: 0o600})
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

// readLeaf returns the certificate in dir/cert.pem, nil if there is none.
func readLeaf(dir string) (*x509.Certificate, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("its cert.pem is no PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its cert.pem is no certificate: %w", err)
	}
	return leaf, nil
}

// sameIdentity reports whether b renews a: the same SPIFFE ID, or without one the same names.
func sameIdentity(a, b *x509.Certificate) bool {
	names := func(c *x509.Certificate) (all []string) {
		for _, u := range c.URIs {
			all = append(all, u.String())
		}
		if len(all) > 0 {
			return all
		}
		all = slices.Clone(c.DNSNames)
		for _, ip := range c.IPAddresses {
			all = append(all, ip.String())
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(names(a), names(b))
}

func certRow(t *cli.Table, c api.Certificate) {
	state := "good until"
	switch {
	case !c.RevokedAt.IsZero():
		state = "revoked, " + c.Reason
	case time.Now().After(c.NotAfter):
		state = "ended"
	}
	t.Row(c.Serial, c.Profile, c.Identity, strings.Join(append(slices.Clone(c.DNS), c.IP...), " "), state, stamp(c.NotAfter))
}

func certHead(t *cli.Table) { t.Row("SERIAL", "PROFILE", "IDENTITY", "NAMES", "STATE", "ENDS") }

func (a *app) certList() *cobra.Command {
	var limit int
	var identity, before string
	c := &cobra.Command{Use: "list", Short: "List the certificates that were issued", Args: exactly(0),
		Example: "  sealwright cert list --expires-before 24h",
		RunE: func(c *cobra.Command, _ []string) error {
			until, err := parseTime(before)
			if err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				all := api.CertificateList{Certificates: []api.Certificate{}}
				err := pages(limit, func(page client.Page) (int, string, error) {
					list, err := server.ListCertificates(ctx, identity, until, page)
					all.Certificates = append(all.Certificates, list.Certificates...)
					all.Next = list.Next
					return len(list.Certificates), list.Next, err
				})
				if err != nil {
					return err
				}
				return a.print(all, func(t *cli.Table) {
					certHead(t)
					for _, c := range all.Certificates {
						certRow(t, c)
					}
				})
			})
		}}
	c.Flags().IntVar(&limit, "limit", 100, "at most `N`; 0 for all")
	c.Flags().StringVar(&identity, "identity", "", "only of this `SPIFFE-ID`")
	c.Flags().StringVar(&before, "expires-before", "", "only what ends before this `TIME`: from now, like 24h, or like 2027-01-31T00:00:00Z")
	return c
}

// parseTime reads a time, or a duration from now; "" is the zero time.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, cli.Misuse("write a duration from now, like 24h, or a time, like 2027-01-31T00:00:00Z", "time %q", s)
	}
	return t, nil
}

func (a *app) certShow() *cobra.Command {
	return &cobra.Command{Use: "show SERIAL", Short: "Show one certificate of the inventory", Args: exactly(1),
		Example: "  sealwright cert show 3f2a9c",
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				info, err := server.Certificate(ctx, serial(args[0]))
				if err != nil {
					return err
				}
				return a.printCert(info)
			})
		}}
}

func (a *app) printCert(info api.Certificate) error {
	return a.print(info, func(t *cli.Table) {
		t.Row("serial", info.Serial)
		t.Row("issuer", info.Issuer)
		t.Row("profile", info.Profile)
		t.Row("identity", info.Identity)
		t.Row("names", strings.Join(append(slices.Clone(info.DNS), info.IP...), " "))
		t.Row("public key", info.SPKI)
		t.Row("good", stamp(info.NotBefore)+" to "+stamp(info.NotAfter))
		t.Row("issued by", info.IssuedBy)
		if !info.RevokedAt.IsZero() {
			t.Row("revoked", stamp(info.RevokedAt)+", "+info.Reason)
		}
	})
}

// serial accepts a serial as other tools print it: 0A:1B or 0a1b.
func serial(s string) string {
	s = strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0")
	if s == "" {
		return "0"
	}
	return s
}

func (a *app) certRevoke() *cobra.Command {
	var reason string
	var names []string
	for _, r := range api.Reasons() {
		names = append(names, r.Name)
	}
	c := &cobra.Command{Use: "revoke SERIAL", Short: "Revoke a certificate", Args: exactly(1),
		Long:    "Revokes a certificate by its serial, as cert list prints it. As a credential here it ends with\nthe next request; elsewhere when the CRL is fetched.",
		Example: "  sealwright cert revoke 3f2a9c --why key-compromise",
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(names, reason) {
				return cli.Misuse("use one of "+strings.Join(names, ", "), "reason %q", reason)
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				info, err := server.Revoke(ctx, serial(args[0]), reason)
				if err != nil {
					return err
				}
				return a.printCert(info)
			})
		}}
	c.Flags().StringVar(&reason, "why", "unspecified", "`REASON` for the CRL: "+strings.Join(names, ", "))
	return c
}
