package kv

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// conflictState is the SQLSTATE of a vote that is no because of another branch: a serialization
// failure, so that clients know that running the work again may succeed.
const conflictState = "40001"

// fenced runs a change on behalf of a fence: it is judged in the very transaction that makes the
// change, so a deposed coordinator cannot slip in between. What apply returns is a storage
// failure.
func (s *Store) fenced(
	ctx context.Context, f txn.Fence, hello bool, apply func(view) error, after func(),
) error {
	var refused error
	var raised bool
	err := s.writer.do(ctx, change{
		apply: func(v view) error {
			var next txn.Fence
			if next, raised, refused = v.judge(f, hello); refused != nil {
				return nil
			}
			if err := v.remember(next); err != nil {
				return err
			}
			return apply(v)
		},
		after: func(durable bool) {
			if !durable || refused != nil {
				return
			}
			if raised {
				s.branches.dropOlder(f)
			}
			after()
		},
	})
	if err != nil {
		return err
	}
	return wrap(refused)
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("kv: %w", err)
	}
	return nil
}

// look runs a reading call on behalf of a fence. It writes only where the fence brings a new
// epoch, which must be remembered before anything is answered.
func (s *Store) look(ctx context.Context, f txn.Fence, read func(view) error) error {
	var raised bool
	err := s.view(ctx, func(v view) (err error) {
		if _, raised, err = v.judge(f, false); err != nil || raised {
			return wrap(err)
		}
		return wrap(read(v))
	})
	switch {
	case err != nil:
		return err
	case raised:
		return s.fenced(ctx, f, false, read, func() {})
	}
	return s.writer.settled(ctx)
}

// Hello announces a coordinator's epoch: older ones are refused from now on, durably, and their
// unprepared branches are dropped.
func (s *Store) Hello(ctx context.Context, f txn.Fence) error {
	return s.fenced(ctx, f, true, func(view) error { return nil }, func() {})
}

// checkBatch bounds a call.
func checkBatch(b []participant.Branch) error {
	if len(b) > participant.MaxBatch {
		return invalid("branches", "%d in one call, at most %d are allowed",
			len(b), participant.MaxBatch)
	}
	return nil
}

// Prepare implements participant.Resource. It makes the work of unprepared branches durable, and
// locks their keys.
func (s *Store) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if err := checkBatch(b); err != nil {
		return nil, err
	}
	// The change may outlive this call where ctx ends, so it works on its own slices.
	b = slices.Clone(b)
	votes := make([]participant.Vote, len(b))
	apply := func(v view) (err error) {
		for i := range b {
			if votes[i], err = s.prepare(v, f, b[i].Name); err != nil {
				return err
			}
		}
		return nil
	}
	after := func() {
		for i := range b {
			s.settle(b[i].Name, votes[i])
		}
	}
	if err := s.fenced(ctx, f, false, apply, after); err != nil {
		return nil, err
	}
	return votes, nil
}

// settle keeps of a branch in memory what the file does not hold.
func (s *Store) settle(n txn.Name, v participant.Vote) {
	switch v.Vote {
	case txn.VoteYes:
		s.branches.drop(n)
	case txn.VoteNo, txn.VoteReadOnly:
		s.branches.retire(n, v)
	}
}

