package kms

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCacheIsBounded(t *testing.T) {
	c := newCache[int, string](3, time.Hour)
	for i := range 3 {
		c.put(i, "x", c.begin(), false)
	}
	c.get(0) // 1 is now the one that was not used for the longest time
	c.put(3, "x", c.begin(), false)
	for i, want := range []bool{true, false, true, true} {
		if _, ok := c.get(i); ok != want {
			t.Errorf("%d is there: %v, want %v", i, ok, want)
		}
	}
	if len(c.items) != 3 || c.order.Len() != 3 {
		t.Errorf("%d items, %d in order, want 3", len(c.items), c.order.Len())
	}
	c.clear()
	if _, ok := c.get(0); ok || c.order.Len() != 0 {
		t.Error("a cleared cache holds something")
	}
}

func TestCacheForgetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](3, time.Minute)
		c.put(1, "old", c.begin(), false)
		c.put(2, "old", c.begin(), false)
		time.Sleep(40 * time.Second)
		c.put(1, "checked again", c.begin(), true)
		c.put(2, "loaded again", c.begin(), false)
		time.Sleep(19 * time.Second)
		if v, ok := c.get(1); !ok || v != "checked again" {
			t.Errorf("after 59 s: %q, %v", v, ok)
		}
		time.Sleep(2 * time.Second)
		if v, ok := c.get(1); ok {
			t.Errorf("after 61 s %q is still there: checking a value does not prolong its life", v)
		}
		if _, ok := c.get(2); !ok {
			t.Error("a value loaded 21 s ago is gone")
		}
	})
}

// TestCacheDropsWhatIsBeingLoaded: a load that began before a change must not end in the cache.
func TestCacheDropsWhatIsBeingLoaded(t *testing.T) {
	c := newCache[int, string](3, time.Minute)
	began := c.begin()
	c.drop(1)
	c.put(1, "as it was before", began, false)
	if v, ok := c.get(1); ok {
		t.Errorf("the cache holds %q", v)
	}
	c.put(1, "as it is", c.begin(), false)
	if v, ok := c.get(1); !ok || v != "as it is" {
		t.Errorf("the cache holds %q, %v", v, ok)
	}
	c.drop(1)
	if _, ok := c.get(1); ok {
		t.Error("what was dropped is there")
	}
}
