package crash_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	participants "github.com/gavel-tx/gavel/participant/remote"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

// persist asks until there is an answer, or ctx ends: who is asked may be being started.
func persist[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		answer, err := ask()
		if err == nil {
			return answer, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return answer, errors.Join(context.Cause(ctx), err)
		}
	}
}

// mariaDatabase is the database of the ring at its server.
const mariaDatabase = "ring"

// maria is the database at MariaDB, as its administrator sees it.
type maria struct {
	server *mariahost.Server
	db     *sql.DB
}

// startMaria starts a server, with the ring's database and an account each for the tellers and the
// coordinator. It ends with the test.
func startMaria(t *testing.T) *maria {
	t.Helper()
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	s, err := inst.Start(t.Context(), mariahost.Config{Name: "ring"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := backgroundContext()
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	const app, adapter = "app@localhost", "gavel@localhost"
	err = s.Exec(t.Context(), slices.Concat(xabranch.Schema(), crash.MariaSchema(mariaDatabase),
		[]string{"CREATE USER " + app, "CREATE USER " + adapter,
			"GRANT ALL ON " + mariaDatabase + ".* TO " + app,
			"GRANT SELECT ON " + mariaDatabase + ".* TO " + adapter},
		xabranch.Grants(app, adapter))...)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", s.DSN("root", mariaDatabase))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &maria{s, db}
}

// url is the resource's, for the coordinator.
func (m *maria) url() string {
	c, err := driver.ParseDSN(m.server.DSN("gavel", mariaDatabase))
	if err != nil {
		panic(fmt.Sprintf("crash: the address of a server of ours: %v", err))
	}
	return "mysql://" + c.User + "@localhost/" + c.DBName + "?socket=" + url.QueryEscape(c.Addr)
}

// ask runs queries on one connection, until they succeed: the server may be being started.
func ask[T any](
	ctx context.Context, m *maria, query func(*sql.Conn) (T, error),
) (answer T, err error) {
	return persist(ctx, func() (answer T, err error) {
		conn, err := m.db.Conn(ctx)
		if err != nil {
			return answer, err
		}
		defer conn.Close()
		return query(conn)
	})
}

// rows are the rows of transfers from a number on.
func (m *maria) rows(ctx context.Context, from int64) ([]row, error) {
	return ask(ctx, m, func(c *sql.Conn) (all []row, err error) {
		found, err := c.QueryContext(ctx, "SELECT n, amount FROM ledger WHERE n >= ?", from)
		if err != nil {
			return nil, err
		}
		defer found.Close()
		for found.Next() {
			var r row
			if err := found.Scan(&r.N, &r.Amount); err != nil {
				return nil, err
			}
			all = append(all, r)
		}
		return all, found.Err()
	})
}

func (m *maria) sum(ctx context.Context) (int64, error) {
	return ask(ctx, m, func(c *sql.Conn) (sum int64, err error) {
		err = c.QueryRowContext(ctx, "SELECT SUM(balance) FROM account").Scan(&sum)
		return sum, err
	})
}

// prepared are the branches that XA RECOVER shows, and those that it does not show although they
// have not ended: each has a row, which whoever does not wait for its commit can see.
func (m *maria) prepared(ctx context.Context) (shown, hidden []string, err error) {
	type found struct{ shown, hidden []string }
	f, err := ask(ctx, m, func(c *sql.Conn) (f found, err error) {
		// In this order: what commits in between is in none of the answers.
		ended, err := branchRows(ctx, c, sql.LevelReadCommitted)
		if err != nil {
			return f, err
		}
		all, err := branchRows(ctx, c, sql.LevelReadUncommitted)
		if err != nil {
			return f, err
		}
		listed, err := xabranch.Recover(ctx, c)
		for name := range listed.Names {
			f.shown = append(f.shown, name.String())
		}
		for _, name := range all {
			if !slices.Contains(ended, name) && !slices.Contains(f.shown, name) {
				f.hidden = append(f.hidden, name)
			}
		}
		return f, err
	})
	return f.shown, f.hidden, err
}

// branchRows are the newest names that branches have written, at a level of isolation, which is
// that of one transaction: the session is used again for questions that must not see such rows.
func branchRows(
	ctx context.Context, c *sql.Conn, level sql.IsolationLevel,
) (names []string, err error) {
	tx, err := c.BeginTx(ctx, &sql.TxOptions{Isolation: level, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	// It has only read.
	defer func() { _ = tx.Rollback() }()
	rows, err := tx.QueryContext(ctx, "SELECT name FROM gavel.branch ORDER BY number DESC")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// store is the kv store, as any client sees it.
type store struct{ data gavelv1.KvServiceClient }

func dialStore(t *testing.T, target string) *store {
	t.Helper()
	conn, err := grpc.NewClient(target, transport.DialOptions(insecure.NewCredentials())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &store{gavelv1.NewKvServiceClient(conn)}
}

// maxKeys is how many keys are asked for at once.
const maxKeys = 200

// get reads the numbers under some keys. A key that does not exist counts as 0.
func (s *store) get(ctx context.Context, keys []string) (map[string]int64, error) {
	found := map[string]int64{}
	for some := range slices.Chunk(keys, maxKeys) {
		request := &gavelv1.GetRequest{}
		for _, k := range some {
			request.Keys = append(request.Keys, []byte(k))
		}
		a, err := persist(ctx, func() (*gavelv1.GetResponse, error) {
			return s.data.Get(ctx, request)
		})
		if err != nil {
			return nil, err
		}
		for _, e := range a.GetEntries() {
			if !e.GetFound() {
				continue
			}
			n, err := strconv.ParseInt(string(e.GetValue()), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("key %s: %w", e.GetKey(), err)
			}
			found[string(e.GetKey())] = n
		}
	}
	return found, nil
}

// ahead is how many numbers a teller may have taken behind the last one of which it has spoken.
const ahead = 8

// rows are the rows of transfers, and of those with the next numbers: the store has no list of its
// keys. A row that was written several times is there as often.
func (s *store) rows(ctx context.Context, transfers []crash.Transfer) (all []row, err error) {
	var numbers []int64
	var keys []string
	for _, t := range transfers {
		for n := t.N; n <= t.N+ahead; n++ {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	for _, n := range numbers {
		keys = append(keys, crash.KVRow(n), crash.KVTimes(n))
	}
	found, err := s.get(ctx, keys)
	for _, n := range numbers {
		for range found[crash.KVTimes(n)] {
			all = append(all, row{N: n, Amount: found[crash.KVRow(n)]})
		}
	}
	return all, err
}

func (s *store) sum(ctx context.Context) (int64, error) {
	var keys []string
	for i := range crash.Accounts {
		keys = append(keys, crash.KVBalance(i))
	}
	found, err := s.get(ctx, keys)
	sum := int64(crash.Accounts * crash.Balance)
	for _, n := range found {
		sum += n
	}
	return sum, err
}

// statement asks the service of one's own, by its own API.
func (w *ring) statement(ctx context.Context, from int64) (crash.Statement, error) {
	return persist(ctx, func() (s crash.Statement, err error) {
		address := fmt.Sprintf("http://%s/statement?from=%d", w.addresses["api"], from)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return s, err
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			return s, err
		}
		defer a.Body.Close()
		if a.StatusCode != http.StatusOK {
			return s, errors.New("the service says " + a.Status)
		}
		return s, json.NewDecoder(a.Body).Decode(&s)
	})
}

// used asks a participant how many branches are prepared there.
func used(ctx context.Context, address string) (int, error) {
	c, err := participants.Dial(address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return persist(ctx, func() (int, error) {
		d, err := c.Describe(ctx)
		return d.Used, err
	})
}
