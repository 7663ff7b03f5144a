package pgsession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// Config says how sessions are opened. It has secrets in it.
type Config struct {
	// DSN is a connection string or URL, as pgx takes them. Its role runs the SQL of clients.
	DSN string
	// OwnerRole is the role that owns prepared branches. Defaults to the role of the DSN.
	OwnerRole string
	// Finisher is the role that finishes them, which must be a member of the owner. Defaults to no
	// check.
	Finisher string
	// MaxSessions bounds the sessions. One connection more is for checks, and for a moment that of
	// a session which has just ended. Defaults to session.DefaultSessions.
	MaxSessions int
	// Idle is how long the server leaves a session idle that is not prepared. It is for when this
	// process hangs, and so should be longer than that of session.Config. Defaults to twice
	// session.DefaultIdle.
	Idle time.Duration
	// ConnectTimeout bounds one attempt to connect. Defaults to 5 s.
	ConnectTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.MaxSessions == 0 {
		c.MaxSessions = session.DefaultSessions
	}
	if c.Idle == 0 {
		c.Idle = 2 * session.DefaultIdle
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	return c
}

// Database opens sessions at a PostgreSQL database. It is a session.Database.
type Database struct {
	cfg  Config
	pool *pgxpool.Pool
	role string
}

var _ session.Database = (*Database)(nil)

// New does not connect: a participant starts also while its database is down.
func New(c Config) (*Database, error) {
	c = c.withDefaults()
	if c.MaxSessions < 0 || c.Idle < 0 || c.ConnectTimeout < 0 {
		return nil, errors.New("pgsession: a limit is negative")
	}
	cfg, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("pgsession: DSN: %w", err) // pgconn leaves the password out
	}
	d := &Database{cfg: c, role: cfg.ConnConfig.User}
	cfg.MaxConns, cfg.MinConns = int32(c.MaxSessions)+1, 0
	cfg.ConnConfig.ConnectTimeout = c.ConnectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "gavel sql"
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	cfg.ConnConfig.BuildFrontend = frontend
	cfg.AfterConnect = d.admit
	cfg.AfterRelease = d.clean
	if d.pool, err = pgxpool.NewWithConfig(context.Background(), cfg); err != nil {
		return nil, fmt.Errorf("pgsession: %w", err)
	}
	return d, nil
}

// frontend reads no message that is longer than a row may be, so that no client can make this
// process hold one.
func frontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	f := pgproto3.NewFrontend(r, w)
	f.SetMaxBodyLen(session.MaxRowLen)
	return f
}

// identityKey is where a connection keeps which database it leads to.
const identityKey = "github.com/gavel-tx/gavel/participant/postgres/pgsession.identity"

// admit refuses a new connection on which no branch could be prepared, and finished later.
func (d *Database) admit(ctx context.Context, conn *pgx.Conn) error {
	// The role may have a search_path of its own, which is for the SQL of clients.
	if err := run(ctx, conn, "SET search_path = pg_catalog, pg_temp"); err != nil {
		return err
	}
	place, err := pgbranch.Look(ctx, conn.PgConn())
	if err != nil {
		return err
	}
	if place.Standby {
		return errors.New("the server is a standby; point the address at the primary")
	}
	conn.PgConn().CustomData()[identityKey] = place.Identity
	if err := d.checkOwner(ctx, conn); err != nil {
		return err
	}
	return run(ctx, conn, "RESET search_path")
}

// run sends a command without results.
func run(ctx context.Context, conn *pgx.Conn, command string) error {
	_, err := conn.PgConn().Exec(ctx, command).ReadAll()
	return err
}

// rolesSQL tells whether the session's role may become the owner, and the finisher too.
const rolesSQL = `SELECT
	coalesce((SELECT pg_has_role(session_user, oid, kind) FROM pg_roles WHERE rolname = $1), false),
	coalesce((SELECT pg_has_role(f.oid, o.oid, kind) FROM pg_roles f, pg_roles o
		WHERE f.rolname = $2 AND o.rolname = $1), false)
	FROM (SELECT CASE WHEN current_setting('server_version_num')::int >= 160000
		THEN 'SET' ELSE 'MEMBER' END AS kind) AS k`

// checkOwner makes sure of both sides of the owner role. A branch that was prepared, and that
// nobody may finish, would keep its locks.
func (d *Database) checkOwner(ctx context.Context, conn *pgx.Conn) error {
	owner := d.owner()
	var runner, finisher bool
	err := conn.QueryRow(ctx, rolesSQL, pgx.QueryExecModeExec, owner, d.cfg.Finisher).
		Scan(&runner, &finisher)
	switch {
	case err != nil:
		return err
	case !runner:
		return fmt.Errorf("role %s, which runs the SQL, may not become %s, which owns prepared "+
			"branches: GRANT %s TO %s", d.role, owner, quoted(owner), quoted(d.role))
	case !finisher && d.cfg.Finisher != "":
		return fmt.Errorf("role %s, which finishes branches, may not become %s, which would own "+
			"them: name an owner role that is granted to both", d.cfg.Finisher, owner)
	}
	return nil
}