// prepare is the vote of one branch:
//
//	prepared already, or committed since     the same yes, the same evidence
//	rolled back, or a rollback came first    no
//	ended before with a vote                 that vote
//	nothing known of it                      unknown: the work was lost, or never came
//	changed nothing                          read only, if what it read still holds; else no
//	keys locked or changed by others         no
//	otherwise                                yes
func (s *Store) prepare(v view, f txn.Fence, n txn.Name) (participant.Vote, error) {
	if n.Log != f.Log {
		return participant.Vote{Reason: "the branch belongs to another log"}, nil
	}
	name := n.String()
	if r, ok, err := v.prepared(name); err != nil || ok {
		return participant.Vote{Vote: txn.VoteYes, Evidence: r.evidence(s.identity)}, err
	}
	e, err := v.endOf(name)
	if err != nil {
		return participant.Vote{}, err
	}
	switch e.end {
	case endCommitted:
		return participant.Vote{
			Vote: txn.VoteYes, Evidence: record{xid: e.xid}.evidence(s.identity),
		}, nil
	case endConflict:
		return participant.Vote{
			Vote: txn.VoteNo, Reason: e.finding().Reason, SQLState: conflictState,
		}, nil
	case endRolledBack, endRefused:
		return participant.Vote{Vote: txn.VoteNo, Reason: "the branch was rolled back"}, nil
	}
	live, vote := s.branches.find(n)
	switch {
	case vote != nil:
		return *vote, nil
	case live == nil || live.stale(f.Epoch):
		return participant.Vote{Reason: "no work of this branch is known here"}, nil
	}
	return s.prepareLive(v, name, live)
}

func (s *Store) prepareLive(v view, name string, b *branch) (participant.Vote, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.vote != nil {
		return *b.vote, nil
	}
	why, err := b.conflict(v, name)
	switch {
	case err != nil:
		return participant.Vote{}, err
	case why != "":
		return b.end(participant.Vote{
			Vote: txn.VoteNo, Reason: why, SQLState: conflictState,
		}), nil
	case len(b.writes) == 0:
		return b.end(participant.Vote{Vote: txn.VoteReadOnly}), nil
	case v.count("prepared") >= s.cfg.MaxPrepared:
		return b.end(participant.Vote{Vote: txn.VoteNo, Reason: fmt.Sprintf(
			"%d branches are prepared, and no more are allowed", s.cfg.MaxPrepared)}), nil
	}
	if why := s.crowded(v, b); why != "" {
		return b.end(full(why)), nil
	}
	b.closed = true
	r := b.record()
	r.at = s.cfg.Now()
	if r.xid, err = v.tick(); err != nil {
		return participant.Vote{}, err
	}
	if err := v.lock(name, r); err != nil {
		return participant.Vote{}, err
	}
	if mutant.On(mutant.VoteBeforeDurable) {
		return participant.Vote{Vote: txn.VoteYes, Evidence: r.evidence(s.identity)}, nil
	}
	if err := v.add("prepared", name, encodeRecord(r)); err != nil {
		return participant.Vote{}, err
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: r.evidence(s.identity)}, nil
}

// conflict says why the branch cannot be prepared, or "".
func (b *branch) conflict(v view, name string) (string, error) {
	for key, seen := range b.reads {
		if other := v.blocker(key, name, lockShared); other != "" {
			return fmt.Sprintf("key %.64q is changed by the prepared branch %s", key, other), nil
		}
		now, _, err := v.read(key)
		if err != nil {
			return "", err
		}
		if now != seen {
			return fmt.Sprintf("key %.64q was changed by another transaction", key), nil
		}
	}
	for key := range b.writes {
		if other := v.blocker(key, name, lockExclusive); other != "" {
			return fmt.Sprintf("key %.64q is used by the prepared branch %s", key, other), nil
		}
	}
	return "", nil
}

// record is what prepare makes durable, in the order of the keys.
func (b *branch) record() record {
	var r record
	for key := range b.reads {
		r.reads = append(r.reads, key)
	}
	for _, w := range b.writes {
		r.writes = append(r.writes, w)
	}
	slices.Sort(r.reads)
	slices.SortFunc(r.writes, func(a, b write) int { return strings.Compare(a.key, b.key) })
	return r
}

// finish is Commit, Rollback, CommitOnePhase or Inquire of a batch.
func (s *Store) finish(
	ctx context.Context, f txn.Fence, b []participant.Branch,
	one func(view, participant.Branch) (participant.Finding, error),
) ([]participant.Finding, error) {
	if err := checkBatch(b); err != nil {
		return nil, err
	}
	b = slices.Clone(b)
	findings := make([]participant.Finding, len(b))
	apply := func(v view) (err error) {
		for i := range b {
			if findings[i], err = s.examine(v, f, b[i], one); err != nil {
				return err
			}
		}
		return nil
	}
	after := func() {
		for i := range b {
			s.settleFinished(b[i].Name, findings[i])
		}
	}
	if err := s.fenced(ctx, f, false, apply, after); err != nil {
		return nil, err
	}
	return findings, nil
}

