package pki

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/key"
)

const (
	// Backdate is how far before now a certificate begins, for peers whose clocks are behind.
	Backdate = 5 * time.Minute
	// NoRevAvailBelow: certificates that live shorter carry noRevAvail (RFC 9608)
	// and no CRL pointer. They are on the issuer's CRL all the same when revoked.
	NoRevAvailBelow = 7 * 24 * time.Hour

	maxNames = 32 // DNS and IP names of one certificate
)

// Profile is the rules of one kind of certificate.
type Profile struct {
	Name       string
	Identity   string // kind of the SPIFFE ID it must have (service, user, node); "" means it has none
	DNS        bool   // may have DNS names
	IP         bool   // may have IP names
	NeedsHost  bool   // must have a DNS or IP name
	Wildcards  bool   // DNS names may be wildcards
	Enrolled   bool   // comes only through enrolment of a principal, never through a plain request
	Usages     []x509.ExtKeyUsage
	DefaultTTL time.Duration
	MaxTTL     time.Duration
}

const day = 24 * time.Hour

// Profiles returns all profiles.
func Profiles() []Profile {
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	// X509-SVID section 4.4: with an extended key usage, an SVID has both.
	both := []x509.ExtKeyUsage{server, client}
	return []Profile{
		{Name: "service", Identity: "service", DNS: true, IP: true, Usages: both, DefaultTTL: day, MaxTTL: 30 * day},
		{Name: "server", DNS: true, IP: true, NeedsHost: true, Usages: []x509.ExtKeyUsage{server}, DefaultTTL: day, MaxTTL: 90 * day},
		{Name: "client", DNS: true, NeedsHost: true, Usages: []x509.ExtKeyUsage{client}, DefaultTTL: day, MaxTTL: 90 * day},
		{Name: "user", Identity: "user", Enrolled: true, Usages: both, DefaultTTL: day, MaxTTL: 90 * day},
		{Name: "node", Identity: "node", DNS: true, IP: true, Enrolled: true, Usages: both, DefaultTTL: day, MaxTTL: 30 * day},
	}
}

// ProfileNamed returns the profile, or ErrInvalid with the names there are.
func ProfileNamed(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("%w: there is no profile %.80q: use one of %s", key.ErrInvalid, name, strings.Join(names, ", "))
}

// ttl returns the lifetime that was asked for, or the default, in whole seconds.
func (p Profile) ttl(asked time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return p.DefaultTTL, nil
	case asked < time.Second:
		return 0, fmt.Errorf("%w: a lifetime of %s: ask for at least one second", key.ErrInvalid, asked)
	case asked > p.MaxTTL:
		return 0, fmt.Errorf("%w: a lifetime of %s is more than the %s that profile %s allows", key.ErrInvalid, asked, p.MaxTTL, p.Name)
	}
	return asked.Truncate(time.Second), nil
}
