// Package curl tests the shell script beside it.
package curl

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/client/gaveltest"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/coordinator/server/web"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// With -short what needs a database is left out, which is all of it.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.run", "^$"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// bank is two databases with an account in each, and a coordinator that is asked over HTTP.
type bank struct {
	*gaveltest.Gavel
	t    *testing.T
	dsns [2]string
	url  string
}

func newBank(t *testing.T) *bank {
	t.Helper()
	inst, err := pghost.Ensure(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	b := &bank{t: t}
	var resources []gaveltest.Resource
	for i, name := range []string{"bank_a", "bank_b"} {
		s, err := inst.Start(t.Context(), pghost.Config{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		b.atEnd(func() error { return s.Stop(context.Background()) })
		b.dsns[i] = s.DSN("postgres")
		b.query(i, `CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))`)
		b.query(i, `INSERT INTO acct VALUES ($1, 100)`, []string{"alice", "bob"}[i])
		r, err := postgres.Open(t.Context(), postgres.Config{Name: name, DSN: b.dsns[i]})
		if err != nil {
			t.Fatal(err)
		}
		b.atEnd(r.Close)
		resources = append(resources, gaveltest.Of(name, r))
	}
	b.Gavel = gaveltest.New(t, resources...)
	s := httptest.NewServer(web.Handler(server.New(b, server.Options{}), web.Options{}))
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

func (b *bank) atEnd(f func() error) {
	b.t.Cleanup(func() {
		if err := f(); err != nil {
			b.t.Error(err)
		}
	})
}

// query runs a statement at a database and returns the number that it answers, if any.
func (b *bank) query(i int, sql string, args ...any) (n int) {
	b.t.Helper()
	ctx := b.t.Context()
	conn, err := pgx.Connect(ctx, b.dsns[i])
	if err != nil {
		b.t.Fatal(err)
	}
	err = conn.QueryRow(ctx, sql, args...).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// run runs the script, and returns its exit code and what it said.
func (b *bank) run(args ...string) (code int, said string) {
	b.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(b.t.Context(), "./transfer.sh", args...)
	cmd.Env = append(os.Environ(), "GAVEL="+b.url, "BANK_A="+b.dsns[0], "BANK_B="+b.dsns[1])
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// TestTransfer: once it succeeds, and then it must roll back, for two reasons. The databases say
// what became of it, and nothing stays prepared.
func TestTransfer(t *testing.T) {
	b := newBank(t)
	for _, c := range []struct {
		from, to, amount string
		code             int
		says             string
		alice, bob       int
	}{
		{"alice", "bob", "30", 0, "moved 30 from alice to bob", 70, 130},
		{"alice", "bob", "71", 1, "not moved", 70, 130},
		{"alice", "nobody", "30", 1, "not moved", 70, 130},
		{"alice", "bob", "70", 0, "moved 70 from alice to bob", 0, 200},
	} {
		code, said := b.run(c.from, c.to, c.amount)
		if code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%s from %s to %s: exit %d, want %d: %s", c.amount, c.from, c.to, code, c.code,
				said)
		}
		// A rollback is told, and nobody waits for it.
		b.Settle()
		const balance = `SELECT bal::int FROM acct`
		alice, bob := b.query(0, balance), b.query(1, balance)
		if alice != c.alice || bob != c.bob {
			t.Errorf("%s: balances %d and %d, want %d and %d", said, alice, bob, c.alice, c.bob)
		}
	}
}
