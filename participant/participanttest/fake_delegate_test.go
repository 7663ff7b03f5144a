package participanttest_test

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// admitDelegate is admit, with or without the fence.
func (a *adapter) admitDelegate(f txn.Fence, n int) error {
	err := a.admit(f, n)
	if a.fault == "a delegate without fence" && errors.Is(err, participant.ErrFenced) {
		return nil
	}
	return err
}

func (a *adapter) Decide(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admitDelegate(f, len(b)); err != nil {
		return nil, err
	}
	findings := make([]participant.Finding, len(b))
	for i := range b {
		findings[i] = a.marked(f, b[i])
		if findings[i].Standing != txn.StandingUnknown {
			findings[i].Evidence = txn.Evidence{Identity: identity,
				Position: txn.Position{Timeline: 1}}
		}
	}
	return findings, nil
}

// marked answers for one branch, and writes its marker where there is none. The caller holds mu.
func (a *adapter) marked(f txn.Fence, b participant.Branch) participant.Finding {
	id, ev := b.Name.ID(), b.Evidence
	decision, there := a.markers[id]
	here := ev.IsZero() || ev.Identity == identity && ev.Timeline <= 1
	switch {
	case b.Name.Log != f.Log && a.fault != "a delegate of any log":
		return participant.Finding{Standing: txn.StandingForeign, Reason: "another log"}
	case !here && a.fault != "a delegate anywhere":
		return participant.Finding{Standing: txn.StandingHeld, Reason: "another resource"}
	case there && a.marking[id] && a.fault != "open markers are read":
		return participant.Finding{Reason: "its client is about to commit"}
	case !there && a.fault != "markers are only read":
		a.markers[id] = ""
	}
	if decision == "" {
		return participant.Finding{Standing: txn.StandingRolledBack}
	}
	found := participant.Finding{Standing: txn.StandingCommitted}
	if a.fault != "votes are not kept" {
		found.Votes, _ = txn.ParseDecision([]byte(decision))
	}
	return found
}

func (a *adapter) RemoveMarkers(_ context.Context, f txn.Fence, ids []txn.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admitDelegate(f, 0); err != nil {
		return err
	}
	if len(ids) > participant.MaxMarkers && a.fault != "markers without limit" {
		return errors.New("fake: too many markers")
	}
	for _, id := range ids {
		ours := id.Log() == f.Log || a.fault == "markers of any log go"
		if ours && (a.markers[id] != "" || a.fault == "never is removed") {
			delete(a.markers, id)
		}
	}
	return nil
}

// listMarkers is a part of List. The caller holds mu.
func (a *adapter) listMarkers(f txn.Fence) []txn.ID {
	var ids []txn.ID
	for id, decision := range a.markers {
		listed := decision != "" || a.fault == "never is listed"
		if id.Log() == f.Log && listed && !a.marking[id] {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b txn.ID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// crashMarkers takes those of open branches with it. The caller holds mu.
func (s *store) crashMarkers() {
	for id, decision := range s.markers {
		lost := s.marking[id] && s.fault != "open markers survive" ||
			s.fault == "never is forgotten" && decision == "" ||
			s.fault == "markers are not durable" && decision != ""
		if lost {
			delete(s.markers, id)
		}
	}
	clear(s.marking)
}

// mark writes the marker of an open branch. What it returns ends the branch.
func (j *job) mark(decision []byte) (end func(commit bool)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := j.name.ID()
	j.markers[id], j.marking[id] = string(decision), true
	return func(commit bool) {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.marking, id)
		if !commit {
			delete(j.markers, id)
		}
		j.endWork(j.name, commit)
	}
}

// decide commits the branch with its marker, unless there is one.
func (j *job) decide(decision []byte) participant.Vote {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := j.name.ID()
	if _, there := j.markers[id]; there {
		j.endWork(j.name, false)
		return participant.Vote{Vote: txn.VoteNo, Reason: "it was decided before"}
	}
	j.markers[id] = string(decision)
	j.endWork(j.name, true)
	return participant.Vote{Vote: txn.VoteCommitted, Evidence: j.evidence(j.name)}
}
