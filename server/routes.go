package server

import (
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/key"
)

// handlers answer the routes of package api, by name. A test compares.
func handlers() map[string]func(*call) (any, error) {
	return map[string]func(*call) (any, error){
		"status": (*call).status,

		"createKey":       (*call).createKey,
		"listKeys":        (*call).listKeys,
		"describeKey":     (*call).describeKey,
		"rotateKey":       (*call).rotateKey,
		"enableKey":       (*call).enableKey,
		"disableKey":      (*call).disableKey,
		"encrypt":         (*call).encrypt,
		"decrypt":         (*call).decrypt,
		"rewrap":          (*call).rewrap,
		"generateDataKey": (*call).dataKey,
		"sign":            (*call).sign,
		"verify":          (*call).verify,
		"publicKey":       (*call).publicKey,

		"issueCertificate":  (*call).issue,
		"listCertificates":  (*call).listCertificates,
		"getCertificate":    (*call).getCertificate,
		"revokeCertificate": (*call).revoke,
		"listIssuers":       (*call).listIssuers,
		"bundle":            (*call).bundle,

		"listAuditEntries": (*call).auditEntries,
		"auditCheckpoint":  (*call).auditCheckpoint,
		"auditProof":       (*call).auditProof,
		"auditConsistency": (*call).auditConsistency,
		"auditTile":        (*call).auditTile,
		"auditKeys":        (*call).auditKeys,
		"auditVerify":      (*call).auditVerify,

		"applyPolicy":       (*call).applyPolicy,
		"getPolicy":         (*call).getPolicy,
		"explain":           (*call).explain,
		"registerPrincipal": (*call).registerPrincipal,
		"listPrincipals":    (*call).listPrincipals,
		"disablePrincipal":  (*call).disablePrincipal,

		"crl":     (*call).crl,
		"ca":      (*call).roots,
		"livez":   (*call).live,
		"readyz":  (*call).ready,
		"metrics": (*call).scrape,
		"openapi": (*call).openapi,
	}
}

// nowhere is the name of the route of what no other route answers.
const nowhere = "none"

// methodError says which methods a path has.
type methodError struct{ allowed []string }

func (e *methodError) Error() string { return "use " + strings.Join(e.allowed, " or ") }

// Handler returns the whole API.
func (s *Server) Handler() (http.Handler, error) { return s.handler(api.Routes()) }

func (s *Server) handler(routes []api.Route) (http.Handler, error) {
	mux := http.NewServeMux()
	byName := handlers()
	methods := map[string]bool{}
	for _, route := range routes {
		f := byName[route.Name]
		if f == nil {
			return nil, fmt.Errorf("route %s has no handler", route.Name)
		}
		method, _, _ := strings.Cut(route.Pattern, " ")
		methods[method] = true
		mux.Handle(route.Pattern, s.handle(&route, f))
	}
	missing := s.handle(&api.Route{Name: nowhere, Public: true, Timeout: 30 * time.Second, Status: http.StatusNotFound}, func(c *call) (any, error) {
		var allowed []string
		for _, m := range slices.Sorted(maps.Keys(methods)) {
			other := c.r.Clone(c.r.Context())
			other.Method = m
			if _, pattern := mux.Handler(other); strings.Contains(pattern, " ") && plainPath(c.r) {
				allowed = append(allowed, m)
			}
		}
		if len(allowed) > 0 {
			return nil, fmt.Errorf("%w: %w", api.ErrMethod, &methodError{allowed})
		}
		return nil, fmt.Errorf("%w: no such path; /openapi.json lists them", key.ErrNotFound)
	})
	mux.Handle("/", missing)
	for _, route := range routes {
		// The mux would redirect the bare path of these to the one with a slash.
		_, pattern, _ := strings.Cut(route.Pattern, " ")
		if bare, _, ok := strings.Cut(pattern, "/{path...}"); ok {
			mux.Handle(bare, missing)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !plainPath(r) { // the mux would redirect, in words of its own
			missing.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}), nil
}

// plainPath reports whether a path is written in the one way that is answered.
func plainPath(r *http.Request) bool {
	p := r.URL.Path
	return strings.HasPrefix(p, "/") && path.Clean(p) == p && r.Method != http.MethodConnect
}
