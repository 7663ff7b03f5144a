package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// hand is one client's connections, one to each database, and the statement prepared on each.
type hand struct {
	conns []*pgxpool.Conn
	// prefix and last make the names that this client prepares.
	prefix string
	last   int
}

// pin takes connections out of the pools for as long as a line is measured. A pool has one for each
// client.
func (w *world) pin(ctx context.Context, clients, databases int) (_ hands, err error) {
	var hs hands
	w.pins++
	defer func() {
		if err != nil {
			hs.Close()
		}
	}()
	for i := range clients {
		h := &hand{prefix: fmt.Sprintf("%s%d_%d_", w.namePrefix(), w.pins, i)}
		hs = append(hs, h)
		for _, b := range w.banks[:databases] {
			conn, err := b.pool.Acquire(ctx)
			if err != nil {
				return hs, fmt.Errorf("bench: connect to resource %s: %w", b.Name, err)
			}
			h.conns = append(h.conns, conn)
			// Prepared once in the life of a connection; pgx remembers it.
			if _, err := conn.Conn().Prepare(ctx, addStatement, addSQL); err != nil {
				return hs, fmt.Errorf("bench: prepare a statement at resource %s: %w", b.Name, err)
			}
		}
	}
	return hs, nil
}

// hands are the connections of all clients.
type hands []*hand

// Close gives them back.
func (hs hands) Close() {
	for _, h := range hs {
		for _, c := range h.conns {
			c.Release()
		}
	}
}

func (h *hand) pg(database int) *pgconn.PgConn { return h.conns[database].Conn().PgConn() }

// exec runs one statement in one round trip.
func (h *hand) exec(ctx context.Context, database int, sql string) error {
	_, err := h.pg(database).Exec(ctx, sql).ReadAll()
	return err
}

// params are those of addStatement, as text.
func params(t Transfer, i int) [][]byte {
	return [][]byte{strconv.AppendInt(nil, t.change(i), 10),
		strconv.AppendInt(nil, int64(t.Accounts[i]), 10)}
}

// update runs the statement for the i-th account at a database.
func (h *hand) update(ctx context.Context, database int, t Transfer, i int) error {
	return h.pg(database).ExecPrepared(ctx, addStatement, params(t, i), nil, nil).Read().Err
}

// name is that of the next transaction to prepare. Databases may share a server, which knows each
// name once.
func (h *hand) name() func(database int) string {
	h.last++
	n := strconv.Itoa(h.last)
	return func(database int) string { return h.prefix + n + "_" + strconv.Itoa(database) }
}

// each does something for every database at once, and waits. One of them needs no goroutine.
func each(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var join sync.WaitGroup
	for i := range n - 1 {
		join.Go(func() { errs[i] = do(i) })
	}
	errs[n-1] = do(n - 1)
	join.Wait()
	return errs
}

// twoPhase is two-phase commit by hand.
type twoPhase struct {
	hands
	pipelined bool
	// log, if not nil, takes the decision.
	log *decisions
}

func openTwoPhase(
	pipelined, logged bool,
) func(context.Context, *world, int, int) (Line, error) {
	return func(ctx context.Context, w *world, clients, databases int) (Line, error) {
		hs, err := w.pin(ctx, clients, databases)
		l := twoPhase{hands: hs, pipelined: pipelined}
		if logged {
			l.log = w.decisions
		}
		return l, err
	}
}

// Transfer prepares all branches at once and commits them at once.
func (l twoPhase) Transfer(ctx context.Context, client int, t Transfer) error {
	h := l.hands[client]
	name := h.name()
	vote := h.prepare
	if l.pipelined {
		vote = h.preparePipelined
	}
	votes := each(len(t.Accounts), func(i int) error { return vote(ctx, t, i, name(i)) })
	if err := errors.Join(votes...); err != nil {
		return h.abort(ctx, votes, name, err)
	}
	if l.log != nil {
		if err := l.log.force(); err != nil {
			return fmt.Errorf("force a decision: %w", err)
		}
		reached(ctx, PhaseDecide)
	}
	return errors.Join(each(len(t.Accounts), func(i int) error {
		return h.exec(ctx, i, "COMMIT PREPARED '"+name(i)+"'")
	})...)
}

