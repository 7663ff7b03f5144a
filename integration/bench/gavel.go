package bench

import (
	"context"
	"errors"
	"fmt"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/txn"
)

// timed is a coordinator that marks when a client hears its answer to Begin, and when it has all
// votes: it asks for the commit then.
type timed struct{ decider }

// Begin is the decider's.
func (d timed) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	defer reached(ctx, PhaseBegin)
	return d.decider.Begin(ctx, r)
}

// Commit is the decider's. An intent comes before the votes.
func (d timed) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	if !r.Intent {
		reached(ctx, PhasePrepare)
	}
	return d.decider.Commit(ctx, r)
}

// inTx is a transfer as an application of gavel makes it.
type inTx struct {
	client *client.Client
	dbs    []*pgxtx.DB
	// queued: the statements travel with PREPARE.
	queued bool
}

// applied, decided, parallel and left are the ways to commit: when the client hears of it, and by
// which plan.
func applied(*world) []client.Option { return []client.Option{client.Ack(txn.AckApplied)} }

func decided(*world) []client.Option {
	return []client.Option{client.Ack(txn.AckDecided), client.Plan(txn.PlanClassic)}
}

func parallel(*world) []client.Option { return []client.Option{client.Ack(txn.AckDecided)} }

// left has the first database decide.
func left(w *world) []client.Option {
	return []client.Option{client.Ack(txn.AckApplied), client.Delegate(w.banks[0].Name)}
}

// how is a way to commit.
type how func(*world) []client.Option

func openServer(way how) func(context.Context, *world, int, int) (Line, error) {
	return func(_ context.Context, w *world, _, databases int) (Line, error) {
		return newInTx(w, w.server, way(w), databases), nil
	}
}

func openEmbedded(way how) func(context.Context, *world, int, int) (Line, error) {
	return func(_ context.Context, w *world, _, databases int) (Line, error) {
		return newInTx(w, w.embedded, way(w), databases), nil
	}
}

// queued has a line queue its statements.
func queued(
	open func(context.Context, *world, int, int) (Line, error),
) func(context.Context, *world, int, int) (Line, error) {
	return func(ctx context.Context, w *world, clients, databases int) (Line, error) {
		l, err := open(ctx, w, clients, databases)
		if err != nil {
			return nil, err
		}
		in := l.(inTx)
		in.queued = true
		return in, nil
	}
}

func newInTx(w *world, d decider, how []client.Option, databases int) inTx {
	l := inTx{client: client.New(d, how...)}
	for _, b := range w.banks[:databases] {
		l.dbs = append(l.dbs, b.db)
	}
	return l
}

// Transfer runs the statements at all databases at once, as the floor does.
func (l inTx) Transfer(ctx context.Context, _ int, t Transfer) error {
	return l.client.InTx(ctx, func(ctx context.Context) error {
		defer reached(ctx, PhaseSQL)
		if l.queued {
			for i, db := range l.dbs {
				if err := db.QueueExactly(ctx, 1, addSQL, t.change(i), t.Accounts[i]); err != nil {
					return err
				}
			}
			return nil
		}
		return errors.Join(each(len(l.dbs), func(i int) error {
			_, err := l.dbs[i].Exec(ctx, addSQL, t.change(i), t.Accounts[i])
			return err
		})...)
	})
}

func (inTx) Close() {}

// oneResource is a transfer within the first database, through the SDK.
type oneResource struct {
	client *client.Client
	db     *pgxtx.DB
}

func openOneResource(_ context.Context, w *world, _, _ int) (Line, error) {
	return oneResource{client.New(w.server), w.banks[0].db}, nil
}

// Transfer does what plainPool does.
func (l oneResource) Transfer(ctx context.Context, _ int, t Transfer) error {
	return l.client.InTx(ctx, func(ctx context.Context) error {
		defer reached(ctx, PhaseSQL)
		for _, i := range order(t) {
			if _, err := l.db.Exec(ctx, addSQL, t.change(i), t.Accounts[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (oneResource) Close() {}

// emptyRPC is no transfer at all: what it costs to be heard by the coordinator process.
type emptyRPC struct{ health healthpb.HealthClient }

func openEmptyRPC(_ context.Context, w *world, _, _ int) (Line, error) {
	return emptyRPC{healthpb.NewHealthClient(w.health)}, nil
}

// Transfer moves nothing.
func (l emptyRPC) Transfer(ctx context.Context, _ int, _ Transfer) error {
	r, err := l.health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("the coordinator is %s", r.GetStatus())
	}
	return err
}

func (emptyRPC) Close() {}
