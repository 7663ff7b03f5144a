package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// Prepare votes for branches that their applications have prepared by themselves, by what is
// listed:
//
//	(yes)      listed, of an owner that we can become, and a synchronous write of ours came back
//	           without a warning after the listing
//	(foreign)  listed, but nobody here could finish it: Unknown
//	(waiting)  listed, but not vouched for by the synchronous standby: Unknown
//	(absent)   not listed: Unknown. It may be prepared the next moment; only the session that runs
//	           the branch can say No
//
// A branch is listed while its PREPARE still waits for a standby, which is what the write is for.
func (r *Resource) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return []participant.Vote{}, nil
	}
	votes := make([]participant.Vote, len(b))
	err := r.reading(ctx, func(s *session) error { return r.vote(ctx, s, f, b, votes) })
	if held, ok := errors.AsType[*HeldError](err); ok {
		for i := range votes {
			votes[i] = participant.Vote{Reason: held.Error()}
		}
		return votes, nil
	}
	if err != nil {
		return nil, err
	}
	return votes, nil
}

func (r *Resource) vote(
	ctx context.Context,
	s *session,
	f txn.Fence,
	b []participant.Branch,
	votes []participant.Vote,
) error {
	found, err := r.find(ctx, s, namesOf(b))
	if err != nil {
		return err
	}
	barrier := pgbranch.Barrier(ctx, s.PgConn)
	if barrier != nil && !errors.Is(barrier, pgbranch.ErrNotReplicated) {
		return fmt.Errorf("postgres: vouch for what %s lists: %w", r.config.Name, barrier)
	}
	for i := range b {
		votes[i] = listedVote(f, b[i].Name, found, barrier)
	}
	return nil
}

func listedVote(
	f txn.Fence, name txn.Name, found map[txn.Name]participant.Listed, barrier error,
) participant.Vote {
	listed, there := found[name]
	switch {
	case name.Log != f.Log:
		return participant.Vote{Reason: "the branch belongs to another log"} // (foreign)
	case !there:
		return participant.Vote{Reason: "it is not listed as prepared"} // (absent)
	case !listed.Ours:
		return participant.Vote{Reason: foreign(listed.Owner).Reason} // (foreign)
	case barrier != nil:
		return participant.Vote{Reason: barrier.Error()} // (waiting)
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: listed.Evidence} // (yes)
}
