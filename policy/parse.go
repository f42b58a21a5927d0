package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/sealwright/sealwright/key"
)

// The limits of one set. The bounds on a statement keep the parser's and the
// checker's recursion shallow whatever the text.
const (
	MaxText      = 4 << 20 // bytes of text
	MaxPolicies  = 20_000
	maxStatement = 16 << 10 // bytes of one policy
	maxNesting   = 32       // of brackets in one policy
	maxName      = 100      // bytes of a set's name, which is in default ids
	maxReported  = 20       // errors reported at once
	maxTests     = 8        // has and hasTag in one policy: checking grows with their third power
)

// Set is a checked set of policies. It is immutable and safe for concurrent use.
type Set struct {
	name     string
	text     []byte
	digest   string
	policies []*compiled
	index    index
}

// compiled is one policy, ready to be asked.
type compiled struct {
	order     int // in the text
	id        string
	position  string // name:line:column
	permit    bool
	approvals approvals
	windows   windows
	scope     scope
	condition *cedar.Policy // the conditions alone, the scope being matched by us; nil if there are none
	needs     needs         // what the conditions look at
	ids       []string      // just id, so that a decision by one policy allocates nothing
	reason    string        // why, if this policy alone decides
}

// approvals is a parsed @approvals; the zero value asks for none.
type approvals struct {
	count int
	role  string
}

func (a approvals) String() string { return fmt.Sprintf("%d of %s", a.count, a.role) }

// Parse reads policies in Cedar's language and checks them against the schema.
// Name stands for the text in messages and default ids. All errors are
// key.ErrInvalid, and each line of one says name:line:column and what to do.
//
// Three annotations are known, and others refused: @id("name") names the policy
// in decisions (name:line otherwise); @approvals("2 of security") on a permit
// makes it allow only with that many approvals from that role;
// @window("mon-fri 08:00-18:00") lets the policy apply only then, in UTC: days
// are daily, mon to sun, ranges and lists with commas; hours may pass midnight
// and then belong to the day they begin on; several windows are joined by ";".
func Parse(name string, text []byte) (*Set, error) {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fmt.Errorf("%w: the policy's name %.120q: use 1 to %d printable characters, like a file's name", key.ErrInvalid, name, maxName)
	}
	if len(text) > MaxText {
		return nil, fmt.Errorf("%w: %s: %d bytes of policy; the limit is %d", key.ErrInvalid, name, len(text), MaxText)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: %s: not UTF-8 text", key.ErrInvalid, name)
	}
	statements, err := split(name, text)
	if err != nil {
		return nil, err
	}
	list, err := cedar.NewPolicyListFromBytes(name, text)
	if err != nil {
		return nil, syntaxError(name, err)
	}
	if len(list) > len(statements) {
		return nil, fmt.Errorf("%w: %s: a policy does not end with a semicolon", key.ErrInvalid, name)
	}
	sum := sha256.Sum256(text)
	s := &Set{name: name, text: bytes.Clone(text), digest: hex.EncodeToString(sum[:]), policies: make([]*compiled, 0, len(list))}
	var problems []error
	seen := map[string]string{}
	for i, p := range list {
		c, err := compile(name, i, p, statements[i])
		if err == nil {
			err = claimID(c, seen)
		}
		if err != nil {
			problems = append(problems, err)
		}
		if len(problems) == maxReported {
			problems = append(problems, errors.New("there may be more"))
			break
		}
		s.policies = append(s.policies, c)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("%w: %w", key.ErrInvalid, errors.Join(problems...))
	}
	s.index = newIndex(s.policies)
	return s, nil
}

// Digest returns the SHA-256 of the text, in hex.
func (s *Set) Digest() string { return s.digest }

// Text returns the text as it was given.
func (s *Set) Text() string { return string(s.text) }

// Name returns the name given to Parse.
func (s *Set) Name() string { return s.name }

