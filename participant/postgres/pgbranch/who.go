package pgbranch

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// evidenceSQL has the parameters of whoColumn. Its columns are the transaction's number, that one,
// and one that only keeps settings.
var evidenceSQL = `SELECT pg_catalog.pg_current_xact_id()::text, ` + whoColumn + `, ` +
	settingsColumn(true)

const (
	// markSQL has the parameters of whoColumn, and an expected identity is none.
	markSQL = `SELECT pg_catalog.pg_current_xact_id()::text, ` + whoColumn

	positionSQL = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text"
)

// whoColumn is what there is to know of a backend, or NULL where it is known already. It has three
// parameters: number and start of the backend that is known, 0 for none, and the identity that is
// expected, the empty string for none.
//
// Reading the identity costs the server a look at a file, and it is that of a backend for as long
// as the backend lives; so it is read once for each of them. So are the life of the server's
// memory, which no backend survives, and the timeline, which is that of a primary from its start or
// promotion on: who has the number of a transaction is on a primary. A pooler between may give
// every transaction another backend, which is why the answer is tied to the backend itself, and not
// to the connection.
//
// Another database than the expected one fails the statement, and with it the whole message, before
// PREPARE is reached. A check after PREPARE would come too late: a crash in between leaves a
// prepared transaction in a database that nobody sweeps. The failing cast depends on a column,
// since constants are evaluated before CASE is.
const (
	whoColumn = `CASE WHEN pg_catalog.pg_backend_pid() = $1::int
			AND pg_catalog.pg_postmaster_start_time() = pg_catalog.to_timestamp($2::float8)
		THEN NULL ELSE (
			SELECT CASE WHEN $3::text IN ('', found)
				THEN pg_catalog.pg_backend_pid() || ' ' || ` + lifeColumn + ` || ' ' ||
					` + timelineColumn + ` || ' ' || found
				ELSE ('not the registered database: ' || found)::int::text END
			FROM (SELECT c.system_identifier || '/' || d.oid AS found
				FROM ` + identityTables + `) AS who
		) END`

	// lifeColumn names a life of the server's shared memory by two times, in seconds. The
	// postmaster's start alone is not enough: when a backend crashes, the postmaster lives on and
	// puts the server through crash recovery, which gives out numbers again. That recovery does
	// reset the statistics, so that their reset time tells. Somebody may also reset them by hand;
	// then the answer is unknown where it could have been known, which is safe.
	lifeColumn = `extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text ||
		' ' || coalesce(extract(
		epoch FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time())::text, '-')`
)

// backend is what whoColumn says. The zero value is none that is known.
type backend struct {
	// pid and start tell one backend from every other one, of this server and of others.
	pid, start string
	life       string
	timeline   string
	identity   txn.Identity
}

// backendKey is where a connection keeps its backend.
const backendKey = "github.com/gavel-tx/gavel/participant/postgres/pgbranch.backend"

func known(conn *pgconn.PgConn) backend {
	b, _ := conn.CustomData()[backendKey].(backend)
	return b
}

// learn reads whoColumn, and keeps what it says.
func learn(conn *pgconn.PgConn, who string) (backend, error) {
	if b := known(conn); who == "" && b.pid != "" {
		return b, nil
	}
	f := strings.Fields(who)
	if len(f) != 5 || strings.Trim(f[0]+f[1], "0123456789.") != "" {
		return backend{}, fmt.Errorf("%w: backend %q", ErrProtocol, who)
	}
	system, database, _ := strings.Cut(f[4], "/")
	id, err := parseIdentity(system, database)
	if err != nil {
		return backend{}, err
	}
	b := backend{pid: f[0], start: f[1], life: f[1] + " " + f[2], timeline: f[3], identity: id}
	conn.CustomData()[backendKey] = b
	return b, nil
}

// who are the parameters of whoColumn.
func (o PrepareOptions) who(b backend) []string {
	if o.Expect.IsZero() {
		return b.parameters("")
	}
	if b.identity != o.Expect {
		// The server is to look, and to fail.
		b = backend{}
	}
	return b.parameters(fmt.Sprintf("%d/%d", o.Expect.System, o.Expect.Database))
}

func (b backend) parameters(expect string) []string {
	if b.pid == "" {
		return []string{"0", "0", expect}
	}
	return []string{b.pid, b.start, expect}
}
