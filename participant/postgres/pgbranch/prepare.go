package pgbranch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

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
	// Timeline, if not zero, is the one on which the server must be. It is of use to [Decide].
	Timeline uint32
	// Ready says that the statements of [Statements] are prepared on the connection, under their
	// names. They save the server the planning of some statements for each branch.
	Ready bool
	// Work is done first, in the same round trip. It needs Ready. That a statement affected another
	// number of rows than it must becomes known only with the answer to PREPARE: the branch is
	// prepared then, and the vote is No. So nobody may be told of the PREPARE, or asked for this
	// branch's vote, who would commit whatever is prepared.
	Work []Work
	// Begin, if not nil, begins the branch before its work: the connection is idle, outside of a
	// transaction. It needs Ready.
	Begin *BeginOptions
}

// Prepared is a statement that a connection may have prepared, under its name.
type Prepared struct{ Name, SQL string }

// Statements are those for [PrepareOptions.Ready]. The slice must not be changed.
func Statements() []Prepared { return prepared }

var prepared = []Prepared{
	{beginName, beginText(BeginOptions{})}, {idleName, idleSQL}, {tagName, tagSQL},
	{constraintsName, constraintsSQL}, {evidenceName, evidenceSQL}, {positionName, positionSQL},
	{markName, markSQL},
}

const (
	beginName       = "gavel_begin"
	idleName        = "gavel_idle"
	tagName         = "gavel_tag"
	constraintsName = "gavel_constraints"
	evidenceName    = "gavel_evidence"
	positionName    = "gavel_position"
	markName        = "gavel_mark"
)

// constraints has deferred triggers run now.
var constraints = statement{sql: constraintsSQL, prepared: constraintsName}

const constraintsSQL = "SET CONSTRAINTS ALL IMMEDIATE"

// Verdict is the answer to Prepare. A vote is never a bare bool or error: see [txn.Vote].
type Verdict struct {
	Vote txn.Vote
	// Evidence is complete if Vote is Yes or Committed. With a No it says that the branch is
	// prepared all the same; otherwise it is zero.
	Evidence txn.Evidence
	// Reason says why Vote is neither and what to do about it. SQLState is the server's code, if it
	// gave one.
	Reason   string
	SQLState string
	// Err is the error behind a vote that is neither, for errors.Is and [Classify]. It is nil where
	// the server reported none, as for a failed transaction.
	Err error
}

const (
	tagPrepared = "PREPARE TRANSACTION"
	// columns of the statement before PREPARE and of the one after it.
	beforeColumns, afterColumns = 3, 1
)

// Prepare prepares the transaction that is open on conn, under name, and votes. It is one round
// trip:
//
//	BEGIN; statements;                  only what [PrepareOptions] holds of them
//	SET CONSTRAINTS ALL IMMEDIATE;      deferred triggers run now, as the application's role
//	SELECT number, identity, settings;  evidence, the guard; warnings and waits for standbys on
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
//	(regretted) a statement affected another number of rows than it must: No. The branch is
//	           prepared, which the evidence says, and only waits for being rolled back
//	(uncounted) what would be Unknown, and the number of rows matters: No. Nobody has counted
//	           them, and whoever finds the branch prepared must not take that for a Yes
//	(unsent)   the connection was closed, or in no transaction, before anything was sent: No
//	(lost)     anything else, above all a lost connection: Unknown
//
// When it returns the connection is idle and can be reused, or closed; only if ctx had ended or the
// connection was busy before anything was sent ([ErrBusy], Unknown) the transaction is still open.
// The end of ctx while the server works closes the connection and leaves the vote Unknown: the
// PREPARE may still succeed, and never is a cancel request sent.
func Prepare(ctx context.Context, conn *pgconn.PgConn, name txn.Name, o PrepareOptions) Verdict {
	o.assert()
	v := prepare(ctx, conn, name, o)
	transport, ok := errors.AsType[*TransportError](v.Err)
	unsent := ok && !transport.Sent
	if v.Vote == txn.VoteUnknown && !unsent && o.counted() &&
		!mutant.On(mutant.UncountedIsUnknown) {
		v.Vote = txn.VoteNo // (uncounted)
	}
	return v
}

