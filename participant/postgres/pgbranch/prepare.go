package pgbranch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// PrepareOptions refine a Prepare.
type PrepareOptions struct {
	// OwnerRole, if not empty, becomes the owner of the prepared transaction. PostgreSQL lets only
	// the owner or a superuser finish it, so that the application and whoever finishes are both
	// made members of one NOLOGIN role. The application's role must be a member.
	OwnerRole string
	// Expect, if not zero, is the database that was registered. Another one prepares nothing.
	Expect txn.Identity
}

// Verdict is the answer to Prepare. A vote is never a bare bool or error: see [txn.Vote].
type Verdict struct {
	Vote txn.Vote
	// Evidence is complete if Vote is Yes, and zero otherwise.
	Evidence txn.Evidence
	// Reason says why Vote is not Yes and what to do about it. SQLState is the server's code, if it
	// gave one.
	Reason   string
	SQLState string
	// Err is the error behind a vote that is not Yes, for errors.Is and [Classify]. It is nil where
	// the server reported none, as for a failed transaction.
	Err error
}

const (
	tagPrepared = "PREPARE TRANSACTION"
	// columns of the statement before PREPARE and of the one after it.
	beforeColumns, afterColumns = 6, 2
)

// Prepare prepares the transaction that is open on conn, under name, and votes. It is one round
// trip:
//
//	SET CONSTRAINTS ALL IMMEDIATE;      deferred triggers run now, as the application's role
//	SELECT number, identity, settings;  evidence, the guard; warnings and replication waits on
//	SET LOCAL ROLE owner;               only where an owner is configured
//	PREPARE TRANSACTION 'name';
//	SELECT position                     evidence
//
// The vote is a function of what came back:
//
//	(yes)      tag PREPARE TRANSACTION, no warning with it, evidence complete
//	(warned)   tag PREPARE TRANSACTION, but with a WARNING: Unknown. The branch exists, perhaps
//	           only on this side of a synchronous pair, and must be rolled back
//	(cut)      tag PREPARE TRANSACTION, but the evidence did not arrive: Unknown
//	(swallowed) another tag: PREPARE found a failed transaction and rolled it back: No
//	(refused)  an ERROR before or at PREPARE, and the name is not prepared after it: No
//	(unsent)   the connection was closed, or in no transaction, before anything was sent: No
//	(lost)     anything else, above all a lost connection: Unknown
//
// When it returns the connection is idle and can be reused, or closed; only if ctx had ended or the
// connection was busy before anything was sent ([ErrBusy], Unknown) the transaction is still open.
// The end of ctx while the server works closes the connection and leaves the vote Unknown: the
// PREPARE may still succeed, and never is a cancel request sent.
func Prepare(ctx context.Context, conn *pgconn.PgConn, name txn.Name, o PrepareOptions) Verdict {
	if !conn.IsClosed() && !conn.IsBusy() && conn.TxStatus() == 'I' {
		// PostgreSQL would prepare the implicit transaction of the message itself, with a mere
		// warning.
		return Verdict{
			Vote: txn.VoteNo,
			Err:  ErrNoTransaction,
			Reason: "no transaction is open on " +
				"the connection: a COMMIT or ROLLBACK of its own has ended it",
		} // (unsent)
	}
	replies, err := exchange(ctx, conn, prepareSQL(name, o))
	if len(replies) == 0 {
		return unsent(err)
	}
	r := replies[0]
	at := prepareIndex(o)
	switch {
	case len(r.results) <= at && err != nil:
		return lost(err) // (lost)
	case len(r.results) <= at:
		return refused(ctx, conn, name, o, r) // (refused)
	case r.results[at].tag != tagPrepared && !mutant.On(mutant.RollbackTag):
		return Verdict{Vote: txn.VoteNo, Reason: swallowed} // (swallowed)
	case r.results[at].warning != "" && !mutant.On(mutant.WarningIsFine):
		return warned(r.results[at].warning) // (warned)
	case err != nil:
		return lost(err) // (cut)
	}
	ev, evErr := prepareEvidence(r, at)
	if evErr != nil {
		return lost(evErr) // (cut)
	}
	return Verdict{Vote: txn.VoteYes, Evidence: ev} // (yes)
}

const swallowed = "the transaction had failed before: the error of one of its statements was " +
	"ignored, so PostgreSQL has rolled it back; check every statement's error"

// prepareIndex is the place of PREPARE among the statements of prepareSQL.
func prepareIndex(o PrepareOptions) int {
	if o.OwnerRole != "" {
		return 3
	}
	return 2
}

func prepareSQL(name txn.Name, o PrepareOptions) string {
	var b strings.Builder
	b.WriteString("SET CONSTRAINTS ALL IMMEDIATE;\n")
	settings := strings.TrimPrefix(keepSettings(true), "SELECT ")
	fmt.Fprintf(&b, "SELECT pg_current_xact_id()::text, %s, %s, %s FROM %s;\n",
		identityColumns, settings, guardColumn(o.Expect), identityTables)
	if o.OwnerRole != "" {
		fmt.Fprintf(&b, "SET LOCAL ROLE %s;\n", QuoteIdentifier(o.OwnerRole))
	}
	fmt.Fprintf(&b, "%s %s;\nSELECT %s", tagPrepared, nameLiteral(name), positionColumns)
	return b.String()
}

// guardColumn fails the whole message, before PREPARE is reached, on a server other than the
// expected one. A check after PREPARE would come too late: a crash in between leaves a prepared
// transaction in a database that nobody sweeps. The failing cast depends on a column, since
// constants are evaluated before CASE is.
func guardColumn(want txn.Identity) string {
	if want.IsZero() {
		return "''"
	}
	return fmt.Sprintf(`CASE WHEN c.system_identifier = %d AND d.oid = %d THEN ''
		ELSE ('not the registered database: ' || c.system_identifier || '/' || d.oid)::int::text
		END`,
		want.System, want.Database)
}

