package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealwright/sealwright/api"
)

// metrics are the server's own; names carry their units.
type metrics struct {
	registry *prometheus.Registry
	scrape   http.Handler
	seconds  *prometheus.HistogramVec
	requests *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sealwright_request_duration_seconds", Help: "Time from the request's first byte read to its answer, by route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"route"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealwright_requests_total", Help: "Requests answered, by route and HTTP status.",
		}, []string{"route", "status"}),
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	m.registry.MustRegister(m.seconds, m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("sealwright_requests_in_flight", "Requests under way.", func() float64 { return float64(len(s.inFlight)) }),
		gauge("sealwright_log_entries", "Entries in the audit log.", func() float64 { return logSize(s) }),
		gauge("sealwright_log_checkpoint_entries", "Entries under the newest signed checkpoint.", func() float64 { return float64(s.Log.CheckpointSize()) }),
		gauge("sealwright_authz_epoch", "Grows whenever access is narrowed.", func() float64 { return float64(s.DB.Epoch()) }),
		gauge("sealwright_ready", "1 when store, log and devices work.", func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if s.Ready(ctx) != nil {
				return 0
			}
			return 1
		}),
		gauge("sealwright_store_queued_changes", "Changes that wait for a batch.", func() float64 { return float64(s.DB.Waiting()) }),
		deviceMetrics{s.Devices},
	)
	m.scrape = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})
	return m
}

// of returns the observer of one route, resolved once.
func (m *metrics) of(route *api.Route) func(status int, took time.Duration) {
	seconds := m.seconds.WithLabelValues(route.Name)
	usual := m.requests.WithLabelValues(route.Name, strconv.Itoa(route.Status))
	return func(status int, took time.Duration) {
		seconds.Observe(took.Seconds())
		if status == route.Status {
			usual.Inc()
			return
		}
		m.requests.WithLabelValues(route.Name, strconv.Itoa(status)).Inc()
	}
}

func (c *call) scrape() (any, error) {
	w := httptest.NewRecorder()
	c.metrics.scrape.ServeHTTP(w, c.r)
	return raw{media: w.Header().Get("Content-Type"), body: w.Body.Bytes()}, nil
}

// logSize reads the log's size when asked for; -1 when the store does not answer.
func logSize(s *Server) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	size, err := s.Log.Size(ctx)
	if err != nil {
		return -1
	}
	return float64(size)
}
