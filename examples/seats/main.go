// Command seats sells the seats of a theatre for money that is kept elsewhere: a service of one's
// own and a kv store, each with its own file, in one transaction.
//
//	go run ./examples/seats
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

func main() {
	dir, err := os.MkdirTemp("", "seats")
	if err == nil {
		err = errors.Join(run(context.Background(), dir, os.Stdout), os.RemoveAll(dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const price = 30

// theatre is everything that takes part, in one process.
type theatre struct {
	coordinator *coordinator.Coordinator
	money       *kv.Store
	seats       *Seats
	out         io.Writer
	// wait bounds how long a commit waits for the branches after the decision. 0: the default.
	wait time.Duration
}

// open makes or opens everything in dir.
func open(ctx context.Context, dir string, out io.Writer) (*theatre, error) {
	money, err := kv.Open(kv.Config{Dir: filepath.Join(dir, "money")})
	if err != nil {
		return nil, err
	}
	seats, err := OpenSeats(dir)
	if err != nil {
		return nil, errors.Join(err, money.Close())
	}
	c, err := coordinator.Open(ctx, coordinator.Config{
		Dir: filepath.Join(dir, "log"), Logger: slog.New(slog.DiscardHandler),
		Resources: []coordinator.Resource{
			{Name: "money", Kind: "kv", Manager: money},
			{Name: "seats", Kind: "seats", Manager: seats.Resource},
		},
	})
	if err != nil {
		return nil, errors.Join(err, seats.Close(), money.Close())
	}
	t := &theatre{coordinator: c, money: money, seats: seats, out: out}
	// Both are registered, and what an earlier run left in doubt is finished.
	if err := c.Settle(ctx); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *theatre) close() error {
	return errors.Join(t.coordinator.Close(), t.seats.Close(), t.money.Close())
}

// during opens everything in dir, does what is given, and closes it again.
func during(
	ctx context.Context, dir string, out io.Writer, do func(context.Context, *theatre) error,
) error {
	t, err := open(ctx, dir, out)
	if err != nil {
		return err
	}
	// A rollback is told to its branches after the client has heard of it.
	return errors.Join(do(ctx, t), t.coordinator.Drain(ctx), t.close())
}

// run sells at one opening of the theatre and looks at the next.
func run(ctx context.Context, dir string, out io.Writer) error {
	if _, err := coordinator.Init(vfs.OS(), filepath.Join(dir, "log")); err != nil {
		return err
	}
	if err := during(ctx, dir, out, sell); err != nil {
		return err
	}
	return during(ctx, dir, out, check)
}

func sell(ctx context.Context, t *theatre) error {
	if err := t.seed(ctx); err != nil {
		return err
	}
	for _, buyer := range []string{"ann", "bob"} {
		fmt.Fprintf(t.out, "%s buys seat A1 for %d:\n", buyer, price)
		if err := t.buy(ctx, buyer, "A1"); err != nil {
			return err
		}
	}
	return nil
}

// seed gives everybody something to spend.
func (t *theatre) seed(ctx context.Context) error {
	return t.transaction(ctx, []string{"money"}, func(b []txn.Enlisted) error {
		_, err := t.money.Apply(ctx, b[0].Name, 1, []kv.Op{
			{Kind: kv.OpPut, Key: []byte("ann"), Value: []byte("50")},
			{Kind: kv.OpPut, Key: []byte("bob"), Value: []byte("50")},
		})
		return err
	})
}

// buy takes the money first. That the seat is taken it overlooks, as applications do: its branch at
// the theatre votes No, and the money comes back.
func (t *theatre) buy(ctx context.Context, buyer, seat string) error {
	return t.transaction(ctx, []string{"money", "seats"}, func(b []txn.Enlisted) error {
		enough := int64(0)
		_, err := t.money.Apply(ctx, b[0].Name, 1, []kv.Op{
			{Kind: kv.OpAdd, Key: []byte(buyer), Delta: -price, Minimum: &enough},
			{Kind: kv.OpAdd, Key: []byte("box office"), Delta: price},
		})
		if err != nil {
			return err
		}
		if err := t.seats.Reserve(ctx, b[1].Name, 1, seat, buyer); err != nil {
			fmt.Fprintf(t.out, "  overlooked: %v\n", err)
		}
		return nil
	})
}

// transaction begins one with a branch at each resource, has the work done, and asks for the
// decision.
func (t *theatre) transaction(
	ctx context.Context, resources []string, work func([]txn.Enlisted) error,
) error {
	begun, err := t.coordinator.Begin(ctx, txn.BeginRequest{Resources: resources})
	if err != nil {
		return err
	}
	if err := work(begun.Branches); err != nil {
		_, err2 := t.coordinator.Rollback(ctx, begun.ID, err.Error())
		return errors.Join(err, err2)
	}
	result, err := t.coordinator.Commit(ctx, txn.CommitRequest{ID: begun.ID, Wait: t.wait})
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "  %v\n", result.Outcome)
	return nil
}

// check looks at both stores themselves.
func check(ctx context.Context, t *theatre) error {
	sum, taken := 0, 0
	for _, who := range []string{"ann", "bob", "box office"} {
		entries, err := t.money.Get(ctx, [][]byte{[]byte(who)})
		if err != nil {
			return err
		}
		has, err := strconv.Atoi(string(entries[0].Value))
		if err != nil {
			return err
		}
		sum, taken = sum+has, has // the box office comes last
		fmt.Fprintf(t.out, "%s has %d\n", who, has)
	}
	buyer, err := t.seats.Buyer("A1")
	if err != nil {
		return err
	}
	doubt, err := t.inDoubt(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "seat A1 belongs to %s; sum %d; in doubt %d\n", buyer, sum, doubt)
	if buyer != "ann" || sum != 100 || taken != price || doubt != 0 {
		return errors.New("seats: money and seats do not agree")
	}
	return nil
}

func (t *theatre) inDoubt(ctx context.Context) (int, error) {
	fence := txn.Fence{Log: t.coordinator.LogID(), Epoch: t.coordinator.Epoch()}
	n := 0
	for _, r := range []participant.Resource{t.money, t.seats.Resource} {
		l, err := r.List(ctx, fence)
		if err != nil {
			return 0, err
		}
		n += len(l.Branches)
	}
	return n, nil
}
