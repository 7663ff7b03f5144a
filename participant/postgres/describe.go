package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

const (
	// minVersion is the oldest supported server_version_num.
	minVersion = 140000
	// slotsAlarm is the share of prepared slots, in percent, above which transactions are about to
	// be refused.
	slotsAlarm = 80
	// probePrefix starts the names of prepared transactions that Describe makes for a moment. It is
	// outside of the prefix of branches, so that no sweep ever takes one for a branch.
	probePrefix = "gavelprobe."
)

// Describe connects and reports what the database is, and everything about its set-up that would
// make commits fail later, each with the command that corrects it. It prepares and rolls back a
// transaction of its own, and removes those that an interrupted Describe has left; nothing else is
// changed, and nothing lasts.
//
// A database that is not the registered one is described, not refused: that is a finding.
func (r *Resource) Describe(ctx context.Context) (participant.Description, error) {
	conn, err := r.connector.dial(ctx, "gavel")
	if err != nil {
		return participant.Description{}, err
	}
	defer func() {
		closeConn(conn)
		<-conn.CleanupDone()
	}()
	return r.describe(ctx, conn)
}

func (r *Resource) describe(
	ctx context.Context, conn *pgconn.PgConn,
) (participant.Description, error) {
	_, before := r.past.known()
	place, err := pgbranch.Look(ctx, conn)
	if err != nil {
		return participant.Description{}, err
	}
	facts, err := readFacts(ctx, conn, r.config.OwnerRole)
	var setup pgbranch.MarkerSetup
	if err == nil {
		setup, err = pgbranch.LookMarkers(ctx, conn)
	}
	if err != nil {
		return participant.Description{}, fmt.Errorf(
			"postgres: describe %s: %w",
			r.config.Name,
			err,
		)
	}
	d := participant.Description{
		Kind:     "postgres",
		Version:  conn.ParameterStatus("server_version"),
		Identity: place.Identity,
		Position: place.Position,
		Evidence: true,
		Delegate: setup.Usable(),
		Used:     facts.used,
		Limit:    facts.limit,
	}
	d.Checks = append(d.Checks, checkPlace(place, r.past.admit(place, before)))
	d.Checks = append(d.Checks, facts.checks()...)
	d.Checks = append(d.Checks, checkMarkers(setup)...)
	if place.Standby {
		return d, nil // it can prepare nothing, and a probe would only say so again
	}
	d.Checks = append(d.Checks, r.probe(ctx, conn))
	return d, nil
}

