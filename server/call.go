package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
)

// call is one request under way.
type call struct {
	*Server
	route *api.Route
	r     *http.Request
	id    string
	query url.Values
	body  []byte
	index int64 // of the audit entry; -1 for none
	who   guard.Credential
}

// raw is an answer that is not JSON.
type raw struct {
	media string
	body  []byte
	cache string // Cache-Control; default no-store
}

// handle answers one route by f.
func (s *Server) handle(route *api.Route, f func(*call) (any, error)) http.Handler {
	observe := s.metrics.of(route)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		c := &call{Server: s, route: route, r: r, id: requestID(r), index: -1}
		status := c.serve(w, f)
		observe(status, time.Since(start))
	})
}

func (c *call) serve(w http.ResponseWriter, f func(*call) (any, error)) (status int) {
	defer func() {
		if p := recover(); p != nil {
			c.Logger.Error("panic", "request", c.id, "route", c.route.Name, "panic", p, "stack", string(debug.Stack()))
			status = c.refuse(w, api.ErrInternal)
		}
	}()
	slots := c.inFlight
	if c.route.Public {
		slots = c.publicInFlight
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return c.refuse(w, fmt.Errorf("%w: %d requests are under way", key.ErrBusy, cap(slots)))
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.route.Timeout)
	defer cancel()
	c.r = c.r.WithContext(ctx)
	// Who nobody knows cannot make the service read, let alone keep, a body.
	if !c.route.Public {
		var err error
		if c.who, err = c.identify(); err != nil {
			c.Door.Refuse(c.source(), err)
			return c.refuse(w, err)
		}
	}
	if err := c.read(w); err != nil {
		return c.refuse(w, err)
	}
	answer, err := f(c)
	if err != nil {
		return c.refuse(w, err)
	}
	return c.answer(w, answer)
}

// read reads and checks what every route's request has: query, headers, body.
func (c *call) read(w http.ResponseWriter) error {
	if err := c.readQuery(); err != nil {
		return err
	}
	if err := c.checkHeaders(); err != nil {
		return err
	}
	return c.readBody(w)
}

// readQuery refuses parameters the route does not take, and repeated ones.
func (c *call) readQuery() (err error) {
	if c.r.URL.RawQuery == "" || c.route.Name == nowhere {
		return nil
	}
	if c.query, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return fmt.Errorf("%w: the query does not parse", key.ErrInvalid)
	}
	for name, values := range c.query {
		takes := func(p api.Parameter) bool { return p.Name == name }
		switch {
		case !slices.ContainsFunc(c.route.Query, takes):
			return fmt.Errorf("%w: unknown query parameter %.60q", key.ErrInvalid, name)
		case len(values) > 1:
			return fmt.Errorf("%w: query parameter %s is given twice", key.ErrInvalid, name)
		case !utf8.ValidString(values[0]):
			return fmt.Errorf("%w: query parameter %s is not UTF-8", key.ErrInvalid, name)
		}
	}
	return nil
}

// checkHeaders refuses headers that could not stand in an entry or a row.
func (c *call) checkHeaders() error {
	if reason := c.r.Header.Get(api.HeaderReason); len(reason) > api.MaxReason || !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl) {
		return fmt.Errorf("%w: %s: one line of UTF-8, at most %d bytes", key.ErrInvalid, api.HeaderReason, api.MaxReason)
	}
	k := c.r.Header.Get(api.HeaderIdempotencyKey)
	if printable := func(r rune) bool { return r > ' ' && r < 0x7f }; len(k) > api.MaxIdempotency || strings.ContainsFunc(k, func(r rune) bool { return !printable(r) }) {
		return fmt.Errorf("%w: %s: at most %d printable ASCII characters without spaces", key.ErrInvalid, api.HeaderIdempotencyKey, api.MaxIdempotency)
	}
	return nil
}

// readBody reads the body whole, bounded by the route, before anything else
// happens: its digest is what approvals and repeats are about.
func (c *call) readBody(w http.ResponseWriter) error {
	if c.route.Request == nil {
		if c.r.ContentLength != 0 { // -1: of unknown length, but there is one
			return fmt.Errorf("%w: %s takes no body", key.ErrInvalid, c.route.Pattern)
		}
		return nil
	}
	if err := checkMedia(c.r.Header.Get("Content-Type")); err != nil {
		return err
	}
	if c.r.ContentLength > c.route.Limit {
		return fmt.Errorf("%w: the body has %d bytes; the limit is %d", api.ErrTooLarge, c.r.ContentLength, c.route.Limit)
	}
	var err error
	if n := c.r.ContentLength; n >= 0 {
		c.body = make([]byte, n)
		_, err = io.ReadFull(c.r.Body, c.body)
	} else {
		c.body, err = io.ReadAll(http.MaxBytesReader(w, c.r.Body, c.route.Limit))
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Errorf("%w: the limit is %d bytes", api.ErrTooLarge, c.route.Limit)
	case err != nil:
		return fmt.Errorf("%w: the body ended early", key.ErrInvalid)
	}
	return nil
}

