package participanttest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/txn"
)

// store is a resource manager in memory that keeps every promise, unless a fault says otherwise. It
// is shared by all adapters, as a database is.
type store struct {
	fault string

	mu sync.Mutex
	// working, begun and failed belong to branches that are not prepared: their keys, the epochs in
	// which they began, and those that had a step fail.
	working  map[txn.Name]string
	begun    map[txn.Name]txn.Epoch
	failed   map[txn.Name]bool
	prepared map[txn.Name]string
	foreign  map[txn.Name]bool
	effects  map[string]bool
	ended    map[txn.Name]txn.Standing
	onePhase map[txn.Name]bool
	xids     map[txn.Name]uint64
	resolver map[txn.LogID]*adapter
	epochs   map[txn.LogID]txn.Epoch
	// markers hold decisions, and the empty one for "never". marking are those of open branches.
	markers map[txn.ID]string
	marking map[txn.ID]bool
}

func newStore(fault string) *store {
	return &store{fault: fault, working: map[txn.Name]string{}, begun: map[txn.Name]txn.Epoch{},
		failed: map[txn.Name]bool{}, onePhase: map[txn.Name]bool{},
		prepared: map[txn.Name]string{},
		foreign:  map[txn.Name]bool{}, effects: map[string]bool{},
		ended: map[txn.Name]txn.Standing{}, xids: map[txn.Name]uint64{},
		resolver: map[txn.LogID]*adapter{}, epochs: map[txn.LogID]txn.Epoch{},
		markers: map[txn.ID]string{}, marking: map[txn.ID]bool{}}
}

var identity = txn.Identity{System: 7, Database: 1}

func (s *store) evidence(name txn.Name) txn.Evidence {
	if s.xids[name] == 0 {
		s.xids[name] = uint64(len(s.xids) + 1)
	}
	ev := txn.Evidence{Identity: identity, Position: txn.Position{Timeline: 1}, XID: s.xids[name]}
	if s.fault == "a yes of nobody" {
		ev.Identity = txn.Identity{}
	}
	return ev
}

// end finishes a prepared branch. The caller holds mu.
func (s *store) end(name txn.Name, commit bool) txn.Standing {
	s.ended[name] = txn.StandingRolledBack
	if commit {
		s.ended[name] = txn.StandingCommitted
		s.effects[s.prepared[name]] = true
	}
	delete(s.prepared, name)
	return s.ended[name]
}

// adapter is one process' way to the store.
type adapter struct {
	*store
	fences map[txn.LogID]txn.Fence
	closed bool
}

var errClosed = errors.New("fake: closed")

func (a *adapter) admit(f txn.Fence, n int) error {
	seen := a.fences[f.Log]
	switch {
	case a.closed && a.fault != "answers after close":
		return errClosed
	case n > participant.MaxBatch && a.fault != "no limit":
		return errors.New("fake: too many branches")
	case f.Epoch < seen.Epoch && a.fault != "no fence":
		return participant.ErrFenced
	case f.Epoch > seen.Epoch && f.LSN < seen.LSN && a.fault != "no regression":
		return participant.ErrRegression
	}
	a.fences[f.Log] = f
	a.rollBackOlder(f)
	return nil
}

// rollBackOlder ends the unprepared work of older epochs, so that no call of theirs can commit it.
func (a *adapter) rollBackOlder(f txn.Fence) {
	for name := range a.working {
		stale := name.Log == f.Log && a.begun[name] < f.Epoch
		if stale && a.fault != "older work lives on" {
			a.endWork(name, false)
		}
	}
}

// endWork ends a branch that is not prepared, and remembers how whatever the caller brings.
func (s *store) endWork(name txn.Name, commit bool) txn.Standing {
	key := s.working[name]
	delete(s.working, name)
	s.ended[name], s.onePhase[name] = txn.StandingRolledBack, true
	if commit {
		s.ended[name] = txn.StandingCommitted
		s.effects[key] = true
	}
	return s.ended[name]
}

