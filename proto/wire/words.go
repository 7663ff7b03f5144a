package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// pair ties one word of gavel to its number on the wire.
type pair[W, P comparable] struct {
	word W
	wire P
}

// table is a list of pairs. The tables are short, and a scan of them costs less than a map.
type table[W, P comparable] []pair[W, P]

func (t table[W, P]) toWire(w W, unknown P) P {
	for _, p := range t {
		if p.word == w {
			return p.wire
		}
	}
	return unknown
}

func (t table[W, P]) fromWire(p P, unknown W) W {
	for _, e := range t {
		if e.wire == p {
			return e.word
		}
	}
	return unknown
}

func votes() table[txn.Vote, gavelv1.Vote] {
	return table[txn.Vote, gavelv1.Vote]{
		{txn.VoteUnknown, gavelv1.Vote_VOTE_UNKNOWN},
		{txn.VoteYes, gavelv1.Vote_VOTE_YES},
		{txn.VoteNo, gavelv1.Vote_VOTE_NO},
		{txn.VoteReadOnly, gavelv1.Vote_VOTE_READ_ONLY},
		{txn.VoteCommitted, gavelv1.Vote_VOTE_COMMITTED},
	}
}

// EncodeVote writes a vote.
func EncodeVote(v txn.Vote) gavelv1.Vote {
	return votes().toWire(v, gavelv1.Vote_VOTE_UNKNOWN)
}

// DecodeVote reads a vote; what it does not know is VoteUnknown.
func DecodeVote(v gavelv1.Vote) txn.Vote { return votes().fromWire(v, txn.VoteUnknown) }

// EncodeIdentity writes an identity. The zero one is nil.
func EncodeIdentity(i txn.Identity) *gavelv1.Identity {
	if i.IsZero() {
		return nil
	}
	return &gavelv1.Identity{System: i.System, Database: i.Database}
}

// DecodeIdentity reads an identity.
func DecodeIdentity(i *gavelv1.Identity) txn.Identity {
	return txn.Identity{System: i.GetSystem(), Database: i.GetDatabase()}
}

// EncodePosition writes a position. The zero one is nil.
func EncodePosition(p txn.Position) *gavelv1.Position {
	if p == (txn.Position{}) {
		return nil
	}
	return &gavelv1.Position{Timeline: p.Timeline, Lsn: p.LSN}
}

// DecodePosition reads a position.
func DecodePosition(p *gavelv1.Position) txn.Position {
	return txn.Position{Timeline: p.GetTimeline(), LSN: p.GetLsn()}
}

// EncodeEvidence writes evidence. The zero Evidence, "none", is nil.
func EncodeEvidence(e txn.Evidence) *gavelv1.Evidence {
	if e.IsZero() {
		return nil
	}
	return &gavelv1.Evidence{
		Identity: EncodeIdentity(e.Identity),
		Position: EncodePosition(e.Position),
		Xid:      e.XID,
	}
}

// DecodeEvidence reads evidence.
func DecodeEvidence(e *gavelv1.Evidence) txn.Evidence {
	return txn.Evidence{
		Identity: DecodeIdentity(e.GetIdentity()),
		Position: DecodePosition(e.GetPosition()),
		XID:      e.GetXid(),
	}
}

// duration leaves zero out, so that "not given" and "the default" are one thing on the wire too.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// Cut shortens s to at most limit bytes without splitting a character.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && s[limit]&0xc0 == 0x80 {
		limit--
	}
	return s[:limit]
}
