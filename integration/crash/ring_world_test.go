package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/integration/crash"
)

// ring is the installation of which one transaction spans resource managers of four kinds:
//
//	PostgreSQL   in the coordinator's process; a database of a shared server
//	MariaDB      in the coordinator's process; a server of its own
//	kv           a participant process
//	service      a process of a program that a user has written, over package participant/service
type ring struct {
	*rig
	own      purse
	postgres *side
	maria    *maria
	store    *store
	// hidden counts how often the server of MariaDB was restarted because it hid a branch.
	hidden int
	// ledgers are what the rows of each round come to, place by place.
	ledgers map[int64][crash.Places]int64
	// ends counts how transfers of each kind have ended, in all rounds.
	ends map[traffic]int
}

// purse is how the service of one's own is run.
type purse struct {
	// join has its journal in its own file, instead of a file beside it.
	join bool
	// deaf has it answer that it has committed although it has not.
	deaf bool
}

// traffic is a way in which transfers end: of which kind, who pays, and the answer.
type traffic struct {
	kind   crash.Traffic
	payer  crash.Place
	answer crash.Answer
}

// newRing starts everything.
func newRing(t *testing.T, own purse, rng *rand.Rand) *ring {
	t.Helper()
	w := &ring{own: own, ends: map[traffic]int{}, ledgers: map[int64][crash.Places]int64{},
		rig: newRig(t, crash.Ring.String(), loopback{}, rng,
			"coordinator", crash.KV.String(), crash.Service.String(), "api")}
	w.sidecars = make([]*process, 2)
	w.makePlaces()
	t.Cleanup(w.end)
	w.initLog()
	w.sidecars[0], w.sidecars[1] = w.startStore(), w.startPurse()
	w.coordinator, w.teller = w.startCoordinator(), w.startTeller()
	w.asking = w.dial()
	w.await("resources to be registered", w.registered(crash.AllPlaces()))
	return w
}

func (w *ring) makePlaces() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.postgres = &side{name: crash.PostgreSQL.String(), server: shared.servers[0],
		database: fmt.Sprintf("w%d", shared.databases.Add(1))}
	w.must(w.postgres.server.CreateDatabase(ctx, w.postgres.database))
	w.must(w.postgres.server.Exec(ctx, w.postgres.database, crash.RingSchemaSQL()))
	w.maria = startMaria(w.t)
	w.store = dialStore(w.t, w.addresses[crash.KV.String()])
	w.want = crash.Places * crash.Accounts * crash.Balance
}

// end kills everything.
func (w *ring) end() {
	w.rig.end()
	ctx, cancel := backgroundContext()
	defer cancel()
	w.postgres.close(ctx)
}

func (w *ring) startCoordinator() *process {
	w.t.Helper()
	return w.runCoordinator([]string{
		crash.PostgreSQL.String() + "=" + w.postgres.dsn(),
		crash.MariaDB.String() + "=" + w.maria.url(),
		crash.KV.String() + "=grpc://" + w.addresses[crash.KV.String()],
		crash.Service.String() + "=grpc://" + w.addresses[crash.Service.String()],
	})
}

func (w *ring) startStore() *process {
	w.t.Helper()
	name := crash.KV.String()
	return w.start(program{name: name, path: shared.gavel, args: []string{"participant",
		"--name", name, "--kv", filepath.Join(w.dir, name), "--grpc", w.addresses[name],
		"--http", "127.0.0.1:0", "--log-format", "json"}})
}

func (w *ring) startPurse() *process {
	w.t.Helper()
	name := crash.Service.String()
	dir := filepath.Join(w.dir, name)
	w.must(os.MkdirAll(dir, 0o700))
	args := []string{"-dir", dir, "-grpc", w.addresses[name], "-http", w.addresses["api"]}
	if w.own.join {
		args = append(args, "-join")
	}
	if w.own.deaf {
		args = append(args, "-deaf")
	}
	return w.start(program{name: name, path: shared.purse, args: args})
}

func (w *ring) startTeller() *process {
	w.t.Helper()
	return w.start(program{name: "teller", path: shared.teller, line: w.slips.take, env: []string{
		crash.EnvCoordinator + "=" + w.addresses["coordinator"],
		crash.EnvPostgres + "=" + w.postgres.dsn(),
		crash.EnvMariaDB + "=" + w.maria.server.DSN("app", mariaDatabase),
		crash.EnvKV + "=" + w.addresses[crash.KV.String()],
		crash.EnvService + "=" + w.addresses["api"],
	}})
}

// strike kills a victim, which is gone when it returns. The function that it returns starts the
// victim again.
func (w *ring) strike(v crash.Victim) (revive func()) {
	w.t.Helper()
	switch v {
	case crash.Coordinator:
		w.kill(w.coordinator)
		return func() { w.coordinator = w.startCoordinator() }
	case crash.Client:
		w.kill(w.teller)
		return func() { w.teller = w.startTeller() }
	case crash.Store:
		w.kill(w.sidecars[0])
		return func() { w.sidecars[0] = w.startStore() }
	case crash.Own:
		w.kill(w.sidecars[1])
		return func() { w.sidecars[1] = w.startPurse() }
	case crash.Maria:
		w.maria.server.Kill()
		return w.restartMaria
	case crash.Database:
		ctx, cancel := w.context()
		defer cancel()
		_, err := w.postgres.killBackend(ctx, w.rng)
		w.must(err)
		// PostgreSQL recovers by itself.
		return func() {}
	}
	panic(fmt.Sprintf("nobody knows how to kill a %v", v))
}

func (w *ring) restartMaria() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(w.maria.server.Restart(ctx))
}