func (a *adapter) CommitOnePhase(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.admit(f, len(b))
	if err != nil && (a.fault != "one phase without fence" ||
		!errors.Is(err, participant.ErrFenced)) {
		return nil, err
	}
	findings := make([]participant.Finding, len(b))
	for i := range b {
		findings[i].Standing = a.decide(f, b[i])
		if findings[i].Standing == txn.StandingForeign {
			findings[i].Reason = "another log"
		}
	}
	return findings, nil
}

// decide is the end of one branch that was told to commit in one phase.
func (a *adapter) decide(f txn.Fence, b participant.Branch) txn.Standing {
	_, prepared := a.prepared[b.Name]
	_, working := a.working[b.Name]
	switch {
	case b.Name.Log != f.Log && a.fault != "one phase of any log":
		return txn.StandingForeign
	case prepared && a.fault == "one phase of unprepared only":
		return txn.StandingGone
	case prepared:
		a.onePhase[b.Name] = true
		return a.end(b.Name, true)
	case working:
		ended := a.endWork(b.Name, !a.failed[b.Name] || a.fault == "one phase of failed work")
		a.onePhase[b.Name] = a.fault != "one phase forgets"
		return ended
	case a.fault == "one phase guesses" && !a.onePhase[b.Name]:
		return txn.StandingCommitted
	case a.fault == "one phase takes copies for new" && a.onePhase[b.Name]:
		return txn.StandingRolledBack
	}
	return a.find(b).Standing
}

// right is the one resolver per log, shared by all adapters.
func (a *adapter) right(f txn.Fence) error {
	switch holder := a.resolver[f.Log]; {
	case a.fault == "many resolvers":
	case f.Epoch < a.epochs[f.Log]:
		return participant.ErrFenced
	case holder != nil && holder != a && !holder.closed && f.Epoch == a.epochs[f.Log]:
		return participant.ErrNotResolver
	}
	a.resolver[f.Log], a.epochs[f.Log] = a, f.Epoch
	return nil
}

func (a *adapter) Prepare(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(f, len(b)); err != nil {
		return nil, err
	}
	votes := make([]participant.Vote, len(b))
	for i := range b {
		votes[i] = a.vote(f, b[i].Name)
	}
	return votes, nil
}

func (a *adapter) vote(f txn.Fence, name txn.Name) participant.Vote {
	_, prepared := a.prepared[name]
	switch {
	case a.fault == "always yes":
	case !prepared:
		return participant.Vote{Reason: "not prepared"}
	case a.foreign[name] || name.Log != f.Log:
		return participant.Vote{Reason: "not ours"}
	}
	ev := a.evidence(name)
	if a.fault == "unstable evidence" {
		ev.XID += uint64(len(a.effects)) + 1000
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: ev}
}

func (a *adapter) Commit(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return a.finish(f, b, func(name txn.Name) txn.Standing { return a.end(name, true) })
}

func (a *adapter) Rollback(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return a.finish(f, b, func(name txn.Name) txn.Standing { return a.end(name, false) })
}

func (a *adapter) finish(
	f txn.Fence, b []participant.Branch, end func(txn.Name) txn.Standing,
) ([]participant.Finding, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(f, len(b)); err != nil {
		return nil, err
	}
	if err := a.right(f); err != nil {
		return nil, err
	}
	findings := make([]participant.Finding, len(b))
	for i := range b {
		if b[i].Name.Log != f.Log && a.fault != "any log" {
			findings[i] = participant.Finding{Standing: txn.StandingForeign, Reason: "another log"}
			continue
		}
		findings[i] = a.find(b[i])
		if findings[i].Standing == txn.StandingPrepared {
			findings[i].Standing = end(b[i].Name)
		}
	}
	if a.fault == "disorder" {
		slices.Reverse(findings)
	}
	return findings, nil
}

