package pgbranch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

const tagCommit = "COMMIT"

const whileCommitting = "the connection was lost while it committed; whether it is committed is " +
	"unknown, and the marker tells"

// Decide commits the transaction that is open on conn, together with the marker of id, and so
// decides the transaction that it is the delegate's branch of: decision is what
// [txn.AppendDecision] makes of the votes of all others. It is one round trip:
//
//	BEGIN; statements;                      only what [PrepareOptions] holds of them
//	SET CONSTRAINTS ALL IMMEDIATE;          deferred triggers run now, and may fail
//	INSERT marker RETURNING number, identity, settings;
//	                                        the decision; evidence, the guard; warnings and waits
//	                                        for the disk and for standbys on
//	COMMIT;
//	SELECT position                         evidence
//
// A number of rows is known only when a statement has been answered, and behind COMMIT that would
// be too late. So where one matters, the statements are sent before the rest, in a round trip of
// their own.
//
// The vote is a function of what came back:
//
//	(committed) tag COMMIT, no warning with it, evidence complete: Committed
//	(warned)    tag COMMIT, but with a WARNING: Unknown. It is committed, perhaps only on this
//	            side of a synchronous pair
//	(cut)       tag COMMIT, but the evidence did not arrive: Unknown
//	(swallowed) another tag: COMMIT found a failed transaction and rolled it back: No
//	(decided)   the INSERT met a marker: No. Somebody has decided before ([ErrDecided])
//	(elsewhere) the server is on another timeline than the expected one: No ([ErrTimeline])
//	(unmarked)  the INSERT found nothing to insert into, or no right to: No ([ErrNoMarkers])
//	(refused)   another ERROR before or at COMMIT: No. Behind its record of a commit PostgreSQL
//	            knows no ERROR, only PANIC
//	(regretted) a statement affected another number of rows than it must: No. It is rolled back
//	(unsent)    the connection was lost, or in no transaction, before COMMIT was sent: No
//	(lost)      anything else, above all a lost connection: Unknown
//
// A transaction has one delegate, and its client calls Decide once: after an Unknown only the
// coordinator may ask for the marker. The marker of the first call would make a second one say No.
//
// Of the options OwnerRole is of no use here. For the rest, the connection and the end of ctx, all
// is as with [Prepare]; the marker is inserted by the session's current role.
func Decide(
	ctx context.Context, conn *pgconn.PgConn, id txn.ID, decision []byte, o PrepareOptions,
) Verdict {
	o.assert()
	if len(decision) == 0 {
		panic("pgbranch: a commit without a decision")
	}
	if o.missing(conn) {
		return noTransaction() // (unsent)
	}
	if o.counted() {
		if v := workFirst(ctx, conn, o); v != nil {
			return *v
		}
		o.Begin, o.Work = nil, nil
	}
	return decide(ctx, conn, o, markerStatement(conn, id, decision, o))
}

func decide(
	ctx context.Context, conn *pgconn.PgConn, o PrepareOptions, marker statement,
) Verdict {
	replies, err := send(ctx, conn, all(o.Ready, slices.Concat(o.begin(), workStatements(o.Work),
		[]statement{
			constraints, marker, {sql: tagCommit},
			{sql: positionSQL, prepared: positionName},
		})...))
	if len(replies) == 0 {
		return unsent(err, whileCommitting)
	}
	r := replies[0]
	at := o.first() + 2
	noteMarker(conn, o, r)
	switch {
	case len(r.results) <= at && err != nil:
		return lost(err, whileCommitting) // (lost)
	case len(r.results) <= at:
		return undecided(ctx, conn, o, r)
	case r.results[at].tag != tagCommit:
		return Verdict{Vote: txn.VoteNo, Reason: swallowed} // (swallowed)
	}
	var ev txn.Evidence
	if err == nil {
		ev, err = readEvidence(conn, r, o.first(), at)
	}
	switch {
	case r.results[at].warning != "":
		return Verdict{Err: fmt.Errorf("%w: %s", ErrNotReplicated, r.results[at].warning),
			Reason: "PostgreSQL committed the branch with a warning, which is no promise: " +
				r.results[at].warning} // (warned)
	case err != nil:
		return lost(err, whileCommitting) // (cut)
	}
	return Verdict{Vote: txn.VoteCommitted, Evidence: ev} // (committed)
}

// workFirst begins the branch and does its work, and counts the rows. It is nil if the rest may
// follow. Nothing that was sent so far could commit.
func workFirst(ctx context.Context, conn *pgconn.PgConn, o PrepareOptions) *Verdict {
	begin := o.begin()
	if o.Begin != nil {
		begin = append(begin, idleStatements(*o.Begin)...)
	}
	replies, err := send(ctx, conn,
		together(slices.Concat(begin, workStatements(o.Work))...))
	transport, ok := errors.AsType[*TransportError](err)
	switch {
	case ok && transport.Sent:
		return &Verdict{Vote: txn.VoteNo, Err: err, SQLState: SQLState(err), // (unsent)
			Reason: "the session was lost before COMMIT was sent, so the server rolls it back"}
	case err != nil:
		v := unsent(err, whileCommitting)
		return &v
	}
	r := replies[0]
	err = r.error()
	if all := len(begin) + len(o.Work); err == nil && len(r.results) != all {
		err = fmt.Errorf("%w: %d answers to %d statements", ErrProtocol, len(r.results), all)
	}
	if err == nil {
		err = miscounted(r.results[len(begin):], o.Work)
	}
	if err == nil {
		return nil
	}
	rollBack(ctx, conn)
	v := Verdict{Vote: txn.VoteNo, Err: err, SQLState: SQLState(err),
		Reason: err.Error()} // (refused), (regretted)
	if r.err != nil {
		v.Reason = r.err.Message
	}
	return &v
}

