package pki

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/key"
)

// SPIFFEID is an identity, spiffe://<trust domain><path>. The zero value is no identity.
type SPIFFEID struct {
	TrustDomain string
	Path        string // with its leading slash, like /service/payments
}

// String returns the URI, or "" for the zero value.
func (id SPIFFEID) String() string {
	if id.TrustDomain == "" {
		return ""
	}
	return "spiffe://" + id.TrustDomain + id.Path
}

// Kind returns the first segment of the path: service, user or node in a Sealwright trust domain.
func (id SPIFFEID) Kind() string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(id.Path, "/"), "/")
	return kind
}

// Name returns the path after the kind, without slash: payments, or payments/api.
func (id SPIFFEID) Name() string {
	_, name, _ := strings.Cut(strings.TrimPrefix(id.Path, "/"), "/")
	return name
}

const (
	maxSPIFFEID    = 2048
	maxTrustDomain = 255
	maxSegments    = 8 // of a path we mint, the kind included
)

// ParseSPIFFEID reads a SPIFFE ID by the grammar of the SPIFFE-ID standard,
// section 2: nothing is unescaped, normalised or guessed. It needs a path: a
// bare trust domain is an authority, not an identity.
func ParseSPIFFEID(s string) (SPIFFEID, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > maxSPIFFEID {
		return SPIFFEID{}, spiffeError(s, "it starts with spiffe:// and has at most 2048 bytes")
	}
	domain, path, found := strings.Cut(rest, "/")
	if err := checkTrustDomain(domain); err != nil {
		return SPIFFEID{}, err
	}
	if !found {
		return SPIFFEID{}, spiffeError(s, "it needs a path after the trust domain, like /service/payments")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return SPIFFEID{}, spiffeError(s, "its path has no empty, . or .. segment and no trailing slash")
		}
		for i := range len(segment) {
			if !pathByte(segment[i]) {
				return SPIFFEID{}, spiffeError(s, "path segments hold only letters, digits, '.', '-' and '_', without percent-encoding")
			}
		}
	}
	return SPIFFEID{domain, "/" + path}, nil
}

func spiffeError(s, rule string) error {
	return fmt.Errorf("%w: SPIFFE ID %.200q: %s", key.ErrInvalid, s, rule)
}

func checkTrustDomain(domain string) error {
	ok := domain != "" && len(domain) <= maxTrustDomain
	for i := 0; ok && i < len(domain); i++ {
		c := domain[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
	}
	if !ok {
		return fmt.Errorf("%w: trust domain %.200q: use 1 to 255 lower-case letters, digits, '.', '-' and '_'", key.ErrInvalid, domain)
	}
	return nil
}

func pathByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// TrustDomain returns the trust domain of an environment, <environment>.<domain>.
// It is narrower than SPIFFE: it must also be a DNS name, because the URI name
// constraint of the environment's issuers is matched as one.
func TrustDomain(environment, domain string) (string, error) {
	if err := key.CheckSegment(environment); err != nil {
		return "", fmt.Errorf("environment: %w", err)
	}
	full := environment + "." + domain
	if err := CheckDNS(full, false); err != nil {
		return "", fmt.Errorf("trust domain: %w", err)
	}
	return full, nil
}

// checkMinted narrows the SPIFFE grammar to what we sign: our kind, our trust
// domain, and segments that no policy pattern, log line or file name can misread.
func checkMinted(id SPIFFEID, domain, kind string) error {
	if id.TrustDomain != domain {
		return fmt.Errorf("%w: %s: this issuer signs for the trust domain %s only", key.ErrInvalid, id, domain)
	}
	if id.Kind() != kind || id.Name() == "" {
		return fmt.Errorf("%w: %s: this profile signs spiffe://%s/%s/NAME only", key.ErrInvalid, id, domain, kind)
	}
	segments := strings.Split(id.Path[1:], "/")
	if len(segments) > maxSegments {
		return fmt.Errorf("%w: %.200s: at most %d path segments", key.ErrInvalid, id, maxSegments)
	}
	for _, s := range segments {
		if err := key.CheckSegment(s); err != nil {
			return fmt.Errorf("SPIFFE ID %.200s: %w", id, err)
		}
	}
	return nil
}
