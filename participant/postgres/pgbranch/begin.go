package pgbranch

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// Isolation is a transaction's isolation level. The empty one is the session's default.
type Isolation string

// The isolation levels of PostgreSQL.
const (
	ReadCommitted  Isolation = "READ COMMITTED"
	RepeatableRead Isolation = "REPEATABLE READ"
	Serializable   Isolation = "SERIALIZABLE"
)

// BeginOptions say how a branch begins. The zero value is a plain BEGIN.
type BeginOptions struct {
	Isolation Isolation
	// ReadOnly makes the database refuse writes.
	ReadOnly bool
	// IdleTimeout, if not zero, has the server end a session that stays idle in the branch for so
	// long, before it is prepared; afterwards the branch has no session. Milliseconds count.
	IdleTimeout time.Duration
	// ID, if known already, takes the tag with the BEGIN. Otherwise [Tag] takes it later, or nobody
	// does.
	ID txn.ID
}

// Step is one of the statements that begin a branch.
type Step struct {
	SQL  string
	Args []any
}

// BeginSteps are the statements that begin a branch, BEGIN first, and at most one more. They may be
// sent together with the branch's first statement. Their texts vary little, so that they may be
// prepared.
//
// With mark the second step's first row is for [ReadMark]. That saves a transaction that is
// committed in one phase the round trip of [MarkTransaction], and is for one whose first statement
// writes: it gives the transaction its number, which a reader has no use for.
func BeginSteps(conn *pgconn.PgConn, o BeginOptions, mark bool) []Step {
	var columns []string
	var args []any
	add := func(column string, more ...any) {
		for _, a := range more {
			args = append(args, a)
			column = strings.Replace(column, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		columns = append(columns, column)
	}
	if mark {
		for _, p := range known(conn).parameters("") {
			args = append(args, p)
		}
		add(headColumns)
	}
	if o.IdleTimeout > 0 {
		add("pg_catalog.set_config('idle_in_transaction_session_timeout', ?, true)", o.idle())
	}
	if !o.ID.IsZero() {
		add("pg_catalog.pg_advisory_xact_lock_shared(?, ?)", TagKey(o.ID.Log()), lowTag(o.ID))
	}
	steps := []Step{{SQL: beginText(o)}}
	if len(columns) > 0 {
		steps = append(steps, Step{"SELECT " + strings.Join(columns, ", "), args})
	}
	return steps
}

// headColumns are those of markSQL, or NULL at a standby: the first statement is to fail there,
// with an error that says what it is about.
const headColumns = `CASE WHEN NOT pg_catalog.pg_is_in_recovery()
		THEN pg_catalog.pg_current_xact_id()::text END,
	CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN ` + whoColumn + ` END`

const (
	idleSQL = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true)"
	tagSQL  = "SELECT pg_catalog.pg_advisory_xact_lock_shared($1, $2)"
)

// beginStatements begin a branch whose end is in the same message: it is never idle in between.
func beginStatements(o BeginOptions) []statement {
	all := []statement{{sql: beginText(o)}}
	if o.Isolation == "" && !o.ReadOnly {
		all[0].prepared = beginName
	}
	if !o.ID.IsZero() {
		all = append(all, statement{sql: tagSQL, prepared: tagName,
			parameters: []string{fmt.Sprint(TagKey(o.ID.Log())), fmt.Sprint(lowTag(o.ID))}})
	}
	return all
}

// idleStatements limit how long a branch may be idle.
func idleStatements(o BeginOptions) []statement {
	if o.IdleTimeout == 0 {
		return nil
	}
	return []statement{{sql: idleSQL, prepared: idleName, parameters: []string{o.idle()}}}
}

// BeginSQL is the text of the message that begins a branch: one simple Query message, one round
// trip.
func BeginSQL(o BeginOptions) string {
	sql := beginText(o)
	if o.IdleTimeout > 0 {
		sql += "; SET LOCAL idle_in_transaction_session_timeout = " + o.idle()
	}
	if !o.ID.IsZero() {
		sql += "; " + TagSQL(o.ID)
	}
	return sql
}

// idle is the timeout in milliseconds. A fraction of one must not become 0, which means "never",
// and PostgreSQL knows no more than 24 days.
func (o BeginOptions) idle() string {
	return strconv.FormatInt(min(max(o.IdleTimeout.Milliseconds(), 1), math.MaxInt32), 10)
}

func beginText(o BeginOptions) string {
	var b strings.Builder
	b.WriteString("BEGIN")
	switch o.Isolation {
	case ReadCommitted, RepeatableRead, Serializable:
		b.WriteString(" ISOLATION LEVEL " + string(o.Isolation))
	case "":
	default:
		panic(fmt.Sprintf("pgbranch: isolation level %q", string(o.Isolation)))
	}
	if o.ReadOnly {
		b.WriteString(" READ ONLY")
	}
	return b.String()
}

// Begin begins a branch on an idle connection. On an error no transaction is open, or the
// connection is closed. The end of ctx cancels it as pgconn is configured to.
func Begin(ctx context.Context, conn *pgconn.PgConn, o BeginOptions) error {
	_, err := conn.Exec(ctx, BeginSQL(o)).ReadAll()
	if err == nil {
		return nil
	}
	rollBack(ctx, conn)
	return fmt.Errorf("pgbranch: begin a branch: %w", err)
}

// rollBack ends what is open on a connection without effect, one way or the other.
func rollBack(ctx context.Context, conn *pgconn.PgConn) {
	if conn.IsClosed() || conn.TxStatus() == 'I' {
		return
	}
	if _, err := exchange(ctx, conn, "ROLLBACK"); err != nil {
		// Only a closed connection is as good as a transaction that is rolled back.
		_ = conn.Close(context.Background())
	}
}

// TagSQL is the statement that marks the session's transaction as a branch of id, by a shared
// advisory lock that lasts until the branch ends, over PREPARE and crashes of the server.
func TagSQL(id txn.ID) string {
	return fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock_shared(%d, %d)", TagKey(id.Log()),
		lowTag(id))
}

// TagKey is the first half of the tags of one log's branches; the second half is the low 32 bits of
// the sequence, as PostgreSQL's signed integer.
func TagKey(log txn.LogID) int32 { return int32(log & (1<<31 - 1)) }

func lowTag(id txn.ID) int32 { return int32(uint32(id.Seq())) }

// Tag tags a branch that began before its transaction was known. An error leaves the branch failed.
func Tag(ctx context.Context, conn *pgconn.PgConn, id txn.ID) error {
	if _, err := conn.Exec(ctx, TagSQL(id)).ReadAll(); err != nil {
		return fmt.Errorf("pgbranch: tag a branch: %w", err)
	}
	return nil
}
