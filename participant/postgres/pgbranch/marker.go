package pgbranch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Marker is the row that decides a transaction whose decision was left to this database.
type Marker struct {
	// Never says that the transaction never commits. Decision is empty then.
	Never bool
	// Decision holds the votes of all other branches: see [txn.ParseDecision].
	Decision []byte
}

const (
	// allWait bounds the wait for clients that are just writing one of several markers, and each
	// that for one of them. A commit takes milliseconds, and one that waits for a standby for
	// longer would hold up all others.
	allWait  = 100 * time.Millisecond
	eachWait = 10 * time.Millisecond
)

// EnsureMarkers writes, for each transaction without a marker, the one that says never, and returns
// the markers that are there then. A transaction that is missing in the answer is just being
// decided by its client: ask again. It is insert-if-absent, so that of a client that commits with
// its marker, and of this, one succeeds.
//
// What is returned is true, but durable only after a [Barrier]: it is read from a server that may
// not have told its standby yet. The connection must be idle, outside of a transaction. The error
// is [ErrNoMarkers], a [TransportError], or the server's; some markers may have been written.
func EnsureMarkers(
	ctx context.Context, conn *pgconn.PgConn, ids []txn.ID,
) (map[txn.ID]Marker, error) {
	// In order, so that two callers cannot wait for each other.
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b txn.ID) int { return slices.Compare(a[:], b[:]) })
	replies, err := exchange(ctx, conn, ensureSQL(ids, allWait))
	if err == nil && len(ids) > 1 && beingWritten(replies[0]) {
		each := make([]string, len(ids))
		for i := range ids {
			each[i] = ensureSQL(ids[i:i+1], eachWait)
		}
		replies, err = exchange(ctx, conn, each...)
	}
	if err != nil {
		return nil, err
	}
	found := make(map[txn.ID]Marker, len(ids))
	for _, r := range replies {
		if err := readMarkers(found, r); err != nil {
			return nil, err
		}
	}
	if mutant.On(mutant.MarkerOnlyRead) {
		takeForNever(found, ids)
	}
	return found, nil
}

// takeForNever is what a mutant makes of markers that are not there.
func takeForNever(found map[txn.ID]Marker, ids []txn.ID) {
	for _, id := range ids {
		if _, there := found[id]; !there {
			found[id] = Marker{Never: true}
		}
	}
}

// ensureSQL is one transaction. The level matters: at a higher one, the conflict with a row that
// was committed after the snapshot is an error, and the SELECT would not see that row.
func ensureSQL(ids []txn.ID, wait time.Duration) string {
	insert := `INSERT INTO gavel.marker (txid) VALUES (` + idList(ids, "), (") + `)
		ON CONFLICT DO NOTHING; `
	if mutant.On(mutant.MarkerOnlyRead) {
		insert = ""
	}
	return fmt.Sprintf(`SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
		SELECT pg_catalog.set_config('lock_timeout', '%d', true), %s; `,
		wait.Milliseconds(), settingsColumn(true)) + insert +
		`SELECT txid::text, (decision IS NULL)::text, encode(decision, 'hex') FROM gavel.marker
		WHERE txid IN (` + idList(ids, ", ") + `)`
}

func idList(ids []txn.ID, between string) string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = "'" + id.String() + "'"
	}
	return strings.Join(all, between)
}

// beingWritten says that a client, whose transaction is still open, has written a marker that the
// reply is about.
func beingWritten(r reply) bool {
	return r.err != nil && (r.err.Code == codeLockTimeout || r.err.Code == codeDeadlock)
}

func readMarkers(found map[txn.ID]Marker, r reply) error {
	switch {
	case beingWritten(r):
		return nil
	case r.err != nil:
		return markerError(r.err)
	case len(r.results) == 0:
		return fmt.Errorf("%w: no answer about markers", ErrProtocol)
	}
	for _, row := range r.results[len(r.results)-1].rows {
		if len(row) != 3 {
			return fmt.Errorf("%w: a marker of %d columns", ErrProtocol, len(row))
		}
		id, err1 := txn.ParseID(row[0])
		decision, err2 := hex.DecodeString(row[2])
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("%w: marker %q: %w", ErrProtocol, row, err)
		}
		found[id] = Marker{Never: row[1] == "true", Decision: decision}
	}
	return nil
}

// markerError is what the server's error means where all that was asked for was a marker.
func markerError(e *pgconn.PgError) error {
	if noMarkers(e.Code) {
		return fmt.Errorf("%w: %w", ErrNoMarkers, e)
	}
	return fmt.Errorf("pgbranch: markers: %w", e)
}

// ListMarkers lists the transactions of a log, from a sequence on, that have a marker of their
// commit, in the order of their ids, at most limit of them. The ids of one log lie side by side.
// The error is that of [EnsureMarkers].
func ListMarkers(
	ctx context.Context, conn *pgconn.PgConn, log txn.LogID, from txn.Seq, limit int,
) ([]txn.ID, error) {
	replies, err := exchange(ctx, conn, fmt.Sprintf(`SELECT txid::text FROM gavel.marker
		WHERE txid BETWEEN '%s' AND '%s' AND decision IS NOT NULL ORDER BY txid LIMIT %d`,
		txn.NewID(log, from), txn.NewID(log, txn.MaxSeq), limit))
	if err != nil {
		return nil, err
	}
	if e := replies[0].err; e != nil {
		return nil, markerError(e)
	}
	rows := replies[0].results[0].rows
	ids := make([]txn.ID, len(rows))
	for i, row := range rows {
		if ids[i], err = txn.ParseID(row[0]); err != nil {
			return nil, fmt.Errorf("%w: marker of %w", ErrProtocol, err)
		}
	}
	return ids, nil
}

