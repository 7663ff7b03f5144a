package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// undecided is the life of a transfer that nobody decides. It is short, because the branches of a
// killed teller hold their locks, and the test its breath, for as long; and it is long enough for
// a transfer on a busy machine.
const undecided = 600 * time.Millisecond

const (
	// firstPause and longestPause lie between two questions to a coordinator that is being started.
	firstPause   = 5 * time.Millisecond
	longestPause = 40 * time.Millisecond
	// sorry is the pause after a transfer that failed: a database that recovers refuses at once,
	// and would be asked thousands of times.
	sorry = 10 * time.Millisecond
)

// bank is both databases and the coordinator.
type bank struct {
	pools   []*pgxpool.Pool
	a, b    *pgxtx.DB
	decider *remote.Client
	client  *client.Client
	// storm has transfers with odd numbers add to the counters, and some callers leave early.
	storm bool
	now   func() time.Duration
}

func openBank(ctx context.Context, getenv func(string) string) (*bank, error) {
	b := &bank{storm: getenv(crash.EnvStorm) != "", now: crash.Now}
	for _, name := range []string{crash.EnvBankA, crash.EnvBankB} {
		pool, err := pgxpool.New(ctx, getenv(name))
		if err != nil {
			b.close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		b.pools = append(b.pools, pool)
	}
	b.a = pgxtx.New(crash.ResourceA, b.pools[0])
	b.b = pgxtx.New(crash.ResourceB, b.pools[1])
	var err error
	b.decider, err = dialDecider(getenv(crash.EnvCoordinator))
	if err != nil {
		b.close()
		return nil, err
	}
	b.client = client.New(b.decider, client.Timeout(undecided))
	return b, nil
}

func dialDecider(target string) (*remote.Client, error) {
	return remote.Dial(target,
		remote.WithPauses(remote.Pauses{First: firstPause, Most: longestPause}))
}

func (b *bank) close() {
	if b.decider != nil {
		_ = b.decider.Close()
	}
	for _, p := range b.pools {
		p.Close()
	}
}

// transfer moves an amount, in one transaction. It says the transaction's id before the commit is
// asked for, and then what came of it.
func (b *bank) transfer(ctx context.Context, n int64, say func(crash.Line)) {
	amount := 1 + rand.Int64N(9)
	caller, leave := b.stay(ctx, n)
	defer leave()
	err := b.client.InTx(caller, func(ctx context.Context) error {
		if err := b.move(ctx, b.a, n, -amount, amount); err != nil {
			return err
		}
		if err := b.move(ctx, b.b, n, amount, amount); err != nil {
			return err
		}
		id, err := client.IDFrom(ctx)
		if err == nil {
			say(crash.Line{N: n, ID: id, At: b.now()})
		}
		return err
	}, client.Name(fmt.Sprintf("transfer %d", n)), client.Ack(ackOf(n)), client.Plan(planOf(n)),
		client.Delegate(delegateOf(n)))
	heard := answer(n, err)
	heard.At = b.now()
	say(heard)
	if err != nil {
		pause(ctx, sorry)
	}
}

// hurry is how long a caller stays who leaves early: long enough for most transfers, and not for
// one whose coordinator is being started.
const hurry = 150 * time.Millisecond

// stay is the context of a caller. In a storm one in four leaves early, and what it was not told
// it must not be told wrongly.
func (b *bank) stay(ctx context.Context, n int64) (context.Context, context.CancelFunc) {
	if b.storm && n%4 == 2 {
		return context.WithTimeout(ctx, hurry)
	}
	return context.WithCancel(ctx)
}

// ackOf lets half of the transfers hear of their decision early, which is the parallel plan. The
// first of a round is none of them.
func ackOf(n int64) txn.AckLevel {
	if n%4 == 0 || n%4 == 3 {
		return txn.AckDecided
	}
	return txn.AckApplied
}

// planOf keeps one in four of these to the classic plan.
func planOf(n int64) txn.Plan {
	if n%16 == 0 || n%16 == 3 {
		return txn.PlanClassic
	}
	return txn.PlanUnset
}

// delegateOf leaves the decision of two transfers in five to the first database. The first of a
// round is none of them either.
func delegateOf(n int64) string {
	if n%5 == 0 || n%5 == 2 {
		return crash.ResourceA
	}
	return ""
}

// move changes a random account. Everybody changes one at the first database first, so that
// transfers wait for each other and never in a circle; the counter comes after the account for the
// same reason.
func (b *bank) move(ctx context.Context, db *pgxtx.DB, n, amount, count int64) error {
	if n%4 == 2 {
		// Half of those that count nothing.
		err := db.QueueExactly(ctx, 1, crash.BalanceSQL, rand.IntN(crash.Accounts), amount)
		if err != nil {
			return err
		}
		return db.Queue(ctx, crash.LedgerSQL, n, amount)
	}
	_, err := db.Exec(ctx, crash.MoveSQL, rand.IntN(crash.Accounts), amount, n)
	if err == nil && b.storm && n%2 == 1 {
		_, err = db.Exec(ctx, crash.CountSQL, n, count)
	}
	return err
}

// answer is what an error of InTx says.
func answer(n int64, err error) crash.Line {
	l := crash.Line{N: n, Answer: crash.Committed}
	if err == nil {
		return l
	}
	l.ID, l.Why = client.IDOf(err), err.Error()
	_, aborted := errors.AsType[*client.AbortedError](err)
	_, heuristic := errors.AsType[*client.HeuristicError](err)
	switch {
	case aborted:
		l.Answer = crash.RolledBack
	case heuristic:
		l.Answer = crash.Heuristic
	default:
		l.Answer = crash.InDoubt
	}
	return l
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
