package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// world is everything that lines share for the time of a run. All of it is there from the first
// cell to the last, so that no line has the machine more to itself than another.
type world struct {
	cfg   Config
	banks []*bank
	// run is in the names that are prepared by hand, so that no other run's are taken for ours.
	run       string
	decisions *decisions
	// pins counts the lines that were opened on connections of their own; it is in the names too.
	pins int
	// The two coordinators, and where health is asked for.
	server, embedded decider
	health           *grpc.ClientConn
	// names are the beginnings of all names that this run prepares.
	names []string
	// closers end the rest, in the reverse order.
	closers []func() error
}

// decider is a coordinator as clients see it.
type decider interface {
	client.Decider
	client.Rollbacker
}

// settleLimit bounds every wait for what goes on by itself.
const settleLimit = 30 * time.Second

// openWorld makes everything, or leaves nothing behind.
func openWorld(ctx context.Context, cfg Config) (_ *world, err error) {
	w := &world{cfg: cfg, run: strconv.FormatUint(cfg.Seed, 36)}
	w.names = []string{w.namePrefix()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(context.WithoutCancel(ctx)))
		}
	}()
	for i, r := range cfg.Resources {
		b, err := openBank(ctx, r, cfg.maxClients(i))
		if err != nil {
			return nil, err
		}
		w.banks = append(w.banks, b)
	}
	if err := checkRoom(w.banks, cfg); err != nil {
		return nil, err
	}
	for _, b := range w.banks {
		if err := b.fill(ctx, cfg.Accounts); err != nil {
			return nil, err
		}
	}
	for _, open := range []func(context.Context) error{w.openDecisions, w.openEmbedded,
		w.openServer} {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) namePrefix() string { return "gavel_bench_" + w.run + "_" }

func (w *world) openDecisions(context.Context) error {
	var err error
	w.decisions, err = newDecisions(vfs.OS(), filepath.Join(w.cfg.Dir, "decisions"))
	if err == nil {
		w.closers = append(w.closers, w.decisions.close)
	}
	return err
}

// openEmbedded opens a coordinator in this process, as an application would.
func (w *world) openEmbedded(ctx context.Context) error {
	dir := filepath.Join(w.cfg.Dir, "embedded")
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		return err
	}
	cfg := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, b := range w.banks {
		manager, err := postgres.New(postgres.Config{Name: b.Name, DSN: b.DSN,
			OwnerRole: b.OwnerRole})
		if err != nil {
			return err
		}
		w.closers = append(w.closers, manager.Close)
		cfg.Resources = append(cfg.Resources, coordinator.Resource{Name: b.Name, Kind: "postgres",
			Manager: manager})
	}
	c, err := coordinator.Open(ctx, cfg)
	if err != nil {
		return err
	}
	w.closers = append(w.closers, c.Close)
	w.embedded = timed{c}
	return w.awaitReady(ctx, w.embedded)
}

// openServer connects to the coordinator process.
func (w *world) openServer(ctx context.Context) error {
	c, err := remote.Dial(w.cfg.Coordinator)
	if err != nil {
		return err
	}
	w.closers = append(w.closers, c.Close)
	w.server = timed{c}
	w.health, err = grpc.NewClient(w.cfg.Coordinator,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	w.closers = append(w.closers, w.health.Close)
	return w.awaitReady(ctx, w.server)
}

// readyEvery is the time between two questions to a coordinator that is starting.
const readyEvery = 10 * time.Millisecond

// awaitReady waits until a coordinator has registered every database, by beginning a transaction on
// all of them. It also learns the names that this coordinator's branches have.
func (w *world) awaitReady(ctx context.Context, d decider) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settleLimit, ErrUnreachable)
	defer cancel()
	var names []string
	for _, b := range w.banks {
		names = append(names, b.Name)
	}
	for {
		begun, err := d.Begin(ctx, txn.BeginRequest{Resources: names})
		if err == nil {
			name := begun.Branches[0].Name.String()
			w.names = append(w.names, txn.NamePrefix+strings.Split(name, ".")[1]+".")
			_, err = d.Rollback(ctx, begun.ID, "it was only a question")
			return err
		}
		if r := txn.ReasonOf(err); r != txn.ReasonNotReady && r != txn.ReasonNoResource {
			return err
		}
		if e := until(ctx, time.Now().Add(readyEvery)); e != nil {
			return fmt.Errorf("bench: wait for the coordinator: %w: %w", e, err)
		}
	}
}

// ErrAudit is wrapped by the error of a run in which money was lost or made, or a branch stayed
// prepared.
var ErrAudit = errors.New("bench: the audit failed")

// settle waits until nothing of this run is prepared any more: what a line leaves to be done after
// its answer must not be charged to the next one.
func (w *world) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for _, b := range w.banks {
		if err := b.settle(ctx, w.names); err != nil {
			return err
		}
	}
	return nil
}

// audit adds up all balances.
func (w *world) audit(ctx context.Context) error {
	var all int64
	for _, b := range w.banks {
		sum, err := b.sum(ctx)
		if err != nil {
			return err
		}
		all += sum
	}
	if want := w.total(); all != want {
		return fmt.Errorf("%w: all balances add up to %d, and were %d", ErrAudit, all, want)
	}
	return nil
}

// total is what all balances add up to, before and after.
func (w *world) total() int64 {
	return int64(len(w.banks)) * int64(w.cfg.Accounts) * opening
}

// close ends everything and drops the tables. The coordinators, which finish what is in doubt, go
// only when there is nothing left, or nothing moves: a prepared branch would hold on to the table.
func (w *world) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*settleLimit)
	defer cancel()
	var errs []error
	for _, b := range w.banks {
		if b.made {
			errs = append(errs, b.clear(ctx, w.names[:1]))
		}
	}
	if err := w.settle(ctx); !errors.Is(err, ErrAudit) {
		errs = append(errs, err)
	}
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	for _, b := range w.banks {
		errs = append(errs, b.close(ctx))
	}
	return errors.Join(errs...)
}
