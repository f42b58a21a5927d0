package policy

import (
	_ "embed"
	"sync"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

//go:embed sealwright.cedarschema
var schemaText string

// Schema returns the schema that every policy is checked against, as Cedar schema text.
func Schema() string { return schemaText }

// house is the schema in the forms that Parse and Decide need.
type house struct {
	resolved  *resolved.Schema
	validator *validate.Validator
	bits      map[Action]uint                // each action's bit in a policy's mask
	applies   map[Action]map[Kind]bool       // which objects an action applies to
	masks     map[types.EntityUID]actionMask // an action, or a group with its members
	// attributes are those of each entity type.
	attributes map[types.EntityType][]string
}

type actionMask uint64

// ours returns the schema, read on first use: it is embedded, so that it is
// well-formed is a matter of tests, not of users.
var ours = sync.OnceValue(func() *house {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(schemaText)); err != nil {
		panic("policy: embedded schema: " + err.Error())
	}
	r, err := s.Resolve()
	if err != nil {
		panic("policy: embedded schema: " + err.Error())
	}
	h := &house{
		resolved: r, validator: validate.New(r),
		bits: map[Action]uint{}, applies: map[Action]map[Kind]bool{}, masks: map[types.EntityUID]actionMask{},
		attributes: map[types.EntityType][]string{},
	}
	for kind, entity := range r.Entities {
		for name := range entity.Shape {
			h.attributes[kind] = append(h.attributes[kind], string(name))
		}
	}
	for i, row := range actionTable {
		h.bits[row.Action] = uint(i)
		h.applies[row.Action] = map[Kind]bool{}
		for _, k := range row.Kinds {
			h.applies[row.Action][k] = true
		}
		uid := actionUID(row.Action)
		h.masks[uid] |= 1 << i
		for group := range r.Actions[uid].Entity.Parents.All() {
			h.masks[group] |= 1 << i // groups do not nest in our schema
		}
	}
	return h
})

func actionUID(a Action) types.EntityUID {
	return types.NewEntityUID("Action", types.String(a))
}
