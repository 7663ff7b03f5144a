package grpctx_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/txn"
)

// bankB is the database of a service.
func bankB(t testing.TB) *pgxtx.DB { return pgxtx.New("bank_b", banks.Pool(t, banks.B)) }

func TestACallIsPartOfTheTransaction(t *testing.T) {
	w := newWorld(t)
	svc := w.serve(credits(bankB(t)), setup{})
	var r txn.Result
	if err := w.Client.InTx(t.Context(), w.transfer(svc), client.Report(&r)); err != nil {
		t.Fatal(err)
	}
	w.Want(70, 130)
	if r.Outcome != txn.OutcomeCommitted || len(r.Branches) != 2 {
		t.Errorf("reported %+v", r)
	}
	got, err := w.Coord.Outcome(t.Context(), r.ID)
	if err != nil || got.Outcome != txn.OutcomeCommitted {
		t.Errorf("the coordinator says %s: %v", got.Outcome, err)
	}
}

// The service is reached over one wire, and the coordinator by each side over another.
func TestACallWithTheCoordinatorElsewhere(t *testing.T) {
	w := newWorld(t)
	srv := grpc.NewServer()
	server.New(w.Coord, server.Options{}).Register(srv)
	way := dialTo(t, srv)
	dialled := func() *remote.Client {
		conn, err := remote.Dial("passthrough:///127.0.0.1:1", remote.WithDialOptions(way))
		if err != nil {
			t.Fatal(err)
		}
		banks.Closing(t, conn)
		return conn
	}
	b := bankB(t)
	svc := w.serve(credits(b), setup{decider: dialled()})
	notes := w.serve(note(b), setup{decider: dialled()})
	c := client.New(dialled())
	for _, last := range []error{nil, errPoor} {
		err := c.InTx(t.Context(), func(ctx context.Context) error {
			// Three parts at one database.
			return errors.Join(call(ctx, notes), w.transfer(svc)(ctx), call(ctx, notes), last)
		})
		if last != nil {
			banks.WantAborted(t, err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	w.Want(70, 130)
	if n := noted(t); n != 2 {
		t.Errorf("%d notes", n)
	}
}

var errPoor = errors.New("balance too low")

// note is a handler that writes a row that nobody else waits for.
func note(db *pgxtx.DB) handler {
	return func(ctx context.Context) error {
		_, err := db.Exec(ctx, `INSERT INTO notes VALUES ('was here')`)
		return err
	}
}

func noted(t testing.TB) int { return banks.Scan[int](t, banks.B, `SELECT count(*) FROM notes`) }

// failure is a way for a call to go wrong.
type failure struct {
	name string
	// handler is the service's, which may use its database.
	handler func(*pgxtx.DB) handler
	setup   setup
	code    codes.Code
	says    string
}

// failures are those of services.
func failures() []failure {
	tooMuch := status.Error(codes.OutOfRange, "too much")
	panics := func(db *pgxtx.DB) handler {
		return func(ctx context.Context) error {
			_ = credits(db)(ctx)
			panic("oops")
		}
	}
	nothing := func(*pgxtx.DB) handler { return func(context.Context) error { return nil } }
	return []failure{
		{name: "the handler fails", code: codes.OutOfRange, says: "too much",
			handler: func(db *pgxtx.DB) handler {
				return func(ctx context.Context) error {
					_ = credits(db)(ctx)
					return tooMuch
				}
			}},
		{name: "the handler fails before its work", code: codes.OutOfRange, says: "too much",
			handler: func(*pgxtx.DB) handler {
				return func(context.Context) error { return tooMuch }
			}},
		{name: "the handler ignores an error", code: codes.Aborted, says: "acct_bal_check",
			handler: func(db *pgxtx.DB) handler {
				return func(ctx context.Context) error {
					_, _ = db.Exec(ctx, credit, -1000)
					return nil
				}
			}},
		{name: "the handler panics", code: codes.Internal, says: "oops",
			handler: panics, setup: setup{outer: recovers(codes.Internal)}},
		{name: "a panic is called a success", code: codes.Aborted, says: "without the votes",
			handler: panics, setup: setup{outer: recovers(codes.OK)}},
		{name: "the service has no interceptor", code: codes.Unknown, says: "no transaction",
			handler: credits, setup: setup{bare: true}},
		{name: "the service has no interceptor and no database", code: codes.Aborted,
			says: "without the votes", handler: nothing, setup: setup{bare: true}},
	}
}

// losses are those of what is between.
func losses() []failure {
	cut := func(name string, entries ...string) failure {
		return failure{name: name, code: codes.Aborted, says: "without the votes",
			handler: credits, setup: setup{inner: withTrailer(metadata.Pairs(entries...))}}
	}
	const none = "\x01\x00"
	return []failure{
		cut("the trailer is lost"),
		cut("the trailer is no votes", "gavel-votes-bin", "nonsense"),
		cut("the trailer stands twice", "gavel-votes-bin", none, "gavel-votes-bin", none),
		{name: "the answer is lost", code: codes.Unavailable, says: "lost",
			handler: credits, setup: setup{outer: answers(codes.Unavailable, "lost")}},
	}
}

// Whatever goes wrong in a call, and whoever ignores it: nothing of the transaction remains.
func TestAFailedCallRollsBack(t *testing.T) {
	returned := func(f func(context.Context) error) func(context.Context) error { return f }
	for _, tc := range append(failures(), losses()...) {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			svc := w.serve(tc.handler(bankB(t)), tc.setup)
			for name, how := range map[string]func(
				func(context.Context) error) func(context.Context) error{
				"returned": returned, "swallowed": swallow,
			} {
				var heard error
				err := w.Client.InTx(t.Context(), how(func(ctx context.Context) error {
					heard = w.transfer(svc)(ctx)
					return heard
				}))
				if banks.WantAborted(t, err); !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: %v", name, err)
				}
				if status.Code(heard) != tc.code || !strings.Contains(heard.Error(), tc.says) {
					t.Errorf("%s: the caller hears %v", name, heard)
				}
				w.Want(100, 100)
			}
		})
	}
}

