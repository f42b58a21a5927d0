package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
)

var sentinels = []error{
	api.ErrUnavailable, api.ErrBusy, api.ErrFull, api.ErrIntegrity, api.ErrAuth, api.ErrLockedOut, api.ErrNotFound, api.ErrExists,
	api.ErrUnsupported, api.ErrInvalid, api.ErrInvalidCiphertext, api.ErrDisabled, api.ErrDenied, api.ErrNeedsApproval,
	api.ErrConflict, api.ErrUnauthenticated, api.ErrTooLarge, api.ErrMedia, api.ErrMethod, api.ErrRate, api.ErrInternal,
}

// Every sentinel crosses the wire and comes back as itself.
func TestErrorsRoundTrip(t *testing.T) {
	codes := map[string]bool{}
	for _, sentinel := range sentinels {
		p := api.FromError(fmt.Errorf("opening dev/payments/orders: %w", sentinel))
		if codes[p.Code] || p.Code == "" || p.Title == "" || p.Status < 200 || p.Detail == "" || p.Type == "" {
			t.Errorf("%v: problem %+v is incomplete or not unique", sentinel, p)
		}
		codes[p.Code] = true
		wire, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back api.Problem
		if err := json.Unmarshal(wire, &back); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(back.Err(), sentinel) {
			t.Errorf("%v came back as %v", sentinel, errors.Unwrap(back.Err()))
		}
		again := api.FromError(fmt.Errorf("calling: %w", back.Err()))
		if again != back {
			t.Errorf("%v: a problem that passes through becomes %+v", sentinel, again)
		}
	}
}

func TestCodes(t *testing.T) {
	if got := len(api.Codes()); got != len(sentinels) {
		t.Errorf("%d codes for %d sentinels", got, len(sentinels))
	}
}

func TestProblemsTellNoSecrets(t *testing.T) {
	for _, err := range []error{
		errors.New("token at slot 7 pin 1234"),
		fmt.Errorf("connecting to socket 1234: %w", api.ErrUnavailable),
		fmt.Errorf("tag 1234 mismatch: %w", api.ErrInvalidCiphertext),
		fmt.Errorf("row 1234: %w", api.ErrIntegrity),
	} {
		if p := api.FromError(err); strings.Contains(p.Detail, "1234") {
			t.Errorf("%v: detail %q", err, p.Detail)
		}
	}
}

func TestForeignProblems(t *testing.T) {
	for status, want := range map[int]error{
		http.StatusUnauthorized: api.ErrUnauthenticated, http.StatusForbidden: api.ErrDenied, http.StatusNotFound: api.ErrNotFound,
		http.StatusConflict: api.ErrConflict, http.StatusBadGateway: api.ErrInternal, http.StatusServiceUnavailable: api.ErrUnavailable,
		http.StatusBadRequest: api.ErrInvalid, http.StatusTeapot: api.ErrInvalid, http.StatusInternalServerError: api.ErrInternal,
	} {
		p := api.Problem{Status: status, Code: "something_newer"}
		if err := p.Err(); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, errors.Unwrap(err), want)
		}
	}
}

func TestRetryable(t *testing.T) {
	retryable := []error{api.ErrUnavailable, api.ErrBusy, api.ErrFull, api.ErrRate}
	for _, sentinel := range sentinels {
		p := api.FromError(sentinel)
		if got, want := p.Retryable(), slices.Contains(retryable, sentinel); got != want {
			t.Errorf("%v: retryable %v, want %v", sentinel, got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	var r api.EncryptRequest
	if err := api.Decode(strings.NewReader(`{"plaintext":"aGk=","context":{"a":"b"}}`+"\n"), 1000, &r); err != nil || string(r.Plaintext) != "hi" || r.Context["a"] != "b" {
		t.Fatalf("%+v, %v", r, err)
	}
	for body, want := range map[string]string{
		`{"plaintext":"aGk=","contxt":{}}`: "contxt",
		`{"plaintext":"aGk="} {}`:          "more after",
		`{"plaintext":"aGk="} x`:           "more after",
		``:                                 "empty",
		`{"plaintext":`:                    "reading the body",
		`[]`:                               "wants",
		`{"context":{"a":7}}`:              "context",
	} {
		err := api.Decode(strings.NewReader(body), 1000, new(api.EncryptRequest))
		if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want ErrInvalid about %q", body, err, want)
		}
	}
	if err := api.Decode(strings.NewReader(`{"plaintext":"aGkhISEhISEh"}`), 10, &r); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if err := api.Decode(strings.NewReader(`{"plaintext":"s3cr3t!"}`), 100, &r); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("malformed base64: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"csr":"x","ttl":"1h","dns":["a"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r api.IssueRequest
		if err := api.Decode(bytes.NewReader(body), 1<<16, &r); err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDuration(t *testing.T) {
	var r api.IssueRequest
	if err := json.Unmarshal([]byte(`{"ttl":"1h30m"}`), &r); err != nil || time.Duration(r.TTL) != 90*time.Minute {
		t.Errorf("%v, %v", r.TTL, err)
	}
	if err := json.Unmarshal([]byte(`{"ttl":"3 weeks"}`), &r); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a wrong duration: %v", err)
	}
	if b, _ := json.Marshal(api.IssueRequest{TTL: api.Duration(time.Hour)}); !strings.Contains(string(b), `"ttl":"1h0m0s"`) {
		t.Errorf("written as %s", b)
	}
}

func TestRoutes(t *testing.T) {
	known := map[string]bool{}
	for _, a := range policy.Actions() {
		known[string(a.Action)] = true
	}
	mux := http.NewServeMux() // panics when two patterns conflict
	names := map[string]bool{}
	for _, r := range api.Routes() {
		mux.HandleFunc(r.Pattern, func(http.ResponseWriter, *http.Request) {})
		method, _, _ := strings.Cut(r.Pattern, " ")
		switch {
		case names[r.Name] || r.Name == "" || r.Summary == "" || r.Timeout == 0 || r.Status == 0:
			t.Errorf("%s: incomplete, or its name is taken", r.Pattern)
		case r.Public != (r.Action == ""), !r.Public && !known[r.Action]:
			t.Errorf("%s: action %q", r.Pattern, r.Action)
		case (r.Request != nil) != (r.Limit > 0):
			t.Errorf("%s: a body and its limit go together", r.Pattern)
		case (r.Response == nil) != (r.Media != ""):
			t.Errorf("%s: a response is JSON or has a media type", r.Pattern)
		case r.Mutates && method == "GET", r.Mutates && r.Secret:
			t.Errorf("%s: a mutation is neither a GET nor answers with a secret", r.Pattern)
		}
		names[r.Name] = true
		if again, ok := api.LookupRoute(r.Pattern); !ok || again.Name != r.Name {
			t.Errorf("%s is not found", r.Pattern)
		}
	}
	if _, ok := api.LookupRoute("GET /nowhere"); ok {
		t.Error("an unknown pattern is found")
	}
	if api.MaxNames != pki.MaxNames {
		t.Error("the API's limit on names is not the CA's")
	}
	if api.MaxPolicyText != policy.MaxText {
		t.Error("the API's limit on policy text is not the policy's")
	}
}

func TestCheckContext(t *testing.T) {
	many := map[string]string{}
	for i := range api.MaxContextPairs + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for name, bad := range map[string]map[string]string{
		"empty key": {"": "x"}, "too many": many, "too long": {"a": strings.Repeat("x", api.MaxContextBytes)},
	} {
		if err := api.CheckContext(bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := api.CheckContext(map[string]string{"tenant": "42", "x": ""}); err != nil {
		t.Error(err)
	}
}
