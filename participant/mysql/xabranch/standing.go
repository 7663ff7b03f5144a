package xabranch

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// Inquiry asks how a branch ended that is not listed as prepared any more.
type Inquiry struct {
	Name     txn.Name
	Evidence txn.Evidence
}

// Answer is what an Inquiry proves. Reason says why, for an operator.
type Answer struct {
	Standing txn.Standing
	Reason   string
	// Number of the branch, if it is known to have been prepared.
	Number uint64
}

// Standing tells how branches ended that the caller, on the same connection and before this call,
// has not found in XA RECOVER. The table, in this order:
//
//	(no evidence)  nobody says which server is meant                          Gone
//	(stranger)     another server or database than at the vote                Held
//	(past)         a lower position than at the vote: a restored backup       Held
//	(committed)    its row is there and committed                             Committed
//	(another)      a row of its name, with another number                     Gone
//	(hidden)       its row is there and not committed                         Unknown
//	(no number)    no row, and the evidence names none                        Gone
//	(forgotten)    no row, and rows as old as its own were removed            Gone
//	(rolled back)  no row, and it had one when it was prepared                RolledBack
//
// Nobody but [Prune] may remove rows of branches that ended: without its row a branch looks rolled
// back.
func Standing(
	ctx context.Context, conn *sql.Conn, place Place, inquiries []Inquiry,
) ([]Answer, error) {
	names := make([]txn.Name, len(inquiries))
	for i, q := range inquiries {
		names[i] = q.Name
	}
	// First all rows, then the committed ones: a branch that commits in between is in both.
	early, err := Rows(ctx, conn, names, true)
	if err != nil {
		return nil, fmt.Errorf("xabranch: look for rows: %w", err)
	}
	committed, err := Rows(ctx, conn, names, false)
	if err != nil {
		return nil, fmt.Errorf("xabranch: look for rows: %w", err)
	}
	answers := make([]Answer, len(inquiries))
	rowless := false
	for i, q := range inquiries {
		_, hidden := early[q.Name]
		row, ended := committed[q.Name]
		answers[i] = judge(place, q.Evidence, hidden, ended, row.Number)
		rowless = rowless || answers[i].Standing == txn.StandingRolledBack
	}
	if !rowless {
		return answers, nil
	}
	// Read after the rows, and Prune writes it with the removal: who has not seen a row because it
	// was removed sees that.
	low, err := horizons(ctx, conn, place)
	if err != nil {
		return nil, fmt.Errorf("xabranch: look how far rows were removed: %w", err)
	}
	for i, q := range inquiries {
		if answers[i].Standing == txn.StandingRolledBack && q.Name.Seq < low[q.Name.Log] {
			answers[i] = Answer{Standing: txn.StandingGone, Number: q.Evidence.XID,
				Reason: "it is not prepared, and rows as old as its own were removed"}
		}
	}
	return answers, nil
}

func judge(place Place, ev txn.Evidence, hidden, committed bool, number uint64) Answer {
	if ev.IsZero() {
		return Answer{Standing: txn.StandingGone,
			Reason: "it is not prepared, and there is no evidence of how it ended"}
	}
	if reason := place.NotThatOf(ev); reason != "" {
		return Answer{Standing: txn.StandingHeld, Reason: reason}
	}
	switch {
	case committed && (ev.XID == 0 || ev.XID == number):
		return Answer{Standing: txn.StandingCommitted, Number: number}
	case committed:
		return Answer{Standing: txn.StandingGone, Number: ev.XID, Reason: fmt.Sprintf(
			"the branch of this name has number %d, and that of the vote had %d", number, ev.XID)}
	case hidden:
		return Answer{Number: ev.XID, Reason: "it is being run, or the server has lost sight of " +
			"it until it is restarted"}
	case ev.XID == 0:
		return Answer{Standing: txn.StandingGone, Reason: "it is not prepared, and has no row"}
	}
	return Answer{Standing: txn.StandingRolledBack, Number: ev.XID}
}
