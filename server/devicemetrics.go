package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealwright/sealwright/hsm"
)

// sessions is what a PKCS#11 token can say of itself.
type sessions interface{ Stats() hsm.Stats }

// deviceMetrics collects the counters of devices that keep sessions, by the
// name a device has in the configuration.
type deviceMetrics struct{ devices []Device }

// deviceMetric is one of them.
type deviceMetric struct {
	name, help string
	kind       prometheus.ValueType
	read       func(hsm.Stats) float64
}

func deviceMetricTable() []deviceMetric {
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	return []deviceMetric{
		{"sealwright_device_sessions_limit", "The device's session budget.", gauge, func(s hsm.Stats) float64 { return float64(s.Sessions) }},
		{"sealwright_device_sessions_in_use", "Operations that hold a session now.", gauge, func(s hsm.Stats) float64 { return float64(s.InUse) }},
		{"sealwright_device_sessions_open", "Sessions open in the device, idle ones included.", gauge, func(s hsm.Stats) float64 { return float64(s.Open) }},
		{"sealwright_device_logins_total", "Logins to the device.", counter, func(s hsm.Stats) float64 { return float64(s.Logins) }},
		{"sealwright_device_recoveries_total", "Times that sessions, the login or the library were renewed.", counter, func(s hsm.Stats) float64 { return float64(s.Recoveries) }},
		{"sealwright_device_restarts_total", "Times that the library had to be started again.", counter, func(s hsm.Stats) float64 { return float64(s.Restarts) }},
		{"sealwright_device_session_waits_total", "Operations that found no free session at once.", counter, func(s hsm.Stats) float64 { return float64(s.Waits) }},
		{"sealwright_device_busy_total", "Operations that gave up waiting for a session.", counter, func(s hsm.Stats) float64 { return float64(s.Busy) }},
		{"sealwright_device_integrity_failures_total", "Products of the device that were wrong.", counter, func(s hsm.Stats) float64 { return float64(s.Integrity) }},
	}
}

func (m deviceMetric) describe() *prometheus.Desc {
	return prometheus.NewDesc(m.name, m.help, []string{"device"}, nil)
}

// Describe implements prometheus.Collector.
func (deviceMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range deviceMetricTable() {
		out <- m.describe()
	}
}

// Collect implements prometheus.Collector.
func (d deviceMetrics) Collect(out chan<- prometheus.Metric) {
	for _, device := range d.devices {
		s, ok := device.Device.(sessions)
		if !ok {
			continue
		}
		stats := s.Stats()
		for _, m := range deviceMetricTable() {
			out <- prometheus.MustNewConstMetric(m.describe(), m.kind, m.read(stats), device.Name)
		}
	}
}