// recovers turns a panic into a status, as an interceptor around ours would.
func recovers(code codes.Code) grpc.UnaryServerInterceptor {
	return func(
		ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
	) (answer any, err error) {
		defer func() {
			if p := recover(); p != nil {
				answer, err = &testpb.SimpleResponse{}, status.Errorf(code, "%v", p)
			}
		}()
		return handle(ctx, req)
	}
}

// answers has a service answer so although its handler has succeeded.
func answers(code codes.Code, text string) grpc.UnaryServerInterceptor {
	return func(
		ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
	) (any, error) {
		answer, err := handle(ctx, req)
		if err == nil {
			err = status.Error(code, text)
		}
		return answer, err
	}
}

// withTrailer has a call bring another trailer home.
func withTrailer(md metadata.MD) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		for _, o := range opts {
			if trailer, ok := o.(grpc.TrailerCallOption); ok {
				*trailer.TrailerAddr = md
			}
		}
		return err
	}
}

// What a service's database says reaches the caller, whatever its handler makes of it: a deadlock
// there is worth another try here.
func TestACodeOfTheServiceIsRetryable(t *testing.T) {
	w := newWorld(t)
	b, tries := bankB(t), 0
	svc := w.serve(func(ctx context.Context) error {
		if tries++; tries == 3 {
			return credits(b)(ctx)
		}
		_, _ = b.Exec(ctx, `DO $$ BEGIN RAISE SQLSTATE '40001'; END $$`)
		if tries == 1 {
			return status.Error(codes.Internal, "the database has failed")
		}
		return nil
	}, setup{})
	if err := w.Client.InTx(t.Context(), w.transfer(svc), client.Retry(2)); err != nil {
		t.Fatal(err)
	}
	w.Want(70, 130)
}

// The service is gone between its PREPARE and its answer: nobody has its vote.
func TestAServiceThatDiesWhenItIsPrepared(t *testing.T) {
	w := newWorld(t)
	var srv *grpc.Server
	var stopped atomic.Bool
	svc := w.serve(credits(bankB(t)), setup{
		server: func(s *grpc.Server) { srv = s },
		outer: func(
			ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
		) (any, error) {
			answer, err := handle(ctx, req)
			if n := banks.Scan[int](t, banks.B, `SELECT count(*) FROM pg_prepared_xacts`); n != 1 {
				t.Errorf("%d branches are prepared", n)
			}
			stopped.Store(true)
			go srv.Stop() // joined by the cleanup of the connection, which stops it too
			<-ctx.Done()
			return answer, err
		}})
	err := w.Client.InTx(t.Context(), swallow(w.transfer(svc)))
	banks.WantAborted(t, err)
	if status.Code(errors.Unwrap(err)) != codes.Unavailable || !stopped.Load() {
		t.Errorf("%v, stopped %v", err, stopped.Load())
	}
	w.Want(100, 100)
}

// An attempt of which the caller has heard nothing must not commit beside the one that it heard.
func TestACallThatIsMadeTwice(t *testing.T) {
	w := newWorld(t)
	var tries atomic.Int32
	svc := w.serve(note(bankB(t)), setup{
		outer: func(
			ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
		) (any, error) {
			answer, err := handle(ctx, req)
			if tries.Add(1) == 1 {
				return nil, status.Error(codes.Unavailable, "the first answer is lost")
			}
			return answer, err
		},
		dial: []grpc.DialOption{grpc.WithDefaultServiceConfig(`{"methodConfig": [{
			"name": [{}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.001s",
			"maxBackoff": "0.001s", "backoffMultiplier": 1,
			"retryableStatusCodes": ["UNAVAILABLE"]}}]}`)},
	})
	err := w.Client.InTx(t.Context(), w.transfer(svc))
	if e := banks.WantAborted(t, err); e.Cause != txn.CauseVoteUnknown || tries.Load() != 2 {
		t.Errorf("after %d tries: %v", tries.Load(), err)
	}
	w.Want(100, 100)
	if n := noted(t); n != 0 {
		t.Errorf("%d notes are left", n)
	}
}

