package server

import (
	"fmt"
	"net/http"
	"strings"

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

// Handler returns the whole API.
func (s *Server) Handler() (http.Handler, error) {
	return s.handler(func(api.Route) bool { return true })
}

func (s *Server) handler(wanted func(api.Route) bool) (http.Handler, error) {
	mux := http.NewServeMux()
	byName := handlers()
	methods := map[string]bool{}
	for _, route := range api.Routes() {
		if !wanted(route) {
			continue
		}
		f := byName[route.Name]
		if f == nil {
			return nil, fmt.Errorf("route %s has no handler", route.Name)
		}
		method, _, _ := strings.Cut(route.Pattern, " ")
		methods[method] = true
		mux.Handle(route.Pattern, s.handle(&route, f))
	}
	mux.Handle("/", s.handle(&api.Route{Name: "none", Public: true, Timeout: bodyTimeout}, func(c *call) (any, error) {
		var allowed []string
		for m := range methods {
			other := c.r.Clone(c.r.Context())
			other.Method = m
			if _, pattern := mux.Handler(other); pattern != "/" {
				allowed = append(allowed, m)
			}
		}
		if len(allowed) > 0 {
			return nil, fmt.Errorf("%w: use %s", api.ErrMethod, strings.Join(allowed, " or "))
		}
		return nil, fmt.Errorf("%w: no such path; /openapi.json lists them", key.ErrNotFound)
	}))
	return mux, nil
}
