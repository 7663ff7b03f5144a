package pgbranch

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// Fork says where a timeline of a server's past was left for the next one.
type Fork struct {
	Timeline uint32
	// End is the position at which the history left it. What it has above End is not part of the
	// history.
	End uint64
}

// HistoryFunc tells the past of a timeline, as TIMELINE_HISTORY of a replication connection does;
// see [ParseHistory].
type HistoryFunc func(ctx context.Context, timeline uint32) ([]Fork, error)

// ParseHistory reads the text of a timeline's history file.
func ParseHistory(text []byte) ([]Fork, error) {
	var forks []Fork
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		timeline, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil || len(fields) < 2 {
			return nil, fmt.Errorf("%w: timeline history %q", ErrProtocol, lines.Text())
		}
		end, err := ParseLSN(fields[1])
		if err != nil {
			return nil, err
		}
		forks = append(forks, Fork{Timeline: uint32(timeline), End: end})
	}
	return forks, lines.Err()
}

// Inquiry asks how a branch ended that is not listed as prepared any more.
type Inquiry struct {
	// Evidence of the branch's acknowledged Yes vote. Evidence of anything else proves nothing.
	Evidence txn.Evidence
	// Seen is the highest position that this resource has ever shown.
	Seen txn.Position
	// History, if not nil, is asked when the resource has moved to another timeline since the vote.
	History HistoryFunc
}

// Answer is what an Inquiry proves. Reason says why, for an operator.
type Answer struct {
	Standing txn.Standing
	Reason   string
	Place    Place
}

// Standing tells how a branch ended that the caller, on the same connection and before this call,
// has not found in pg_prepared_xacts. The table, in this order:
//
//	(standby)    the server is in recovery                                    Unknown
//	(stranger)   another system identifier or database than at the vote       Held
//	(past)       a lower timeline, or a lower position on the same one, than
//	             at the vote or than ever seen: an old primary or a backup    Held
//	(no number)  the evidence names no transaction                            Gone
//	(forked)     a higher timeline, not known to contain the vote             Gone
//	(committed)  pg_xact_status: committed                                    Committed
//	(aborted)    pg_xact_status: aborted                                      RolledBack
//	(running)    pg_xact_status: in progress. Somebody is finishing it        Unknown
//	(expired)    pg_xact_status: NULL or 22023. Too old, or never given out   Gone
//
// The order is the proof: a transaction's number says nothing before the server is known to be the
// one that gave it out, on a history that contains the vote. After a failover the number of a
// branch that was lost is given to some other transaction, which commits.
func Standing(ctx context.Context, conn *pgconn.PgConn, q Inquiry) (Answer, error) {
	replies, err := exchange(ctx, conn, lookSQL, statusSQL(q.Evidence.XID))
	if err != nil {
		return Answer{}, err
	}
	place, err := readPlace(replies[0])
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Place: place}
	a.Standing, a.Reason = judgePlace(place, q)
	if a.Standing == txn.StandingPrepared { // nothing stands in the way of the transaction's number
		a.Standing, a.Reason, err = judgeNumber(ctx, replies[1], place, q)
	}
	return a, err
}

func statusSQL(xid uint64) string {
	return fmt.Sprintf("SELECT pg_catalog.pg_xact_status('%d'::xid8)", xid)
}

// judgePlace decides the labels from (standby) to (no number); Prepared stands for "none of them".
func judgePlace(p Place, q Inquiry) (txn.Standing, string) {
	if p.Standby {
		return txn.StandingUnknown, "the server is a standby"
	}
	reason := p.NotThatOf(q.Evidence)
	switch {
	case reason != "":
		return txn.StandingHeld, reason
	case Behind(p.Position, q.Seen):
		return txn.StandingHeld, behindReason(p.Position, q.Seen)
	case q.Evidence.XID == 0:
		return txn.StandingGone, "there is no transaction number to ask for"
	}
	return txn.StandingPrepared, ""
}

// NotThatOf says why a primary cannot be asked about a branch of this evidence: it is (stranger) or
// (past). It is empty if it can.
func (p Place) NotThatOf(ev txn.Evidence) string {
	switch {
	case p.Identity != ev.Identity:
		return fmt.Sprintf("this is database %s, and the branch is of %s", p.Identity, ev.Identity)
	case Behind(p.Position, ev.Position):
		return behindReason(p.Position, ev.Position)
	}
	return ""
}

// Behind says whether now lies in the past of seen: a lower timeline, or a lower position on the
// same one. A primary never goes there by itself; a restored backup and an old primary do.
func Behind(now, seen txn.Position) bool {
	return now.Before(seen)
}

func behindReason(now, seen txn.Position) string {
	return fmt.Sprintf(
		"the history went backwards, from timeline %d at %X to timeline %d at %X: "+
			"an old primary, or a restored backup",
		seen.Timeline,
		seen.LSN,
		now.Timeline,
		now.LSN,
	)
}

func judgeNumber(
	ctx context.Context, r reply, p Place, q Inquiry,
) (txn.Standing, string, error) {
	if p.Position.Timeline > q.Evidence.Timeline {
		contained, reason, err := contains(ctx, p.Position.Timeline, q)
		if err != nil || !contained {
			return txn.StandingGone, reason, err // (forked)
		}
	}
	if r.err != nil && r.err.Code != codeInvalidParameter {
		return txn.StandingUnknown, "", r.error()
	}
	status := ""
	if r.err == nil {
		row, err := r.cells(1)
		if err != nil {
			return txn.StandingUnknown, "", err
		}
		status = row[0]
	}
	switch status {
	case "committed":
		return txn.StandingCommitted, "", nil
	case "aborted":
		return txn.StandingRolledBack, "", nil
	case "in progress":
		return txn.StandingUnknown, "somebody is just finishing the branch", nil
	}
	return txn.StandingGone, fmt.Sprintf(
		"PostgreSQL no longer knows, or never knew, transaction %d",
		q.Evidence.XID,
	), nil // (expired)
}

// contains says whether the history of the server's timeline has the vote in it: the vote's
// timeline is an ancestor, and was left at or after the vote's position.
func contains(ctx context.Context, now uint32, q Inquiry) (bool, string, error) {
	moved := fmt.Sprintf(
		"the server moved from timeline %d to %d after the vote",
		q.Evidence.Timeline,
		now,
	)
	if q.History == nil {
		return false, moved + ", and its history cannot be read", nil
	}
	forks, err := q.History(ctx, now)
	if err != nil {
		if Classify(err) == ClassFinal {
			return false, moved + ", and its history may not be read", nil
		}
		return false, "", err
	}
	for _, f := range forks {
		if f.Timeline != q.Evidence.Timeline {
			continue
		}
		if f.End >= q.Evidence.LSN {
			return true, "", nil
		}
		return false, moved + " from a point before it: the branch was lost", nil
	}
	return false, moved + ", which does not descend from the first: the branch was lost", nil
}
