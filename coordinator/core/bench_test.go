package core

import (
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// shredder is a log that counts what it is given and keeps nothing.
type shredder struct {
	paper
	bytes int
}

// Append counts.
func (s *shredder) Append(recs []txlog.Record, _ bool) (uint64, error) {
	for _, r := range recs {
		s.bytes += len(r.Data)
	}
	s.appends++
	return s.appends, nil
}

// mill carries between a core and its surroundings with as little of its own as possible.
type mill struct {
	b       *testing.B
	core    *Core
	log     *shredder
	driver  driver
	replies []protocol.Reply
	found   []participant.Finding
}

func newMill(b *testing.B) *mill {
	m := &mill{b: b, log: &shredder{}, found: findings(1024, txn.StandingCommitted)}
	m.driver.bend = func(*Call, *Answer) {}
	m.core = New(protocol.NewState(7), m.log, Config{
		Resources: []Resource{{Name: "a"}, {Name: "b"}}, Workers: 2, SweepEvery: 1e9,
		SnapshotEvery: 1 << 60, Rand: rand.New(rand.NewPCG(1, 0)),
	}, 0)
	m.carry()
	return m
}

// carry answers everything at once, until there is nothing more.
func (m *mill) carry() {
	for {
		w, err := m.core.Work()
		if err != nil {
			m.b.Fatal(err)
		}
		m.replies = append(m.replies, w.Replies...)
		for _, call := range w.Calls {
			if call.What == Commit {
				m.core.Answered(call, Answer{Findings: m.found[:len(call.Branches)]})
				continue
			}
			m.core.Answered(call, m.driver.answer(call))
		}
		waits := len(m.core.appender.sent) > 0
		m.core.Persisted(txlog.Persisted{Index: m.log.appends, LSN: m.log.LSN()})
		if len(w.Calls) == 0 && !waits {
			return
		}
	}
}

// transactions runs so many at once, from Begin with two branches to the last acknowledgement.
func (m *mill) transactions(n int) {
	m.replies = m.replies[:0]
	for range n {
		m.core.Request(protocol.Begin{Request: txn.BeginRequest{Resources: []string{"a", "b"}}})
	}
	m.carry()
	begun := m.replies
	m.replies = nil
	for _, r := range begun {
		req := txn.CommitRequest{ID: r.Begun.ID}
		for i, e := range r.Begun.Branches {
			req.Votes = append(req.Votes, txn.BranchVote{Branch: e.Branch, Vote: txn.VoteYes,
				Evidence: txn.Evidence{Identity: txn.Identity{System: uint64('a' + i), Database: 1},
					Position: txn.Position{Timeline: 1, LSN: 100}, XID: 9}})
		}
		m.core.Request(protocol.Commit{Request: req})
	}
	m.carry()
	for _, r := range m.replies {
		if r.Err != nil || r.Result.Outcome != txn.OutcomeCommitted {
			m.b.Fatalf("%+v, %v", r.Result, r.Err)
		}
	}
	if len(m.replies) != n {
		m.b.Fatalf("%d answers to %d commits", len(m.replies), n)
	}
}

// BenchmarkCore is a transaction with two branches without disk, network and databases: what the
// one goroutine that owns the protocol can do at most. More at once share appends and calls.
func BenchmarkCore(b *testing.B) {
	for _, c := range []struct {
		name   string
		atOnce int
	}{{"at-once=1", 1}, {"at-once=64", 64}} {
		b.Run(c.name, func(b *testing.B) {
			m := newMill(b)
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= c.atOnce {
				m.transactions(min(left, c.atOnce))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txns/s")
			b.ReportMetric(float64(m.log.bytes)/float64(b.N), "log-B/op")
		})
	}
}