func (a *adapter) find(b participant.Branch) participant.Finding {
	if _, prepared := a.prepared[b.Name]; prepared {
		if a.foreign[b.Name] && a.fault != "any owner" {
			return participant.Finding{Standing: txn.StandingForeign, Reason: "another owner"}
		}
		return participant.Finding{Standing: txn.StandingPrepared}
	}
	switch {
	case a.fault == "missing is committed":
		return participant.Finding{Standing: txn.StandingCommitted}
	case a.onePhase[b.Name]:
		return participant.Finding{Standing: a.ended[b.Name]}
	case b.Evidence.IsZero(), a.fault == "no evidence":
		return participant.Finding{Standing: txn.StandingGone}
	}
	if a.ended[b.Name] == txn.StandingUnknown {
		return participant.Finding{Standing: txn.StandingGone}
	}
	return participant.Finding{Standing: a.ended[b.Name]}
}

// shown is the evidence of an inquiry.
func (s *store) shown(name txn.Name, standing txn.Standing) txn.Evidence {
	if standing == txn.StandingPrepared {
		return s.evidence(name)
	}
	return txn.Evidence{Identity: identity, Position: txn.Position{Timeline: 1},
		XID: s.xids[name]}
}

func (a *adapter) Inquire(
	_ context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(f, len(b)); err != nil {
		return nil, err
	}
	findings := make([]participant.Finding, len(b))
	for i := range b {
		findings[i] = a.find(b[i])
		if a.fault != "inquire shows nothing" {
			findings[i].Evidence = a.shown(b[i].Name, findings[i].Standing)
		}
		if a.fault == "inquire finishes" && findings[i].Standing == txn.StandingPrepared {
			a.end(b[i].Name, true)
		}
	}
	return findings, nil
}

func (a *adapter) List(_ context.Context, f txn.Fence) (participant.Listing, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(f, 0); err != nil {
		return participant.Listing{}, err
	}
	l := participant.Listing{Identity: identity, Position: txn.Position{Timeline: 1},
		Used: len(a.prepared), Limit: 100}
	for name := range a.prepared {
		if a.fault == "short list" && len(l.Branches) == 1 {
			break
		}
		l.Branches = append(l.Branches, participant.Listed{Name: name, Ours: !a.foreign[name],
			Evidence: a.evidence(name)})
	}
	l.Markers = a.listMarkers(f)
	return l, nil
}

func (a *adapter) Describe(context.Context) (participant.Description, error) {
	d := participant.Description{Kind: "fake", Version: "1", Identity: identity,
		Evidence: a.fault != "evidence is not told" && a.fault != "no evidence",
		OnePhase: a.fault != "one phase is not told",
		Delegate: a.fault != "a delegate is not told"}
	if a.fault == "no fix" {
		d.Checks = []participant.Check{{Level: participant.LevelWarn, What: "something"}}
	}
	return d, nil
}

func (a *adapter) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	return nil
}

// job is an application's work in a branch.
type job struct {
	*store
	name txn.Name
}

func (j *job) Prepare(*testing.T) participant.Vote {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := j.working[j.name]
	delete(j.working, j.name)
	if j.failed[j.name] && j.fault == "a no has a number" {
		j.evidence(j.name)
	}
	if j.failed[j.name] && j.fault != "failed work votes yes" {
		return participant.Vote{Vote: txn.VoteNo, Reason: "a step had failed"}
	}
	j.prepared[j.name] = key
	if j.fault == "visible early" {
		j.effects[key] = true
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: j.evidence(j.name)}
}

func (j *job) Fail(*testing.T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed[j.name] = true
}

func (j *job) Abandon(*testing.T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fault == "abandoned is prepared" {
		j.prepared[j.name] = j.working[j.name]
	}
	delete(j.working, j.name)
}