// source is the address of the connection; no header can change it.
func (c *call) source() netip.Addr {
	return connOf(c.r.Context()).source
}

// enter asks the door for the acts and runs act when it lets the request through.
func (c *call) enter(resolve func(context.Context) ([]guard.Act, error), encryption map[string]string, act func(context.Context, guard.Grant) error) error {
	req := guard.Request{
		Credential: c.who,
		Source:     c.source(),
		Host:       c.r.Host,
		Resolve:    resolve,
		Context:    encryption,
		Reason:     c.r.Header.Get(api.HeaderReason),
		RequestID:  c.id,
		TraceID:    traceID(c.r.Header.Get("Traceparent")),
		Digest: func() string {
			return guard.RequestDigest([]byte(c.r.Method), []byte(c.r.URL.RequestURI()), []byte(c.who.SPIFFEID), c.body)
		},
	}
	if c.route.Mutates {
		req.IdempotencyKey = c.r.Header.Get(api.HeaderIdempotencyKey)
	}
	var err error
	c.index, err = c.Door.Enter(c.r.Context(), req, act)
	return err
}

// on names acts whose objects have no attributes that change.
func on(acts ...guard.Act) func(context.Context) ([]guard.Act, error) {
	return func(context.Context) ([]guard.Act, error) { return slices.Clone(acts), nil }
}

// answer writes the result, and keeps it for repeats of a mutation.
func (c *call) answer(w http.ResponseWriter, answer any) int {
	h := w.Header()
	out, ok := answer.(raw)
	if !ok {
		body, err := encode(answer)
		if err != nil {
			return c.refuse(w, fmt.Errorf("%w: encoding the answer: %w", api.ErrInternal, err))
		}
		out = raw{media: "application/json", body: body}
		if k := c.r.Header.Get(api.HeaderIdempotencyKey); k != "" && c.route.Mutates && !c.route.Secret {
			if err := c.Door.Remember(context.WithoutCancel(c.r.Context()), c.who, k, c.route.Status, body); err != nil {
				c.Logger.Warn("an answer could not be kept for repeats", "request", c.id, "error", err)
			}
		}
	}
	h["Content-Type"] = []string{out.media}
	h["Content-Length"] = []string{strconv.Itoa(len(out.body))}
	h["Cache-Control"] = []string{"no-store"}
	if out.cache != "" {
		h["Cache-Control"] = []string{out.cache}
	}
	c.ownHeaders(h)
	w.WriteHeader(c.route.Status)
	_, _ = w.Write(out.body) // the caller is gone; the record stands
	return c.route.Status
}

// encode leaves <, > and & as they are: an audit entry's bytes are its leaf.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

func (c *call) ownHeaders(h http.Header) {
	h[api.HeaderRequestID] = []string{c.id}
	if c.index >= 0 {
		h[api.HeaderAuditIndex] = []string{strconv.FormatInt(c.index, 10)}
	}
}

// refuse writes a problem.
func (c *call) refuse(w http.ResponseWriter, err error) int {
	h := w.Header()
	var again *guard.Repeated
	if errors.As(err, &again) {
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		c.ownHeaders(h)
		w.WriteHeader(again.Status)
		_, _ = w.Write(again.Body)
		return again.Status
	}
	p := api.FromError(c.timely(err))
	p.RequestID = c.id
	var need *guard.ApprovalError
	if errors.As(err, &need) {
		p.Digest, p.Approvals = need.Digest, need.Need
	}
	level := slog.LevelDebug
	if p.Status >= 500 {
		level = slog.LevelWarn
	}
	c.Logger.Log(c.r.Context(), level, "refused", "request", c.id, "route", c.route.Name, "code", p.Code, "error", err)
	body, _ := json.Marshal(p) // strings and numbers always encode
	h.Set("Content-Type", api.ProblemType)
	h.Set("Cache-Control", "no-store")
	if p.Retryable() {
		h.Set("Retry-After", "1")
	}
	var method *methodError
	if errors.As(err, &method) {
		h.Set("Allow", strings.Join(method.allowed, ", "))
	}
	c.ownHeaders(h)
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
	return p.Status
}

// timely gives an error that is only the end of the request's time its kind:
// nothing is broken, and later there may be time enough.
func (c *call) timely(err error) error {
	if over := c.r.Context().Err(); over != nil && errors.Is(err, over) {
		return fmt.Errorf("%w: %w", key.ErrBusy, err)
	}
	return err
}
