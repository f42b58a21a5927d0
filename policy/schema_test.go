package policy

import (
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go/types"
)

// The table of actions and the schema say the same.
func TestActionsAreTheSchemas(t *testing.T) {
	r := ours().resolved
	if len(actionTable) > 64 {
		t.Fatal("a policy's mask has 64 bits")
	}
	leaves := 0
	for _, a := range r.Actions {
		if a.AppliesTo != nil {
			leaves++
		}
	}
	if leaves != len(actionTable) {
		t.Errorf("the schema has %d actions, the table %d", leaves, len(actionTable))
	}
	for _, row := range actionTable {
		a, ok := r.Actions[actionUID(row.Action)]
		if !ok || a.AppliesTo == nil {
			t.Errorf("the schema does not have %s", row.Action)
			continue
		}
		var kinds []types.EntityType
		for _, k := range row.Kinds {
			kinds = append(kinds, types.EntityType(k))
		}
		slices.Sort(kinds)
		resources := slices.Sorted(slices.Values(a.AppliesTo.Resources))
		if !slices.Equal(kinds, resources) {
			t.Errorf("%s applies to %v in the table, to %v in the schema", row.Action, kinds, resources)
		}
		if !slices.Equal(a.AppliesTo.Principals, []types.EntityType{"User", "Service", "Node"}) {
			t.Errorf("%s: principals %v", row.Action, a.AppliesTo.Principals)
		}
		for parent := range a.Entity.Parents.All() {
			if r.Actions[parent].Entity.Parents.Len() > 0 {
				t.Errorf("group %s lies in a group: masks do not nest", parent)
			}
		}
	}
}

// What request says of an entity is what the schema promises conditions.
func TestEntitiesObeyTheSchema(t *testing.T) {
	for kind, names := range ours().attributes {
		for _, name := range names {
			if !everything.has(name) {
				t.Errorf("attribute %s of %s has no bit", name, kind)
			}
		}
	}
	for _, row := range actionTable {
		for _, kind := range row.Kinds {
			for _, p := range []string{KindUser, KindService, KindNode} {
				q := Query{Principal: Principal{Kind: p, Environment: "dev", Path: "x", Roles: []string{"r"}}, Action: row.Action,
					Object: Object{Kind: kind, Name: "dev/service/payments"}, Now: anyTime, Context: map[string]string{"a": "b"}}
				r, problem := newRequest(&q)
				if problem != "" {
					t.Fatal(problem)
				}
				r.needs = needs{everything, everything, everything}
				for _, uid := range append([]types.EntityUID{r.principal, r.resource, encryptionUID}, r.within...) {
					e, _ := r.Get(uid)
					e.UID = uid // an Environment has nothing to tell
					if err := ours().validator.Entity(e); err != nil {
						t.Errorf("%s on %s: %s: %v", row.Action, kind, uid, err)
					}
				}
				if err := ours().validator.Request(*r.cedar()); err != nil {
					t.Errorf("%s on %s: %v", row.Action, kind, err)
				}
			}
		}
	}
}