// Len returns the number of policies.
func (s *Set) Len() int { return len(s.policies) }

// statement is where one policy stands in the text.
type statement struct {
	text         string
	line, column int // of its first byte, from 1
}

// at names the place of offset within the statement.
func (st statement) at(name string, offset int) string {
	line, column := st.line, st.column
	for _, r := range st.text[:offset] {
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return fmt.Sprintf("%s:%d:%d", name, line, column)
}

func compile(name string, order int, p *cedar.Policy, st statement) (*compiled, error) {
	pos := p.Position()
	c := &compiled{order: order, permit: p.Effect() == cedar.Permit, position: fmt.Sprintf("%s:%d:%d", name, pos.Line, pos.Column)}
	tree := (*ast.Policy)(p.AST())
	if err := c.annotate(tree.Annotations); err != nil {
		return c, fmt.Errorf("%s: %w", c.position, err)
	}
	if c.id == "" {
		c.id = fmt.Sprintf("%s:%d", name, pos.Line)
	}
	if n := countTests(tree); n > maxTests {
		return c, fmt.Errorf("%s: %d tests by has and hasTag in one policy: split it, the limit is %d", c.position, n, maxTests)
	}
	if err := ours().validator.Policy("", tree); err != nil {
		return c, schemaError(name, st, err)
	}
	c.scope = newScope(tree)
	if len(tree.Conditions) > 0 {
		bare := ast.Permit()
		bare.Conditions = tree.Conditions
		c.condition = cedar.NewPolicyFromAST((*publicAST)(bare))
		c.needs = findNeeds(tree.Conditions)
	}
	c.ids = []string{c.id}
	verb := "allowed"
	if !c.permit {
		verb = "forbidden"
	}
	c.reason = verb + " by policy " + c.id
	if c.id != c.position {
		c.reason += " (" + c.position + ")"
	}
	return c, nil
}

func countTests(p *ast.Policy) (n int) {
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(node ast.IsNode) bool {
			switch node.(type) {
			case ast.NodeTypeHas, ast.NodeTypeHasTag:
				n++
			}
			return true
		})
	}
	return n
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$`)

func (c *compiled) annotate(all []ast.AnnotationType) error {
	for _, a := range all {
		value := string(a.Value)
		var err error
		switch a.Key {
		case "id":
			if !idForm.MatchString(value) {
				return fmt.Errorf("@id(%.60q): use 1 to 100 letters, digits and . _ / -", value)
			}
			c.id = value
		case "approvals":
			if !c.permit {
				return errors.New("@approvals on a forbid: a forbid cannot be approved away; put the annotation on the permit")
			}
			c.approvals, err = parseApprovals(value)
		case "window":
			c.windows, err = parseWindows(value)
		default:
			return fmt.Errorf("unknown annotation @%s: the annotations are @id, @approvals and @window; write remarks as // comments", a.Key)
		}
		if err != nil {
			return fmt.Errorf("@%s: %w", a.Key, err)
		}
	}
	return nil
}

func parseApprovals(s string) (approvals, error) {
	count, role, ok := strings.Cut(s, " of ")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 || n > 9 || strconv.Itoa(n) != count || key.CheckSegment(role) != nil {
		return approvals{}, fmt.Errorf(`%.60q: write a number from 1 to 9 and a role, like "2 of security"`, s)
	}
	return approvals{n, role}, nil
}

// claimID keeps ids unique: two policies on one line are told apart by column,
// two with one @id are refused.
func claimID(c *compiled, seen map[string]string) error {
	if _, taken := seen[c.id]; taken && strings.HasPrefix(c.position, c.id+":") {
		c.id = c.position
		c.ids = []string{c.id}
	}
	if where, taken := seen[c.id]; taken {
		return fmt.Errorf("%s: policy %s has the id of the policy at %s: choose another @id", c.position, c.id, where)
	}
	seen[c.id] = c.position
	return nil
}
