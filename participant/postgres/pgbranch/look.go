package pgbranch

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// Place is where a connection leads.
type Place struct {
	// Standby says that the server is in recovery. It lists no prepared transactions then, although
	// there may be some, and its Position is zero.
	Standby  bool
	Identity txn.Identity
	Position txn.Position
	// Version is server_version_num, for example 150018.
	Version int
}

// The timeline is read from the name of the current log file: pg_control_checkpoint() still showed
// the old one after a promotion (PostgreSQL 15).
const (
	timelineColumn = `pg_catalog.substr(pg_catalog.pg_walfile_name(
		pg_catalog.pg_current_wal_flush_lsn()), 1, 8)`
	positionColumns = `pg_catalog.pg_current_wal_flush_lsn()::text, ` + timelineColumn
	identityColumns = `c.system_identifier::text, d.oid::text`
	identityTables  = `pg_catalog.pg_control_system() c,
		pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`

	lookSQL = `SELECT pg_catalog.pg_is_in_recovery()::text,
		pg_catalog.current_setting('server_version_num'), ` + identityColumns + `,
		CASE WHEN NOT pg_catalog.pg_is_in_recovery()
			THEN pg_catalog.pg_current_wal_flush_lsn()::text END,
		CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN ` + timelineColumn + ` END
		FROM ` + identityTables
	lookColumns = 6
)

// Look asks a server who it is, whether it is a primary, and how far its history has come. The
// connection must be idle. A server that is promoted between two of its questions fails the call.
func Look(ctx context.Context, conn *pgconn.PgConn) (Place, error) {
	replies, err := exchange(ctx, conn, lookSQL)
	if err != nil {
		return Place{}, err
	}
	return readPlace(replies[0])
}

func readPlace(r reply) (Place, error) {
	row, err := r.cells(lookColumns)
	if err != nil {
		return Place{}, fmt.Errorf("pgbranch: ask the server who it is: %w", err)
	}
	p := Place{Standby: row[0] == "true"}
	if p.Version, err = strconv.Atoi(row[1]); err != nil {
		return Place{}, fmt.Errorf("%w: version %q", ErrProtocol, row[1])
	}
	if p.Identity, err = parseIdentity(row[2], row[3]); err != nil || p.Standby {
		return p, err
	}
	p.Position, err = parsePosition(row[4], row[5])
	return p, err
}

func parseIdentity(system, database string) (txn.Identity, error) {
	s, err1 := strconv.ParseUint(system, 10, 64)
	d, err2 := strconv.ParseUint(database, 10, 32)
	if err1 != nil || err2 != nil || s == 0 || d == 0 {
		return txn.Identity{}, fmt.Errorf("%w: identity %q/%q", ErrProtocol, system, database)
	}
	return txn.Identity{System: s, Database: uint32(d)}, nil
}

func parsePosition(lsn, timeline string) (txn.Position, error) {
	at, err := ParseLSN(lsn)
	if err != nil {
		return txn.Position{}, err
	}
	t, err := strconv.ParseUint(timeline, 16, 32)
	if err != nil || t == 0 {
		return txn.Position{}, fmt.Errorf("%w: timeline %q", ErrProtocol, timeline)
	}
	return txn.Position{Timeline: uint32(t), LSN: at}, nil
}

// ParseLSN reads a position in the log as PostgreSQL writes it, such as 16/B374D848.
func ParseLSN(s string) (uint64, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%w: log position %q", ErrProtocol, s)
	}
	return h<<32 | l, nil
}

// ReadOnly says whether the open transaction has written nothing so far, as PostgreSQL sees it: no
// transaction number was assigned. It is not enough for a read-only vote. The caller must also know
// that it sent nothing but SELECT and SHOW, and that the database calls nobody else ([CallsOut]):
// an UPDATE through postgres_fdw assigns no number here and yet writes there.
//
// Ask before PREPARE, never with it: the answer decides what is sent next.
func ReadOnly(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	return ask(ctx, conn, "SELECT (pg_catalog.pg_current_xact_id_if_assigned() IS NULL)::text")
}

// CallsOut says whether SQL in this database may write somewhere else: it has foreign data
// wrappers, an extension known to make remote calls, or a language without restrictions. The answer
// changes only by DDL and may be kept for the connection's life.
func CallsOut(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	return ask(ctx, conn, `SELECT (EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper)
		OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname IN ('dblink', 'plproxy',
			'pg_net', 'http', 'citus', 'pg_cron', 'pg_background', 'timescaledb'))
		OR EXISTS (SELECT FROM pg_catalog.pg_language
			WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c')))::text`)
}

func ask(ctx context.Context, conn *pgconn.PgConn, question string) (bool, error) {
	replies, err := exchange(ctx, conn, question)
	if err != nil {
		return false, err
	}
	row, err := replies[0].cells(1)
	if err != nil {
		return false, fmt.Errorf("pgbranch: %w", err)
	}
	return row[0] == "true", nil
}

// keepSettings makes the session show warnings, and wait for synchronous standbys where there are
// any, whatever role, database or application had set. The higher levels of synchronous_commit are
// kept.
func keepSettings(local bool) string { return "SELECT " + settingsColumn(local) }

// settingsColumn does so, and costs little where nothing is to be done, which is the usual case.
func settingsColumn(local bool) string {
	return fmt.Sprintf(`CASE
		WHEN pg_catalog.current_setting('client_min_messages') IN ('error', 'fatal', 'panic')
			OR pg_catalog.current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')
		THEN pg_catalog.set_config('client_min_messages', 'warning', %[1]v)
			|| pg_catalog.set_config('synchronous_commit',
				CASE pg_catalog.current_setting('synchronous_commit')
				WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, %[1]v) END`, local)
}

// Barrier proves that everything that this server has shown so far is durable, also at its
// synchronous standby if it has one: it commits a write of its own, synchronously, and takes a
// WARNING for a no.
//
// What is seen in pg_prepared_xacts needs it: a PREPARE is listed there while it still waits for
// its standby. The error is [ErrNotReplicated] where the server did not vouch for it.
func Barrier(ctx context.Context, conn *pgconn.PgConn) error {
	replies, err := exchange(ctx, conn, keepSettings(false),
		"SELECT pg_catalog.pg_logical_emit_message(true, 'gavel', '')::text")
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.err != nil {
			return fmt.Errorf("pgbranch: synchronous write: %w", r.err)
		}
		if w := r.results[0].warning; w != "" {
			return fmt.Errorf("%w: %s", ErrNotReplicated, w)
		}
	}
	return nil
}

// error is the reply's error as an error: a nil *PgError must not become one that is not nil.
func (r reply) error() error {
	if r.err == nil {
		return nil
	}
	return r.err
}