func harness(s *store) participanttest.Harness {
	return participanttest.Harness{
		Open: func(*testing.T) (participant.Resource, error) {
			return &adapter{store: s, fences: map[txn.LogID]txn.Fence{}}, nil
		},
		Begin: func(_ *testing.T, _ participant.Resource, f txn.Fence, name txn.Name,
			key string) participanttest.Work {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.working[name], s.begun[name] = key, f.Epoch
			return &job{store: s, name: name}
		},
		Effect: func(_ *testing.T, _ participant.Resource, key string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.effects[key]
		},
		Resolve: func(_ *testing.T, _ participant.Resource, name txn.Name, commit bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.end(name, commit)
		},
		Crash: func(_ *testing.T, r participant.Resource) participant.Resource {
			s.mu.Lock()
			defer s.mu.Unlock()
			clear(s.working)
			if s.fault == "prepared work is lost" {
				clear(s.prepared)
			}
			s.crashMarkers()
			return r
		},
		Foreign: func(_ *testing.T, name txn.Name) func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.prepared[name], s.foreign[name] = fmt.Sprint(name), true
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.prepared, name)
			}
		},
		Decide: func(_ *testing.T, w participanttest.Work, decision []byte) participant.Vote {
			return w.(*job).decide(decision)
		},
		Mark: func(_ *testing.T, w participanttest.Work, decision []byte) func(bool) {
			return w.(*job).mark(decision)
		},
		Traits: participanttest.Traits{Proof: participanttest.ProofEvidence, Shared: true,
			OnePhase: true, Delegate: true, Undecided: true},
	}
}

// faults are promises that adapters break, each with the test that must notice.
var faults = map[string]string{
	"always yes":            "prepare_of_what_never_was_is_not_Yes",
	"missing is committed":  "commit_of_what_never_was_is_no_success",
	"no evidence":           "commit_makes_the_effect_visible",
	"unstable evidence":     "prepare_is_repeatable",
	"visible early":         "commit_makes_the_effect_visible",
	"failed work votes yes": "failed_work_is_not_Yes",
	"abandoned is prepared": "abandoned_work_is_not_Yes",
	"inquire finishes":      "inquire_changes_nothing",
	"inquire shows nothing": "inquire_shows_what_it_saw",
	"a no has a number":     "inquire_shows_what_it_saw",
	"short list":            "list_is_complete_and_exact",
	"any log":               "other_logs_are_not_touched",
	"any owner":             "other_owners_are_not_touched",
	"no fence":              "an_older_epoch_is_fenced",
	"no regression":         "a_log_that_went_backwards_is_refused",
	"many resolvers":        "a_newer_epoch_takes_over",
	"prepared work is lost": "prepared_work_survives_a_crash",
	"disorder":              "answers_are_in_order",
	"no limit":              "limits_are_named",
	"answers after close":   "a_closed_resource_says_so",
	"no fix":                "describe",
	"evidence is not told":  "describe",
	"a yes of nobody":       "commit_makes_the_effect_visible",

	"one phase is not told":          "one_phase_is_told_by_the_description",
	"one phase forgets":              "one_phase_commits",
	"one phase takes copies for new": "concurrent_one_phases_have_one_effect",
	"one phase of failed work":       "one_phase_of_failed_work_rolls_back",
	"one phase guesses":              "one_phase_of_lost_work_is_no_success",
	"one phase of unprepared only":   "one_phase_commits_what_is_prepared",
	"one phase without fence":        "one_phase_of_an_older_epoch_is_fenced",
	"older work lives on":            "one_phase_of_an_older_epoch_is_fenced",
	"one phase of any log":           "one_phase_of_other_logs_is_refused",

	"a delegate is not told":   "a_delegate_is_told_by_the_description",
	"markers are only read":    "a_delegate_without_its_marker_never_commits",
	"never is forgotten":       "a_delegate_without_its_marker_never_commits",
	"votes are not kept":       "a_delegate_commits_with_its_marker",
	"markers are not durable":  "a_delegate_commits_with_its_marker",
	"open markers are read":    "a_delegate_that_just_commits_is_unknown",
	"open markers survive":     "a_delegate_that_crashes_rolls_back",
	"a delegate anywhere":      "a_delegate_elsewhere_is_held",
	"a delegate of any log":    "a_delegate_of_another_log_is_refused",
	"a delegate without fence": "a_delegate_of_an_older_epoch_is_fenced",
	"never is removed":         "a_delegate's_marker_is_listed_until_it_is_removed",
	"never is listed":          "a_delegate's_marker_is_listed_until_it_is_removed",
	"markers of any log go":    "a_delegate's_marker_is_listed_until_it_is_removed",
	"markers without limit":    "a_delegate's_limits_are_named",
}

func noticed(output, test string) bool {
	return strings.Contains(output, "--- FAIL: TestKeptPromises/"+test)
}
