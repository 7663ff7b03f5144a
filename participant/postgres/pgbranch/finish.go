package pgbranch

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// FinishResult is what became of one COMMIT PREPARED or ROLLBACK PREPARED.
type FinishResult uint8

const (
	// FinishUnknown: the connection was lost, or the server took back its promise of replication.
	// Ask again.
	FinishUnknown FinishResult = iota
	// FinishDone: done now, durably, by this statement.
	FinishDone
	// FinishMissing: no such prepared transaction (42704). That is no success: see [Standing].
	FinishMissing
	// FinishBusy: another session is working on it (55000). Ask again.
	FinishBusy
	// FinishForeign: it is there, but belongs to another owner (42501) or database (0A000).
	FinishForeign
	// FinishRefused: some other error; nothing was done.
	FinishRefused
)

// String is the word for the result in messages.
func (r FinishResult) String() string {
	return [...]string{"unknown", "done", "missing", "busy", "foreign", "refused"}[r]
}

// Finished is the answer for one branch.
type Finished struct {
	Result FinishResult
	// Err is what the server or the connection said where Result is not FinishDone.
	Err error
}

// Finish commits or rolls back prepared transactions, in one round trip, each by itself: PostgreSQL
// allows no two in one transaction, and one's failure does not touch the others. If role is not
// empty, it is taken for the time of the call, by SET ROLE. The connection must be idle, outside of
// a transaction, and used for nothing that changes its settings: it keeps, for its life, those that
// make warnings visible and commits wait for a standby.
//
// The answer has one element per name. The end of ctx closes the connection, sends no cancel
// request, and leaves what was not answered FinishUnknown.
func Finish(
	ctx context.Context, conn *pgconn.PgConn, role string, commit bool, names []txn.Name,
) []Finished {
	settled, _ := conn.CustomData()[settledKey].(bool)
	before := beforeFinish(role, settled)
	replies, err := exchange(ctx, conn, finishSQL(before, role, commit, names)...)
	if !settled && len(replies) > 0 && replies[0].err == nil {
		settled = true
		conn.CustomData()[settledKey] = true
	}
	done := make([]Finished, len(names))
	for i := range done {
		if at := i + len(before); at < len(replies) {
			done[i] = finished(replies[at], commit, settled)
			if done[i].Result == FinishForeign && role != "" {
				// That the role could not be taken explains the refusal better than the refusal
				// does.
				done[i].Err = errors.Join(replies[len(before)-1].error(), done[i].Err)
			}
		}
		if done[i].Result == FinishUnknown && done[i].Err == nil {
			done[i].Err = err
		}
	}
	return done
}

// settledKey is where a connection remembers that it has the settings.
const settledKey = "github.com/gavel-tx/gavel/participant/postgres/pgbranch.settled"

// beforeFinish comes before the branches: the settings, once for each connection, and then the
// role, if there is one to take.
func beforeFinish(role string, settled bool) (queries []string) {
	if !settled {
		queries = append(queries, keepSettings(false))
	}
	if role != "" {
		queries = append(queries, "SET ROLE "+QuoteIdentifier(role))
	}
	return queries
}

func finishSQL(before []string, role string, commit bool, names []txn.Name) []string {
	verb := "ROLLBACK PREPARED "
	if commit {
		verb = "COMMIT PREPARED "
	}
	queries := append(make([]string, 0, len(before)+len(names)+1), before...)
	for _, name := range names {
		queries = append(queries, verb+nameLiteral(name))
	}
	if role != "" {
		queries = append(queries, "RESET ROLE")
	}
	return queries
}

// finished reads one reply. Only the expected tag without a warning is done; without the settings a
// warning could not be seen, so that then nothing is.
func finished(r reply, commit, settled bool) Finished {
	want := "ROLLBACK PREPARED"
	if commit {
		want = "COMMIT PREPARED"
	}
	if r.err != nil {
		return Finished{Result: finishResult(r.err), Err: r.err}
	}
	if len(r.results) != 1 || r.results[0].tag != want || !settled {
		return Finished{}
	}
	if w := r.results[0].warning; w != "" {
		return Finished{Err: fmt.Errorf("%w: %s", ErrNotReplicated, w)}
	}
	return Finished{Result: FinishDone}
}

func finishResult(e *pgconn.PgError) FinishResult {
	if fatal(e) {
		return FinishUnknown
	}
	switch e.Code {
	case codeUndefinedObject:
		return FinishMissing
	case codeNotInState:
		return FinishBusy
	case codeNoPrivilege, codeNotSupported:
		return FinishForeign
	default:
		return FinishRefused
	}
}