// RemoveMarkers removes the markers of commits among ids, and does not wait for the disk: one that
// comes back with a crash is listed again. The error is that of [EnsureMarkers].
func RemoveMarkers(ctx context.Context, conn *pgconn.PgConn, ids []txn.ID) error {
	if len(ids) == 0 {
		return nil
	}
	replies, err := exchange(ctx, conn, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
		SELECT pg_catalog.set_config('synchronous_commit', 'off', true);
		DELETE FROM gavel.marker WHERE txid IN (`+idList(ids, ", ")+`) AND decision IS NOT NULL`)
	if err != nil {
		return err
	}
	if e := replies[0].err; e != nil {
		return markerError(e)
	}
	return nil
}

// MarkerSchema are the statements that set a database up for markers, as often as they are run: for
// the role of whoever finishes branches there, and for those of applications, which may write
// markers and do nothing else with them. Whoever runs them needs the right to create schemas in the
// database, and owns what is there already.
//
// Rows of commits come and go with the transactions: the table is vacuumed by the number of those
// that are gone, and without pauses. Rows that say never stay, and an index without them keeps
// [ListMarkers] from reading all of them each time.
func MarkerSchema(finisher string, applications ...string) []string {
	finisher = QuoteIdentifier(finisher)
	statements := []string{
		"CREATE SCHEMA IF NOT EXISTS gavel",
		"CREATE TABLE IF NOT EXISTS gavel.marker (txid uuid PRIMARY KEY, decision bytea)\n" +
			"  WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,\n" +
			"    autovacuum_vacuum_cost_delay = 0)",
		"CREATE INDEX IF NOT EXISTS marker_of_commit ON gavel.marker (txid)\n" +
			"  WHERE decision IS NOT NULL",
		"COMMENT ON TABLE gavel.marker IS\n" +
			"  'Decisions of global transactions; a row without one says never. Not to be edited.'",
		"GRANT USAGE ON SCHEMA gavel TO " + finisher,
		"GRANT SELECT, INSERT, DELETE ON gavel.marker TO " + finisher,
	}
	for _, role := range applications {
		role = QuoteIdentifier(role)
		statements = append(statements, "GRANT USAGE ON SCHEMA gavel TO "+role,
			"GRANT INSERT ON gavel.marker TO "+role)
	}
	return statements
}

// MarkerSetup is what a database has for markers, as the session's role sees it.
type MarkerSetup struct {
	// There says that the table is there.
	There bool
	// Fault says why it is of no use all the same.
	Fault string
}

// Usable says whether markers can be read, written and removed.
func (s MarkerSetup) Usable() bool { return s.There && s.Fault == "" }

// setupSQL looks at the catalogues, which everybody may read: to ask for the table by its name is
// an error for a role that may not use its schema. A table that loses rows with a crash, takes two
// for one transaction, or has something in front of it that may leave a row out would decide one
// transaction both ways.
const setupSQL = `SELECT
	(c.relkind = 'r' AND c.relpersistence = 'p')::text,
	EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
		AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
		AND a.attname = 'txid' AND a.atttypid = 'uuid'::regtype)::text,
	EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'decision'
		AND a.atttypid = 'bytea'::regtype AND NOT a.attnotnull AND NOT a.atthasdef)::text,
	(c.relrowsecurity OR EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid)
		OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal))::text,
	(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
		AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'DELETE'))::text
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = 'gavel' AND c.relname = 'marker'`

// LookMarkers asks what a database has for markers. The connection must be idle.
func LookMarkers(ctx context.Context, conn *pgconn.PgConn) (MarkerSetup, error) {
	replies, err := exchange(ctx, conn, setupSQL)
	if err != nil {
		return MarkerSetup{}, err
	}
	if e := replies[0].err; e != nil {
		return MarkerSetup{}, fmt.Errorf("pgbranch: look for markers: %w", e)
	}
	if len(replies[0].results[0].rows) == 0 {
		return MarkerSetup{}, nil
	}
	row, err := replies[0].cells(5)
	if err != nil {
		return MarkerSetup{}, err
	}
	return MarkerSetup{There: true, Fault: setupFault(row)}, nil
}

func setupFault(row []string) string {
	switch {
	case row[0] != "true":
		return "gavel.marker is not an ordinary table that survives a crash"
	case row[1] != "true":
		return "gavel.marker has no unique index on txid, of type uuid, alone"
	case row[2] != "true":
		return "gavel.marker has no column decision of type bytea that may be NULL"
	case row[3] == "true":
		return "gavel.marker has rules, triggers or row security, which may leave a marker out"
	case row[4] != "true":
		return "the session's role may not read, insert and delete in gavel.marker"
	}
	return ""
}
