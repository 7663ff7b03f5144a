package protocol

import (
	"runtime"
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// BenchmarkLive is what a transaction costs that has begun and waits for its client: memory with
// all that is needed to find it, and the time of its Begin.
func BenchmarkLive(b *testing.B) {
	m := New(NewState(testLog), Config{MaxActive: 1 << 30, Block: 1 << 30}, 0)
	for _, name := range []string{"a", "b"} {
		m.Step(Register{Name: name, Evidence: true,
			Identity: txn.Identity{System: uint64(name[0])}})
	}
	persist := func() {
		for _, a := range m.Ready().Appends {
			m.Step(Persisted{Index: a.Index})
		}
	}
	for range 3 {
		persist()
	}
	request := txn.BeginRequest{Resources: []string{"a", "b"}}
	before := inUse()
	b.ResetTimer()
	for range b.N {
		m.Step(Begin{Request: request})
		m.Ready()
	}
	b.StopTimer()
	b.ReportMetric(float64(inUse()-before)/float64(b.N), "B/live")
	if m.Active() != b.N {
		b.Fatalf("%d of %d transactions run", m.Active(), b.N)
	}
}

func inUse() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
