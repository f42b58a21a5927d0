package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/internal/strictyaml"
	"github.com/sealwright/sealwright/policy"
)

// decisionTable is the file of policy test; policyTest documents it.
type decisionTable struct {
	Policy string         `yaml:"policy"`
	Tests  []decisionTest `yaml:"tests"`
}

type decisionTest struct {
	Name       string            `yaml:"name"`
	Principal  string            `yaml:"principal"`
	Roles      []string          `yaml:"roles"`
	Person     string            `yaml:"person"`
	Method     string            `yaml:"auth_method"`
	Action     string            `yaml:"action"`
	Object     string            `yaml:"object"`
	Kind       string            `yaml:"kind"`
	Attributes map[string]string `yaml:"attributes"`
	Context    map[string]string `yaml:"context"`
	Source     string            `yaml:"source"`
	Time       string            `yaml:"time"`
	Expect     string            `yaml:"expect"`
	By         []string          `yaml:"by"`
}

// maxTable bounds a table's size in bytes.
const maxTable = 4 << 20

func readTable(file string) (*decisionTable, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the table: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err != nil {
		return nil, fmt.Errorf("reading the table: %w", err)
	}
	if len(data) > maxTable {
		return nil, cli.Misuse("split it", "%s is over %d bytes", file, maxTable)
	}
	return parseTable(file, data)
}

func parseTable(file string, data []byte) (*decisionTable, error) {
	var table decisionTable
	if err := strictyaml.Decode(data, &table); err != nil {
		return nil, cli.Misuse("sealwright policy test --help shows the form", "%s: %w", file, err)
	}
	if len(table.Tests) == 0 {
		return nil, cli.Misuse("sealwright policy test --help shows the form", "%s has no tests", file)
	}
	return &table, nil
}

// query translates one row, or says what is wrong with it.
func (d *decisionTest) query() (policy.Query, error) {
	q := policy.Query{Action: policy.Action(d.Action), Context: d.Context}
	kind, err := objectKind(q.Action, d.Kind)
	if err != nil {
		return q, err
	}
	if d.Object == "" {
		return q, errors.New("object is missing")
	}
	q.Object = policy.Object{Kind: kind, Name: d.Object, Attributes: d.Attributes}
	environment, _, _ := strings.Cut(d.Object, "/")
	if q.Principal, err = parseIdentity(d.Principal, environment); err != nil {
		return q, err
	}
	if err := policy.CheckRoles(d.Roles); err != nil {
		return q, err
	}
	q.Principal.Roles, q.Principal.PersonID, q.Principal.AuthMethod = d.Roles, d.Person, d.Method
	if d.Method == "" {
		q.Principal.AuthMethod = "mtls"
	}
	if q.Source, err = parseSource(d.Source); err != nil {
		return q, err
	}
	q.Now = time.Now()
	if d.Time != "" {
		if q.Now, err = time.Parse(time.RFC3339, d.Time); err != nil {
			return q, fmt.Errorf("time %q: write it like 2027-01-29T10:00:00Z", d.Time)
		}
	}
	if !slices.Contains([]string{"allow", "deny", "needs-approvals"}, d.Expect) {
		return q, fmt.Errorf("expect is %q: use allow, deny or needs-approvals", d.Expect)
	}
	return q, nil
}

// objectKind is the kind of object an action is about.
func objectKind(action policy.Action, given string) (policy.Kind, error) {
	for _, info := range policy.Actions() {
		if info.Action != action {
			continue
		}
		if given == "" {
			return info.Kinds[0], nil
		}
		if slices.Contains(info.Kinds, policy.Kind(given)) {
			return policy.Kind(given), nil
		}
		return "", fmt.Errorf("%s is about %v, not about a %s", action, info.Kinds, given)
	}
	return "", fmt.Errorf("no action %q: sealwright policy schema lists them", action)
}

// parseIdentity reads service/payments, dev/service/payments or a SPIFFE ID.
func parseIdentity(identity, environment string) (policy.Principal, error) {
	rest := identity
	if whole, ok := strings.CutPrefix(identity, "spiffe://"); ok {
		domain, path, _ := strings.Cut(whole, "/")
		environment, _, _ = strings.Cut(domain, ".")
		rest = path
	}
	kind, path, _ := strings.Cut(rest, "/")
	if !isKind(kind) {
		environment = kind
		kind, path, _ = strings.Cut(path, "/")
	}
	if !isKind(kind) || path == "" {
		return policy.Principal{}, fmt.Errorf("principal %q: write service/NAME, user/NAME, node/NAME, ENVIRONMENT/service/NAME or a SPIFFE ID", identity)
	}
	if kind == policy.KindUser {
		environment = "ops" // people live there
	}
	return policy.Principal{Kind: kind, Path: path, Environment: environment, SPIFFEID: identity}, nil
}

func isKind(s string) bool {
	return s == policy.KindUser || s == policy.KindService || s == policy.KindNode
}

func parseSource(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return addr, cli.Misuse("write an address like 10.0.0.1 or ::1", "source %q", s)
	}
	return addr, nil
}

// verdict is the result of one row.
type verdict struct {
	Name   string   `json:"name"`
	OK     bool     `json:"ok"`
	Expect string   `json:"expect"`
	Got    string   `json:"got"`
	By     []string `json:"by,omitempty"`
	Why    string   `json:"why"`
}

