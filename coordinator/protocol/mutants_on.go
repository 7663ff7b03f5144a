//go:build mutants

package protocol

import "github.com/gavel-tx/gavel/txn"

// resumeVoting takes up a transaction that an earlier epoch has begun, from its client's votes.
func (m *Machine) resumeVoting(r txn.CommitRequest) *transaction {
	known := m.known(r.ID)
	if known == nil || known.Cause != txn.CausePresumed || len(r.Votes) == 0 {
		return nil
	}
	t := &transaction{id: r.ID, state: txn.StateActive, begun: m.now,
		deadline: m.now + m.cfg.DefaultTimeout}
	for _, v := range r.Votes {
		for _, res := range m.resources {
			if res.Identity == v.Evidence.Identity {
				t.grow(v.Branch)
				*t.branch(v.Branch) = branch{no: v.Branch, rm: res.RM, state: txn.BranchEnlisted}
			}
		}
	}
	m.enter(t)
	m.active++
	return t
}
