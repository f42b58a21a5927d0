package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/key"
)

const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	mostAfter   = 30 * time.Second // of a Retry-After that we obey
	maxAnswer   = 16 << 20
	maxPage     = 96 << 20 // a page of 1000 of the largest audit entries
)

// call is one call of the API.
type call struct {
	pattern string
	args    []string // for the {...} of the pattern, in order
	query   url.Values
	in      any // JSON; nil: no body
	out     any // JSON; a *[]byte takes the body as it is
}

// do makes the call, again while that may help, and fills in call.out.
func (c *Client) do(ctx context.Context, call call) error {
	route, ok := api.LookupRoute(call.pattern)
	if !ok {
		panic("client: no route " + call.pattern)
	}
	method, path, err := fill(call.pattern, call.args)
	if err != nil {
		return err
	}
	u := *c.base
	u.Path, u.RawPath = path.plain, path.escaped
	u.RawQuery = call.query.Encode()
	var body []byte
	if call.in != nil {
		if body, err = json.Marshal(call.in); err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
	}
	header := http.Header{"User-Agent": {c.config.userAgent()}, "Accept": {"application/json, " + api.ProblemType + ";q=0.9, */*;q=0.8"}}
	if call.in != nil {
		header.Set("Content-Type", "application/json")
	}
	if route.Mutates {
		header.Set(api.HeaderIdempotencyKey, key.NewID().String())
	}
	if c.config.Reason != "" {
		header.Set(api.HeaderReason, c.config.Reason)
	}
	for attempt := 1; ; attempt++ {
		again, wait, err := c.once(ctx, method, u.String(), header, body, call.out, attempt)
		if err == nil || !again || attempt >= c.config.attempts() {
			return err
		}
		if sleep(ctx, max(wait, jitter(attempt))) != nil {
			return err // the last answer says more than that time is up
		}
	}
}

// jitter is the full jitter of exponential backoff: callers that failed
// together do not come back together.
func jitter(attempt int) time.Duration {
	return rand.N(min(firstWait<<(attempt-1), longestWait)) + 1
}

func sleep(ctx context.Context, d time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return context.DeadlineExceeded
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// once makes one attempt. again says whether another may succeed; every call
// may be repeated, as it changes nothing or carries its idempotency key.
func (c *Client) once(ctx context.Context, method, target string, header http.Header, body []byte, out any, attempt int) (again bool, wait time.Duration, err error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return false, 0, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	request.Header = header.Clone()
	response, err := c.http.Do(request)
	if err != nil {
		err = c.explain(unwrapURL(err))
		return errors.Is(err, api.ErrUnavailable), 0, err
	}
	defer response.Body.Close()
	note(ctx, response, attempt)
	limit := int64(maxAnswer)
	if _, ok := out.(*api.AuditList); ok {
		limit = maxPage
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		err = c.explain(err)
		return errors.Is(err, api.ErrUnavailable), 0, err
	}
	if int64(len(answer)) > limit {
		return false, 0, fmt.Errorf("the answer of %s is over %d bytes", c.base.Host, limit)
	}
	if problem := readProblem(response, answer); problem != nil {
		return problem.Retryable(), retryAfter(response.Header), problem.Err()
	}
	return false, 0, decode(answer, out)
}

// unwrapURL drops the *url.Error, whose text repeats the URL and with it names of keys.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func note(ctx context.Context, r *http.Response, attempt int) {
	answer, ok := ctx.Value(answerKey{}).(*Answer)
	if !ok {
		return
	}
	*answer = Answer{RequestID: r.Header.Get(api.HeaderRequestID), AuditIndex: -1, Attempts: attempt}
	if n, err := strconv.ParseInt(r.Header.Get(api.HeaderAuditIndex), 10, 64); err == nil {
		answer.AuditIndex = n
	}
}

// readProblem returns the refusal that r is, or nil.
func readProblem(r *http.Response, body []byte) *api.Problem {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media != api.ProblemType && r.StatusCode >= 200 && r.StatusCode < 300 {
		return nil
	}
	p := &api.Problem{}
	if media != api.ProblemType || json.Unmarshal(body, p) != nil || p.Code == "" {
		*p = api.Problem{Detail: "the server answered " + r.Status + " without saying why: is it a Sealwright server?"}
	}
	p.Status = r.StatusCode
	if p.RequestID == "" {
		p.RequestID = r.Header.Get(api.HeaderRequestID)
	}
	return p
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, mostAfter)
}

func decode(answer []byte, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = answer
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

type filled struct{ plain, escaped string }

// fill puts args into the pattern's {...}. An argument that could leave its
// place in the path is refused here, before any server sees it.
func fill(pattern string, args []string) (method string, path filled, err error) {
	method, rest, _ := strings.Cut(pattern, " ")
	for {
		before, after, found := strings.Cut(rest, "{")
		path.plain += before
		path.escaped += before
		if !found {
			return method, path, nil
		}
		name, tail, _ := strings.Cut(after, "}")
		arg := args[0]
		args = args[1:]
		rest = tail
		segments := []string{arg}
		if strings.HasSuffix(name, "...") {
			segments = strings.Split(arg, "/")
		}
		for i, s := range segments {
			if s == "" || s == "." || s == ".." {
				return "", path, fmt.Errorf("%w: %.80q cannot be part of a path", api.ErrInvalid, arg)
			}
			if i > 0 {
				path.plain += "/"
				path.escaped += "/"
			}
			path.plain += s
			path.escaped += url.PathEscape(s)
		}
	}
}
