package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// TestCheckerComplainsOfRing breaks a real ring by hand, at each place, in one way after the other.
func TestCheckerComplainsOfRing(t *testing.T) {
	w := newRing(t, purse{}, rand.New(rand.NewPCG(seed(t), 98)))
	w.begun = "broken by hand"
	w.openUntil(crash.FourMove)
	w.closeRound()
	book := w.observe()
	w.report(book)
	i := slices.IndexFunc(book.Transfers, w.committed(crash.FourMove))
	breakAll(t, w, ringBreakages(book.Transfers[i].N))
	w.hideByHand()
}

// openUntil begins a round and lets it go on until a transfer of a kind was committed.
func (w *ring) openUntil(k crash.Traffic) {
	w.t.Helper()
	w.open()
	w.await("a transfer: "+k.String(), func(context.Context) bool {
		return slices.ContainsFunc(w.slips.all(), w.committed(k))
	})
}

func (w *ring) committed(k crash.Traffic) func(crash.Transfer) bool {
	return func(x crash.Transfer) bool {
		return x.Answer == crash.Committed && crash.CourseOf(x.N).Traffic == k
	}
}

// ringBreakages break, and repair, the committed transfer n of all four places, and what is around
// it.
func ringBreakages(n int64) []breakage[*ring] {
	move := func(from, to int64) string {
		return fmt.Sprintf("UPDATE ledger SET n = %d WHERE n = %d", to, from)
	}
	postgres := func(sql string) func(*ring) {
		return func(w *ring) {
			w.must(w.postgres.server.Exec(w.t.Context(), w.postgres.database, sql))
		}
	}
	maria := func(sql ...string) func(*ring) {
		return func(w *ring) { w.must(w.maria.run(w.t.Context(), sql...)) }
	}
	kv := func(key string, delta int64) func(*ring) {
		return func(w *ring) { w.add(key, delta) }
	}
	xid := xidOf(txn.NameOf(txn.NewID(1, 1), 1))
	lost := crash.KVTimes(n)
	return []breakage[*ring]{
		{"a row that PostgreSQL has lost", postgres(move(n, -n)), postgres(move(-n, n)),
			kinds(crash.HalfTransfer)},
		{"a row that MariaDB has lost", maria(move(n, -n)), maria(move(-n, n)),
			kinds(crash.HalfTransfer)},
		{"a row that the store has lost", kv(lost, -1), kv(lost, 1), kinds(crash.HalfTransfer)},
		{"a row that the store has twice", kv(lost, 1), kv(lost, -1), kinds(crash.TwiceApplied)},
		{"another amount", kv(crash.KVRow(n), 1), kv(crash.KVRow(n), -1),
			kinds(crash.WrongAmount)},
		{"money from nowhere at the store", kv(crash.KVBalance(1), 1), kv(crash.KVBalance(1), -1),
			kinds(crash.SumChanged)},
		{"money from nowhere at MariaDB",
			maria("UPDATE account SET balance = balance + 1 WHERE id = 0"),
			maria("UPDATE account SET balance = balance - 1 WHERE id = 0"),
			kinds(crash.SumChanged)},
		{"a branch at MariaDB that nobody finishes",
			maria("XA START "+xid, "INSERT INTO ledger VALUES (0, 0)", "XA END "+xid,
				"XA PREPARE "+xid),
			maria("XA ROLLBACK " + xid), kinds(crash.PreparedRemains)},
	}
}

// xidOf writes the XID of a name by the published rule.
func xidOf(n txn.Name) string {
	at := strings.LastIndexByte(n.String(), '.')
	return fmt.Sprintf("'%s','%s',%d", n.String()[:at], n.String()[at+1:], xabranch.FormatID)
}

// run runs statements in a session of their own, which has ended when it returns.
func (m *maria) run(ctx context.Context, statements ...string) error {
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer xabranch.Discard(conn)
	for _, s := range statements {
		if _, err := conn.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// add changes a number in the kv store, by a transaction of the test's own.
func (w *ring) add(key string, delta int64) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	begun, err := w.asking.Begin(ctx, txn.BeginRequest{Resources: []string{crash.KV.String()}})
	w.must(err)
	_, err = w.store.data.Apply(ctx, &gavelv1.ApplyRequest{
		PreparedName: begun.Branches[0].Name.String(), Sequence: 1,
		Operations: []*gavelv1.Operation{{Kind: &gavelv1.Operation_Add{
			Add: &gavelv1.AddOperation{Key: []byte(key), Delta: delta}}}},
	})
	w.must(err)
	r, err := w.asking.Commit(ctx, txn.CommitRequest{ID: begun.ID})
	w.must(err)
	if r.Outcome != txn.OutcomeCommitted {
		w.fatal(fmt.Sprintf("%s %+d is %v", key, delta, r))
	}
}

// hideByHand leaves a row of a branch that XA RECOVER does not show, as a branch has that MariaDB
// has lost sight of. The book must not be closed over it; and the restart of the server, which is
// the only help, must end it.
func (w *ring) hideByHand() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	conn, err := w.maria.db.Conn(ctx)
	w.must(err)
	defer conn.Close()
	name := txn.NameOf(txn.NewID(1, 2), 1)
	for _, sql := range []string{"XA START " + xidOf(name),
		"INSERT INTO gavel.branch (name, db, connection, user) VALUES ('" + name.String() +
			"', DATABASE(), CONNECTION_ID(), CURRENT_USER())"} {
		_, err := conn.ExecContext(ctx, sql)
		w.must(err)
	}
	expectKinds(w.t, "a hidden branch", w.look(w.learn()), kinds(crash.PreparedRemains))
	w.report(w.observe())
	if w.hidden != 1 {
		w.fatal(fmt.Sprintf("MariaDB hid a branch, and was restarted %d times", w.hidden))
	}
}

// TestCheckerComplainsOfDeafService runs a ring whose service says that it has committed, and has
// not. What is missing there, and nothing else, is in the book.
func TestCheckerComplainsOfDeafService(t *testing.T) {
	w := newRing(t, purse{deaf: true}, rand.New(rand.NewPCG(seed(t), 97)))
	w.begun = "a service that is deaf"
	w.openUntil(crash.FourMove)
	w.closeRound()
	book := w.observe()
	for _, k := range []crash.Kind{crash.HalfTransfer, crash.SumChanged} {
		if !slices.ContainsFunc(book.Check(), func(v crash.Violation) bool { return v.Kind == k }) {
			t.Errorf("nobody complains: %s", k)
		}
	}
	// Without its transfers everybody agrees.
	book.Transfers = slices.DeleteFunc(book.Transfers, func(x crash.Transfer) bool {
		return moves(x.N, int(crash.Service))
	})
	book.Sum = book.Want
	w.report(book)
}
