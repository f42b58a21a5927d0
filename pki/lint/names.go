package lint

import (
	"crypto/x509"
	"net"
	"net/url"
	"strings"
)

func (f *findings) names(c *x509.Certificate, r Rules) {
	if r.Kind == Issuer {
		f.constraints(c, r)
	}
	if r.Kind != Leaf {
		f.require(len(c.Subject.CommonName) > 0 && len(c.Subject.CommonName) <= 64, "subject", "a CA needs a common name of at most 64 octets")
		return
	}
	f.require(len(c.EmailAddresses) == 0, "names", "e-mail addresses have no place here")
	f.require(len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs) > 0, "names", "no subject alternative name")
	if r.TrustDomain == "" {
		f.require(len(c.URIs) == 0, "names", "a certificate of this profile has no URI")
	} else {
		f.spiffe(c.URIs, r.TrustDomain)
	}
	f.commonName(c)
	if r.Parent != nil {
		f.constrained(c, r.Parent)
	}
}

// spiffe checks the one URI by means other than package pki's own grammar.
func (f *findings) spiffe(uris []*url.URL, domain string) {
	if len(uris) != 1 {
		f.add("spiffe", "%d URIs; an X509-SVID has exactly one", len(uris))
		return
	}
	u := uris[0]
	f.require(u.Scheme == "spiffe" && u.Host == domain, "spiffe", "is not in the trust domain "+domain)
	f.require(u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.RawPath == "" && u.Opaque == "", "spiffe", "has more than a host and a path")
	segments := strings.Split(u.Path, "/")
	f.require(len(segments) > 2 && segments[0] == "", "spiffe", "has no path of a kind and a name")
	for _, s := range segments[1:] {
		f.require(s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "%*\\ "), "spiffe", "has a path segment outside the grammar")
	}
}

// commonName refuses a common name that a verifier without a matching
// alternative name could take for a host: OpenSSL falls back to it.
func (f *findings) commonName(c *x509.Certificate) {
	cn := c.Subject.CommonName
	f.require(len(cn) <= 64, "subject", "common name is longer than 64 octets")
	f.require(len(c.Subject.Names) <= 1, "subject", "of a leaf holds a common name or nothing")
	if cn == "" {
		f.require(len(c.Subject.Names) == 0, "subject", "of a leaf holds a common name or nothing")
		return
	}
	for _, name := range c.DNSNames {
		if name == cn {
			return
		}
	}
	for _, ip := range c.IPAddresses {
		if ip.String() == cn {
			return
		}
	}
	f.require(strings.Contains(cn, ":") && net.ParseIP(cn) == nil, "subject", "common name reads as a host that is not among the alternative names")
}

// constraints checks an issuer's own name constraints: one trust domain.
func (f *findings) constraints(c *x509.Certificate, r Rules) {
	f.require(r.TrustDomain != "", "name constraints", "an issuer needs a trust domain")
	f.require(c.PermittedDNSDomainsCritical, "name constraints", "missing or not critical")
	f.require(len(c.PermittedURIDomains) == 1 && c.PermittedURIDomains[0] == r.TrustDomain && len(c.ExcludedURIDomains) == 0,
		"name constraints", "must permit exactly the URIs of the issuer's trust domain")
	f.require(len(c.URIs) == 0 && len(c.DNSNames) == 0 && len(c.IPAddresses) == 0, "names", "a CA has no alternative names")
}

// constrained checks a leaf's names against the signing certificate's constraints.
func (f *findings) constrained(c, parent *x509.Certificate) {
	for _, u := range c.URIs {
		host := u.Hostname()
		f.require(within(host, parent.PermittedURIDomains, parent.ExcludedURIDomains, exact), "name constraints", "the issuer may not name the URI host "+host)
	}
	for _, name := range c.DNSNames {
		f.require(within(name, parent.PermittedDNSDomains, parent.ExcludedDNSDomains, suffix), "name constraints", "the issuer may not name "+name)
	}
	for _, ip := range c.IPAddresses {
		f.require(withinIP(ip, parent.PermittedIPRanges, parent.ExcludedIPRanges), "name constraints", "the issuer may not name "+ip.String())
	}
}

func within(name string, permitted, excluded []string, match func(name, rule string) bool) bool {
	ok := len(permitted) == 0
	for _, rule := range permitted {
		ok = ok || match(name, rule)
	}
	for _, rule := range excluded {
		ok = ok && !match(name, rule)
	}
	return ok
}

// exact is the URI rule of RFC 5280 4.2.1.10: a host means that host, a leading
// period means every host below. Go's verifier is laxer here; OpenSSL is as strict.
func exact(host, rule string) bool {
	if strings.HasPrefix(rule, ".") {
		return strings.HasSuffix(host, rule)
	}
	return host == rule
}

// suffix is the DNS rule: a domain means itself and everything below.
func suffix(name, rule string) bool {
	rule = strings.TrimPrefix(rule, ".")
	return name == rule || strings.HasSuffix(name, "."+rule)
}

func withinIP(ip net.IP, permitted, excluded []*net.IPNet) bool {
	ok := len(permitted) == 0
	for _, rule := range permitted {
		ok = ok || contains(rule, ip)
	}
	for _, rule := range excluded {
		ok = ok && !contains(rule, ip)
	}
	return ok
}

// contains compares families first: net.IPNet would take an IPv4 address for the IPv6 one that maps it.
func contains(rule *net.IPNet, ip net.IP) bool {
	return (len(rule.IP) == net.IPv4len) == (ip.To4() != nil) && rule.Contains(ip)
}
