// Package metrics shows a coordinator to Prometheus: what it counts as it happens, and, at each
// scrape, how it stands with its resources. Labels are bounded: outcomes, causes and the names of
// resources, never the id of a transaction.
package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// Metrics is a coordinator.Observer and a prometheus.Collector. It is safe for concurrent use.
type Metrics struct {
	transactions *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	fsync        prometheus.Histogram
	alarms       *prometheus.CounterVec

	active, inDoubt, oldest, foreign, pending, up, used, limit, room *prometheus.Desc
	source                                                           Source
}

// Source is what a scrape asks.
type Source interface {
	Resources(context.Context) ([]coordinator.ResourceStatus, error)
	Active(context.Context) (int, error)
	Room() bool
}

const scrapeTimeout = time.Second

// New makes the metrics. Nothing is shown of a coordinator until Watch.
func New() *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gavel_"+name, help, labels, nil)
	}
	return &Metrics{
		transactions: prometheus.NewCounterVec(
			prometheus.CounterOpts{Name: "gavel_transactions_total",
				Help: "Transactions that reached their outcome."},
			[]string{"outcome", "cause"},
		),
		duration: prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Name: "gavel_transaction_duration_seconds",
				Help:    "Time from Begin to the end of the last branch.",
				Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)},
			[]string{"outcome"},
		),
		fsync: prometheus.NewHistogram(
			prometheus.HistogramOpts{Name: "gavel_log_fsync_duration_seconds",
				Help:    "Time of one sync of the log: one for each commit group.",
				Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18)},
		),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gavel_alarms_total",
			Help: "Branches that need a person, by label of the recovery table."},
			[]string{"resource", "label"}),
		active: desc(
			"transactions_active",
			"Transactions that are undecided or wait for phase two.",
		),
		inDoubt: desc("in_doubt_branches", "Prepared branches of this log.", "resource"),
		oldest: desc(
			"in_doubt_oldest_age_seconds",
			"Age of the oldest prepared branch of this log.",
			"resource",
		),
		foreign: desc(
			"foreign_prepared",
			"Prepared transactions that are not of this log.",
			"resource",
		),
		pending: desc("pending_branches", "Branches that wait for phase two.", "resource"),
		up: desc(
			"resource_up",
			"Whether the last listing of the resource succeeded.",
			"resource",
		),
		used: desc(
			"resource_prepared",
			"Prepared slots in use, all databases together.",
			"resource",
		),
		limit: desc(
			"resource_prepared_limit",
			"Prepared slots of the resource; 0 means no limit.",
			"resource",
		),
		room: desc("log_room", "Whether the log's disk has room for new transactions."),
	}
}

// Watch names the coordinator that a scrape asks. Call it once, before the first scrape.
func (m *Metrics) Watch(s Source) { m.source = s }

// TransactionDone counts an outcome.
func (m *Metrics) TransactionDone(o txn.Outcome, cause txn.Cause, age time.Duration) {
	m.transactions.WithLabelValues(o.String(), string(cause)).Inc()
	m.duration.WithLabelValues(o.String()).Observe(age.Seconds())
}

// Synced observes one sync of the log.
func (m *Metrics) Synced(d time.Duration) { m.fsync.Observe(d.Seconds()) }

// Alarmed counts an alarm.
func (m *Metrics) Alarmed(resource string, l protocol.Label) {
	label := ""
	if l != 0 {
		label = l.String()
	}
	m.alarms.WithLabelValues(resource, label).Inc()
}

// Describe sends nothing: which resources there are is known at the scrape.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends what was counted, and asks the coordinator for the rest. A coordinator that does
// not answer within a second shows only what was counted.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.transactions.Collect(ch)
	m.duration.Collect(ch)
	m.fsync.Collect(ch)
	m.alarms.Collect(ch)
	if m.source == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.room, number(m.source.Room()))
	if n, err := m.source.Active(ctx); err == nil {
		gauge(m.active, float64(n))
	}
	resources, err := m.source.Resources(ctx)
	if err != nil {
		return
	}
	for _, r := range resources {
		gauge(m.inDoubt, float64(r.InDoubt), r.Name)
		gauge(m.oldest, r.Oldest.Seconds(), r.Name)
		gauge(m.foreign, float64(r.Foreign+r.Unknown), r.Name)
		gauge(m.pending, float64(r.Pending), r.Name)
		gauge(m.up, number(r.Up), r.Name)
		gauge(m.used, float64(r.Used), r.Name)
		gauge(m.limit, float64(r.Limit), r.Name)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
