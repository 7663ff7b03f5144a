package xabranch

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// Branch is a branch that runs on one connection, which nobody else may use until it has ended. It
// must not be used concurrently.
type Branch struct {
	conn *sql.Conn
	name txn.Name
	// place is where it began, and unset why that is not known.
	place Place
	unset error
	// failed is the first error of a statement.
	failed error
	ended  bool
}

// BeginOptions refine a Begin.
type BeginOptions struct {
	// Isolation is the level of this branch. Defaults to the session's, or to what SET TRANSACTION
	// has said for the next transaction, if ReadOnly is not set either.
	Isolation Isolation
	// ReadOnly lets the branch write nothing but temporary tables. It cannot be prepared then, for
	// its row would be a write: [Branch.Rollback] ends it.
	ReadOnly bool
}

// Isolation is an isolation level, in the words of SQL.
type Isolation string

// The isolation levels of a branch.
const (
	IsolationDefault Isolation = ""
	ReadUncommitted  Isolation = "READ UNCOMMITTED"
	ReadCommitted    Isolation = "READ COMMITTED"
	RepeatableRead   Isolation = "REPEATABLE READ"
	Serializable     Isolation = "SERIALIZABLE"
)

// setting is the statement that makes the next transaction of a session as it is asked for. It is
// empty if nothing is.
func (o BeginOptions) setting() (string, error) {
	var wanted []string
	switch o.Isolation {
	case IsolationDefault:
	case ReadUncommitted, ReadCommitted, RepeatableRead, Serializable:
		wanted = append(wanted, "ISOLATION LEVEL "+string(o.Isolation))
	default:
		return "", fmt.Errorf("xabranch: unknown isolation level %.40q", string(o.Isolation))
	}
	if o.ReadOnly {
		wanted = append(wanted, "READ ONLY")
	}
	if len(wanted) == 0 {
		return "", nil
	}
	return "SET TRANSACTION " + strings.Join(wanted, ", "), nil
}

// Begin begins a branch under name, on a connection without an open transaction. The error is
// [ErrTaken], [ErrOpen], [ErrPooled] or the server's, and nothing has begun then; the connection
// can be used on, unless [Broken] says otherwise. What SET TRANSACTION has said before, of one
// transaction, is used up: say it by the options.
func Begin(
	ctx context.Context, conn *sql.Conn, name txn.Name, o BeginOptions,
) (*Branch, error) {
	setting, err := o.setting()
	if err != nil {
		return nil, err
	}
	// Read before the branch: within one at SERIALIZABLE the row of the identity would stay locked
	// for as long as the branch is prepared, and [Vouch] writes to it.
	place, unset := lookBefore(ctx, conn)
	if unset != nil && !errors.Is(unset, ErrNoSetup) {
		return nil, fmt.Errorf("xabranch: begin %s: %w", name, unset)
	}
	// The lock comes first: whoever finds it free knows that no session has the branch.
	var got sql.NullBool
	var session uint64
	err = conn.QueryRowContext(ctx, "SELECT GET_LOCK("+quoted(name)+", 0), CONNECTION_ID()").
		Scan(&got, &session)
	switch {
	case err != nil:
		return nil, fmt.Errorf("xabranch: begin %s: %w", name, err)
	case session != place.session:
		Discard(conn)
		return nil, fmt.Errorf("%w: session %d, then %d", ErrPooled, place.session, session)
	case !got.Bool:
		return nil, fmt.Errorf("%w: %s", ErrTaken, name)
	}
	if setting != "" {
		err = exec(ctx, conn, setting)
	}
	if err == nil {
		err = exec(ctx, conn, "XA START "+literal(name))
	}
	if err == nil {
		return &Branch{conn: conn, name: name, place: place, unset: unset}, nil
	}
	if !Broken(err) {
		err = errors.Join(err, exec(ctx, conn, "DO RELEASE_LOCK("+quoted(name)+")"))
	}
	return nil, beginError(name, err)
}

func beginError(name txn.Name, err error) error {
	switch Number(err) {
	case numDuplicateXID:
		return fmt.Errorf("%w: %s (%w)", ErrTaken, name, err)
	case numOutside, numWrongState:
		return fmt.Errorf("%w (%w)", ErrOpen, err)
	}
	return fmt.Errorf("xabranch: begin %s: %w", name, err)
}

// lookBefore is Look outside of any transaction, also where the session begins one by itself.
func lookBefore(ctx context.Context, conn *sql.Conn) (Place, error) {
	// It fails within a transaction, which is the caller's then.
	err := exec(ctx, conn, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
	if Number(err) == numInTransaction {
		return Place{}, fmt.Errorf("%w (%w)", ErrOpen, err)
	}
	if err != nil {
		return Place{}, err
	}
	place, err := Look(ctx, conn)
	var missing error
	if errors.Is(err, ErrNoSetup) {
		// Prepare says so. Who the session is, is known without the tables.
		missing = err
		place, err = About(ctx, conn)
	}
	if err != nil {
		return place, err
	}
	return place, errors.Join(missing, exec(ctx, conn, "COMMIT"))
}

// Name is the branch's.
func (b *Branch) Name() txn.Name { return b.name }

// Exec runs a statement of the application in the branch. If it fails, the branch cannot be
// prepared any more.
func (b *Branch) Exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	r, err := b.conn.ExecContext(ctx, statement, args...)
	err = Explain(err)
	b.Fail(err)
	return r, err
}