func quoted(role string) string { return pgbranch.QuoteIdentifier(role) }

func (d *Database) owner() string {
	if d.cfg.OwnerRole != "" {
		return d.cfg.OwnerRole
	}
	return d.role
}

// cleanLimit bounds the cleaning of a connection.
const cleanLimit = 5 * time.Second

// clean makes a connection as good as new for the next client, or has it closed.
func (d *Database) clean(conn *pgx.Conn) bool {
	if conn.IsClosed() || conn.PgConn().TxStatus() != 'I' {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	return run(ctx, conn, "DISCARD ALL") == nil
}

// Open implements session.Database.
func (d *Database) Open(
	ctx context.Context, name txn.Name, o session.Options,
) (session.Conn, error) {
	pooled, err := d.begin(ctx, pgbranch.BeginOptions{ReadOnly: o.ReadOnly, ID: name.ID(),
		IdleTimeout: d.cfg.Idle, Isolation: isolation(o.Isolation)})
	if err != nil {
		return nil, txn.Refusef(txn.ReasonNotReady, "", "no session can be opened: %v", err)
	}
	pg := pooled.Conn().PgConn()
	identity, _ := pg.CustomData()[identityKey].(txn.Identity)
	return &conn{pg: pg, name: name, release: pooled.Release,
		prepare: pgbranch.PrepareOptions{OwnerRole: d.cfg.OwnerRole, Expect: identity}}, nil
}

// begin takes a connection and begins a branch on it, and once more on a fresh one if the
// connection broke: an idle one may have been dead since the database's last restart, and all
// others with it.
func (d *Database) begin(
	ctx context.Context, o pgbranch.BeginOptions,
) (*pgxpool.Conn, error) {
	for again := false; ; again = true {
		pooled, err := d.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		err = pgbranch.Begin(ctx, pooled.Conn().PgConn(), o)
		if err == nil {
			return pooled, nil
		}
		broken := pooled.Conn().IsClosed()
		pooled.Release()
		if !broken || again || ctx.Err() != nil {
			return nil, err
		}
		d.pool.Reset()
	}
}

func isolation(i session.Isolation) pgbranch.Isolation {
	switch i {
	case session.ReadCommitted:
		return pgbranch.ReadCommitted
	case session.RepeatableRead:
		return pgbranch.RepeatableRead
	case session.Serializable:
		return pgbranch.Serializable
	}
	return ""
}

// checkLimit bounds the checks: who asks has the resource itself to describe too.
const checkLimit = time.Second

// Checks implements session.Database. None of them is a failure of the resource: transactions that
// use the database directly go on where no session can be opened, and who attaches one is refused.
func (d *Database) Checks(ctx context.Context) []participant.Check {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	var super bool
	err := d.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		return c.QueryRow(ctx, `SELECT rolsuper FROM pg_catalog.pg_roles
			WHERE rolname OPERATOR(pg_catalog.=) session_user`, pgx.QueryExecModeExec).Scan(&super)
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return []participant.Check{{Level: participant.LevelWarn,
			What: fmt.Sprintf("whether the SQL of clients can be run as role %s was not seen "+
				"within %s: all its connections are in use, or the database does not answer; "+
				"other transactions of the resource go on", d.role, checkLimit),
			Fix: "if this lasts, allow more sessions, or see why the database does not answer"}}
	case err != nil:
		return []participant.Check{{Level: participant.LevelWarn,
			What: fmt.Sprintf("the SQL of clients cannot be run as role %s, and its sessions are "+
				"refused; other transactions of the resource go on: %v", d.role, err),
			Fix: "correct the address that SQL is run at, or the rights of its role"}}
	case super:
		return []participant.Check{{Level: participant.LevelWarn,
			What: fmt.Sprintf("the SQL of clients runs as role %s, a superuser", d.role),
			Fix:  "run it as a role that has only the rights that clients shall have"}}
	}
	return []participant.Check{{Level: participant.LevelOK,
		What: fmt.Sprintf("the SQL of clients runs as role %s", d.role)}}
}

// Close implements session.Database.
func (d *Database) Close() error {
	d.pool.Close()
	return nil
}

// reasonOf is the server's message, or what else went wrong.
func reasonOf(err error) (reason, sqlState string) {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Message, pg.Code
	}
	if _, ok := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err); ok {
		return fmt.Sprintf("a row is longer than %d bytes; select less of it",
			session.MaxRowLen), ""
	}
	return err.Error(), ""
}