// prepare makes each step a round trip.
func (h *hand) prepare(ctx context.Context, t Transfer, i int, name string) error {
	if err := h.exec(ctx, i, "BEGIN"); err != nil {
		return err
	}
	if err := h.update(ctx, i, t, i); err != nil {
		return err
	}
	reached(ctx, PhaseSQL)
	err := h.exec(ctx, i, "PREPARE TRANSACTION '"+name+"'")
	reached(ctx, PhasePrepare)
	return err
}

// preparePipelined makes one round trip of all three.
func (h *hand) preparePipelined(ctx context.Context, t Transfer, i int, name string) error {
	var b pgconn.Batch
	b.ExecParams("BEGIN", nil, nil, nil, nil)
	b.ExecPrepared(addStatement, params(t, i), nil, nil)
	b.ExecParams("PREPARE TRANSACTION '"+name+"'", nil, nil, nil, nil)
	_, err := h.pg(i).ExecBatch(ctx, &b).ReadAll()
	reached(ctx, PhasePrepare)
	return err
}

// abort rolls back every branch, those that are prepared and those that are not. Only if all of
// that succeeds is it certain that nothing remains.
func (h *hand) abort(
	ctx context.Context, votes []error, name func(int) string, why error,
) error {
	errs := each(len(votes), func(i int) error {
		switch {
		case votes[i] == nil:
			return h.exec(ctx, i, "ROLLBACK PREPARED '"+name(i)+"'")
		case h.pg(i).TxStatus() != 'I':
			return h.exec(ctx, i, "ROLLBACK")
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return errors.Join(why, err)
	}
	return &undone{why}
}

// independent is two commits that know nothing of each other.
type independent struct{ hands }

func openIndependent(ctx context.Context, w *world, clients, databases int) (Line, error) {
	hs, err := w.pin(ctx, clients, databases)
	return independent{hs}, err
}

// Transfer commits each branch by itself. Once one has, there is no way back for the others.
func (l independent) Transfer(ctx context.Context, client int, t Transfer) error {
	h := l.hands[client]
	name := h.name()
	votes := each(len(t.Accounts), func(i int) error {
		if err := h.exec(ctx, i, "BEGIN"); err != nil {
			return err
		}
		err := h.update(ctx, i, t, i)
		reached(ctx, PhaseSQL)
		return err
	})
	if err := errors.Join(votes...); err != nil {
		for i := range votes {
			votes[i] = err
		}
		return h.abort(ctx, votes, name, err)
	}
	return errors.Join(each(len(t.Accounts), func(i int) error {
		return h.exec(ctx, i, "COMMIT")
	})...)
}

// oneDatabase is a transfer within the first database.
type oneDatabase struct{ hands }

func openOneDatabase(ctx context.Context, w *world, clients, _ int) (Line, error) {
	hs, err := w.pin(ctx, clients, 1)
	return oneDatabase{hs}, err
}

// Transfer is a plain transaction.
func (l oneDatabase) Transfer(ctx context.Context, client int, t Transfer) error {
	h := l.hands[client]
	err := h.exec(ctx, 0, "BEGIN")
	for _, i := range order(t) {
		if err == nil {
			err = h.update(ctx, 0, t, i)
		}
	}
	reached(ctx, PhaseSQL)
	if err != nil {
		return h.abort(ctx, []error{err}, nil, err)
	}
	return h.exec(ctx, 0, "COMMIT")
}

// order is the order in which the accounts of a transfer are taken within one database, the same
// for everybody, so that nobody waits in a circle.
func order(t Transfer) []int {
	all := make([]int, len(t.Accounts))
	for i := range all {
		all[i] = i
	}
	slices.SortFunc(all, func(a, b int) int { return t.Accounts[a] - t.Accounts[b] })
	return all
}

// plainPool is what an application without gavel does.
type plainPool struct{ bank *bank }

func openPlainPool(_ context.Context, w *world, _, _ int) (Line, error) {
	return plainPool{w.banks[0]}, nil
}

// Transfer is a transaction of pgx on a pool.
func (l plainPool) Transfer(ctx context.Context, _ int, t Transfer) error {
	err := pgx.BeginFunc(ctx, l.bank.pool, func(tx pgx.Tx) error {
		defer reached(ctx, PhaseSQL)
		for _, i := range order(t) {
			if _, err := tx.Exec(ctx, addSQL, t.change(i), t.Accounts[i]); err != nil {
				return &undone{err}
			}
		}
		return nil
	})
	return err
}

func (plainPool) Close() {}
