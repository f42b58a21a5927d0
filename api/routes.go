package api

import (
	"reflect"
	"slices"
	"time"
)

// The routes, as patterns of http.ServeMux.
const (
	RouteStatus            = "GET /v1/status"
	RouteCreateKey         = "POST /v1/keys"
	RouteListKeys          = "GET /v1/keys"
	RouteDescribeKey       = "GET /v1/keys/{environment}/{service}/{name}"
	RouteRotateKey         = "POST /v1/keys/{environment}/{service}/{name}/rotate"
	RouteEnableKey         = "POST /v1/keys/{environment}/{service}/{name}/enable"
	RouteDisableKey        = "POST /v1/keys/{environment}/{service}/{name}/disable"
	RouteEncrypt           = "POST /v1/keys/{environment}/{service}/{name}/encrypt"
	RouteDataKey           = "POST /v1/keys/{environment}/{service}/{name}/datakey"
	RouteSign              = "POST /v1/keys/{environment}/{service}/{name}/sign"
	RouteVerify            = "POST /v1/keys/{environment}/{service}/{name}/verify"
	RoutePublicKey         = "GET /v1/keys/{environment}/{service}/{name}/public-key"
	RouteDecrypt           = "POST /v1/decrypt"
	RouteRewrap            = "POST /v1/rewrap"
	RouteIssue             = "POST /v1/certificates"
	RouteListCertificates  = "GET /v1/certificates"
	RouteGetCertificate    = "GET /v1/certificates/{serial}"
	RouteRevoke            = "POST /v1/certificates/{serial}/revoke"
	RouteIssuers           = "GET /v1/issuers"
	RouteBundle            = "GET /v1/bundle"
	RouteAuditEntries      = "GET /v1/audit/entries"
	RouteAuditCheckpoint   = "GET /v1/audit/checkpoint"
	RouteAuditProof        = "GET /v1/audit/proof/{index}"
	RouteAuditConsistency  = "GET /v1/audit/consistency"
	RouteAuditTile         = "GET /v1/audit/tile/{path...}"
	RouteAuditKeys         = "GET /v1/audit/keys"
	RouteAuditVerify       = "POST /v1/audit/verify"
	RouteApplyPolicy       = "PUT /v1/policy"
	RouteGetPolicy         = "GET /v1/policy"
	RouteExplain           = "POST /v1/policy/explain"
	RouteRegisterPrincipal = "POST /v1/principals"
	RouteListPrincipals    = "GET /v1/principals"
	RouteDisablePrincipal  = "POST /v1/principals/{id}/disable"
	RouteCRL               = "GET /crl/{issuer}"
	RouteCA                = "GET /ca.pem"
	RouteLive              = "GET /livez"
	RouteReady             = "GET /readyz"
	RouteMetrics           = "GET /metrics"
	RouteOpenAPI           = "GET /openapi.json"
)

// Route is one row of the table of routes. OpenAPI is written from it.
type Route struct {
	Pattern string
	Name    string // the operationId
	Summary string
	// Action is what the door is asked first ("" for public routes); rewrap asks a second one too.
	Action string
	Public bool // answers anybody: no principal, no audit entry
	// Mutates: the client sends an Idempotency-Key. What does not mutate may be repeated as it is.
	Mutates bool
	// Secret: the response bears a secret and is stored nowhere.
	Secret   bool
	Limit    int64         // bytes of the request's body
	Timeout  time.Duration // for the whole request
	Query    []Parameter
	Request  reflect.Type // nil: no body
	Response reflect.Type // nil: not JSON; see Media
	Media    string       // of a response that is not JSON
	Status   int          // of success
}

// Parameter is one query parameter; all are optional but those the summary says.
type Parameter struct {
	Name string
	Type string // string, integer, boolean or date-time
	Doc  string
}

// Routes returns the table.
func Routes() []Route { return slices.Clone(routes) }

// LookupRoute returns the row of a pattern.
func LookupRoute(pattern string) (Route, bool) {
	i := slices.IndexFunc(routes, func(r Route) bool { return r.Pattern == pattern })
	if i < 0 {
		return Route{}, false
	}
	return routes[i], true
}

const (
	quick = 15 * time.Second
	long  = 10 * time.Minute // reads the whole log
)

var (
	pageLimit = Parameter{"limit", "integer", "at most so many (1 to 1000, 100 by default)"}
	after     = Parameter{"after", "string", "continue after this: next of the page before"}
)

func of[T any]() reflect.Type { return reflect.TypeFor[T]() }