func prepare(ctx context.Context, conn *pgconn.PgConn, name txn.Name, o PrepareOptions) Verdict {
	if o.missing(conn) {
		// PostgreSQL would prepare the implicit transaction of the message itself, with a mere
		// warning.
		return noTransaction() // (unsent)
	}
	replies, err := send(ctx, conn, prepareMessage(name, o, known(conn)))
	if len(replies) == 0 {
		return unsent(err, whilePreparing)
	}
	r := replies[0]
	at := prepareIndex(o)
	switch {
	case len(r.results) <= at && err != nil:
		return lost(err, whilePreparing) // (lost)
	case len(r.results) <= at:
		return refused(ctx, conn, name, o, r) // (refused)
	case r.results[at].tag != tagPrepared && !mutant.On(mutant.RollbackTag):
		return Verdict{Vote: txn.VoteNo, Reason: swallowed} // (swallowed)
	}
	wrong := miscounted(r.results[len(o.begin()):], o.Work)
	var ev txn.Evidence
	if err == nil {
		ev, err = readEvidence(conn, r, o.first(), at)
	}
	switch {
	case wrong != nil:
		return Verdict{Vote: txn.VoteNo, Evidence: ev, Err: wrong,
			Reason: wrong.Error()} // (regretted)
	case r.results[at].warning != "" && !mutant.On(mutant.WarningIsFine):
		v := warned(r.results[at].warning) // (warned)
		if o.counted() {
			v.Vote, v.Evidence = txn.VoteNo, ev
		}
		return v
	case err != nil:
		return lost(err, whilePreparing) // (cut)
	}
	return Verdict{Vote: txn.VoteYes, Evidence: ev} // (yes)
}

// assert refuses options that contradict each other.
func (o PrepareOptions) assert() {
	if (len(o.Work) > 0 || o.Begin != nil) && !o.Ready {
		panic("pgbranch: work without prepared statements")
	}
}

// missing says that the branch should be open on conn, and is not.
func (o PrepareOptions) missing(conn *pgconn.PgConn) bool {
	return o.Begin == nil && !conn.IsClosed() && !conn.IsBusy() && conn.TxStatus() == 'I'
}

func noTransaction() Verdict {
	return Verdict{Vote: txn.VoteNo, Err: ErrNoTransaction, Reason: "no transaction is open on " +
		"the connection: a COMMIT or ROLLBACK of its own has ended it"}
}

const swallowed = "the transaction had failed before: the error of one of its statements was " +
	"ignored, so PostgreSQL has rolled it back; check every statement's error"

// prepareIndex is the place of PREPARE among the statements of prepareMessage.
func prepareIndex(o PrepareOptions) int {
	if o.OwnerRole != "" {
		return o.first() + 3
	}
	return o.first() + 2
}

// first is the place of the first statement that belongs to PREPARE.
func (o PrepareOptions) first() int { return len(o.begin()) + len(o.Work) }

// counted says whether the number of rows of any statement matters.
func (o PrepareOptions) counted() bool {
	return slices.ContainsFunc(o.Work, func(w Work) bool { return w.Exactly >= 0 })
}

func (o PrepareOptions) begin() []statement {
	if o.Begin == nil {
		return nil
	}
	return beginStatements(*o.Begin)
}

// prepareMessage is everything up to the evidence behind PREPARE.
func prepareMessage(name txn.Name, o PrepareOptions, b backend) message {
	var role []statement
	if o.OwnerRole != "" {
		role = []statement{{sql: "SET LOCAL ROLE " + QuoteIdentifier(o.OwnerRole)}}
	}
	return all(o.Ready, slices.Concat(o.begin(), workStatements(o.Work), []statement{
		constraints,
		{sql: evidenceSQL, prepared: evidenceName, parameters: o.who(b)},
	}, role, []statement{
		{sql: tagPrepared + " " + nameLiteral(name)},
		{sql: positionSQL, prepared: positionName},
	})...)
}