func (a *app) runTable(set *policy.Set, table *decisionTable) error {
	results := make([]verdict, 0, len(table.Tests))
	failed := 0
	for i := range table.Tests {
		test := &table.Tests[i]
		name := test.Name
		if name == "" {
			name = fmt.Sprintf("%d: %s %s %s", i+1, test.Principal, test.Action, test.Object)
		}
		q, err := test.query()
		if err != nil {
			return cli.Misuse("sealwright policy test --help shows the form", "test %s: %w", name, err)
		}
		d := set.Decide(q)
		v := verdict{Name: name, Expect: test.Expect, Got: d.Outcome.String(), By: d.Policies, Why: d.Reason}
		v.OK = v.Got == v.Expect && (test.By == nil || slices.Equal(test.By, d.Policies))
		if !v.OK {
			failed++
		}
		results = append(results, v)
	}
	err := a.print(results, func(t *cli.Table) {
		for _, v := range results {
			if !v.OK {
				t.Row("FAIL", v.Name, "want "+v.Expect+", got "+v.Got, v.Why)
			}
		}
		t.Row(fmt.Sprintf("%d of %d decisions as expected", len(results)-failed, len(results)))
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d decisions are not as expected", failed, len(results))
	}
	return err
}

// differ asks two policies the same questions.
type differ struct {
	last, next *policy.Set
	source     netip.Addr
	now        time.Time
}

// change is one answer that differs.
type change struct {
	Principal string `json:"principal"`
	Action    string `json:"action"`
	Object    string `json:"object"`
	Before    string `json:"before"`
	After     string `json:"after"`
	Why       string `json:"why"`
}

func (a *app) diff(ctx context.Context, server *client.Client, d *differ) error {
	who, err := principals(ctx, server, 0)
	if err != nil {
		return err
	}
	objects, err := knownObjects(ctx, server, who)
	if err != nil {
		return err
	}
	changes := []change{}
	progress := cli.NewProgress(a.problems, "comparing")
	defer progress.Done()
	for i, p := range who {
		if !p.DisabledAt.IsZero() {
			continue
		}
		changes = append(changes, d.compare(p, objects)...)
		progress.Set(int64(i+1), int64(len(who)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	progress.Done()
	return a.print(changes, func(t *cli.Table) {
		if len(changes) == 0 {
			t.Row("no difference for any registered principal")
			return
		}
		t.Row("PRINCIPAL", "ACTION", "OBJECT", "BEFORE", "AFTER", "BECAUSE")
		for _, c := range changes {
			t.Row(c.Principal, c.Action, c.Object, c.Before, c.After, c.Why)
		}
	})
}

// knownObjects is what there is to ask about: all keys the caller sees, and one of each other kind.
func knownObjects(ctx context.Context, server *client.Client, who []api.Principal) (map[policy.Kind][]policy.Object, error) {
	objects := map[policy.Kind][]policy.Object{
		policy.KindLog: {{Kind: policy.KindLog, Name: "log"}}, policy.KindPolicySet: {{Kind: policy.KindPolicySet, Name: "active"}},
		policy.KindSystem: {{Kind: policy.KindSystem, Name: "system"}},
	}
	add := func(o policy.Object) { objects[o.Kind] = append(objects[o.Kind], o) }
	environments := map[string]bool{}
	err := pages(0, func(page client.Page) (int, string, error) {
		list, err := server.ListKeys(ctx, "", page)
		for _, k := range list.Keys {
			environment, _, _ := strings.Cut(k.Name, "/")
			environments[environment] = true
			add(policy.Object{Kind: policy.KindKey, Name: k.Name, ID: k.ID, Attributes: map[string]string{
				"tier": k.Tier, "algorithm": k.Algorithm, "owner": k.Owner, "classification": k.Classification}})
		}
		return len(list.Keys), list.Next, err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range who {
		environments[p.Environment] = true
		name := p.Environment + "/" + p.Kind + "/" + p.Path
		add(policy.Object{Kind: policy.KindPrincipal, Name: name, Attributes: map[string]string{"kind": p.Kind}})
		add(policy.Object{Kind: policy.KindCertificate, Name: name, Attributes: map[string]string{"identity": p.SPIFFEID, "profile": "service"}})
	}
	for environment := range environments {
		add(policy.Object{Kind: policy.KindEnvironment, Name: environment})
	}
	return objects, nil
}

func (d *differ) compare(p api.Principal, objects map[policy.Kind][]policy.Object) (changes []change) {
	q := policy.Query{Source: d.source, Now: d.now, Principal: policy.Principal{
		SPIFFEID: p.SPIFFEID, Environment: p.Environment, Kind: p.Kind, Path: p.Path, Roles: p.Roles, PersonID: p.PersonID, ID: p.ID, AuthMethod: "mtls"}}
	for _, info := range policy.Actions() {
		for _, kind := range info.Kinds {
			for _, o := range objects[kind] {
				q.Action, q.Object = info.Action, o
				before, after := d.last.Decide(q), d.next.Decide(q)
				if before.Outcome != after.Outcome {
					changes = append(changes, change{p.SPIFFEID, string(info.Action), string(o.Kind) + " " + o.Name, before.Outcome.String(), after.Outcome.String(), after.Reason})
				}
			}
		}
	}
	return changes
}