var routes = []Route{
	{Pattern: RouteStatus, Name: "status", Summary: "What runs, and who you are to it", Action: "system:Status", Timeout: quick, Response: of[Status](), Status: 200},

	{Pattern: RouteCreateKey, Name: "createKey", Summary: "Create a key", Action: "kms:CreateKey", Mutates: true, Limit: maxSmallBody, Timeout: 60 * time.Second,
		Request: of[CreateKeyRequest](), Response: of[Key](), Status: 201},
	{Pattern: RouteListKeys, Name: "listKeys", Summary: "List the keys you may describe, by name", Action: "kms:ListKeys", Timeout: quick,
		Query: []Parameter{{"environment", "string", "only of this environment"}, after, pageLimit}, Response: of[KeyList](), Status: 200},
	{Pattern: RouteDescribeKey, Name: "describeKey", Summary: "A key and its versions", Action: "kms:DescribeKey", Timeout: quick, Response: of[Key](), Status: 200},
	{Pattern: RouteRotateKey, Name: "rotateKey", Summary: "Add a version; older ones go on decrypting", Action: "kms:RotateKey", Mutates: true, Timeout: 60 * time.Second, Response: of[Key](), Status: 200},
	{Pattern: RouteEnableKey, Name: "enableKey", Summary: "Switch a key on", Action: "kms:EnableKey", Mutates: true, Timeout: quick, Response: of[Key](), Status: 200},
	{Pattern: RouteDisableKey, Name: "disableKey", Summary: "Switch a key off at once", Action: "kms:DisableKey", Mutates: true, Timeout: quick, Response: of[Key](), Status: 200},
	{Pattern: RouteEncrypt, Name: "encrypt", Summary: "Encrypt under a key", Action: "kms:Encrypt", Limit: maxPlaintextBody, Timeout: quick,
		Request: of[EncryptRequest](), Response: of[EncryptResponse](), Status: 200},
	{Pattern: RouteDataKey, Name: "generateDataKey", Summary: "Make a data key, with or without its plaintext", Action: "kms:GenerateDataKey", Secret: true, Limit: 8 * MaxContextBytes, Timeout: quick,
		Request: of[DataKeyRequest](), Response: of[DataKeyResponse](), Status: 200},
	{Pattern: RouteSign, Name: "sign", Summary: "Sign a SHA-256 digest, or a message after hashing it", Action: "kms:Sign", Limit: 2 * MaxPlaintext, Timeout: quick,
		Request: of[SignRequest](), Response: of[SignResponse](), Status: 200},
	{Pattern: RouteVerify, Name: "verify", Summary: "Check a signature", Action: "kms:Verify", Limit: 2 * MaxPlaintext, Timeout: quick,
		Request: of[VerifyRequest](), Response: of[VerifyResponse](), Status: 200},
	{Pattern: RoutePublicKey, Name: "publicKey", Summary: "The public half of a key", Action: "kms:GetPublicKey", Timeout: quick,
		Query: []Parameter{{"version", "integer", "the current one by default"}}, Response: of[PublicKey](), Status: 200},
	{Pattern: RouteDecrypt, Name: "decrypt", Summary: "Decrypt; the ciphertext names its key", Action: "kms:Decrypt", Secret: true, Limit: maxPlaintextBody, Timeout: quick,
		Request: of[DecryptRequest](), Response: of[DecryptResponse](), Status: 200},
	{Pattern: RouteRewrap, Name: "rewrap", Summary: "Move a ciphertext to the newest version of its key", Action: "kms:RewrapFrom", Limit: maxPlaintextBody, Timeout: quick,
		Request: of[RewrapRequest](), Response: of[RewrapResponse](), Status: 200},

	{Pattern: RouteIssue, Name: "issueCertificate", Summary: "Issue a certificate from a CSR", Action: "pki:IssueCertificate", Mutates: true, Limit: 2*MaxCSR + MaxNames*512, Timeout: 30 * time.Second,
		Request: of[IssueRequest](), Response: of[IssueResponse](), Status: 201},
	{Pattern: RouteListCertificates, Name: "listCertificates", Summary: "The inventory, by expiry", Action: "pki:ListCertificates", Timeout: quick,
		Query: []Parameter{{"identity", "string", "only of this SPIFFE ID"}, {"expires_before", "date-time", "only what ends before"}, after, pageLimit}, Response: of[CertificateList](), Status: 200},
	{Pattern: RouteGetCertificate, Name: "getCertificate", Summary: "One certificate of the inventory", Action: "pki:ListCertificates", Timeout: quick, Response: of[Certificate](), Status: 200},
	{Pattern: RouteRevoke, Name: "revokeCertificate", Summary: "Revoke a certificate; as a credential it ends with the next request", Action: "pki:RevokeCertificate", Mutates: true, Limit: maxSmallBody, Timeout: 30 * time.Second,
		Request: of[RevokeRequest](), Response: of[Certificate](), Status: 200},
	{Pattern: RouteIssuers, Name: "listIssuers", Summary: "The issuers", Action: "pki:DescribeIssuer", Timeout: quick, Response: of[IssuerList](), Status: 200},
	{Pattern: RouteBundle, Name: "bundle", Summary: "What to trust", Action: "pki:DescribeIssuer", Timeout: quick, Response: of[Bundle](), Status: 200},

	{Pattern: RouteAuditEntries, Name: "listAuditEntries", Summary: "The log, newest first", Action: "audit:Read", Timeout: 60 * time.Second,
		Query:    []Parameter{pageLimit, {"before", "integer", "only entries below this index"}, {"principal", "string", "only by this SPIFFE ID"}, {"action", "string", "only of this action"}, {"object", "string", "only about this object"}},
		Response: of[AuditList](), Status: 200},
	{Pattern: RouteAuditCheckpoint, Name: "auditCheckpoint", Summary: "The newest checkpoint, a C2SP signed note", Action: "audit:Read", Timeout: quick, Media: "text/plain; charset=utf-8", Status: 200},
	{Pattern: RouteAuditProof, Name: "auditProof", Summary: "A C2SP tlog-proof of one entry", Action: "audit:Read", Timeout: quick, Response: of[AuditProof](), Status: 200},
	{Pattern: RouteAuditConsistency, Name: "auditConsistency", Summary: "That the log of size old (required) grew into the newest checkpoint", Action: "audit:Read", Timeout: quick,
		Query: []Parameter{{"old", "integer", "the size seen before"}}, Response: of[AuditConsistency](), Status: 200},
	{Pattern: RouteAuditTile, Name: "auditTile", Summary: "A C2SP tlog-tile, or a bundle of entries", Action: "audit:Export", Timeout: quick, Media: "application/octet-stream", Status: 200},
	{Pattern: RouteAuditKeys, Name: "auditKeys", Summary: "The keys that sign checkpoints", Action: "audit:Read", Timeout: quick, Response: of[AuditKeys](), Status: 200},
	{Pattern: RouteAuditVerify, Name: "auditVerify", Summary: "Read the whole stored log and check it", Action: "audit:Read", Timeout: long, Response: of[AuditReport](), Status: 200},

	{Pattern: RouteApplyPolicy, Name: "applyPolicy", Summary: "Make a text the active policy", Action: "policy:Apply", Mutates: true, Limit: 2*MaxPolicyText + maxSmallBody, Timeout: 60 * time.Second,
		Request: of[ApplyPolicyRequest](), Response: of[Policy](), Status: 200},
	{Pattern: RouteGetPolicy, Name: "getPolicy", Summary: "The active policy", Action: "policy:Read", Timeout: quick, Response: of[Policy](), Status: 200},
	{Pattern: RouteExplain, Name: "explain", Summary: "What the policy would decide, and why", Action: "policy:Explain", Limit: 2*MaxPolicyText + maxSmallBody + 8*MaxContextBytes, Timeout: 60 * time.Second,
		Request: of[ExplainRequest](), Response: of[ExplainResponse](), Status: 200},

	{Pattern: RouteRegisterPrincipal, Name: "registerPrincipal", Summary: "Make an identity a principal", Action: "principal:Register", Mutates: true, Limit: maxSmallBody, Timeout: quick,
		Request: of[RegisterRequest](), Response: of[Principal](), Status: 201},
	{Pattern: RouteListPrincipals, Name: "listPrincipals", Summary: "The principals, by SPIFFE ID", Action: "principal:List", Timeout: quick,
		Query: []Parameter{after, pageLimit}, Response: of[PrincipalList](), Status: 200},
	{Pattern: RouteDisablePrincipal, Name: "disablePrincipal", Summary: "Disable a principal; its next request is refused", Action: "principal:Disable", Mutates: true, Timeout: quick, Response: of[Principal](), Status: 200},

	{Pattern: RouteCRL, Name: "crl", Summary: "An issuer's CRL, as ISSUER.crl, DER", Public: true, Timeout: quick, Media: "application/pkix-crl", Status: 200},
	{Pattern: RouteCA, Name: "ca", Summary: "The roots, PEM", Public: true, Timeout: quick, Media: "application/x-pem-file", Status: 200},
	{Pattern: RouteLive, Name: "livez", Summary: "The process lives", Public: true, Timeout: quick, Media: "text/plain; charset=utf-8", Status: 200},
	{Pattern: RouteReady, Name: "readyz", Summary: "Store, device and log work", Public: true, Timeout: quick, Media: "text/plain; charset=utf-8", Status: 200},
	{Pattern: RouteMetrics, Name: "metrics", Summary: "Prometheus metrics", Public: true, Timeout: quick, Media: "text/plain; version=0.0.4; charset=utf-8", Status: 200},
	{Pattern: RouteOpenAPI, Name: "openapi", Summary: "This API as OpenAPI 3.1", Public: true, Timeout: quick, Media: "application/json", Status: 200},
}