// Query is Exec for a statement with rows. What fails while they are read or closed must be given
// to [Branch.Fail]. The rows must be closed before the next statement.
func (b *Branch) Query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	rows, err := b.conn.QueryContext(ctx, statement, args...)
	err = Explain(err)
	b.Fail(err)
	return rows, err
}

// Fail says that a statement of the branch has failed, whatever the application makes of that. No
// error is no failure.
func (b *Branch) Fail(err error) {
	if b.failed == nil {
		b.failed = err
	}
}

// Failed is the first error of a statement that the branch knows of.
func (b *Branch) Failed() error { return b.failed }

// Rollback ends the branch without effect. The connection can be used on if the error is nil;
// otherwise it is closed, and the server rolls the branch back when it notices. The error is
// [ErrMoved] or [ErrPooled] where the connection does not lead to where the branch began: what is
// run on it next, or was read over it last, would be of another database.
func (b *Branch) Rollback(ctx context.Context) error {
	if b.ended {
		return nil
	}
	b.ended = true
	// XA END fails for a branch that the server has marked as rolled back, or that is IDLE already.
	// XA ROLLBACK then succeeds all the same; it is the one that tells.
	err := exec(ctx, b.conn, "XA END "+literal(b.name))
	if !Broken(err) {
		err = exec(ctx, b.conn, "XA ROLLBACK "+literal(b.name))
		if Number(err) == numNoTA { // it has ended already
			err = nil
		}
	}
	if err == nil {
		err = b.unlock(ctx)
	}
	if err != nil {
		Discard(b.conn)
		return fmt.Errorf("xabranch: roll back %s: %w", b.name, err)
	}
	return nil
}

// unlock gives the lock of Begin back, and looks whether the connection is where it was then.
func (b *Branch) unlock(ctx context.Context) error {
	var released sql.NullBool
	var now Place
	err := b.conn.QueryRowContext(ctx, "SELECT RELEASE_LOCK("+quoted(b.name)+"), "+
		"CONNECTION_ID(), COALESCE(DATABASE(), '')").Scan(&released, &now.session, &now.Database)
	switch {
	case err != nil:
		return err
	case now.session != b.place.session:
		return fmt.Errorf("%w: session %d, then %d", ErrPooled, b.place.session, now.session)
	}
	return now.stayed(b.place)
}

// PrepareOptions refine a Prepare.
type PrepareOptions struct {
	// Expect, if not zero, is the database that was registered. Another one prepares nothing.
	Expect txn.Identity
	// Experimental allows a server that is no MariaDB.
	Experimental bool
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
	// Err is the error behind a vote that is not Yes, where there is one.
	Err error
}

// Prepare prepares the branch and votes:
//
//	SELECT settings;                 what must be right; the identity is known since Begin
//	INSERT INTO gavel.branch         the row that proves its end
//	XA END; XA PREPARE
//
// The vote is a function of what came back:
//
//	(yes)       all of it succeeded
//	(swallowed) a statement of the branch had failed, which MariaDB would let pass: No
//	(pooled)    the statements of the connection do not all reach one session: No
//	(unfit)     another database, a server that is read-only, does not sync, or is no MariaDB: No
//	(refused)   an error before XA PREPARE, or at it and the branch is not listed after it: No
//	(unsent)    the connection was lost, or ctx ended, before XA PREPARE was sent: No
//	(lost)      anything else, above all a connection lost at XA PREPARE: Unknown
//
// The branch belongs to the connection until that is closed. So after Yes and Unknown the
// connection is closed when Prepare returns, and after a No too unless the branch was rolled back
// by an answer of the server; it must be given back to its pool in any case. The end of ctx closes
// it while the server works. The server may then still prepare.
func (b *Branch) Prepare(ctx context.Context, o PrepareOptions) Verdict {
	if b.ended {
		return Verdict{Vote: txn.VoteNo, Reason: "the branch has ended before"}
	}
	if b.failed != nil {
		return b.no(ctx, b.failed, reasonOfFailed(b.failed)) // (swallowed)
	}
	place, err := About(ctx, b.conn)
	if err == nil {
		err = b.unset
	}
	if err != nil {
		return b.refuse(ctx, err)
	}
	place.Identity = identityOf(b.place.system, place.server, place.Database)
	if place.session != b.place.session {
		return b.leave(fmt.Errorf("%w: session %d, then %d", ErrPooled, b.place.session,
			place.session)) // (pooled)
	}
	if err = place.fit(o); err == nil {
		err = place.stayed(b.place)
	}
	if err != nil {
		return b.no(ctx, err, err.Error()) // (unfit)
	}
	ev := txn.Evidence{Identity: place.Identity, Position: b.place.Position}
	if ev.XID, err = b.insert(ctx); err != nil {
		return b.refuse(ctx, err)
	}
	if err := exec(ctx, b.conn, "XA END "+literal(b.name)); err != nil {
		return b.refuse(ctx, err)
	}
	if ctx.Err() != nil {
		return b.refuse(ctx, context.Cause(ctx))
	}
	return b.prepare(ctx, ev)
}

