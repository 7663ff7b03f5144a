package sqltx_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// The two databases of most tests, and the server of those that mix.
var (
	srvs  [2]*pghost.Server
	maria *mariahost.Server
)

// With -short what needs a database is left out.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	ctx := context.Background()
	// The driver writes a line for each connection that is cut.
	if err := mysql.SetLogger(&mysql.NopLogger{}); err != nil {
		return fail(err)
	}
	if testing.Short() {
		if err := flag.Set("test.run", "^$"); err != nil {
			return fail(err)
		}
	} else {
		err := start(ctx)
		defer stop(ctx)
		if err != nil {
			return fail(err)
		}
	}
	code := m.Run()
	stop(ctx)
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func start(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for i, name := range []string{"bank_a", "bank_b"} {
		if srvs[i], err = inst.Start(ctx, pghost.Config{Name: name}); err != nil {
			return err
		}
		if err = srvs[i].Exec(ctx, "postgres", `
			CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0));
			CREATE TABLE once (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
			CREATE ROLE gavel_owner NOLOGIN`); err != nil {
			return err
		}
	}
	return startMaria(ctx)
}

// startMaria sets a server up as a user does: neither account may do everything.
func startMaria(ctx context.Context) error {
	inst, err := mariahost.Find()
	if err != nil {
		return err
	}
	if maria, err = inst.Start(ctx, mariahost.Config{Name: "stock"}); err != nil {
		return err
	}
	statements := append(xabranch.Schema(), "CREATE DATABASE stock", "CREATE DATABASE other",
		`CREATE TABLE stock.goods (id VARCHAR(20) PRIMARY KEY, n INT NOT NULL CHECK (n >= 0))
		ENGINE = InnoDB`, "CREATE USER app@localhost", "CREATE USER gavel@localhost",
		"GRANT ALL ON stock.* TO app@localhost", "GRANT ALL ON other.* TO app@localhost",
		"GRANT SELECT ON stock.* TO gavel@localhost",
		`CREATE FUNCTION stock.fails(i INT) RETURNS INT MODIFIES SQL DATA BEGIN
			IF i > 1 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'one too many'; END IF;
			RETURN i;
		END`)
	statements = append(statements, xabranch.Grants("app@localhost", "gavel@localhost")...)
	return maria.Exec(ctx, statements...)
}

// stop may be called twice.
func stop(ctx context.Context) {
	if maria != nil {
		if err := maria.Stop(ctx); err != nil {
			fail(err)
		}
	}
	for _, s := range srvs {
		if s == nil {
			continue
		}
		if err := s.Stop(ctx); err != nil {
			fail(err)
		}
	}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