func prepareEvidence(r reply, at int) (txn.Evidence, error) {
	if r.err != nil {
		return txn.Evidence{}, r.error()
	}
	before, err := reply{results: r.results[1:2]}.cells(beforeColumns)
	if err != nil {
		return txn.Evidence{}, err
	}
	after, err := reply{results: r.results[at+1:]}.cells(afterColumns)
	if err != nil {
		return txn.Evidence{}, err
	}
	var ev txn.Evidence
	if ev.XID, err = strconv.ParseUint(before[0], 10, 64); err != nil {
		return txn.Evidence{}, fmt.Errorf("%w: transaction number %q", ErrProtocol, before[0])
	}
	if ev.Identity, err = parseIdentity(before[1], before[2]); err != nil {
		return txn.Evidence{}, err
	}
	ev.Position, err = parsePosition(after[0], after[1])
	return ev, err
}

// unsent is the verdict without any reply. A connection that was closed before cannot have carried
// the PREPARE, and the server rolls back what it began.
func unsent(err error) Verdict {
	transport, ok := errors.AsType[*TransportError](err)
	switch {
	case errors.Is(err, errClosed):
		return Verdict{Vote: txn.VoteNo, Err: err, // (unsent)
			Reason: "the session was lost before it could prepare, so the server rolls it back"}
	case ok && !transport.Sent:
		return Verdict{
			Err:    err,
			Reason: "nothing was sent, and the transaction is still open: roll it back",
		}
	default:
		return lost(err)
	}
}

func lost(err error) Verdict {
	return Verdict{Err: err, SQLState: SQLState(err),
		Reason: "the connection was lost while it prepared; whether it is prepared is unknown"}
}

func warned(warning string) Verdict {
	return Verdict{
		Err: fmt.Errorf("%w: %s", ErrNotReplicated, warning),
		Reason: "PostgreSQL prepared the " +
			"branch with a warning, which is no promise: " + warning,
	}
}

// refused makes sure of a No. An ERROR at PREPARE comes before the prepared state is written;
// should a server ever report one after it, the name is listed, and the vote is Unknown. A name
// that was taken (42710) is listed too, but is another transaction's: this one has ended.
func refused(
	ctx context.Context,
	conn *pgconn.PgConn,
	name txn.Name,
	o PrepareOptions,
	r reply,
) Verdict {
	if r.err == nil {
		return lost(fmt.Errorf("%w: %d results without an error", ErrProtocol, len(r.results)))
	}
	queries := []string{"SELECT (EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = " +
		nameLiteral(name) + "))::text"}
	if conn.TxStatus() != 'I' {
		queries = append([]string{"ROLLBACK"}, queries...)
	}
	replies, err := exchange(ctx, conn, queries...)
	if err != nil {
		// If ctx ended before the ROLLBACK was sent, only this ends the transaction.
		_ = conn.Close(context.Background())
		return refusedUnseen(o, r, err)
	}
	listed, err := replies[len(replies)-1].cells(1)
	if err != nil {
		return lost(err)
	}
	if listed[0] == "true" && r.err.Code != codeDuplicateObject {
		return lost(r.error())
	}
	return refusal(r, o)
}

// refusedUnseen is the verdict when the connection went away between the error and the look at the
// list. An error before PREPARE has ended the matter all the same, because PREPARE was skipped
// then.
func refusedUnseen(o PrepareOptions, r reply, err error) Verdict {
	if len(r.results) < prepareIndex(o) {
		return refusal(r, o)
	}
	return lost(errors.Join(r.err, err))
}

func refusal(r reply, o PrepareOptions) Verdict {
	if mutant.On(mutant.DupGIDIgnored) && r.err.Code == codeDuplicateObject {
		return Verdict{Vote: txn.VoteYes}
	}
	v := Verdict{Vote: txn.VoteNo, SQLState: r.err.Code, Err: r.err, Reason: reasonOf(r.err)}
	if !o.Expect.IsZero() && len(r.results) == 1 && r.err.Code == codeInvalidText {
		v.Err = fmt.Errorf("%w: %w", ErrIdentity, r.err)
		v.Reason = "the connection leads to another database than the one that was registered; " +
			"correct the address, or have an operator accept the new database"
		v.SQLState = ""
	}
	return v
}

// reasonOf says in one sentence what an error at PREPARE means and what to do about it.
func reasonOf(e *pgconn.PgError) string {
	switch e.Code {
	case codeFailedTx:
		return swallowed
	case codeDuplicateObject:
		return "a prepared transaction of this name exists already, so this one was rolled back; " +
			"a branch can be prepared only once"
	case codeOutOfMemory:
		return "all prepared slots are in use; raise max_prepared_transactions, or finish old " +
			"prepared transactions, and try again"
	case codeNotInState:
		return "prepared transactions are switched off; set max_prepared_transactions to at " +
			"least max_connections and restart the server"
	case codeNotSupported:
		return "this transaction cannot be prepared (" + e.Message + "); keep temporary tables, " +
			"LISTEN, NOTIFY, WITH HOLD cursors and exported snapshots out of it"
	case codeInvalidParameter:
		return "PostgreSQL refuses the name or the owner role (" + e.Message + "); check that " +
			"the role exists"
	case codeNoPrivilege:
		return "the session's role is not a member of the owner role (" + e.Message + "); grant it"
	default:
		return e.Message
	}
}