// fit says why nothing can be prepared here.
//
// That the server syncs is asked before XA PREPARE and not once more after it: each branch would
// wait for one more answer, against somebody who turns syncing off in the instant between the two.
// Branches that follow are refused. That one is lost only if the server's machine fails within the
// second in which InnoDB syncs all the same; then its row is gone too, and a decision to commit it
// ends as HeuristicRollback, which is told. Whether what is committed was synced is asked with its
// row, in [Finish].
func (p Place) fit(o PrepareOptions) error {
	switch {
	case !o.Expect.IsZero() && p.Identity != o.Expect:
		return fmt.Errorf("%w (%s instead of %s): correct the address, or have an operator accept "+
			"the new database", ErrIdentity, p.Identity, o.Expect)
	case p.ReadOnly:
		return fmt.Errorf("%w: point the address at the primary", ErrReadOnly)
	case p.Flush != 1:
		return fmt.Errorf("xabranch: innodb_flush_log_at_trx_commit is %d, so that a prepared "+
			"branch could be lost: SET GLOBAL innodb_flush_log_at_trx_commit = 1", p.Flush)
	case !p.MariaDB() && !o.Experimental:
		return ErrMySQL
	}
	return nil
}

// stayed says why the session has ended a branch in another database than it began in.
func (p Place) stayed(before Place) error {
	if p.Database == before.Database {
		return nil
	}
	return fmt.Errorf("%w (it was %q, and is %q): begin in the database that is meant, and leave "+
		"USE out", ErrMoved, before.Database, p.Database)
}

// leave is the verdict where no statement reaches the branch any more. The end of the connection
// ends its session, and with it the branch, if there was one.
func (b *Branch) leave(err error) Verdict {
	b.ended = true
	Discard(b.conn)
	return Verdict{Vote: txn.VoteNo, Err: err, Reason: err.Error()}
}

// insert writes the branch's row, and returns its number.
func (b *Branch) insert(ctx context.Context) (uint64, error) {
	r, err := b.conn.ExecContext(ctx, `INSERT INTO gavel.branch (name, db, connection, user)
		VALUES (`+quoted(b.name)+`, COALESCE(DATABASE(), ''), CONNECTION_ID(), CURRENT_USER())`)
	if err != nil {
		return 0, err
	}
	number, err := r.LastInsertId()
	if err == nil && number <= 0 {
		err = fmt.Errorf("%w: a row without a number", ErrProtocol)
	}
	return uint64(number), err
}

// prepare is the last step, from which on the branch may outlive its session.
func (b *Branch) prepare(ctx context.Context, ev txn.Evidence) Verdict {
	err := exec(ctx, b.conn, "XA PREPARE "+literal(b.name))
	switch {
	case err == nil:
		b.ended = true
		Discard(b.conn)
		return Verdict{Vote: txn.VoteYes, Evidence: ev} // (yes)
	case Unsent(err):
		return b.refuse(ctx, err)
	case Broken(err):
		return b.lost(err)
	}
	l, listErr := Recover(ctx, b.conn)
	if _, prepared := l.Names[b.name]; listErr != nil || prepared {
		return b.lost(errors.Join(err, listErr))
	}
	return b.refuse(ctx, err)
}

// lost is the verdict when nobody knows how far the server came.
func (b *Branch) lost(err error) Verdict {
	b.ended = true
	Discard(b.conn)
	return Verdict{Err: err, SQLState: SQLState(err), Reason: "the connection was lost while it " +
		"prepared; whether it is prepared is unknown"} // (lost)
}

// refuse is the verdict after an error before XA PREPARE had an effect.
func (b *Branch) refuse(ctx context.Context, err error) Verdict {
	if Broken(err) || ctx.Err() != nil {
		b.ended = true
		Discard(b.conn)
		return Verdict{Vote: txn.VoteNo, Err: err, Reason: "the session was lost, or told to " +
			"stop, before it prepared, so the server rolls it back"} // (unsent)
	}
	if errors.Is(err, ErrNoSetup) {
		return b.no(ctx, err, err.Error())
	}
	return b.no(ctx, err, reasonOf(err)) // (refused)
}

// no rolls the branch back, for which the connection's end is as good.
func (b *Branch) no(ctx context.Context, err error, reason string) Verdict {
	return Verdict{Vote: txn.VoteNo, Reason: reason, SQLState: SQLState(err),
		Err: errors.Join(err, b.Rollback(ctx))}
}
