package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/client"
)

// While others write, and narrow access so that the door runs acts again, every
// answer is still the answer to one question: nothing is listed twice, proofs
// prove, and the log verifies.
func TestAnswersUnderLoad(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	s.must("sealwright key create dev/load/base; sealwright key create dev/load/toggled; sealwright cert issue --spiffe service/load --ttl 1h --out tls")
	c := s.client(3)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var calm atomic.Bool // reading a whole log takes a while; rules that change all the time would keep it from ending
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if calm.Load() {
					time.Sleep(300 * time.Millisecond)
				}
				_, _ = c.DisableKey(ctx, "dev/load/toggled") // bumps the epoch
				_, _ = c.EnableKey(ctx, "dev/load/toggled")
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Encrypt(ctx, "dev/load/base", []byte("x"), nil)
			}
		})
	}
	asked := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && !t.Failed(); asked++ {
		once(t, "keys", func(seen map[string]int) error {
			list, err := c.ListKeys(ctx, "dev", client.Page{})
			for _, k := range list.Keys {
				seen[k.Name]++
			}
			return err
		})
		once(t, "entries", func(seen map[string]int) error {
			list, err := c.AuditEntries(ctx, client.AuditFilter{Limit: 50})
			for _, e := range list.Entries {
				seen[fmt.Sprint(e.Index)]++
			}
			return err
		})
		once(t, "devices", func(seen map[string]int) error {
			status, err := c.Status(ctx)
			for _, d := range status.Devices {
				seen[d.Name]++
			}
			return err
		})
		once(t, "certificates", func(seen map[string]int) error {
			list, err := c.ListCertificates(ctx, "", time.Time{}, client.Page{})
			for _, one := range list.Certificates {
				seen[one.Serial]++
			}
			return err
		})
		once(t, "issuers", func(seen map[string]int) error {
			list, err := c.Issuers(ctx)
			for _, i := range list.Issuers {
				seen[i.ID]++
			}
			return err
		})
	}
	calm.Store(true)
	for range 3 {
		s.must("set -e; sealwright audit verify; sealwright audit export LOG; sealwright audit verify LOG; sealwright audit prove 3 > p; sealwright audit verify p")
	}
	cancel()
	wg.Wait()
	t.Logf("asked for five lists %d times under load", asked)
	s.stop()
}

// once demands that what list counts is not empty, and each thing there once.
func once(t *testing.T, what string, list func(seen map[string]int) error) {
	t.Helper()
	seen := map[string]int{}
	if err := list(seen); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if len(seen) == 0 {
		t.Errorf("no %s", what)
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s: %s is listed %d times", what, name, n)
		}
	}
}