const (
	markerName = "gavel_marker"
	// markerKey is where a connection keeps that the statement of that name is prepared on it. It
	// is not one of [Statements], because it cannot be prepared where there is no table.
	markerKey = "github.com/gavel-tx/gavel/participant/postgres/pgbranch.marker"

	// insertMarker leaves out what it returns, which are the columns of evidenceSQL.
	//
	// On another timeline than the expected one it fails, with a division by zero, which nothing
	// else in it can. A marker there decides nothing: the coordinator may ask a primary that has
	// been deposed meanwhile, or one to which its word that says never has not come along.
	insertMarker = `INSERT INTO gavel.marker (txid, decision)
		SELECT $4::uuid, CASE WHEN $6::text IN ('', timeline) 
			THEN pg_catalog.decode($5::text, 'hex')
			ELSE pg_catalog.decode((1 / pg_catalog.length(
				pg_catalog.left(timeline, 0)))::text, 'hex') END
		FROM (SELECT ` + timelineColumn + ` AS timeline) AS place
		RETURNING pg_catalog.pg_current_xact_id()::text, ` + whoColumn + `, `
)

// markerStatement writes the marker. It also says who and where this is, as evidenceSQL does, and
// makes COMMIT wait for the disk: a marker that others see, and that a crash takes back, would let
// them finish branches of a transaction that is then decided the other way.
func markerStatement(
	conn *pgconn.PgConn, id txn.ID, decision []byte, o PrepareOptions,
) statement {
	ready, _ := conn.CustomData()[markerKey].(bool)
	settings := settingsColumn(true)
	if mutant.On(mutant.DelegateAsynchronous) {
		settings = "NULL"
	}
	return statement{sql: insertMarker + settings, prepared: markerName, fresh: !ready,
		parameters: append(o.who(known(conn)), id.String(), hex.EncodeToString(decision),
			o.timeline())}
}

// timeline is the expected one as the server writes it, or empty.
func (o PrepareOptions) timeline() string {
	if o.Timeline == 0 || mutant.On(mutant.DelegateAnywhen) {
		return ""
	}
	return fmt.Sprintf("%08X", o.Timeline)
}

// noteMarker keeps whether the server has the statement.
func noteMarker(conn *pgconn.PgConn, o PrepareOptions, r reply) {
	switch {
	case o.Ready && len(r.results) > o.first()+1:
		conn.CustomData()[markerKey] = true
	case r.err != nil && r.err.Code == codeNoStatement:
		delete(conn.CustomData(), markerKey)
	}
}

// undecided is the verdict about a branch whose COMMIT was not reached, or failed.
func undecided(ctx context.Context, conn *pgconn.PgConn, o PrepareOptions, r reply) Verdict {
	if r.err == nil {
		// Nobody knows what such a connection has open.
		_ = conn.Close(context.Background())
		return lost(fmt.Errorf("%w: %d results without an error", ErrProtocol, len(r.results)),
			whileCommitting)
	}
	rollBack(ctx, conn)
	v := Verdict{Vote: txn.VoteNo, SQLState: r.err.Code, Err: r.err, Reason: r.err.Message}
	switch {
	case r.err.Code == codeFailedTx:
		v.Reason = swallowed
	case len(r.results) == o.first()+1:
		return unmarked(v, o)
	}
	return v // (refused)
}

// unmarked completes the verdict about an INSERT of the marker that failed.
func unmarked(v Verdict, o PrepareOptions) Verdict {
	switch {
	case v.SQLState == codeUniqueViolation:
		v.Err = fmt.Errorf("%w: %w", ErrDecided, v.Err) // (decided)
		v.Reason = "the transaction was decided before this branch could commit: " +
			"its coordinator had waited long enough, and says how"
	case noMarkers(v.SQLState):
		v.Reason = markersAdvice(v.SQLState) + " (" + v.Reason + ")"
		v.Err = fmt.Errorf("%w: %w", ErrNoMarkers, v.Err) // (unmarked)
	case v.SQLState == codeInvalidText && !o.Expect.IsZero():
		return strangerVerdict(v)
	case v.SQLState == codeDivisionByZero && o.Timeline != 0:
		v.Err, v.SQLState = fmt.Errorf("%w: %w", ErrTimeline, v.Err), ""
		v.Reason = "the server has failed over since, or is an old primary: it is on another " +
			"timeline than the one that the coordinator has seen; try again"
	}
	return v
}

func noMarkers(code string) bool {
	return code == codeUndefinedTable || code == codeInvalidSchema || code == codeNoPrivilege
}

func markersAdvice(code string) string {
	if code == codeNoPrivilege {
		return "the session's role may not write markers; run: gavel markers --resource " +
			"NAME=URL --application ROLE --apply"
	}
	return "this database has no markers, which a delegate needs; run: gavel markers " +
		"--resource NAME=URL --application ROLE --apply"
}