// settleFinished drops what memory still holds of a branch that has ended.
func (s *Store) settleFinished(n txn.Name, found participant.Finding) {
	switch found.Standing {
	case txn.StandingCommitted, txn.StandingRolledBack, txn.StandingGone:
		s.branches.drop(n)
	}
}

// examine first makes sure that the branch is the caller's, and that this store is the one that
// voted.
func (s *Store) examine(
	v view, f txn.Fence, b participant.Branch,
	one func(view, participant.Branch) (participant.Finding, error),
) (participant.Finding, error) {
	if b.Name.Log != f.Log {
		return found(txn.StandingForeign, "the branch belongs to another log"), nil
	}
	e := b.Evidence
	switch {
	case e.IsZero():
	case e.Identity != s.identity:
		return found(txn.StandingHeld, "the branch was prepared at another store, "+
			e.Identity.String()), nil
	case e.LSN > v.position().LSN:
		return found(txn.StandingHeld,
			"the store went backwards: it was restored from a backup"), nil
	}
	r, ok, err := v.prepared(b.Name.String())
	if err != nil {
		return participant.Finding{}, err
	}
	if ok && e.XID != 0 && e.XID != r.xid {
		return found(txn.StandingHeld, fmt.Sprintf(
			"the branch is prepared with number %d, and voted with %d", r.xid, e.XID)), nil
	}
	return one(v, b)
}

func found(s txn.Standing, reason string) participant.Finding {
	return participant.Finding{Standing: s, Reason: reason}
}

// Commit implements participant.Resource.
func (s *Store) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return s.finish(ctx, f, b, s.commit)
}

func (s *Store) commit(v view, b participant.Branch) (participant.Finding, error) {
	name := b.Name.String()
	r, ok, err := v.prepared(name)
	if err != nil {
		return participant.Finding{}, err
	}
	if !ok {
		return v.finding(name)
	}
	at, err := v.tick()
	if err != nil {
		return participant.Finding{}, err
	}
	for _, w := range r.writes {
		if err := v.put(w, at); err != nil {
			return participant.Finding{}, err
		}
	}
	return found(txn.StandingCommitted, ""), s.conclude(v, name, r, endCommitted, at)
}

// conclude ends a prepared branch.
func (s *Store) conclude(v view, name string, r record, how end, at uint64) error {
	if err := v.unlock(name, r); err != nil {
		return err
	}
	if err := v.remove("prepared", name); err != nil {
		return err
	}
	return v.memorise(bound{bucket: "finished", most: s.cfg.MaxFinished}, name,
		ended{end: how, xid: r.xid, at: at, by: s.cfg.Now()})
}

// finding is where a branch stands that is not prepared, by memory alone.
func (v view) finding(name string) (participant.Finding, error) {
	e, err := v.endOf(name)
	return e.finding(), err
}

// Rollback implements participant.Resource. A branch that is not prepared yet is remembered as
// refused, so that a prepare that comes late votes no.
func (s *Store) Rollback(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return s.finish(ctx, f, b, s.rollback)
}

func (s *Store) rollback(v view, b participant.Branch) (participant.Finding, error) {
	name := b.Name.String()
	r, ok, err := v.prepared(name)
	if err != nil {
		return participant.Finding{}, err
	}
	if e, err := v.endOf(name); err != nil || !ok && e.end != endNone {
		if err != nil {
			return participant.Finding{}, err
		}
		return v.finding(name)
	}
	at, err := v.tick()
	if err != nil {
		return participant.Finding{}, err
	}
	if ok {
		return found(txn.StandingRolledBack, ""), s.conclude(v, name, r, endRolledBack, at)
	}
	return s.refuse(v, b.Name, at)
}

