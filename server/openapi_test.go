package server

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sealwright/sealwright/api"
)

// document is what the tests read of the description.
type document struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes map[string]struct {
			Type string `json:"type"`
		} `json:"securitySchemes"`
	} `json:"components"`
}

type operation struct {
	ID         string `json:"operationId"`
	Parameters []struct {
		Name     string `json:"name"`
		In       string `json:"in"`
		Required bool   `json:"required"`
	} `json:"parameters"`
	RequestBody *struct {
		Required bool               `json:"required"`
		Content  map[string]content `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]content `json:"content"`
	} `json:"responses"`
	Security []map[string][]string `json:"security"`
}

type content struct {
	Schema json.RawMessage `json:"schema"`
}

func (h *house) document(t testing.TB) (document, []byte) {
	t.Helper()
	a := h.with(t, nil).must(200, "GET", "/openapi.json", "")
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("served as %s", got)
	}
	var d document
	decode(t, a.body, &d)
	return d, a.body
}

// operationOf finds the operation of a route.
func (d document) operationOf(r api.Route) (operation, bool) {
	method, path, _ := strings.Cut(r.Pattern, " ")
	op, ok := d.Paths[strings.ReplaceAll(path, "...}", "}")][strings.ToLower(method)]
	return op, ok
}

func TestOpenAPINamesTheRoutes(t *testing.T) {
	h := newHouse(t)
	d, _ := h.document(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1.") {
		t.Errorf("OpenAPI %s", d.OpenAPI)
	}
	if scheme, ok := d.Components.SecuritySchemes["mtls"]; !ok || scheme.Type != "mutualTLS" || len(d.Components.SecuritySchemes) != 1 {
		t.Errorf("security schemes: %+v", d.Components.SecuritySchemes)
	}
	count := 0
	for _, operations := range d.Paths {
		count += len(operations)
	}
	if count != len(api.Routes()) {
		t.Errorf("%d operations for %d routes", count, len(api.Routes()))
	}
	for _, r := range api.Routes() {
		op, ok := d.operationOf(r)
		if !ok || op.ID != r.Name {
			t.Errorf("%s is not described as %s", r.Pattern, r.Name)
			continue
		}
		checkParameters(t, r, op)
		checkContents(t, r, op)
		if secured := len(op.Security) == 1 && op.Security[0]["mtls"] != nil; secured == r.Public || len(op.Security) > 1 {
			t.Errorf("%s: security %v", r.Name, op.Security)
		}
	}
}

func checkParameters(t *testing.T, r api.Route, op operation) {
	t.Helper()
	var want, got []string
	for _, m := range pathParameter.FindAllStringSubmatch(r.Pattern, -1) {
		want = append(want, "path "+m[1]+" true")
	}
	for _, q := range r.Query {
		want = append(want, "query "+q.Name+" false")
	}
	if r.Mutates {
		want = append(want, "header "+api.HeaderIdempotencyKey+" false")
	}
	for _, p := range op.Parameters {
		got = append(got, p.In+" "+p.Name+" "+strconv.FormatBool(p.Required))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s: parameters %v, want %v", r.Name, got, want)
	}
}

func checkContents(t *testing.T, r api.Route, op operation) {
	t.Helper()
	switch {
	case (r.Request != nil) != (op.RequestBody != nil):
		t.Errorf("%s: request body %v", r.Name, op.RequestBody)
	case r.Request != nil && !op.RequestBody.Required:
		t.Errorf("%s: its body may be left out", r.Name)
	case r.Request != nil && !strings.HasSuffix(schemaRef(op.RequestBody.Content["application/json"]), r.Request.Name()):
		t.Errorf("%s: request body %s, want %s", r.Name, schemaRef(op.RequestBody.Content["application/json"]), r.Request.Name())
	}
	success, ok := op.Responses[strconv.Itoa(r.Status)]
	media, name := strings.Split(r.Media, ";")[0], "" // what OpenAPI compares
	if r.Response != nil {
		media, name = "application/json", r.Response.Name()
	}
	if c, has := success.Content[media]; !ok || !has || !strings.HasSuffix(schemaRef(c), name) || len(success.Content) != 1 {
		t.Errorf("%s: response %d is %v, want %s %s", r.Name, r.Status, success, media, name)
	}
	if refusal := op.Responses["default"].Content[api.ProblemType]; !strings.HasSuffix(schemaRef(refusal), "Problem") {
		t.Errorf("%s: its refusals are not described: %v", r.Name, op.Responses)
	}
}

func schemaRef(c content) string {
	var s struct {
		Ref string `json:"$ref"`
	}
	_ = json.Unmarshal(c.Schema, &s)
	return s.Ref
}

// Real requests and responses of every route obey the described schemas, and
// what a response holds is described.
func TestRealAnswersObeyTheSchemas(t *testing.T) {
	h := newHouse(t)
	_, text := h.document(t)
	schemas := compiler(t, text)
	all := h.examples(t)
	nobody := h.with(t, nil)
	for _, r := range api.Routes() {
		if r.Request != nil {
			schemas.check(t, r.Name+" request", r.Request, []byte(all[r.Name].body))
		}
		if !r.Public {
			schemas.check(t, r.Name+" refusal", reflect.TypeFor[api.Problem](), nobody.try(t, r, all).body)
		}
		a := h.admin.try(t, r, all)
		media, _, _ := strings.Cut(a.Header.Get("Content-Type"), "; escaping=")
		switch {
		case a.StatusCode != r.Status:
			t.Errorf("%s: %d: %s", r.Name, a.StatusCode, a.body)
		case r.Response == nil:
			if media != r.Media || len(a.body) == 0 {
				t.Errorf("%s: %d bytes of %s, want %s", r.Name, len(a.body), media, r.Media)
			}
		case media != "application/json":
			t.Errorf("%s: %s", r.Name, media)
		default:
			schemas.check(t, r.Name+" response", r.Response, a.body)
		}
	}
}

type schemaSet struct {
	compiler *jsonschema.Compiler
}

const documentURL = "https://localhost/openapi.json"

func compiler(t testing.TB, text []byte) schemaSet {
	t.Helper()
	// What is not described is wrong here, though clients must bear it.
	var document map[string]any
	decode(t, text, &document)
	for _, s := range document["components"].(map[string]any)["schemas"].(map[string]any) {
		if s := s.(map[string]any); s["type"] == "object" && s["additionalProperties"] == nil {
			s["additionalProperties"] = false
		}
	}
	strict, err := json.Marshal(document)
	must(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(strict))
	must(t, err)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	must(t, c.AddResource(documentURL, value))
	return schemaSet{c}
}

func (s schemaSet) check(t testing.TB, what string, of reflect.Type, body []byte) {
	t.Helper()
	name := "Api" + of.Name()
	schema, err := s.compiler.Compile(documentURL + "#/components/schemas/" + name)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		t.Errorf("%s: %v in %.300s", what, err, body)
	}
}

// The check above finds what is missing, unknown or of another type.
func TestSchemasRefuse(t *testing.T) {
	_, text := newHouse(t).document(t)
	schemas := compiler(t, text)
	schema, err := schemas.compiler.Compile(documentURL + "#/components/schemas/ApiIssueRequest")
	must(t, err)
	for body, good := range map[string]bool{
		`{"csr":"x","ttl":"1h"}`: true, `{"ttl":"1h"}`: false, `{"csr":"x","ttl":3600}`: false, `{"csr":"x","dns":null}`: false, `{"csr":"x","dsn":[]}`: false,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		must(t, err)
		if err := schema.Validate(value); (err == nil) != good {
			t.Errorf("%s: %v", body, err)
		}
	}
}
