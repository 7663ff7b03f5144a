package metrics

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/txn"
)

type source struct{ err error }

func (s source) Resources(context.Context) ([]coordinator.ResourceStatus, error) {
	return []coordinator.ResourceStatus{{Name: "bank_a", Up: true, InDoubt: 3, Oldest: time.Minute,
		Foreign: 1, Unknown: 1, Used: 5, Limit: 100, Pending: 2}, {Name: "bank_b"}}, s.err
}

func (s source) Active(context.Context) (int, error) { return 7, s.err }
func (s source) Room() bool                          { return true }

// gather renders every sample as name{labels} = value; a histogram as its count.
func gather(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, s := range f.Metric {
			key := f.GetName()
			for _, l := range s.Label {
				key += " " + l.GetValue()
			}
			switch {
			case s.Counter != nil:
				got[key] = s.Counter.GetValue()
			case s.Histogram != nil:
				got[key] = float64(s.Histogram.GetSampleCount())
			default:
				got[key] = s.Gauge.GetValue()
			}
		}
	}
	return got
}

// TestMetrics: what is counted and what is asked for, under the names that dashboards know.
func TestMetrics(t *testing.T) {
	m := New()
	m.Watch(source{})
	m.TransactionDone(txn.OutcomeCommitted, "", time.Second)
	m.TransactionDone(txn.OutcomeCommitted, "", time.Second)
	m.TransactionDone(txn.OutcomeRolledBack, txn.CauseExpired, time.Second)
	m.Synced(time.Millisecond)
	m.Alarmed("bank_a", 'K')
	m.Alarmed("bank_b", 0)
	got := gather(t, m)
	for key, want := range map[string]float64{
		"gavel_transactions_total  COMMITTED":                      2,
		"gavel_transactions_total TRANSACTION_EXPIRED ROLLED_BACK": 1,
		"gavel_transaction_duration_seconds COMMITTED":             2,
		"gavel_log_fsync_duration_seconds":                         1,
		"gavel_alarms_total @K bank_a":                             1,
		"gavel_transactions_active":                                7,
		"gavel_in_doubt_branches bank_a":                           3,
		"gavel_in_doubt_oldest_age_seconds bank_a":                 60,
		"gavel_foreign_prepared bank_a":                            2,
		"gavel_pending_branches bank_a":                            2,
		"gavel_resource_up bank_a":                                 1,
		"gavel_resource_up bank_b":                                 0,
		"gavel_resource_prepared bank_a":                           5,
		"gavel_resource_prepared_limit bank_a":                     100,
		"gavel_log_room":                                           1,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v", key, v, ok, want)
		}
	}
}

// TestSilentCoordinator: one that does not answer shows only what was counted, and so does none.
func TestSilentCoordinator(t *testing.T) {
	m := New()
	m.Synced(time.Millisecond)
	if got := gather(t, m); len(got) != 1 {
		t.Errorf("nobody to ask: %v", got)
	}
	m.Watch(source{err: errors.New("silent")})
	if got := gather(t, m); len(got) != 2 {
		t.Errorf("nobody answers: %v", got)
	}
}
