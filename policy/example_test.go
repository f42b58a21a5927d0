package policy_test

import (
	"fmt"
	"log"
	"time"

	"github.com/sealwright/sealwright/policy"
)

// Payments decrypts its own keys, and only for the tenant it names in the
// encryption context; a tag is asked for before it is read.
func ExampleParse() {
	set, err := policy.Parse("house.cedar", []byte(`
@id("payments-by-tenant")
permit (principal == Service::"prod/payments", action == Action::"kms:Decrypt", resource in ServiceScope::"prod/payments")
when { context.encryption.hasTag("tenant") && context.encryption.getTag("tenant") == "42" };

@id("disable-key") @approvals("2 of security") @window("mon-fri 08:00-18:00")
permit (principal in Role::"operator", action == Action::"kms:DisableKey", resource);
`))
	if err != nil {
		log.Fatal(err)
	}
	payments := policy.Principal{Kind: policy.KindService, Environment: "prod", Path: "payments"}
	orders := policy.Object{Kind: policy.KindKey, Name: "prod/payments/orders"}
	for _, tenant := range []string{"42", "43"} {
		d := set.Decide(policy.Query{Principal: payments, Action: policy.Decrypt, Object: orders,
			Context: map[string]string{"tenant": tenant}, Now: time.Now()})
		fmt.Printf("tenant %s: %s: %s\n", tenant, d.Outcome, d.Reason)
	}
	// Output:
	// tenant 42: allow: allowed by policy payments-by-tenant (house.cedar:2:1)
	// tenant 43: deny: no policy allows it
}
