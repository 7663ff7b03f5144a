package examples

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// example is a way to move money from an account at bank_a to one at bank_b.
type example struct {
	name string
	move func(t *testing.T, from, to, amount string) said
}

// all are the examples, but for seats, which needs nothing and is tested beside its code.
func (w *world) all() []example {
	banks := []string{"BANK_A=" + w.banks[0].dsn, "BANK_B=" + w.banks[1].dsn}
	overGRPC := slices.Concat(banks, []string{"GAVEL=" + w.gavel.grpc})
	overHTTP := slices.Concat(banks, []string{"GAVEL=http://" + w.gavel.http})
	return []example{
		{"pgx", program(overGRPC, w.program("pgx"))},
		{"sqlc", program(overGRPC, w.program("sqlc"))},
		{"services", w.services(overGRPC)},
		{"curl", program(overHTTP, "curl/transfer.sh")},
	}
}

// TestTransfers: once it succeeds, and then it must roll back: because of the first database, and
// because of the second one, when the first has been debited. The databases say what became of it,
// and nothing stays prepared.
func TestTransfers(t *testing.T) {
	w := newWorld(t)
	for _, e := range w.all() {
		t.Run(e.name, func(t *testing.T) {
			w.fill()
			for _, c := range []struct {
				from, to, amount string
				code             int
				says             string
				alice, bob       int
			}{
				{"alice", "bob", "30", 0, "moved 30 from alice to bob", 70, 130},
				{"alice", "bob", "71", 1, "not moved", 70, 130},
				{"alice", "nobody", "30", 1, "not moved", 70, 130},
			} {
				s := e.move(t, c.from, c.to, c.amount)
				if s.code != c.code || !strings.Contains(s.text, c.says) {
					t.Errorf("%s from %s to %s: exit %d, want %d and %q: %s",
						c.amount, c.from, c.to, s.code, c.code, c.says, s.text)
				}
				if alice, bob := w.balances(t); alice != c.alice || bob != c.bob {
					t.Errorf("%s from %s to %s: balances %d and %d, want %d and %d: %s",
						c.amount, c.from, c.to, alice, bob, c.alice, c.bob, s.text)
				}
			}
		})
	}
}

// program is an example that is a program, whose arguments are FROM TO AMOUNT.
func program(env []string, command ...string) func(t *testing.T, from, to, amount string) said {
	return func(t *testing.T, from, to, amount string) said {
		return run(t, env, slices.Concat(command, []string{from, to, amount})...)
	}
}

// services starts the three services, and is what their customers do.
func (w *world) services(env []string) func(t *testing.T, from, to, amount string) said {
	w.t.Helper()
	env = slices.Concat(env, []string{"LISTEN=127.0.0.1:0"})
	env = append(env, "DEBIT="+start(w.t, 1, env, w.program("debit")).grpc)
	env = append(env, "CREDIT="+start(w.t, 1, env, w.program("credit")).http)
	address := start(w.t, 1, env, w.program("front")).http
	// What the answers come to as an exit code.
	codes := map[int]int{http.StatusOK: 0, http.StatusConflict: 1}
	return func(t *testing.T, from, to, amount string) said {
		answer, err := http.PostForm("http://"+address+"/transfer",
			url.Values{"from": {from}, "to": {to}, "amount": {amount}})
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
