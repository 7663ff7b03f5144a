package txn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrVotes is wrapped by the error about bytes that are no votes.
var ErrVotes = errors.New("txn: not votes")

// MaxVotesLen bounds the bytes of [AppendVotes]. As text in base 64 they stay below the 8 KiB that
// many peers allow the headers or trailers of a call.
const MaxVotesLen = 6 << 10

const (
	// votesVersion is the first byte of all votes.
	votesVersion = 1
	// maxReasons bounds the reasons of all votes together, in bytes. Those that come too late are
	// left out.
	maxReasons = 4 * MaxReasonLen
	// maxStateLen is the length of an SQLSTATE.
	maxStateLen = 5
)

// AppendVotes appends votes of a transaction to b, in the form in which one process hands them to
// another that commits: with evidence, reasons and codes. No votes at all are also something to
// say. It panics over more than [MaxBranches].
func AppendVotes(b []byte, id ID, votes []BranchVote) []byte {
	if len(votes) > MaxBranches {
		panic(fmt.Sprintf("txn: %d votes of one transaction", len(votes)))
	}
	b = append(append(b, votesVersion), id[:]...)
	b = binary.AppendUvarint(b, uint64(len(votes)))
	room := maxReasons
	for _, v := range votes {
		e := v.Evidence
		for _, n := range []uint64{uint64(v.Branch), uint64(v.Vote), e.System,
			uint64(e.Database), uint64(e.Timeline), e.LSN, e.XID} {
			b = binary.AppendUvarint(b, n)
		}
		reason := cut(v.Reason, min(room, MaxReasonLen))
		room -= len(reason)
		b = appendText(b, reason)
		b = appendText(b, cut(v.SQLState, maxStateLen))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// cut is the beginning of s, in whole characters.
func cut(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "")
}

// ParseVotes is the inverse of [AppendVotes]. The votes share nothing with b. An error wraps
// [ErrVotes], and means that nothing is known of any branch; as with votes of another transaction,
// such as a cache may hand out. No branch votes twice.
func ParseVotes(b []byte, id ID) ([]BranchVote, error) {
	if len(b) > MaxVotesLen {
		return nil, fmt.Errorf("%w: %d bytes, and %d are the limit", ErrVotes, len(b), MaxVotesLen)
	}
	r := reader{rest: b, is: ErrVotes}
	if version := r.next(1<<8 - 1); r.err == nil && version != votesVersion {
		return nil, fmt.Errorf("%w: version %d", ErrVotes, version)
	}
	if r.err == nil && !bytes.HasPrefix(r.rest, id[:]) {
		return nil, fmt.Errorf("%w: they are not of transaction %s", ErrVotes, id)
	}
	r.rest = r.rest[min(len(id), len(r.rest)):]
	n := r.next(MaxBranches)
	votes := make([]BranchVote, 0, n)
	var seen [MaxBranches + 1]bool
	for range n {
		v := BranchVote{Branch: BranchNo(r.next(MaxBranches)), Vote: Vote(r.next(1<<8 - 1))}
		v.Evidence.System = r.next(1<<64 - 1)
		v.Evidence.Database = uint32(r.next(1<<32 - 1))
		v.Evidence.Timeline = uint32(r.next(1<<32 - 1))
		v.Evidence.LSN = r.next(1<<64 - 1)
		v.Evidence.XID = r.next(1<<64 - 1)
		v.Reason, v.SQLState = r.text(MaxReasonLen), r.text(maxStateLen)
		if r.err != nil {
			return nil, r.err
		}
		if v.Branch == 0 || v.Vote > VoteReadOnly || seen[v.Branch] {
			return nil, fmt.Errorf("%w: a vote of %s by branch %d", ErrVotes, v.Vote, v.Branch)
		}
		seen[v.Branch] = true
		votes = append(votes, v)
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case len(r.rest) > 0:
		return nil, fmt.Errorf("%w: %d bytes behind them", ErrVotes, len(r.rest))
	}
	return votes, nil
}

// text reads a text. What is no character in it is left out.
func (r *reader) text(limit uint64) string {
	n := r.next(limit)
	if r.err == nil && n > uint64(len(r.rest)) {
		r.err = fmt.Errorf("%w: %d bytes are not %d of text", r.is, len(r.rest), n)
	}
	if r.err != nil {
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return strings.ToValidUTF8(s, "")
}