// gate ends a round: the teller finishes what is under way, and then everything must be as if
// nothing had happened.
func (w *ring) gate() {
	w.t.Helper()
	w.closeRound()
	book := w.observe()
	w.report(book)
	w.count(book.Transfers)
}

// observe writes the book of the round. Once every outcome is final and nothing is prepared any
// more, the rows do not change.
func (w *ring) observe() crash.Book {
	w.t.Helper()
	transfers := w.learn()
	since := time.Now()
	var left, hidden []string
	w.await("nothing to be prepared", func(ctx context.Context) bool {
		l, h, err := w.left(ctx)
		if ctx.Err() != nil {
			w.fatal(fmt.Sprintf("still prepared: %v; hidden by MariaDB: %v", left, hidden))
		}
		w.must(err)
		left, hidden = l, h
		if len(left) == 0 && len(hidden) > 0 && time.Since(since) > unseen {
			w.reveal(hidden)
			since = time.Now()
		}
		return len(left)+len(hidden) == 0
	})
	return w.look(transfers)
}

// unseen is how long a branch may be hidden by MariaDB before its server is restarted, which is
// what its documentation says to do. One that is only being finished is not hidden as long.
const unseen = 3 * time.Second

// reveal restarts the server of MariaDB, because it has lost sight of a branch that is prepared: it
// said OK to an XA COMMIT or XA ROLLBACK and did nothing. Nobody may have been told that the branch
// has ended, and after the restart it must come to its end; the round goes on to see both.
func (w *ring) reveal(hidden []string) {
	w.t.Helper()
	w.hidden++
	w.t.Logf("%s: MariaDB has hidden %v, and is restarted", w.begun, hidden)
	w.strike(crash.Maria)()
}

// left is what is prepared anywhere, and what MariaDB keeps and does not show.
func (w *ring) left(ctx context.Context) (left, hidden []string, err error) {
	names, err := w.postgres.prepared(ctx)
	if err != nil {
		return nil, nil, err
	}
	shown, hidden, err := w.maria.prepared(ctx)
	if err != nil {
		return nil, nil, err
	}
	left = append(names, shown...)
	for _, p := range []crash.Place{crash.KV, crash.Service} {
		n, err := used(ctx, w.addresses[p.String()])
		if err != nil {
			return nil, nil, err
		}
		if n > 0 {
			left = append(left, fmt.Sprintf("%d at %s", n, p))
		}
	}
	s, err := w.statement(ctx, 0)
	for _, name := range s.Kept {
		left = append(left, "kept by the service: "+name)
	}
	return left, hidden, err
}

// look writes down what is there, without waiting for anything.
func (w *ring) look(transfers []crash.Transfer) crash.Book {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	left, hidden, err := w.left(ctx)
	w.must(err)
	book := crash.Book{Prepared: append(left, hidden...), Want: w.want, Damage: w.verifyLog(ctx)}
	var rows [crash.Places][]row
	rows[crash.PostgreSQL], err = w.postgres.rows(ctx, w.from())
	w.must(err)
	rows[crash.MariaDB], err = w.maria.rows(ctx, w.from())
	w.must(err)
	rows[crash.KV], err = w.store.rows(ctx, transfers)
	w.must(err)
	s, err := w.statement(ctx, w.from())
	w.must(err)
	rows[crash.Service] = s.Rows
	sums := [crash.Places]int64{crash.Service: s.Sum}
	for p, sum := range []func(context.Context) (int64, error){
		w.postgres.sum, w.maria.sum, w.store.sum,
	} {
		sums[p], err = sum(ctx)
		w.must(err)
	}
	w.addUp(&book, sums, rows)
	book.Transfers = enter(transfers, shareAt, rows[:]...)
	for i, x := range book.Transfers {
		book.Transfers[i].Refused = crash.CourseOf(x.N).Refused()
	}
	w.readLog(book.Transfers)
	for _, a := range w.alarms() {
		book.Alarms = append(book.Alarms, a.text)
	}
	return book
}

func shareAt(n int64, place int) crash.Share { return crash.CourseOf(n).Shares[place] }

// addUp enters the balances, beside what the rows of this round and of those before say of them.
func (w *ring) addUp(book *crash.Book, sums [crash.Places]int64, rows [crash.Places][]row) {
	var now [crash.Places]int64
	for p := range rows {
		for _, r := range rows[p] {
			now[p] += r.Amount
		}
	}
	w.ledgers[w.round] = now
	for p, sum := range sums {
		book.Sum += sum
		a := crash.Account{Place: crash.Place(p), Changed: sum - crash.Accounts*crash.Balance}
		for _, ledger := range w.ledgers {
			a.Ledger += ledger[p]
		}
		book.Accounts = append(book.Accounts, a)
	}
}

// count adds the transfers of a round to what the test has seen.
func (w *ring) count(all []crash.Transfer) {
	for _, x := range all {
		c := crash.CourseOf(x.N)
		w.ends[traffic{c.Traffic, c.Payer, x.Answer}]++
	}
}

// checkTraffic wants every kind of transfer to have ended as it should, whoever paid.
func (w *ring) checkTraffic() {
	w.t.Helper()
	for k := range crash.Traffic(crash.Traffics) {
		want := crash.Committed
		if k == crash.OneRefuses {
			want = crash.RolledBack
		}
		for p := range crash.Place(crash.Places) {
			n := w.ends[traffic{k, p, want}]
			if n == 0 {
				w.t.Errorf("%s, and %s pays: not one was %s", k, p, want)
			}
			w.t.Logf("%-22s %-9s pays: %3d %s", k, p, n, want)
		}
	}
}
