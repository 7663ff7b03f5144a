// Package demo is `gavel demo`: the promise of gavel, kept in front of one's eyes.
//
// Clients move money between two databases. Their coordinator, the production binary as a process
// of its own, is killed (SIGKILL) at random moments, again and again, until it has died in the one
// moment that matters: a decision to commit is durable in the log, and a branch of it is still
// prepared in a database. Both facts are read from disk and from the databases while the
// coordinator is dead. Then it is started again, nobody helps, and the books are audited:
//
//   - the sum of all balances is what it was;
//   - every transfer is in both ledgers or in none;
//   - every answer that a client ever got is true;
//   - no branch is prepared any more.
//
// There is no failpoint and no test hook: the window is hit by trying, which takes a few kills.
package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// options are what the demo can be told.
type options struct {
	transfers, clients int
	seed               uint64
	keep               bool
	// kv says not to look for PostgreSQL.
	kv bool
	// binary is the program that is started as coordinator.
	binary string
}

// Limits of the options, and of the whole.
const (
	maxTransfers = 100_000
	maxClients   = 64
	// life bounds everything but the making of the databases, which may have to be installed.
	life = 50 * time.Second
)
const long = `Move money between two real databases while the coordinator is killed again and
again, until it has died between a decision and its second phase; start it again; audit the
books.

It uses PostgreSQL servers of its own, which it removes at the end. PostgreSQL is taken from
this machine, or installed by apt if you are root; without either, the embedded key-value store
stands in for it. It exits 0 if all is proven, 1 otherwise.`

// Command is `gavel demo`.
func Command(io ui.IO) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: two databases, a coordinator killed at the worst moment, no loss",
		Long:  long,
		Example: `  gavel demo
  gavel demo --transfers 5000 --clients 32
  gavel demo --seed 7 --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.binary, err = os.Executable(); err != nil {
				return fmt.Errorf("demo: find the own binary: %w", err)
			}
			return o.run(cmd.Context(), io)
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&o.transfers, "transfers", 1000, "transfers to finish")
	fs.IntVar(&o.clients, "clients", 16, "clients at the same time")
	fs.Uint64Var(&o.seed, "seed", 0, "seed of accounts, amounts and moments; 0 draws one")
	fs.BoolVar(&o.keep, "keep", false, "keep the log and the servers' directories for a look")
	fs.BoolVar(&o.kv, "kv", false, "use the embedded key-value store, even if PostgreSQL is there")
	return cmd
}

func (o options) validate() error {
	if o.transfers < 1 || o.transfers > maxTransfers {
		return exit.Usagef("", "--transfers %d is not within 1 and %d", o.transfers, maxTransfers)
	}
	if o.clients < 1 || o.clients > maxClients {
		return exit.Usagef("", "--clients %d is not within 1 and %d", o.clients, maxClients)
	}
	return nil
}

// run is the whole demo, with its cleaning up, also after an interruption.
func (o options) run(ctx context.Context, io ui.IO) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1
	}
	dir, err := os.MkdirTemp("", "gavel-demo-")
	if err != nil {
		return fmt.Errorf("demo: make a directory: %w", err)
	}
	defer func() {
		if o.keep {
			fmt.Fprintf(io.Out, "\nkept: %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	s := &story{io: io, o: o, dir: dir, start: io.Now()}
	s.say("gavel demo: money moves between two databases while its coordinator is killed (seed %d)",
		o.seed)
	banks, err := s.openBanks(ctx)
	if err != nil {
		return err
	}
	// Cleaning up must not depend on a context that may be why it is needed.
	defer func() { err = errors.Join(err, banks.stop(context.WithoutCancel(ctx))) }()
	ctx, cancel := context.WithTimeoutCause(ctx, life, errTooLong)
	defer cancel()
	if err := s.tell(ctx, banks); err != nil {
		return s.failed(ctx, err)
	}
	return nil
}

// errTooLong is why a demo ends that does not get on.
var errTooLong = errors.New("demo: it did not come to its end in time")

// failed is how a demo ends that could not prove its point.
func (s *story) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return cause
	} else if cause != nil {
		err = errors.Join(cause, err)
	}
	return &exit.Error{Code: exit.No, What: err.Error(), Err: err,
		Data: "Only this demonstration's own databases are concerned.",
		Do: fmt.Sprintf("Run it again with --seed %d --keep and look at the coordinator's journal.",
			s.o.seed)}
}

// openBanks prepares the two databases, the real ones if there is a way.
func (s *story) openBanks(ctx context.Context) (banks, error) {
	if s.o.kv {
		return s.openKV(ctx)
	}
	inst, err := pghost.Ensure(ctx, s.io.Err)
	if errors.Is(err, pghost.ErrNoPostgres) {
		s.say("")
		s.say("!! NO POSTGRESQL: %v", err)
		s.say("!! The embedded key-value store stands in for it. What follows is true for that")
		s.say("!! store; with PostgreSQL installed this demonstration uses two real servers.")
		return s.openKV(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s.openPostgres(ctx, inst)
}
