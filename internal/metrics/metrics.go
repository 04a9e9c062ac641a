// Package metrics shows a daemon's report to Prometheus.
//
// It owns the names and meanings of the metrics (docs/metrics.md) and keeps
// no numbers of its own: each scrape reads one report, so that metrics,
// status and readiness can never disagree. There is no global registry.
// The health port serves it.
package metrics

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/flannel-ng/flannel-ng/internal/report"
)

// Collector makes metrics from a report. It implements prometheus.Collector.
type Collector struct {
	status func() report.Status
	now    func() time.Time
	desc   descs
}

type descs struct {
	build, ready, leaseExpires, peers, rejected, revision, synced, age,
	passes, duration, changes, failing, drift, repair, contested, phase,
	tunnelPackets, tunnelBytes, tunnelDropped, tunnelKernel *prometheus.Desc
}

// New makes a collector. Both functions must be safe for concurrent use.
func New(status func() report.Status, now func() time.Time) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("flannel_"+name, help, labels, nil)
	}
	return &Collector{status: status, now: now, desc: descs{
		build:        desc("build_info", "Always 1; the label says which version runs.", "version"),
		ready:        desc("ready", "1 when this host's own objects are in place and subnet.env is written, else 0."),
		leaseExpires: desc("lease_expires_seconds", "Seconds until this host's lease expires; absent without a lease and for a reservation."),
		peers:        desc("peers", "Other hosts of the fabric, by whether their objects are in place (programmed) or not (failing).", "state"),
		rejected:     desc("rejected_keys", "Store entries that are ignored because they are broken or forbidden."),
		revision:     desc("store_revision", "Revision of the store that the last picture shows."),
		synced:       desc("store_synced", "1 when the picture of the store is complete, else 0; nothing is removed while it is 0."),
		age:          desc("snapshot_age_seconds", "Seconds since the picture in use was seen live in the store; 0 while it is live."),
		passes:       desc("pass_total", "Passes of comparing and repairing since the start."),
		duration:     desc("pass_duration_seconds", "Length of the last pass."),
		changes:      desc("changes_total", "Objects changed on this host since the start.", "kind", "op"),
		failing:      desc("failing_objects", "Objects that could not be made true."),
		drift:        desc("drift_total", "Objects that were found otherwise than they were left, since the start.", "kind"),
		repair:       desc("repair_seconds", "Time from the notification that an object is not as it was left, or without one from when it was last seen as it should be, to its repair.", "kind"),
		contested:    desc("contested_objects", "Objects that something undoes again and again: their repair waits up to 30 s."),
		phase:        desc("change_phase", "1 for the step that a change of the backend, its port or its network is at (docs/live-change.md), 0 for the others; steady when there is none.", "phase"),

		tunnelPackets: desc("tunnel_packets_total", "Packets of containers that the forwarder or the kernel carried, sent or received; backend udp only.", "direction"),
		tunnelBytes:   desc("tunnel_bytes_total", "Bytes of the packets in flannel_tunnel_packets_total, without the tunnel's own headers.", "direction"),
		tunnelDropped: desc("tunnel_dropped_total", "Packets that the forwarder or the kernel dropped, by reason.", "reason"),
		tunnelKernel:  desc("tunnel_kernel_packets_total", "Of the packets in flannel_tunnel_packets_total, those that the kernel carried without the forwarder.", "direction"),
	}}
}

// Handler serves c alone in the Prometheus text format.
func Handler(c *Collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	d := c.desc
	for _, x := range []*prometheus.Desc{
		d.build, d.ready, d.leaseExpires, d.peers, d.rejected, d.revision, d.synced, d.age,
		d.passes, d.duration, d.changes, d.failing, d.drift, d.repair, d.contested, d.phase, d.tunnelPackets, d.tunnelBytes, d.tunnelDropped, d.tunnelKernel,
	} {
		out <- x
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s, d := c.status(), c.desc
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(d.build, 1, s.Version)
	gauge(d.ready, truth(s.Ready))
	if !s.Lease.Expires.IsZero() {
		gauge(d.leaseExpires, s.Lease.Expires.Sub(c.now()).Seconds())
	}
	// Both states are always there: an alert on a series that only appears with
	// the trouble would miss the first rise.
	gauge(d.peers, float64(s.PeerCount.Programmed), "programmed")
	gauge(d.peers, float64(s.PeerCount.Failing), "failing")
	gauge(d.rejected, float64(len(s.Rejected)))
	gauge(d.revision, float64(s.Store.Revision))
	gauge(d.synced, truth(s.Store.Synced))
	gauge(d.age, s.Store.Age.Seconds())
	counter(d.passes, s.Pass.Passes)
	gauge(d.duration, s.Pass.Duration.Seconds())
	for what, n := range s.Pass.Changes {
		kind, op, _ := strings.Cut(what, " ")
		counter(d.changes, n, kind, op)
	}
	gauge(d.failing, float64(len(s.Pass.Failures)))
	gauge(d.contested, float64(s.Pass.Contested))
	for kind, r := range s.Pass.Repairs {
		counter(d.drift, r.Found, kind)
		out <- repairs(d.repair, r, kind)
	}
	for _, p := range report.Phases() {
		gauge(d.phase, truth(p == s.Change.Phase), p)
	}
	if t := s.Tunnel; t != nil && t.Error == "" {
		counter(d.tunnelPackets, int64(t.SentPackets), "sent")
		counter(d.tunnelPackets, int64(t.ReceivedPackets), "received")
		counter(d.tunnelKernel, int64(t.KernelSentPackets), "sent")
		counter(d.tunnelKernel, int64(t.KernelReceivedPackets), "received")
		counter(d.tunnelBytes, int64(t.SentBytes), "sent")
		counter(d.tunnelBytes, int64(t.ReceivedBytes), "received")
		for reason, n := range t.Dropped {
			counter(d.tunnelDropped, int64(n), reason)
		}
	}
}

// repairs is the histogram of one kind.
func repairs(d *prometheus.Desc, r report.Repairs, kind string) prometheus.Metric {
	within := map[float64]uint64{}
	for i, bound := range report.RepairBounds() {
		if i < len(r.Within) {
			within[bound.Seconds()] = uint64(r.Within[i])
		}
	}
	return prometheus.MustNewConstHistogram(d, uint64(r.Done), r.Took.Seconds(), within, kind)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
