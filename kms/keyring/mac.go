package keyring

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
)

// macSize is the length of a MAC: the version of the ops keyring, u32, and HMAC-SHA-256.
const macSize = 4 + sha256.Size

// MAC authenticates parts under the current keyring of ops. Parts are
// length-prefixed, so their boundaries count. p is LogHMAC. After Close it
// returns nil, which is the MAC of nothing.
func (s *Set) MAC(p Purpose, parts ...[]byte) []byte { return s.mac(p, encodeParts(parts)) }

// CheckMAC returns key.ErrIntegrity if mac is not the MAC of parts under any
// version of the ops keyring.
func (s *Set) CheckMAC(mac []byte, p Purpose, parts ...[]byte) error {
	if !s.verify(mac, p, encodeParts(parts)) {
		return fmt.Errorf("%w: a MAC for %s", key.ErrIntegrity, p)
	}
	return nil
}

// RowMAC authenticates a row of the store: its table and its columns, the
// primary key first. Columns are string, []byte, bool, key.ID and the integer
// types; the same number in another integer type gives the same MAC, "1" and 1
// do not. Any other type is a defect of the caller and panics. The result
// depends on the input alone until the ops keyring rotates.
func (s *Set) RowMAC(table string, columns ...any) []byte {
	return s.mac(rowMAC, encodeRow(table, columns))
}

// CheckRow returns key.ErrIntegrity, naming table and row, if mac is not RowMAC
// of the same columns.
func (s *Set) CheckRow(mac []byte, table string, columns ...any) error {
	if s.verify(mac, rowMAC, encodeRow(table, columns)) {
		return nil
	}
	var row any
	if len(columns) > 0 {
		row = columns[0]
	}
	return fmt.Errorf("%w: row %v of table %s was changed outside of Sealwright: find out by whom, and restore it", key.ErrIntegrity, row, table)
}

func (s *Set) mac(p Purpose, message []byte) []byte {
	r := s.opsRing()
	if r == nil {
		return nil
	}
	sum := r.authenticator(p).sum(message)
	if sum == nil {
		return nil
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, macSize), uint32(r.version)), sum...)
}

func (s *Set) verify(mac []byte, p Purpose, message []byte) bool {
	if len(mac) != macSize {
		return false
	}
	version := int64(binary.BigEndian.Uint32(mac))
	r := s.known(Ops, version)
	if r == nil || version == 0 {
		return false
	}
	sum := r.authenticator(p).sum(message)
	return sum != nil && hmac.Equal(mac[4:], sum)
}

func (r *ring) authenticator(p Purpose) *macKey {
	m, ok := r.macs[p]
	if !ok {
		panic("keyring: no MACs are made for purpose " + string(p))
	}
	return m
}

// macKey is an HMAC key in locked memory. crypto/hmac copies it into its states,
// which are few and used again.
type macKey struct {
	key    *locked.Buffer
	states sync.Pool // of hash.Hash
}

// sum returns nil once the key was wiped.
func (m *macKey) sum(message []byte) []byte {
	var sum []byte
	err := m.key.Use(func(secret []byte) {
		locked.Do(func() {
			h, _ := m.states.Get().(hash.Hash)
			if h == nil {
				h = hmac.New(sha256.New, secret)
			}
			h.Write(message)
			sum = h.Sum(make([]byte, 0, sha256.Size))
			h.Reset()
			m.states.Put(h)
		})
	})
	if err != nil {
		return nil
	}
	return sum
}

func encodeParts(parts [][]byte) []byte {
	b := append([]byte(nil), "sealwright/mac/v1\x00"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(parts)))
	for _, p := range parts {
		b = appendSized(b, p)
	}
	return b
}

// encodeRow writes each column as a type byte, a length and the bytes.
func encodeRow(table string, columns []any) []byte {
	b := append(make([]byte, 0, 512), "sealwright/row/v1\x00"...)
	b = appendSized(b, []byte(table))
	b = binary.BigEndian.AppendUint32(b, uint32(len(columns)))
	for _, column := range columns {
		b = appendColumn(b, column)
	}
	return b
}

func appendColumn(b []byte, column any) []byte {
	switch c := column.(type) {
	case string:
		return appendSized(append(b, 's'), []byte(c))
	case []byte:
		return appendSized(append(b, 'b'), c)
	case key.ID:
		return appendSized(append(b, 's'), []byte(c.String())) // as the store holds it
	case bool:
		if c {
			return append(b, 't')
		}
		return append(b, 'f')
	case int64:
		return appendInt(b, c)
	case int:
		return appendInt(b, int64(c))
	case int32:
		return appendInt(b, int64(c))
	case uint32:
		return appendInt(b, int64(c))
	}
	panic(fmt.Sprintf("keyring: a column of type %T has no MAC", column))
}

func appendInt(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 'i'), uint64(n))
}

func appendSized(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
	return append(b, part...)
}
