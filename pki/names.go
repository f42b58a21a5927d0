package pki

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"

	"github.com/sealwright/sealwright/key"
)

// CheckDNS accepts a host name as it may stand in a certificate: lower-case
// letters, digits and hyphens in labels of 1 to 63, at most 253 in all, no
// trailing dot. Internationalised labels are A-labels that decode and encode
// back to themselves. A wildcard is the whole leftmost label above at least two
// others, and only where the profile allows it.
func CheckDNS(name string, wildcard bool) error {
	rest := name
	if strings.HasPrefix(name, "*.") {
		if !wildcard {
			return dnsError(name, "this profile does not allow wildcards")
		}
		rest = name[2:]
		if !strings.Contains(rest, ".") {
			return dnsError(name, "a wildcard needs at least two labels after it")
		}
	}
	if name == "" || len(name) > 253 {
		return dnsError(name, "use 1 to 253 characters")
	}
	last := ""
	for label := range strings.SplitSeq(rest, ".") {
		if err := checkLabel(name, label); err != nil {
			return err
		}
		last = label
	}
	// WHATWG and others read a numeric last label as an IPv4 address.
	if strings.Trim(last, "0123456789") == "" {
		return dnsError(name, "the last label is a number; pass an address as an IP name")
	}
	return nil
}

func checkLabel(name, label string) error {
	if key.CheckSegment(label) != nil || strings.HasSuffix(label, "-") {
		return dnsError(name, "labels hold 1 to 63 lower-case letters, digits and inner hyphens, nothing else")
	}
	if len(label) < 4 || label[2:4] != "--" {
		return nil
	}
	unicode, err := idna.Registration.ToUnicode(label)
	if err != nil || !strings.HasPrefix(label, "xn--") {
		return dnsError(name, "a label with hyphens in third and fourth place must be a valid xn-- label")
	}
	if back, err := idna.Registration.ToASCII(unicode); err != nil || back != label || unicode == label {
		return dnsError(name, "an xn-- label must encode back to itself")
	}
	return nil
}

func dnsError(name, rule string) error {
	return fmt.Errorf("%w: DNS name %.260q: %s", key.ErrInvalid, name, rule)
}

// checkIP accepts an address that names one host.
func checkIP(ip netip.Addr) error {
	switch {
	case !ip.IsValid(), ip.Zone() != "", ip.Is4In6():
		return fmt.Errorf("%w: IP name %q: write a plain IPv4 or IPv6 address without zone", key.ErrInvalid, ip)
	case ip.IsUnspecified(), ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%w: IP name %s: the address of one host, not of none or many", key.ErrInvalid, ip)
	}
	return nil
}
