package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Headers of our own.
const (
	// HeaderAuditIndex carries the index of the audit entry that recorded the request.
	HeaderAuditIndex = "Sealwright-Audit-Index"
	// HeaderRequestID carries the request id, of the client's choice (1 to 64 of [A-Za-z0-9._-]) or the server's.
	HeaderRequestID = "Sealwright-Request-Id"
	// HeaderIdempotencyKey makes a mutation repeatable: the same key with the same body returns the first result.
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderReason carries why the caller does this, for the audit log (one line of at most MaxReason bytes).
	HeaderReason = "Sealwright-Reason"
)

// The limits of the API.
const (
	MaxPlaintext     = 64 << 10 // bytes of one plaintext or message
	MaxContextPairs  = 32       // pairs in an encryption context
	MaxContextBytes  = 8 << 10  // bytes of all its keys and values
	MaxPolicyText    = 4 << 20
	MaxPage          = 1000 // entries of a list
	DefaultPage      = 100
	MaxCSR           = 16 << 10
	MaxNames         = 32  // DNS names and IP addresses of one certificate
	MaxIdempotency   = 128 // bytes of an Idempotency-Key
	MaxReason        = 256 // bytes of a Sealwright-Reason
	maxSmallBody     = 16 << 10
	maxPlaintextBody = 2*MaxPlaintext + 4*MaxContextBytes // base64, JSON escapes and room
)

// Duration is a time.Duration that travels as Go's text, like "1h30m".
type Duration time.Duration

// MarshalText writes Go's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's form.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`%w: duration %.40q: write it like "90s", "24h" or "1h30m"`, ErrInvalid, text)
	}
	*d = Duration(v)
	return nil
}

// Decode reads one JSON value into v, a pointer. It refuses unknown fields by
// name, anything after the value, and more than limit bytes (ErrTooLarge).
func Decode(body io.Reader, limit int64, v any) error {
	bounded := &io.LimitedReader{R: body, N: limit + 1}
	d := json.NewDecoder(bounded)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, trailing := d.Token(); trailing != io.EOF {
			err = errors.New("there is more after the JSON value")
		}
	}
	switch {
	case bounded.N <= 0:
		return fmt.Errorf("%w: the body is over %d bytes", ErrTooLarge, limit)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the body is empty: send a JSON object", ErrInvalid)
	case err != nil && !errors.Is(err, ErrInvalid):
		return fmt.Errorf("%w: reading the body: %w", ErrInvalid, describe(err))
	}
	return err
}

// DecodeBytes is Decode of a body that is already read and within its limit.
func DecodeBytes(body []byte, v any) error {
	if hot, ok := v.(plainFields); ok && decodePlain(body, hot) {
		return nil
	}
	return Decode(bytes.NewReader(body), int64(len(body)), v)
}

// describe keeps what the caller sent out of the message: a value of the wrong
// type may be a secret in the wrong field.
func describe(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return fmt.Errorf("field %q wants %s", wrongType.Field, wrongType.Type)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("malformed JSON at byte %d", syntax.Offset)
	}
	return err
}

// CheckContext accepts an encryption context within the limits.
func CheckContext(context map[string]string) error {
	total := 0
	for k, v := range context {
		if k == "" {
			return fmt.Errorf("%w: an encryption context has no empty keys", ErrInvalid)
		}
		total += len(k) + len(v)
	}
	if len(context) > MaxContextPairs || total > MaxContextBytes {
		return fmt.Errorf("%w: an encryption context has at most %d pairs and %d bytes", ErrInvalid, MaxContextPairs, MaxContextBytes)
	}
	return nil
}
