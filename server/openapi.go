package server

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"

	"github.com/swaggest/jsonschema-go"
	"github.com/swaggest/openapi-go"
	"github.com/swaggest/openapi-go/openapi31"

	"github.com/sealwright/sealwright/api"
)

// openAPIOnce describes the routes when first asked and keeps the text.
func openAPIOnce(version string) func() ([]byte, error) {
	return sync.OnceValues(func() ([]byte, error) { return describe(version) })
}

var pathParameter = regexp.MustCompile(`\{([a-z]+)(\.\.\.)?\}`)

// describe writes OpenAPI 3.1 from the table of routes, so that it cannot say
// what the server does not do.
func describe(version string) ([]byte, error) {
	reflector := openapi31.NewReflector()
	reflector.Spec.Info.WithTitle("Sealwright").WithVersion(version).
		WithDescription("Keys, certificates and their audit log. Callers are known by client certificates over TLS 1.3. Refusals are RFC 9457 problems; " + api.HeaderAuditIndex + " names the audit entry of an answer.")
	// Declared first with a call that the reflector knows, then as what it is.
	reflector.Spec.SetHTTPBearerTokenSecurity("mtls", "", "")
	reflector.Spec.Components.SecuritySchemes["mtls"] = openapi31.SecuritySchemeOrReference{
		SecurityScheme: (&openapi31.SecurityScheme{}).WithDescription("A client certificate of a registered principal, with its chain.").WithMutualTLS(openapi31.MutualTLS{}),
	}
	reflector.AddTypeMapping(api.Duration(0), "")
	reflector.DefaultOptions = append(reflector.DefaultOptions, jsonschema.InterceptProp(describeField), jsonschema.InterceptNullability(func(p jsonschema.InterceptNullabilityParams) {
		p.Schema.RemoveType(jsonschema.Null) // a list is empty, never null
	}))
	for _, route := range api.Routes() {
		if err := describeRoute(reflector, route); err != nil {
			return nil, fmt.Errorf("describing %s: %w", route.Name, err)
		}
	}
	return json.Marshal(reflector.Spec)
}

// describeField says what its type does not: that a field is always there, and
// how a duration is written.
func describeField(p jsonschema.InterceptPropParams) error {
	tag, ok := p.Field.Tag.Lookup("json")
	if !ok || !p.Processed {
		return nil
	}
	if !strings.Contains(tag, ",omit") {
		p.ParentSchema.Required = append(p.ParentSchema.Required, p.Name)
	}
	if p.Field.Type == reflect.TypeFor[api.Duration]() {
		p.PropertySchema.WithExamples("1h30m")
	}
	return nil
}

func describeRoute(reflector *openapi31.Reflector, route api.Route) error {
	method, path, _ := strings.Cut(route.Pattern, " ")
	op, err := reflector.NewOperationContext(method, pathParameter.ReplaceAllString(path, "{$1}"))
	if err != nil {
		return err
	}
	op.SetID(route.Name)
	op.SetSummary(route.Summary)
	if !route.Public {
		op.AddSecurity("mtls")
	}
	if parameters := parametersOf(route, path); parameters != nil {
		op.AddReqStructure(parameters)
	}
	if route.Request != nil {
		op.AddReqStructure(reflect.New(route.Request).Interface())
	}
	answer := openapi.WithHTTPStatus(route.Status)
	switch {
	case route.Response != nil:
		op.AddRespStructure(reflect.New(route.Response).Interface(), answer)
	default:
		op.AddRespStructure(nil, answer, openapi.WithContentType(route.Media))
	}
	op.AddRespStructure(new(api.Problem), func(cu *openapi.ContentUnit) {
		cu.IsDefault = true
		cu.Description = "A refusal"
		cu.ContentType = api.ProblemType
	})
	if err := reflector.AddOperation(op); err != nil || route.Request == nil {
		return err
	}
	item := reflector.Spec.Paths.MapOfPathItemValues[op.PathPattern()]
	for _, described := range []*openapi31.Operation{item.Post, item.Put} {
		if described != nil && described.RequestBody != nil {
			described.RequestBody.RequestBody.WithRequired(true)
		}
	}
	return nil
}

// parametersOf makes a struct type of the route's path and query parameters,
// because that is what the reflector reads.
func parametersOf(route api.Route, path string) any {
	var fields []reflect.StructField
	add := func(name, in, kind, doc string) {
		t := reflect.TypeFor[string]()
		tag := fmt.Sprintf(`%s:"%s" description:%q`, in, name, doc)
		switch kind {
		case "integer":
			t = reflect.TypeFor[int64]()
		case "boolean":
			t = reflect.TypeFor[bool]()
		case "date-time":
			tag += ` format:"date-time"`
		}
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("P%d", len(fields)), Type: t, Tag: reflect.StructTag(tag)})
	}
	for _, m := range pathParameter.FindAllStringSubmatch(path, -1) {
		add(m[1], "path", "string", m[1])
	}
	for _, q := range route.Query {
		add(q.Name, "query", q.Type, q.Doc)
	}
	if route.Mutates {
		add(api.HeaderIdempotencyKey, "header", "string", "the same key with the same body returns the first answer")
	}
	if len(fields) == 0 {
		return nil
	}
	return reflect.New(reflect.StructOf(fields)).Interface()
}
