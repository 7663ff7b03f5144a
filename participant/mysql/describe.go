package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// Describe connects and reports what the database is, and everything about its set-up that would
// make commits fail later, each with the statement that corrects it. It prepares and rolls back an
// empty transaction of its own, and has the server sync how far its history has come; nothing else
// is changed, and nothing lasts.
//
// A database that is not the registered one is described, not refused: that is a finding.
func (r *Resource) Describe(ctx context.Context) (participant.Description, error) {
	s, err := r.connector.dial(ctx)
	if err != nil {
		return participant.Description{}, err
	}
	defer xabranch.Discard(s.Conn)
	d, err := r.describe(ctx, s)
	if err != nil {
		return participant.Description{}, fmt.Errorf("mysql: describe %s: %w", r.config.Name, err)
	}
	return d, nil
}

func (r *Resource) describe(
	ctx context.Context, s *session,
) (participant.Description, error) {
	_, before := r.past.known()
	place, err := xabranch.About(ctx, s.Conn)
	if err != nil {
		return participant.Description{}, err
	}
	d := participant.Description{Kind: "mysql", Version: place.Version}
	known, err := xabranch.Look(ctx, s.Conn)
	if errors.Is(err, xabranch.ErrNoSetup) {
		d.Checks = append(d.Checks, bad("-- as gavel schema --apply does:\n"+
			xabranch.SetupText(), "%v", err))
		return d, nil
	}
	if err != nil {
		return participant.Description{}, err
	}
	d.Identity, d.Position, d.Evidence = known.Identity, known.Position, true
	admitted := r.past.admit(known, before)
	d.Checks = append(d.Checks, checkPlace(known, admitted), checkFlush(known),
		checkBinaryLog(known))
	if admitted == nil {
		d.Position, err = r.settle(ctx, s, known.Position, 0)
		switch {
		case errors.Is(err, xabranch.ErrNoSetup), errors.Is(err, xabranch.ErrReadOnly):
			d.Position = txn.Position{}
			d.Checks = append(d.Checks, bad("GRANT SELECT, INSERT, UPDATE, DELETE ON gavel.* TO "+
				"this account", "how far the history has come cannot be written down: %v", err))
		case err != nil:
			return participant.Description{}, s.note(err)
		}
	}
	prepared, err := xabranch.Recover(ctx, s.Conn)
	if err != nil {
		d.Checks = append(d.Checks, bad("GRANT XA_RECOVER_ADMIN ON *.* TO this account",
			"XA RECOVER is refused: %v", err))
		return d, nil
	}
	d.Used = len(prepared.Names) + prepared.Unknown
	for _, check := range []func(context.Context, *session) participant.Check{
		checkHorizon, checkCluster, checkPrivileges, checkEngines, probe,
	} {
		d.Checks = append(d.Checks, check(ctx, s))
	}
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

func checkPlace(place xabranch.Place, admitted error) participant.Check {
	held, isHeld := errors.AsType[*HeldError](admitted)
	switch {
	case errors.Is(admitted, xabranch.ErrMySQL):
		return bad("use MariaDB, or accept the risk with --experimental-mysql",
			"%v: gavel was never tested with it", admitted)
	case errors.Is(admitted, xabranch.ErrReadOnly):
		return bad("point the DSN at the primary", "%v", admitted)
	case isHeld:
		return bad("correct the DSN, or accept the new database for this resource", "%v", held)
	case !place.MariaDB():
		return warn("use MariaDB", "version %s: MySQL is experimental, gavel was never tested "+
			"with it, and before 8.0.30 it can lose XA transactions in a crash", place.Version)
	}
	return ok("version %s, identity %s", place.Version, place.Identity)
}

func checkFlush(place xabranch.Place) participant.Check {
	if place.Flush != 1 {
		return bad("SET GLOBAL innodb_flush_log_at_trx_commit = 1; -- and in the configuration",
			"innodb_flush_log_at_trx_commit is %d: a prepared branch can be lost by a power "+
				"failure", place.Flush)
	}
	return ok("every commit is synced")
}

func checkBinaryLog(place xabranch.Place) participant.Check {
	if place.BinaryLog && !place.BinaryLogSynced {
		return bad("SET GLOBAL sync_binlog = 1, and in the server's configuration",
			"the binary log is on and not synced: what commits is not durable then")
	}
	if place.BinaryLog {
		return warn("compare a replica with this server after a crash before you fail over to it",
			"the binary log is on: after a crash in the middle of XA PREPARE or XA COMMIT a "+
				"replica may hold something else than this server")
	}
	return ok("no binary log that could disagree after a crash")
}

// checkHorizon looks for the table that a set-up from before it lacks.
func checkHorizon(ctx context.Context, s *session) participant.Check {
	var rows int
	err := s.QueryRowContext(ctx, "SELECT COUNT(*) FROM gavel.horizon").Scan(&rows)
	switch {
	case xabranch.Number(err) == numNoTable:
		return warn("gavel schema --resource NAME=URL --apply",
			"the table gavel.horizon is missing, as in a set-up from before it: commits go on, "+
				"and the rows of committed branches are never removed")
	case err != nil:
		return bad("GRANT SELECT, INSERT, UPDATE, DELETE ON gavel.* TO this account",
			"gavel.horizon cannot be read, so that branches that ended cannot be judged: %v", err)
	}
	return ok("rows of committed branches can be removed")
}

// checkCluster refuses Galera, which has no XA. Servers without it do not know the setting.
func checkCluster(ctx context.Context, s *session) participant.Check {
	var on bool
	err := s.QueryRowContext(ctx, "SELECT @@wsrep_on").Scan(&on)
	switch {
	case xabranch.Number(err) == numUnknownVariable || err == nil && !on:
		return ok("no Galera cluster")
	case err != nil:
		return bad("correct the error, then check again", "look for a cluster: %v", err)
	}
	return bad("use a server that is not part of a Galera cluster", "a Galera cluster has no XA")
}

// checkPrivileges looks for those that are the account's own. A role's are not looked for, so that
// the finding is a warning.
func checkPrivileges(ctx context.Context, s *session) participant.Check {
	var process, admin bool
	var account string
	err := s.QueryRowContext(ctx, `SELECT CURRENT_USER(),
		COALESCE(SUM(privilege_type = 'PROCESS'), 0) > 0,
		COALESCE(SUM(privilege_type IN ('CONNECTION ADMIN', 'CONNECTION_ADMIN', 'SUPER')), 0) > 0
		FROM information_schema.user_privileges
		WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')`).
		Scan(&account, &process, &admin)
	const fix = "GRANT PROCESS, CONNECTION ADMIN ON *.* TO this account"
	switch {
	case err != nil:
		return bad("correct the error, then check again", "look for privileges: %v", err)
	case !process:
		return warn(fix, "%s lacks PROCESS: it cannot see when the session of an application "+
			"ends, and a branch that is committed at that moment is stuck until the server is "+
			"restarted", account)
	case !admin:
		return warn(fix, "%s lacks CONNECTION ADMIN: a branch whose application hangs waits until "+
			"that ends", account)
	}
	return ok("%s can see sessions and end them", account)
}

// checkEngines looks for tables whose changes no rollback takes back.
func checkEngines(ctx context.Context, s *session) participant.Check {
	var tables, own int
	err := s.QueryRowContext(ctx, `SELECT COALESCE(SUM(table_schema = DATABASE()), 0),
		COALESCE(SUM(table_schema = 'gavel'), 0) FROM information_schema.tables
		WHERE table_schema IN (DATABASE(), 'gavel') AND table_type = 'BASE TABLE'
		AND engine <> 'InnoDB'`).Scan(&tables, &own)
	switch {
	case err != nil:
		return bad("correct the error, then check again", "look at the tables: %v", err)
	case own > 0:
		return bad("ALTER TABLE gavel.branch ENGINE = InnoDB, and likewise the others",
			"%d of gavel's own tables are not of InnoDB: a row there proves nothing", own)
	case tables > 0:
		return warn("ALTER TABLE … ENGINE = InnoDB", "%d tables are not of InnoDB: what a branch "+
			"writes there stays when it is rolled back", tables)
	}
	return ok("all tables that this account can see are of InnoDB")
}

// probe prepares an empty transaction and rolls it back. Its format is not ours, so that no sweep
// ever takes one for a branch; it holds no lock, and a restart forgets it.
func probe(ctx context.Context, s *session) participant.Check {
	xid := fmt.Sprintf("'gavelprobe.%d'", s.id)
	for _, verb := range []string{"XA START", "XA END", "XA PREPARE", "XA ROLLBACK"} {
		if _, err := s.ExecContext(ctx, verb+" "+xid); err != nil {
			return bad("correct the findings above, then check again", "%s failed: %v", verb, err)
		}
	}
	return ok("a transaction was prepared and rolled back")
}
