package txn

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrDecision is wrapped by the error about a marker that holds no decision.
var ErrDecision = errors.New("txn: not a decision")

// decisionVersion is the first byte of every decision.
const decisionVersion = 1

// AppendDecision appends what a marker holds to b: the votes of all branches but the one that it
// commits with, with their evidence. Only Yes and ReadOnly are of a decision to commit; it panics
// otherwise. At most some 50 bytes are needed for each vote.
func AppendDecision(b []byte, votes []BranchVote) []byte {
	b = append(b, decisionVersion)
	b = binary.AppendUvarint(b, uint64(len(votes)))
	for _, v := range votes {
		if v.Vote != VoteYes && v.Vote != VoteReadOnly {
			panic(fmt.Sprintf("txn: a decision to commit over a vote of %s", v.Vote))
		}
		e := v.Evidence
		for _, n := range []uint64{uint64(v.Branch), uint64(v.Vote), e.System,
			uint64(e.Database), uint64(e.Timeline), e.LSN, e.XID} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

// ParseDecision is the inverse of [AppendDecision]. The votes share nothing with b. An error wraps
// [ErrDecision], and means that nothing is known about the transaction.
func ParseDecision(b []byte) ([]BranchVote, error) {
	r := reader{rest: b, is: ErrDecision}
	if version := r.next(1<<8 - 1); r.err == nil && version != decisionVersion {
		return nil, fmt.Errorf("%w: version %d", ErrDecision, version)
	}
	n := r.next(MaxBranches)
	votes := make([]BranchVote, 0, n)
	for range n {
		v := BranchVote{Branch: BranchNo(r.next(MaxBranches)), Vote: Vote(r.next(1<<8 - 1))}
		v.Evidence.System = r.next(1<<64 - 1)
		v.Evidence.Database = uint32(r.next(1<<32 - 1))
		v.Evidence.Timeline = uint32(r.next(1<<32 - 1))
		v.Evidence.LSN = r.next(1<<64 - 1)
		v.Evidence.XID = r.next(1<<64 - 1)
		if r.err == nil && (v.Branch == 0 || v.Vote != VoteYes && v.Vote != VoteReadOnly) {
			return nil, fmt.Errorf("%w: a vote of %s by branch %d", ErrDecision, v.Vote, v.Branch)
		}
		votes = append(votes, v)
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case len(r.rest) > 0:
		return nil, fmt.Errorf("%w: %d bytes behind it", ErrDecision, len(r.rest))
	}
	return votes, nil
}

// reader reads numbers until the first one that cannot be.
type reader struct {
	rest []byte
	err  error
	// is the error that err wraps.
	is error
}

func (r *reader) next(limit uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	switch {
	case r.err != nil:
		return 0
	case size <= 0 || n > limit:
		r.err = fmt.Errorf("%w: %d bytes before its end are no number up to %d", r.is,
			len(r.rest), limit)
		return 0
	}
	r.rest = r.rest[size:]
	return n
}
