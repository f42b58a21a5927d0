package sqlite

import (
	"strings"
	"sync"
	"sync/atomic"
)

// maxTexts bounds the remembered queries.
const maxTexts = 1024

// texts rewrites $1 to ?1 and remembers the result. SQLite numbers $1 by its
// first appearance, not by its digits: "SET a = $2 WHERE b = $1" would silently
// swap the arguments.
type texts struct {
	known sync.Map // query → text
	count atomic.Int32
}

func (t *texts) text(query string) string {
	if strings.IndexByte(query, '$') < 0 {
		return query
	}
	if text, ok := t.known.Load(query); ok {
		return text.(string)
	}
	text := rewrite(query)
	if t.count.Load() < maxTexts {
		t.count.Add(1)
		t.known.Store(query, text)
	}
	return text
}

// rewrite replaces the dollar of each placeholder outside quotes and comments.
func rewrite(query string) string {
	b := []byte(query)
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\'' || c == '"':
			end := strings.IndexByte(query[i+1:], c)
			if end < 0 {
				return string(b)
			}
			i += end + 1
		case c == '-' && i+1 < len(b) && b[i+1] == '-':
			end := strings.IndexByte(query[i:], '\n')
			if end < 0 {
				return string(b)
			}
			i += end
		case c == '$' && i+1 < len(b) && '0' <= b[i+1] && b[i+1] <= '9':
			b[i] = '?'
		}
	}
	return string(b)
}
