package kv

import (
	"context"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// CommitOnePhase implements participant.OnePhaser. What a branch read is checked, what it wrote is
// put in place and its end is remembered in one bbolt transaction, which also judges the fence: a
// crash leaves all of it or nothing, and a deposed coordinator's call commits nothing however late
// it comes.
func (s *Store) CommitOnePhase(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return s.finish(ctx, f, b, func(
		v view, b participant.Branch,
	) (participant.Finding, error) {
		return s.commitOnePhase(v, f, b)
	})
}

// commitOnePhase is the end of one branch. One that is prepared is committed as by Commit.
func (s *Store) commitOnePhase(
	v view, f txn.Fence, b participant.Branch,
) (participant.Finding, error) {
	_, ok, err := v.prepared(b.Name.String())
	if err != nil {
		return participant.Finding{}, err
	}
	if ok {
		return s.commit(v, b)
	}
	return s.unprepared(v, f, b, endCommitted, func(live *branch) (participant.Finding, error) {
		return s.commitLive(v, b.Name.String(), live)
	})
}

// unprepared is the answer about a branch that is not prepared:
//
//	its end is remembered              that end
//	its work is here, of this epoch    what live says
//	it has voted, and is over          as it voted; one that only read has ended as quiet says
//	anything else                      see ruleOut
//
// What the file says comes first: memory may still hold a branch whose end is in this very
// transaction.
func (s *Store) unprepared(
	v view, f txn.Fence, b participant.Branch, quiet end,
	live func(*branch) (participant.Finding, error),
) (participant.Finding, error) {
	name := b.Name.String()
	e, err := v.endOf(name)
	if err != nil || e.end != endNone && e.end != endRefused {
		return e.finding(), err
	}
	here, vote := s.branches.find(b.Name)
	switch {
	case e.end == endRefused:
	case vote != nil:
		return s.endAsVoted(v, name, *vote, quiet)
	case here != nil && !here.stale(f.Epoch):
		return live(here)
	}
	return s.ruleOut(v, b, here)
}

// commitLive commits work that nobody has prepared. From here on the branch takes no more of it,
// also where this transaction is taken back because of another's failure and made again.
func (s *Store) commitLive(v view, name string, b *branch) (participant.Finding, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.vote != nil {
		return s.endAsVoted(v, name, *b.vote, endCommitted)
	}
	why, err := b.conflict(v, name)
	if err != nil {
		return participant.Finding{}, err
	}
	if why != "" {
		return s.endAsVoted(v, name, b.end(participant.Vote{
			Vote: txn.VoteNo, Reason: why, SQLState: conflictState,
		}), endCommitted)
	}
	if why := s.crowded(v, b); why != "" {
		return s.endAsVoted(v, name, b.end(full(why)), endCommitted)
	}
	b.closed = true
	at, err := v.tick()
	if err != nil {
		return participant.Finding{}, err
	}
	for _, w := range b.writes {
		if err := v.put(w, at); err != nil {
			return participant.Finding{}, err
		}
	}
	return s.conclusion(v, name, ended{end: endCommitted, xid: at, at: at})
}

// endAsVoted ends a branch that had given its last vote and is asked about all the same. Its vote
// is in memory alone, and this answer must outlive it. One that only read has done all it had to,
// and ends as quiet says: committed for who asks for that, and without effect for who inquires.
//
// It was never prepared, so that its end has no number, unless it is a commit. By a number whoever
// has written down an intent would take it for one that was prepared, and then lost.
func (s *Store) endAsVoted(
	v view, name string, vote participant.Vote, quiet end,
) (participant.Finding, error) {
	at, err := v.tick()
	if err != nil {
		return participant.Finding{}, err
	}
	e := ended{end: endRolledBack, at: at}
	switch {
	case vote.Vote == txn.VoteReadOnly:
		e.end = quiet
	case vote.SQLState == conflictState:
		e.end = endConflict
	}
	if e.end == endCommitted {
		e.xid = at
	}
	finding, err := s.conclusion(v, name, e)
	finding.Reason = vote.Reason
	return finding, err
}

// ruleOut ends a branch whose work is not here, if it is certain that it has not committed. Every
// commit is remembered durably and nothing was dropped that this name could have been among, so
// that its absence is a proof. The answer is remembered like any other end: it is also a promise
// that no call, however late, brings the branch to life and commits it. Work of an epoch that is
// over may still be in memory, and shows by being there that it has not committed.
//
// Of a branch with the number of a vote it proves nothing: that one was prepared, and is not
// remembered as it should be.
func (s *Store) ruleOut(
	v view, b participant.Branch, stale *branch,
) (participant.Finding, error) {
	if b.Evidence.XID != 0 {
		return ended{}.finding(), nil
	}
	if stale == nil {
		h, err := v.horizonOf(b.Name.Log)
		if err != nil || !h.remembers(b.Name.Seq) {
			return ended{}.finding(), err
		}
	}
	at, err := v.tick()
	if err != nil {
		return participant.Finding{}, err
	}
	if stale != nil {
		stale.mu.Lock()
		stale.end(participant.Vote{Vote: txn.VoteNo, Reason: "its coordinator's epoch is over"})
		stale.mu.Unlock()
	}
	finding, err := s.conclusion(v, b.Name.String(), ended{end: endRolledBack, at: at})
	finding.Reason = "its work is not here, and it was never committed"
	return finding, err
}

// conclusion remembers the end of a branch that was not prepared.
func (s *Store) conclusion(v view, name string, e ended) (participant.Finding, error) {
	e.by = s.cfg.Now()
	err := v.memorise(bound{bucket: "finished", most: s.cfg.MaxFinished}, name, e)
	return e.finding(), err
}

// finding is the answer about a branch that is not prepared, by its remembered end alone.
func (e ended) finding() participant.Finding {
	switch e.end {
	case endCommitted:
		return found(txn.StandingCommitted, "")
	case endRolledBack:
		return found(txn.StandingRolledBack, "")
	case endConflict:
		return participant.Finding{
			Standing: txn.StandingRolledBack, SQLState: conflictState,
			Reason: "another transaction changed or holds what it used",
		}
	default:
		return found(txn.StandingGone, "the branch is not prepared, and how it ended is not known")
	}
}