// refuse ends a branch that is not prepared. If it lived here, this is the proof that it had no
// effect.
func (s *Store) refuse(v view, n txn.Name, at uint64) (participant.Finding, error) {
	how := endRefused
	live, vote := s.branches.find(n)
	if live != nil {
		live.mu.Lock()
		live.end(participant.Vote{Vote: txn.VoteNo, Reason: "the branch was rolled back"})
		live.mu.Unlock()
	}
	if live != nil || vote != nil && vote.Vote == txn.VoteNo {
		how = endRolledBack
	}
	now := s.cfg.Now()
	m := bound{bucket: "refused", most: s.cfg.MaxRefused, oldest: now.Add(-s.cfg.RefusedAge)}
	if err := v.memorise(m, n.String(), ended{end: how, at: at, by: now}); err != nil {
		return participant.Finding{}, err
	}
	return v.finding(n.String())
}

// Inquire implements participant.Resource. It goes through the writer although it rarely changes
// anything: a reader could find neither the work of a branch that has just been finished, since
// that is dropped from memory, nor its end, which came after the reader's moment.
func (s *Store) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return s.finish(ctx, f, b, func(
		v view, b participant.Branch,
	) (participant.Finding, error) {
		return s.inquire(v, f, b)
	})
}

func (s *Store) inquire(
	v view, f txn.Fence, b participant.Branch,
) (participant.Finding, error) {
	r, ok, err := v.prepared(b.Name.String())
	if err != nil || ok {
		return participant.Finding{Standing: txn.StandingPrepared,
			Evidence: r.evidence(s.identity)}, err
	}
	finding, err := s.unprepared(v, f, b, endRolledBack,
		func(*branch) (participant.Finding, error) {
			return found(txn.StandingUnknown, "the branch is not prepared yet"), nil
		})
	if err != nil {
		return finding, err
	}
	e, err := v.endOf(b.Name.String())
	finding.Evidence = txn.Evidence{Identity: s.identity, Position: v.position(), XID: e.xid}
	return finding, err
}

// List implements participant.Resource.
func (s *Store) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	var listing participant.Listing
	err := s.look(ctx, f, func(v view) (err error) {
		listing, err = s.list(v)
		return err
	})
	if err != nil {
		return participant.Listing{}, err
	}
	return listing, nil
}

func (s *Store) list(v view) (participant.Listing, error) {
	used := v.count("prepared")
	listing := participant.Listing{
		Identity: s.identity, Position: v.position(), Used: used, Limit: s.cfg.MaxPrepared,
		Truncated: used > participant.MaxListed,
	}
	now := s.cfg.Now()
	c := v.bucket("prepared").Cursor()
	for k, b := c.First(); k != nil; k, b = c.Next() {
		if len(listing.Branches) == participant.MaxListed {
			break
		}
		name, err := txn.ParseName(string(k))
		if err != nil {
			return participant.Listing{}, fmt.Errorf("prepared branch %.64q: %w", k, err)
		}
		r, err := decodeRecord(b)
		if err != nil {
			return participant.Listing{}, fmt.Errorf("prepared branch %s: %w", name, err)
		}
		listing.Branches = append(listing.Branches, participant.Listed{
			Name: name, Ours: true, Age: now.Sub(r.at), Evidence: r.evidence(s.identity),
		})
	}
	return listing, nil
}

// Forget drops what is remembered of finished branches. One that is prepared is not touched.
func (s *Store) Forget(ctx context.Context, f txn.Fence, b []participant.Branch) error {
	if err := checkBatch(b); err != nil {
		return err
	}
	b = slices.Clone(b)
	return s.fenced(ctx, f, false, func(v view) error {
		for i := range b {
			if b[i].Name.Log != f.Log {
				continue
			}
			if err := v.forgetFinished(b[i].Name); err != nil {
				return err
			}
			if err := v.forget("refused", b[i].Name.String()); err != nil {
				return err
			}
		}
		return nil
	}, func() {})
}
