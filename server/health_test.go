package server

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// stale makes the next question of readiness a fresh one.
func (h *house) stale() {
	h.readiness.mu.Lock()
	defer h.readiness.mu.Unlock()
	h.readiness.at = time.Time{}
}

func (h *house) wantReady(t *testing.T, ready bool) {
	t.Helper()
	h.stale()
	nobody := h.with(t, nil)
	nobody.must(200, "GET", "/livez", "")
	a := nobody.do("GET", "/readyz", "")
	scrape := string(nobody.must(200, "GET", "/metrics", "").body)
	switch {
	case ready && (a.StatusCode != 200 || !strings.Contains(scrape, "sealwright_ready 1")):
		t.Errorf("not ready: %d: %s", a.StatusCode, a.body)
	case !ready && (a.StatusCode != 503 || a.problem(t).Status != 503 || !strings.Contains(scrape, "sealwright_ready 0")):
		t.Errorf("ready: %d: %s", a.StatusCode, a.body)
	case strings.Contains(string(a.body), "slot 7"):
		t.Errorf("anybody learns the inside: %s", a.body)
	}
}

func TestReadiness(t *testing.T) {
	h := newHouse(t)
	h.wantReady(t, true)
	for _, err := range []error{fmt.Errorf("slot 7: %w", key.ErrUnavailable), fmt.Errorf("slot 7: %w", key.ErrNotFound), fmt.Errorf("slot 7: %w", key.ErrLockedOut), errors.New("slot 7")} {
		h.device.fail(err)
		h.wantReady(t, false)
	}
	var s api.Status
	decode(t, h.admin.must(200, "GET", "/v1/status", "").body, &s)
	if s.Devices[0].Healthy || s.Devices[0].Detail == "" || strings.Contains(s.Devices[0].Detail, "slot 7") {
		t.Errorf("status says %+v", s.Devices[0])
	}
	h.device.fail(nil)
	h.wantReady(t, true)
}

// The log that no longer extends what was signed ends readiness, not life.
func TestReadinessOfABrokenLog(t *testing.T) {
	h := newHouse(t)
	h.admin.must(200, "GET", "/v1/audit/checkpoint", "")
	// The head goes back behind the checkpoint that was signed.
	must(t, h.DB.Update(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.Exec(`UPDATE log_head SET size = 3`)
		return err
	}))
	for deadline := time.Now().Add(20 * time.Second); h.Log.Check(t.Context()) == nil; time.Sleep(20 * time.Millisecond) {
		_, _ = h.Log.Checkpoint(t.Context())
		if time.Now().After(deadline) {
			t.Fatal("nobody noticed")
		}
	}
	h.wantReady(t, false)
}

func TestReadinessOfAClosedStore(t *testing.T) {
	h := newHouse(t)
	must(t, h.DB.Close())
	h.wantReady(t, false)
	if a := h.admin.do("GET", "/v1/status", ""); a.StatusCode < 500 {
		t.Errorf("%d: %s", a.StatusCode, a.body)
	}
}

// However many ask, the device is asked once a second.
func TestReadinessIsShared(t *testing.T) {
	h := newHouse(t)
	nobody := h.with(t, nil)
	h.stale()
	nobody.must(200, "GET", "/readyz", "")
	h.device.fail(key.ErrUnavailable) // not asked again at once
	nobody.must(200, "GET", "/readyz", "")
}

func TestMetrics(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	for _, r := range api.Routes() {
		h.admin.try(t, r, all)
	}
	for i := range 20 {
		h.admin.do("GET", fmt.Sprintf("/nowhere/%d", i), "")
		h.admin.do(fmt.Sprintf("METHOD%d", i), "/v1/keys", "")
	}
	a := h.with(t, nil).must(200, "GET", "/metrics", "")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(a.body)))
	must(t, err)
	unit := regexp.MustCompile(`_(seconds|bytes|total|entries|changes|in_flight|epoch|ready|limit|in_use|open)$`)
	for name, f := range families {
		if !strings.HasPrefix(name, "sealwright_") {
			continue
		}
		if !unit.MatchString(name) || f.GetHelp() == "" {
			t.Errorf("%s has no unit or no help", name)
		}
		if n := len(f.GetMetric()); n > 4*len(api.Routes()) {
			t.Errorf("%s has %d series", name, n)
		}
	}
	for _, want := range []string{"sealwright_request_duration_seconds", "sealwright_requests_total", "sealwright_log_entries", "sealwright_device_sessions_limit", "sealwright_device_logins_total", "sealwright_store_queued_changes"} {
		if families[want] == nil {
			t.Errorf("%s is missing", want)
		}
	}
	for _, wrong := range []string{"payments", "nowhere", "METHOD", "spiffe", "example", `status="0"`} {
		if strings.Contains(string(a.body), wrong) {
			t.Errorf("the metrics speak of %q", wrong)
		}
	}
	if found := leaked(string(a.body)); len(found) > 0 {
		t.Errorf("the metrics hold %v", found)
	}
}
