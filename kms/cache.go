package kms

import (
	"container/list"
	"sync"
	"time"
)

// cache holds at most max values, each for at most life, and lets go of those
// that were not used for the longest time.
type cache[K comparable, V any] struct {
	max  int
	life time.Duration

	mu         sync.Mutex // guards the fields below
	items      map[K]*list.Element
	order      *list.List // of *item, most recently used first
	generation uint64     // grows whenever something is dropped on purpose
}

type item[K comparable, V any] struct {
	k     K
	v     V
	until time.Time
}

func newCache[K comparable, V any](max int, life time.Duration) *cache[K, V] {
	return &cache[K, V]{max: max, life: life, items: map[K]*list.Element{}, order: list.New()}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[k]; ok {
		if i := e.Value.(*item[K, V]); time.Now().Before(i.until) {
			c.order.MoveToFront(e)
			return i.v, true
		}
		c.removeLocked(e)
	}
	var none V
	return none, false
}

// begin returns the generation under which a load starts.
func (c *cache[K, V]) begin() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// put keeps what was loaded since begin, unless something was dropped meanwhile:
// then nobody knows whether v is older than the reason of the drop. A value that
// replaces its like lives no longer than that would have, if inherit is set.
func (c *cache[K, V]) put(k K, v V, generation uint64, inherit bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != generation {
		return
	}
	until := time.Now().Add(c.life)
	if e, ok := c.items[k]; ok {
		if inherit {
			until = e.Value.(*item[K, V]).until
		}
		c.removeLocked(e)
	}
	c.items[k] = c.order.PushFront(&item[K, V]{k, v, until})
	for len(c.items) > c.max {
		c.removeLocked(c.order.Back())
	}
}

// drop forgets keys because they changed.
func (c *cache[K, V]) drop(keys ...K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for _, k := range keys {
		if e, ok := c.items[k]; ok {
			c.removeLocked(e)
		}
	}
}

func (c *cache[K, V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	clear(c.items)
	c.order.Init()
}

func (c *cache[K, V]) removeLocked(e *list.Element) {
	c.order.Remove(e)
	delete(c.items, e.Value.(*item[K, V]).k)
}
