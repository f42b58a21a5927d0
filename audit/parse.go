package audit

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
)

// ParseEntry reads one canonical entry and refuses everything else: unknown or
// repeated fields, another order, present but empty fields, another spelling of
// a value (key.ErrInvalid), and entries of a newer format (key.ErrUnsupported).
func ParseEntry(data []byte) (Entry, error) {
	if len(data) > MaxEntry {
		return Entry{}, fmt.Errorf("%w: audit entry of %d bytes, the limit is %d", key.ErrInvalid, len(data), MaxEntry)
	}
	var e Entry
	d := canon.NewDecoder(data)
	err := d.Object(func(k string) error { return e.field(d, k) })
	if err == nil {
		err = d.End()
	}
	if err != nil {
		if v := entryVersion(data); v > formatVersion {
			return Entry{}, fmt.Errorf("%w: audit entry of format %d: this program reads up to %d, upgrade it", key.ErrUnsupported, v, formatVersion)
		}
		return Entry{}, fmt.Errorf("reading audit entry: %w", err)
	}
	// One value, one text: what does not encode to the same bytes is not canonical.
	again, err := e.Append(make([]byte, 0, len(data)+16))
	if err != nil {
		return Entry{}, fmt.Errorf("reading audit entry: %w", err)
	}
	if !bytes.Equal(again, data) {
		return Entry{}, fmt.Errorf("%w: audit entry is not in canonical form", key.ErrInvalid)
	}
	return e, nil
}

// entryVersion looks for the format version in an entry that did not read.
func entryVersion(data []byte) (version int64) {
	d := canon.NewDecoder(data)
	err := d.Object(func(k string) (err error) {
		if k == "v" {
			version, err = d.Int()
			return err
		}
		return d.Skip()
	})
	if err != nil {
		return 0
	}
	return version
}

func (e *Entry) field(d *canon.Decoder, k string) (err error) {
	if s := e.textField(k); s != nil {
		*s, err = d.String()
		return err
	}
	switch k {
	case "approvals":
		return d.Array(func() error { return e.parseApproval(d) })
	case "body_hmac":
		s, err := d.String()
		if err == nil {
			e.BodyMAC, err = hex.DecodeString(s)
		}
		return invalid(err)
	case "context":
		e.Context, err = d.StringMap()
	case "decision":
		return e.Decision.parse(d)
	case "details":
		e.Details, err = d.StringMap()
	case "latency_us":
		n, err := d.Int()
		e.Latency = time.Duration(n) * time.Microsecond // 53 bits of microseconds fit
		return err
	case "objects":
		return d.Array(func() error { return e.parseObject(d) })
	case "outcome":
		s, err := d.String()
		e.Outcome = Outcome(s)
		return err
	case "source":
		s, err := d.String()
		if err == nil {
			e.Source, err = netip.ParseAddr(s)
		}
		return invalid(err)
	case "time":
		s, err := d.String()
		if err == nil {
			e.Time, err = time.Parse(timeForm, s)
		}
		return invalid(err)
	case "v":
		v, err := d.Int()
		if err == nil && v != formatVersion {
			return fmt.Errorf("%w: audit entry of format %d", key.ErrInvalid, v)
		}
		return err
	default:
		return d.Unknown(k)
	}
	return err
}

// textField returns where the plain text field k goes, or nil.
func (e *Entry) textField(k string) *string {
	switch k {
	case "action":
		return &e.Action
	case "change_request":
		return &e.ChangeRequest
	case "credential":
		return &e.Credential
	case "failure":
		return &e.Failure
	case "host_claimed":
		return &e.HostClaimed
	case "host_proved":
		return &e.HostProved
	case "incident":
		return &e.Incident
	case "method":
		return &e.Method
	case "principal":
		return &e.Principal
	case "reason":
		return &e.Reason
	case "request":
		return &e.Request
	case "trace":
		return &e.Trace
	}
	return nil
}

func (e *Entry) parseApproval(d *canon.Decoder) error {
	var a Approval
	err := d.Object(func(k string) (err error) {
		switch k {
		case "by":
			a.By, err = d.String()
		case "digest":
			a.Digest, err = d.String()
		default:
			return d.Unknown(k)
		}
		return err
	})
	e.Approvals = append(e.Approvals, a)
	return err
}

func (e *Entry) parseObject(d *canon.Decoder) error {
	var o Object
	err := d.Object(func(k string) (err error) {
		switch k {
		case "id":
			o.ID, err = d.String()
		case "kind":
			o.Kind, err = d.String()
		case "name":
			o.Name, err = d.String()
		case "version":
			o.Version, err = d.Int()
		default:
			return d.Unknown(k)
		}
		return err
	})
	e.Objects = append(e.Objects, o)
	return err
}

func (dec *Decision) parse(d *canon.Decoder) error {
	return d.Object(func(k string) (err error) {
		switch k {
		case "digest":
			dec.PolicyDigest, err = d.String()
		case "policies":
			dec.Policies, err = d.Strings()
		case "reason":
			dec.Reason, err = d.String()
		case "result":
			dec.Result, err = d.String()
		case "version":
			dec.PolicyVersion, err = d.Int()
		default:
			return d.Unknown(k)
		}
		return err
	})
}

func invalid(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", key.ErrInvalid, err)
	}
	return nil
}