// Caller and services work at one database, each in a branch of its own.
func TestSeveralPartsAtOneDatabase(t *testing.T) {
	for _, fails := range []bool{false, true} {
		w := newWorld(t)
		b := bankB(t)
		svc := w.serve(note(bankB(t)), setup{})
		var r txn.Result
		err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
			if err := w.Debit(ctx); err != nil {
				return err
			}
			for range 2 {
				if err := call(ctx, svc); err != nil {
					return err
				}
			}
			if err := credits(b)(ctx); err != nil || fails {
				return errors.Join(err, errPoor)
			}
			return call(ctx, svc)
		}, client.Report(&r))
		if fails {
			banks.WantAborted(t, err)
			w.Want(100, 100)
		} else if err != nil {
			t.Fatal(err)
		} else {
			w.Want(70, 130)
		}
		if n := noted(t); fails != (n == 0) || !fails && (n != 3 || len(r.Branches) != 5) {
			t.Errorf("fails %v: %d notes, %+v", fails, n, r)
		}
	}
}

// Calls may be made at once.
func TestCallsAtOnce(t *testing.T) {
	w := newWorld(t)
	svc := w.serve(note(bankB(t)), setup{})
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		answers := make(chan error, 8)
		for range cap(answers) {
			go func() { answers <- call(ctx, svc) }()
		}
		var errs []error
		for range cap(answers) {
			errs = append(errs, <-answers)
		}
		return errors.Join(append(errs, w.Debit(ctx))...)
	})
	if n := noted(t); err != nil || n != 8 {
		t.Errorf("%d notes, %v", n, err)
	}
	w.Want(70, 100)
}

// A service calls another one: both votes go home with the first answer.
func TestACallWithinACall(t *testing.T) {
	for name, last := range map[string]error{"goes well": nil, "fails": errPoor} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.serve(func(ctx context.Context) error {
				return errors.Join(note(bankB(t))(ctx), last)
			}, setup{})
			b := bankB(t)
			svc := w.serve(func(ctx context.Context) error {
				_ = call(ctx, c)
				return credits(b)(ctx)
			}, setup{})
			err := w.Client.InTx(t.Context(), swallow(w.transfer(svc)))
			if last != nil {
				if banks.WantAborted(t, err); !strings.Contains(err.Error(), "balance too low") {
					t.Error(err)
				}
				w.Want(100, 100)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w.Want(70, 130)
			if n := noted(t); n != 1 {
				t.Errorf("%d notes", n)
			}
		})
	}
}

// A call that has not been answered when the function returns.
func TestACallUnderWay(t *testing.T) {
	w := newWorld(t)
	b, entered := bankB(t), make(chan struct{})
	svc := w.serve(func(ctx context.Context) error {
		err := credits(b)(ctx)
		close(entered)
		<-ctx.Done()
		return err
	}, setup{})
	answer := make(chan error, 1)
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		go func() { answer <- w.transfer(svc)(ctx) }()
		<-entered
		return nil
	})
	if banks.WantAborted(t, err); !strings.Contains(err.Error(), "still under way") {
		t.Error(err)
	}
	// The end of the transaction ends the call.
	if err := <-answer; status.Code(err) != codes.Canceled {
		t.Errorf("the call: %v", err)
	}
	w.Want(100, 100)
}

func TestACallAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	var called atomic.Bool
	svc := w.serve(func(context.Context) error { called.Store(true); return nil }, setup{})
	var late context.Context
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = call(late, svc)
	if !errors.Is(err, client.ErrFinished) || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
	if _, err := svc.FullDuplexCall(late); !errors.Is(err, client.ErrFinished) {
		t.Errorf("a stream: %v", err)
	}
	if called.Load() {
		t.Error("the service was called")
	}
}

// What is detached stays, whatever becomes of the transaction.
func TestADetachedCall(t *testing.T) {
	w := newWorld(t)
	svc := w.serve(credits(pgxtx.New("bank_b", banks.Pool(t, banks.B), pgxtx.AllowAutocommit())),
		setup{})
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		return errors.Join(w.Debit(ctx), call(client.Detach(ctx), svc), errPoor)
	})
	banks.WantAborted(t, err)
	w.Want(100, 130)
	// A detached call that fails is the application's own business.
	bad := w.serve(func(context.Context) error { return errPoor }, setup{})
	err = w.Client.InTx(t.Context(), func(ctx context.Context) error {
		_ = call(client.Detach(ctx), bad)
		return w.Debit(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Want(70, 130)
}
