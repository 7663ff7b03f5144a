package recovercmd_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

var databases = clitest.Names

// prepared lists the branches of one database: the view shows those of all.
const prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"

// deaf is a database that hears no decision.
type deaf struct{ *postgres.Resource }

func (deaf) Commit(
	context.Context, txn.Fence, []participant.Branch,
) ([]participant.Finding, error) {
	return nil, errors.New("the line is cut")
}

// TestPostgres: what a dead coordinator left in real databases is planned, and finished.
func TestPostgres(t *testing.T) {
	dir := clitest.Log(t)
	decided, undecided := leaveInDoubt(t, dir)
	t.Setenv("BANK_A", srv.TCPDSN(databases[0]))
	t.Setenv("BANK_B", srv.TCPDSN(databases[1]))
	args := []string{"recover", "--log", dir, "--resource", "bank_a=env:BANK_A", "--resource",
		"bank_b=env:BANK_B"}
	clitest.Run(t, args...).Want(t, exit.No, txn.NameOf(decided, 1).String(), "commit",
		txn.NameOf(undecided, 2).String(), "roll back", "presumed abort")
	if n := count(t, prepared); n != 4 {
		t.Errorf("looking left %d prepared", n)
	}
	clitest.Run(t, append(args, "--apply")...).Want(t, exit.OK, "0 branches remain")
	if n := count(t, prepared); n != 0 {
		t.Errorf("%d are still prepared", n)
	}
	if n := count(t, "SELECT key FROM done WHERE key = 'decided'"); n != 2 {
		t.Errorf("the decided transaction is in %d databases", n)
	}
	if n := count(t, "SELECT key FROM done WHERE key = 'undecided'"); n != 0 {
		t.Errorf("the undecided transaction is in %d databases", n)
	}
	clitest.Run(t, args...).Want(t, exit.OK, "Nothing is in doubt.")
}

// TestDecoysSurvive: recovery finishes exactly the branches of this log that have a verdict. A name
// of somebody else, of another log, in another database, or of a sequence that this log never
// handed out stays prepared, however much it looks like ours.
func TestDecoysSurvive(t *testing.T) {
	dir := clitest.Log(t)
	_, undecided := leaveInDoubt(t, dir)
	ours := txn.NameOf(undecided, 7)
	decoys := map[string]string{
		"order_981": databases[0],
		txn.Name{Log: ours.Log ^ 1, Seq: ours.Seq, Branch: 1}.String():     databases[0],
		txn.Name{Log: ours.Log, Seq: ours.Seq + 1<<20, Branch: 1}.String(): databases[1],
		ours.String(): "postgres",
	}
	for gid, database := range decoys {
		conn := connect(t, database)
		sql := "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '" + gid + "'"
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := srv.Exec(context.Background(), database, "ROLLBACK PREPARED '"+gid+"'")
			if err != nil {
				t.Errorf("decoy %s in %s: %v", gid, database, err)
			}
		})
	}
	t.Setenv("BANK_A", srv.TCPDSN(databases[0]))
	t.Setenv("BANK_B", srv.TCPDSN(databases[1]))
	clitest.Run(t, "recover", "--log", dir, "--resource", "bank_a=env:BANK_A", "--resource",
		"bank_b=env:BANK_B", "--apply").Want(t, exit.No, "LOG_REGRESSION")
	if n := count(t, prepared); n != len(decoys)-1 {
		t.Errorf("%d are prepared in the two databases, want the %d decoys", n, len(decoys)-1)
	}
	if n := count(t, "SELECT FROM pg_prepared_xacts WHERE gid = '"+ours.String()+"'"); n != 2 {
		t.Error("the branch in another database was finished")
	}
	if n := count(t, "SELECT key FROM done WHERE key = 'decided'"); n == 0 {
		t.Error("the decided transaction was not finished")
	}
}

// leaveInDoubt is the life and death of a coordinator.
func leaveInDoubt(t *testing.T, dir string) (decided, undecided txn.ID) {
	t.Helper()
	for _, database := range databases {
		if _, err := connect(t, database).Exec(t.Context(), "TRUNCATE done").ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	var resources []coordinator.Resource
	for _, name := range databases {
		r, err := postgres.New(postgres.Config{Name: name, DSN: srv.DSN(name)})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		resources = append(resources, coordinator.Resource{Name: name, Manager: deaf{r}})
	}
	co, err := coordinator.Open(t.Context(), coordinator.Config{Dir: dir, Resources: resources,
		SegmentSize: clitest.SegmentSize, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer co.Close()
	begun, votes := prepare(t, co, "decided")
	r, err := co.Commit(t.Context(), txn.CommitRequest{ID: begun.ID, Votes: votes,
		Ack: txn.AckDecided})
	if err != nil || r.Outcome != txn.OutcomeCommitted {
		t.Fatalf("%+v, %v", r, err)
	}
	left, _ := prepare(t, co, "undecided")
	return begun.ID, left.ID
}

// prepare does an application's part in both databases.
func prepare(
	t *testing.T, co *coordinator.Coordinator, key string,
) (begun txn.Begun, votes []txn.BranchVote) {
	t.Helper()
	clitest.Eventually(t, "the resources are registered", func() bool {
		var err error
		begun, err = co.Begin(t.Context(), txn.BeginRequest{Resources: databases[:]})
		return err == nil
	})
	for _, e := range begun.Branches {
		conn := connect(t, e.Resource)
		err := pgbranch.Begin(t.Context(), conn, pgbranch.BeginOptions{ID: begun.ID})
		if err == nil {
			_, err = conn.Exec(t.Context(), "INSERT INTO done VALUES ('"+key+"')").ReadAll()
		}
		if err != nil {
			t.Fatal(err)
		}
		v := pgbranch.Prepare(t.Context(), conn, e.Name, pgbranch.PrepareOptions{})
		votes = append(votes, txn.BranchVote{Branch: e.Branch, Vote: v.Vote, Evidence: v.Evidence})
	}
	return begun, votes
}

func connect(t *testing.T, database string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), srv.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// count is how many rows a query has, in both databases together.
func count(t *testing.T, query string) (n int) {
	t.Helper()
	for _, database := range databases {
		results, err := connect(t, database).Exec(t.Context(), query).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		n += len(results[0].Rows)
	}
	return n
}