// all is one message of statements: bound to prepared ones if they are ready, or as a Query.
func all(ready bool, statements ...statement) message {
	if ready {
		return together(statements...)
	}
	texts := make([]string, len(statements))
	for i, s := range statements {
		texts[i] = s.sql
		for n, p := range s.parameters {
			texts[i] = strings.ReplaceAll(texts[i], fmt.Sprintf("$%d", n+1), "'"+p+"'")
		}
	}
	return func(f *pgproto3.Frontend) {
		f.SendQuery(&pgproto3.Query{String: strings.Join(texts, ";\n")})
	}
}

// readEvidence reads it from the statement behind the first, and from the one behind the place at.
func readEvidence(conn *pgconn.PgConn, r reply, first, at int) (txn.Evidence, error) {
	if r.err != nil {
		return txn.Evidence{}, r.error()
	}
	before, err := reply{results: r.results[first+1 : first+2]}.cells(beforeColumns)
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
	b, err := learn(conn, before[1])
	if err != nil {
		return txn.Evidence{}, err
	}
	ev.Identity = b.identity
	ev.Position, err = parsePosition(after[0], b.timeline)
	return ev, err
}

// unsent is the verdict without any reply. A connection that was closed before cannot have carried
// the PREPARE or COMMIT, and the server rolls back what it began.
func unsent(err error, while string) Verdict {
	transport, ok := errors.AsType[*TransportError](err)
	switch {
	case errors.Is(err, errClosed):
		return Verdict{Vote: txn.VoteNo, Err: err, // (unsent)
			Reason: "the session was lost before, so the server rolls it back"}
	case ok && !transport.Sent:
		return Verdict{
			Err:    err,
			Reason: "nothing was sent, and the transaction is still open: roll it back",
		}
	default:
		return lost(err, while)
	}
}

const whilePreparing = "the connection was lost while it prepared; whether it is prepared is " +
	"unknown"

func lost(err error, while string) Verdict {
	return Verdict{Err: err, SQLState: SQLState(err), Reason: while}
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
		return lost(fmt.Errorf("%w: %d results without an error", ErrProtocol, len(r.results)),
			whilePreparing)
	}
	queries := []string{"SELECT (EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts WHERE gid " +
		"OPERATOR(pg_catalog.=) " + nameLiteral(name) + "))::text"}
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
		return lost(err, whilePreparing)
	}
	if listed[0] == "true" && r.err.Code != codeDuplicateObject {
		return lost(r.error(), whilePreparing)
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
	return lost(errors.Join(r.err, err), whilePreparing)
}

func refusal(r reply, o PrepareOptions) Verdict {
	if mutant.On(mutant.DupGIDIgnored) && r.err.Code == codeDuplicateObject {
		return Verdict{Vote: txn.VoteYes}
	}
	v := Verdict{Vote: txn.VoteNo, SQLState: r.err.Code, Err: r.err, Reason: reasonOf(r.err)}
	if len(r.results) < o.first() {
		// What a code means at PREPARE it does not mean of a statement of the application.
		v.Reason = r.err.Message
	}
	at := o.first() + 1
	if !o.Expect.IsZero() && len(r.results) == at && r.err.Code == codeInvalidText {
		return strangerVerdict(v)
	}
	return v
}

// strangerVerdict is v where it was our identity guard that failed.
func strangerVerdict(v Verdict) Verdict {
	v.Err = fmt.Errorf("%w: %w", ErrIdentity, v.Err)
	v.Reason = "the connection leads to another database than the one that was registered; " +
		"correct the address, or have an operator accept the new database"
	v.SQLState = ""
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
