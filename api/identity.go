package api

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/key"
)

// SPIFFEID returns the SPIFFE ID that an identity means: itself, if it is one;
// else KIND/PATH in environment, or ENVIRONMENT/KIND/PATH, under domain, with
// kind user, service or node. People live in the environment ops. Whether a
// whole SPIFFE ID is one of ours is for the caller to check.
func SPIFFEID(identity, environment, domain string) (string, error) {
	if strings.HasPrefix(identity, "spiffe://") {
		return identity, nil
	}
	kind, path, _ := strings.Cut(identity, "/")
	if !isKind(kind) {
		environment = kind
		kind, path, _ = strings.Cut(path, "/")
	}
	if kind == "user" {
		environment = "ops"
	}
	wrong := func(why string) error {
		return fmt.Errorf("%w: identity %.200q: %s: write service/NAME, user/NAME, node/NAME, the same after ENVIRONMENT/, or a SPIFFE ID", ErrInvalid, identity, why)
	}
	switch {
	case !isKind(kind) || path == "":
		return "", wrong("it has no kind and name")
	case environment == "":
		return "", wrong("no environment is given")
	}
	for s := range strings.SplitSeq(environment+"/"+path, "/") {
		if err := key.CheckSegment(s); err != nil {
			return "", fmt.Errorf("identity %.200q: %w", identity, err)
		}
	}
	return "spiffe://" + environment + "." + domain + "/" + kind + "/" + path, nil
}

func isKind(s string) bool { return s == "user" || s == "service" || s == "node" }
