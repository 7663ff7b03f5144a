package participantcmd_test

import (
	"context"
	"database/sql"
	"net/url"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/txn"
)

// startMaria starts a server that `gavel schema` has set up, and returns it and its URL.
func startMaria(t *testing.T) (*mariahost.Server, string) {
	t.Helper()
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	srv, err := inst.Start(t.Context(), mariahost.Config{Name: "sidecar"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := srv.Exec(t.Context(), "CREATE DATABASE stock", "CREATE USER gavel@localhost",
		"CREATE TABLE stock.goods (n INT) ENGINE = InnoDB"); err != nil {
		t.Fatal(err)
	}
	c, err := mysql.ParseDSN(srv.DSN("", ""))
	if err != nil {
		t.Fatal(err)
	}
	where := "@/stock?socket=" + url.QueryEscape(c.Addr)
	clitest.Run(t, "schema", "--apply", "--user", "gavel@localhost", "--resource",
		"stock=mysql://root"+where).Want(t, exit.OK)
	return srv, "mysql://gavel" + where
}

// prepare has an application prepare a branch with one row.
func prepare(t *testing.T, srv *mariahost.Server, name txn.Name) participant.Branch {
	t.Helper()
	db, err := sql.Open("mysql", srv.DSN("root", "stock"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := xabranch.Begin(t.Context(), conn, name, xabranch.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), "INSERT INTO goods VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	v := b.Prepare(t.Context(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteYes {
		t.Fatalf("vote %s: %s", v.Vote, v.Reason)
	}
	return participant.Branch{Name: name, Evidence: v.Evidence}
}

// TestMariaDB: the sidecar of a MariaDB lists and finishes what is prepared there.
func TestMariaDB(t *testing.T) {
	srv, address := startMaria(t)
	t.Setenv("STOCK", address)
	s := clitest.Start(t, "participant", "--name", "stock", "--mysql", "env:STOCK", "--data",
		t.TempDir())
	if code, body := get(t, "http://"+s.HTTP+"/readyz?verbose"); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	c, err := remote.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	log, err := txn.NewLogID()
	if err != nil {
		t.Fatal(err)
	}
	f := txn.Fence{Log: log, Epoch: 1, LSN: 1}
	yes := prepare(t, srv, txn.Name{Log: log, Seq: 1, Branch: 1})
	no := prepare(t, srv, txn.Name{Log: log, Seq: 2, Branch: 1})
	l, err := c.List(t.Context(), f)
	if err != nil || len(l.Branches) != 2 {
		t.Errorf("%+v: %v", l, err)
	}
	done, err := c.Commit(t.Context(), f, []participant.Branch{yes})
	if err != nil || done[0].Standing != txn.StandingCommitted {
		t.Errorf("%+v: %v", done, err)
	}
	done, err = c.Rollback(t.Context(), f, []participant.Branch{no})
	if err != nil || done[0].Standing != txn.StandingRolledBack {
		t.Errorf("%+v: %v", done, err)
	}
	s.Stop(t).Want(t, exit.OK, "stock  mysql://gavel@/stock")
}
