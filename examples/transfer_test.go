package examples

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// transfer is of money, from an account at bank_a to one at bank_b.
type transfer struct{ from, to, amount string }

func (x transfer) String() string { return x.amount + " from " + x.from + " to " + x.to }

// example is a way to make a transfer.
type example struct {
	name string
	// move makes it. The variables are added to those that it has.
	move func(t *testing.T, x transfer, env ...string) said
	// losing makes a way to the coordinator that loses the first answer to a commit. It is nil for
	// what asks through the SDK, whose own tests lose more than that.
	losing func(t *testing.T) *lossy
	// sessions says that it speaks with the sidecars itself.
	sessions bool
}

// all are the examples, but for seats, which needs nothing and is tested beside its code.
func (w *world) all() []example {
	banks := []string{"BANK_A=" + w.banks[0].dsn, "BANK_B=" + w.banks[1].dsn}
	sdk := append(banks, "GAVEL="+w.gavel.grpc)
	web := append(banks, "GAVEL="+w.url())
	sql := []string{"GAVEL=" + w.gavel.grpc, "PYTHONPATH=" + makeStubs(w.t),
		"BANK_A=" + w.sidecars[0].grpc, "BANK_B=" + w.sidecars[1].grpc}
	python, node := findPython(w.t), installNode(w.t)
	return []example{
		{name: "pgx", move: program(sdk, w.program("pgx"))},
		{name: "sqlc", move: program(sdk, w.program("sqlc"))},
		{name: "services", move: w.services(sdk)},
		{name: "curl and psql", move: program(web, "curl/transfer.sh"),
			losing: w.losingHTTP("CommitTransaction")},
		{name: "curl", move: program(web, "curl/execute.sh"),
			losing: w.losingHTTP("ExecuteTransaction")},
		{name: "python", move: program(web, python, "python/transfer.py"),
			losing: w.losingHTTP("ExecuteTransaction")},
		{name: "node", move: program(web, "node", "node/transfer.mjs"),
			losing: w.losingHTTP("ExecuteTransaction")},
		{name: "python over gRPC", move: program(sql, python, "python/transfer_grpc.py"),
			losing: w.losingGRPC, sessions: true},
		{name: "node over gRPC", move: program(sql, "node", node+"/transfer-grpc.mjs"),
			losing: w.losingGRPC, sessions: true},
	}
}

// TestTransfers: once it succeeds, and then it must roll back: because of the first database, and
// because of the second one, when the first has been debited. Then the answer to one that succeeds
// gets lost, and it must happen all the same, once. What speaks with the sidecars itself also finds
// one of them down, and must roll back. The databases say what became of it, and nothing stays
// prepared. What README says about the databases is tried at them as well.
func TestTransfers(t *testing.T) {
	w := newWorld(t)
	t.Run("README", w.checkSetUp)
	for _, e := range w.all() {
		t.Run(e.name, func(t *testing.T) {
			w.fill()
			w.expect(t, e, transfer{"alice", "bob", "30"}, 0, 70, 130)
			w.expect(t, e, transfer{"alice", "bob", "71"}, 1, 70, 130)
			w.expect(t, e, transfer{"alice", "nobody", "30"}, 1, 70, 130)
			if e.losing == nil {
				return
			}
			way := e.losing(t)
			w.expect(t, e, transfer{"alice", "bob", "50"}, 0, 20, 180, "GAVEL="+way.address)
			if n := way.calls.Load(); n != 2 {
				t.Errorf("it asked for the commit %d times, want 2", n)
			}
			if e.sessions {
				w.expectDown(t, e)
			}
		})
	}
}

// expectDown makes a transfer while nothing listens where a sidecar should: it must ask for the
// rollback.
func (w *world) expectDown(t *testing.T, e example) {
	t.Helper()
	for _, bank := range []string{"BANK_A", "BANK_B"} {
		way := e.losing(t)
		w.expect(t, e, transfer{"alice", "bob", "20"}, 1, 20, 180, "GAVEL="+way.address,
			bank+"="+closedPort(t))
		if commits, n := way.calls.Load(), way.rollbacks.Load(); commits != 0 || n != 1 {
			t.Errorf("%s is down: %d commits and %d rollbacks, want 0 and 1", bank, commits, n)
		}
	}
}

// closedPort is an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

// expect makes a transfer, and compares its exit code, its words and the balances behind it.
func (w *world) expect(
	t *testing.T, e example, x transfer, code, alice, bob int, env ...string,
) {
	t.Helper()
	says := map[int]string{0: "moved " + x.String(), 1: "not moved"}[code]
	s := e.move(t, x, env...)
	t.Logf("%s: exit %d\n%s", x, s.code, s.text)
	if s.code != code || !strings.Contains(s.text, says) {
		t.Errorf("%s: exit %d, want %d and %q", x, s.code, code, says)
	}
	if a, b := w.balances(t); a != alice || b != bob {
		t.Errorf("%s: balances %d and %d, want %d and %d", x, a, b, alice, bob)
	}
}

// program is an example that is a program, whose arguments are FROM TO AMOUNT.
func program(
	env []string, command ...string,
) func(t *testing.T, x transfer, more ...string) said {
	return func(t *testing.T, x transfer, more ...string) said {
		return run(t, slices.Concat(env, more),
			slices.Concat(command, []string{x.from, x.to, x.amount})...)
	}
}

// services starts the three services, and is what their customers do.
func (w *world) services(env []string) func(t *testing.T, x transfer, more ...string) said {
	w.t.Helper()
	env = slices.Concat(env, []string{"LISTEN=127.0.0.1:0"})
	env = append(env, "DEBIT="+start(w.t, 1, env, w.program("debit")).grpc)
	env = append(env, "CREDIT="+start(w.t, 1, env, w.program("credit")).http)
	address := start(w.t, 1, env, w.program("front")).http
	// What the answers come to as an exit code.
	codes := map[int]int{http.StatusOK: 0, http.StatusConflict: 1}
	return func(t *testing.T, x transfer, _ ...string) said {
		answer, err := http.PostForm("http://"+address+"/transfer",
			url.Values{"from": {x.from}, "to": {x.to}, "amount": {x.amount}})
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		code, ok := codes[answer.StatusCode]
		if !ok {
			code = 5
		}
		return said{code, string(text)}
	}
}