func ok(format string, args ...any) participant.Check {
	return participant.Check{Level: participant.LevelOK, What: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) participant.Check {
	return participant.Check{Level: participant.LevelWarn, Fix: fix,
		What: fmt.Sprintf(format, args...)}
}

func bad(fix, format string, args ...any) participant.Check {
	return participant.Check{Level: participant.LevelFail, Fix: fix,
		What: fmt.Sprintf(format, args...)}
}

func checkPlace(place pgbranch.Place, admitted error) participant.Check {
	held, isHeld := errors.AsType[*HeldError](admitted)
	switch {
	case place.Version < minVersion:
		return bad("upgrade to PostgreSQL 14 or newer", "server version %d is not supported",
			place.Version)
	case place.Standby:
		return bad("point the DSN at the primary (target_session_attrs=read-write)",
			"the server is a standby: it lists no prepared transactions and can finish none")
	case isHeld:
		return bad("correct the DSN, or accept the new database for this resource", "%v", held)
	}
	return ok("primary %s on timeline %d", place.Identity, place.Position.Timeline)
}

// facts are the settings and circumstances that checks go by.
type facts struct {
	role, owner               string
	used, limit, connections  int
	fsync, fullPageWrites     bool
	superuser                 bool
	ownerExists, ownerTakable bool
	reaper                    string
	oldest                    string
	strangers                 int
}

// factsSQL asks all of it in one row. A setting that rolls prepared transactions back by age is
// looked for by its name, because none exists in released versions and more than one is proposed.
const factsSQL = `SELECT session_user::text,
	current_setting('max_prepared_transactions'), current_setting('max_connections'),
	(SELECT count(*) FROM pg_prepared_xacts)::text,
	current_setting('fsync'), current_setting('full_page_writes'),
	(SELECT rolsuper FROM pg_roles WHERE rolname = session_user)::text,
	EXISTS (SELECT FROM pg_roles WHERE rolname = %[1]s)::text,
	coalesce((SELECT pg_has_role(session_user, oid, CASE
		WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
		FROM pg_roles WHERE rolname = %[1]s), false)::text,
	coalesce((SELECT min(name) FROM pg_settings WHERE name LIKE '%%prepared%%timeout%%'
		AND setting NOT IN ('0', '-1', 'off')), ''),
	coalesce((SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
		AND NOT (` + ours + `) AND gid NOT LIKE '` + probePrefix + `%%'
		AND prepared < clock_timestamp() - interval '1 hour' ORDER BY prepared LIMIT 1), ''),
	(SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()
		AND NOT (` + ours + `) AND prepared < clock_timestamp() - interval '1 hour')::text`

func readFacts(ctx context.Context, conn *pgconn.PgConn, owner string) (facts, error) {
	quoted, err := conn.EscapeString(owner)
	if err != nil {
		return facts{}, err
	}
	rows, err := query(ctx, conn, fmt.Sprintf(factsSQL, "'"+quoted+"'"))
	if err != nil {
		return facts{}, err
	}
	row := rows[0]
	f := facts{role: row[0], owner: owner, fsync: row[4] == "on", fullPageWrites: row[5] == "on",
		superuser: row[6] == "true", ownerExists: row[7] == "true", ownerTakable: row[8] == "true",
		reaper: row[9], oldest: row[10]}
	for at, into := range map[int]*int{1: &f.limit, 2: &f.connections, 3: &f.used,
		11: &f.strangers} {
		if *into, err = strconv.Atoi(row[at]); err != nil {
			return facts{}, err
		}
	}
	return f, nil
}

func (f facts) checks() []participant.Check {
	return []participant.Check{
		f.checkSlots(),
		f.checkDurability(),
		f.checkOwner(),
		f.checkReaper(),
		f.checkStrangers(),
	}
}

func (f facts) checkSlots() participant.Check {
	raise := fmt.Sprintf("ALTER SYSTEM SET max_prepared_transactions = %d; -- then restart",
		max(f.connections, 2*f.limit))
	switch {
	case f.limit == 0:
		return bad(raise, "max_prepared_transactions is 0: nothing can be prepared")
	case f.used*100 >= f.limit*slotsAlarm:
		return warn(raise, "%d of %d prepared slots are in use", f.used, f.limit)
	case f.limit < f.connections:
		return warn(raise, "max_prepared_transactions (%d) is lower than max_connections (%d): "+
			"PREPARE fails when all slots are in use", f.limit, f.connections)
	}
	return ok("%d of %d prepared slots are in use", f.used, f.limit)
}

// checkDurability does not look at synchronous_commit: PREPARE and COMMIT PREPARED flush whatever
// it says.
func (f facts) checkDurability() participant.Check {
	switch {
	case !f.fsync:
		return bad("ALTER SYSTEM RESET fsync; SELECT pg_reload_conf();",
			"fsync is off: a prepared branch can be lost by a power failure")
	case !f.fullPageWrites:
		return bad("ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf();",
			"full_page_writes is off: a power failure can damage committed data")
	}
	return ok("fsync and full_page_writes are on")
}

func (f facts) checkOwner() participant.Check {
	name := pgbranch.QuoteIdentifier(f.owner)
	role := pgbranch.QuoteIdentifier(f.role)
	switch {
	case f.owner == "" && f.superuser:
		return ok("role %s is a superuser and can finish every branch", f.role)
	case f.owner == "":
		return warn("CREATE ROLE gavel_owner NOLOGIN; GRANT gavel_owner TO "+role+
			"; -- and to the applications' roles", "no owner role: only branches that %s or "+
			"a role it is a member of has prepared can be finished", f.role)
	case !f.ownerExists:
		return bad(fmt.Sprintf("CREATE ROLE %s NOLOGIN; GRANT %s TO %s; -- and to the "+
			"applications' roles", name, name, role), "the owner role %s does not exist", f.owner)
	case !f.ownerTakable:
		return bad(fmt.Sprintf("GRANT %s TO %s;", name, role),
			"role %s may not take the owner role %s", f.role, f.owner)
	}
	return ok("role %s can take the owner role %s", f.role, f.owner)
}

func (f facts) checkReaper() participant.Check {
	if f.reaper != "" {
		return bad(
			"ALTER SYSTEM RESET "+f.reaper+"; SELECT pg_reload_conf();",
			"setting %s rolls prepared transactions back by itself, also committed ones",
			f.reaper,
		)
	}
	return ok("no setting ends prepared transactions")
}

func (f facts) checkStrangers() participant.Check {
	if f.strangers > 0 {
		return warn("SELECT * FROM pg_prepared_xacts; -- then COMMIT or ROLLBACK PREPARED '"+
			f.oldest+"'", "%d prepared transactions of others are older than an hour: they keep "+
			"locks, and stop vacuum", f.strangers)
	}
	return ok("no old prepared transactions of others")
}

// probe prepares a transaction, as a branch's owner would, and rolls it back as this adapter does.
// Its name is the session's process and the transaction's number, which nobody else has.
func (r *Resource) probe(ctx context.Context, conn *pgconn.PgConn) participant.Check {
	if err := r.removeProbes(ctx, conn); err != nil {
		return failedProbe("remove an old probe", err)
	}
	take := "SELECT 1"
	if r.config.OwnerRole != "" {
		take = "SET ROLE " + pgbranch.QuoteIdentifier(r.config.OwnerRole)
	}
	xid, err := ask(ctx, conn, "BEGIN; SELECT pg_current_xact_id()::text")
	if err != nil {
		return failedProbe("BEGIN", err)
	}
	name := fmt.Sprintf("%s%d.%s", probePrefix, conn.PID(), xid)
	if _, err := queryAll(ctx, conn, take+"; PREPARE TRANSACTION '"+name+"'"); err != nil {
		return failedProbe("PREPARE TRANSACTION", err)
	}
	if _, err := queryAll(ctx, conn, "ROLLBACK PREPARED '"+name+"'"); err != nil {
		return failedProbe("ROLLBACK PREPARED", err)
	}
	return ok("a transaction was prepared and rolled back")
}

func failedProbe(act string, err error) participant.Check {
	return bad("correct the findings above, then check again", "%s failed: %v", act, err)
}

// removeProbes rolls back probes that are older than any Describe takes, so that a process that was
// killed inside one does not hold a slot for ever. A probe has no effects: rolling back one that
// somebody still runs only fails that check.
func (r *Resource) removeProbes(ctx context.Context, conn *pgconn.PgConn) error {
	rows, err := query(ctx, conn, `SELECT gid, owner FROM pg_prepared_xacts
		WHERE database = current_database() AND gid ~ '^gavelprobe[.][0-9]+[.][0-9]+$'
		AND prepared < clock_timestamp() - interval '1 minute'
		AND pg_has_role(session_user, owner, 'MEMBER')`)
	if err != nil {
		return err
	}
	for _, row := range rows {
		for _, sql := range []string{"SET ROLE " + pgbranch.QuoteIdentifier(row[1]),
			"ROLLBACK PREPARED '" + row[0] + "'", "RESET ROLE"} {
			if _, err := queryAll(ctx, conn, sql); err != nil {
				return err
			}
		}
	}
	return nil
}
