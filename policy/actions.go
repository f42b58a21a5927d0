package policy

import "slices"

// Action is what is asked for.
type Action string

// The actions.
const (
	CreateKey                       Action = "kms:CreateKey"
	ListKeys                        Action = "kms:ListKeys"
	DescribeKey                     Action = "kms:DescribeKey"
	RotateKey                       Action = "kms:RotateKey"
	Encrypt                         Action = "kms:Encrypt"
	Decrypt                         Action = "kms:Decrypt"
	RewrapFrom                      Action = "kms:RewrapFrom"
	RewrapTo                        Action = "kms:RewrapTo"
	GenerateDataKey                 Action = "kms:GenerateDataKey"
	GenerateDataKeyWithoutPlaintext Action = "kms:GenerateDataKeyWithoutPlaintext"
	Sign                            Action = "kms:Sign"
	Verify                          Action = "kms:Verify"
	GetPublicKey                    Action = "kms:GetPublicKey"
	DisableKey                      Action = "kms:DisableKey"
	EnableKey                       Action = "kms:EnableKey"
	CreateIssuer                    Action = "pki:CreateIssuer"
	SignCRL                         Action = "pki:SignCRL"
	IssueCertificate                Action = "pki:IssueCertificate"
	ListCertificates                Action = "pki:ListCertificates"
	RevokeCertificate               Action = "pki:RevokeCertificate"
	DescribeIssuer                  Action = "pki:DescribeIssuer"
	ReadAudit                       Action = "audit:Read"
	ExportAudit                     Action = "audit:Export"
	ApplyPolicy                     Action = "policy:Apply"
	ReadPolicy                      Action = "policy:Read"
	ExplainPolicy                   Action = "policy:Explain"
	RegisterPrincipal               Action = "principal:Register"
	ListPrincipals                  Action = "principal:List"
	DisablePrincipal                Action = "principal:Disable"
	SystemStatus                    Action = "system:Status"
)

// Kind is a kind of object, an entity type of the schema.
type Kind string

// The kinds of objects.
const (
	KindKey         Kind = "Key"         // environment/service/name
	KindEnvironment Kind = "Environment" // lists of one environment
	KindIssuer      Kind = "Issuer"      // the issuer's name
	KindCertificate Kind = "Certificate" // environment/kind/path of the identity, like dev/service/payments; the serial if it has none
	KindLog         Kind = "Log"         // the audit log
	KindPolicySet   Kind = "PolicySet"   // the active policy
	KindPrincipal   Kind = "Principal"   // environment/kind/path
	KindSystem      Kind = "System"      // everything else; lists across environments
)

// ActionInfo is one row of the table of actions.
type ActionInfo struct {
	Action  Action
	Kinds   []Kind // the objects it applies to
	Summary string // completes "may ..."
}

// Actions returns the table of actions. The schema says the same, and a test compares.
func Actions() []ActionInfo { return slices.Clone(actionTable) }

var actionTable = []ActionInfo{
	{CreateKey, []Kind{KindKey}, "create the key"},
	{ListKeys, []Kind{KindEnvironment, KindSystem}, "list keys; each is shown only to those who may describe it"},
	{DescribeKey, []Kind{KindKey}, "see the key's state, versions and owner"},
	{RotateKey, []Kind{KindKey}, "add a version to the key"},
	{Encrypt, []Kind{KindKey}, "encrypt under the key"},
	{Decrypt, []Kind{KindKey}, "decrypt what the key encrypted"},
	{RewrapFrom, []Kind{KindKey}, "move ciphertexts away from the key"},
	{RewrapTo, []Kind{KindKey}, "move ciphertexts to the key"},
	{GenerateDataKey, []Kind{KindKey}, "get data keys in plaintext and wrapped"},
	{GenerateDataKeyWithoutPlaintext, []Kind{KindKey}, "get wrapped data keys"},
	{Sign, []Kind{KindKey}, "sign with the key"},
	{Verify, []Kind{KindKey}, "have signatures of the key verified"},
	{GetPublicKey, []Kind{KindKey}, "read the public half of the key"},
	{DisableKey, []Kind{KindKey}, "switch the key off"},
	{EnableKey, []Kind{KindKey}, "switch the key on"},
	{CreateIssuer, []Kind{KindIssuer}, "create an issuer"},
	{SignCRL, []Kind{KindIssuer}, "have a CRL signed; the service does it by itself when one is due"},
	{IssueCertificate, []Kind{KindCertificate}, "have a certificate issued"},
	{ListCertificates, []Kind{KindEnvironment, KindSystem, KindCertificate, KindIssuer}, "list and read certificates"},
	{RevokeCertificate, []Kind{KindCertificate}, "revoke the certificate"},
	{DescribeIssuer, []Kind{KindIssuer, KindEnvironment, KindSystem}, "read issuers"},
	{ReadAudit, []Kind{KindLog}, "read the audit log"},
	{ExportAudit, []Kind{KindLog}, "export the audit log"},
	{ApplyPolicy, []Kind{KindPolicySet}, "apply a policy"},
	{ReadPolicy, []Kind{KindPolicySet}, "read the policy"},
	{ExplainPolicy, []Kind{KindPolicySet}, "ask what the policy would decide for others"},
	{RegisterPrincipal, []Kind{KindPrincipal}, "register the principal"},
	{ListPrincipals, []Kind{KindPrincipal, KindEnvironment, KindSystem}, "list principals"},
	{DisablePrincipal, []Kind{KindPrincipal}, "disable the principal"},
	{SystemStatus, []Kind{KindSystem}, "read the status"},
}
