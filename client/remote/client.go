package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// ErrUnreachable is wrapped by errors of calls that nobody answered in time.
var ErrUnreachable = errors.New("client/remote: the coordinator does not answer")

// maxAnswer bounds one answer, in bytes: a page of a list holds at most 1000 transactions of 64
// branches.
const maxAnswer = 16 << 20

// Option changes how a Client is dialled.
type Option func(*options)

type options struct {
	tls      transport.TLS
	insecure bool
	single   bool
	patience time.Duration
	pauses   Pauses
	dial     []grpc.DialOption
}

// Pauses are the waits between two attempts of a call: they double from First to Most, each
// drawn at random from half to one and a half of itself.
type Pauses struct{ First, Most time.Duration }

// WithTLS secures the connection with these files. Defaults to plaintext, on loopback only.
func WithTLS(files transport.TLS) Option { return func(o *options) { o.tls = files } }

// WithInsecure allows plaintext to other machines.
func WithInsecure() Option { return func(o *options) { o.insecure = true } }

// WithPatience bounds how long a call other than Commit is repeated without an answer, beside its
// context. Defaults to 10 s.
func WithPatience(d time.Duration) Option { return func(o *options) { o.patience = d } }

// WithPauses sets the waits between attempts. Defaults to 20 ms and 2 s.
func WithPauses(p Pauses) Option { return func(o *options) { o.pauses = p } }

// WithSingleCalls makes each call by itself, at several times the cost: for a proxy that does not
// pass streams, or for interceptors that must see every call. Defaults to calls that share a
// Session where the coordinator has that.
func WithSingleCalls() Option { return func(o *options) { o.single = true } }

// WithDialOptions adds options of gRPC, e.g. interceptors or a stats handler. They see the Session
// as one call: see [WithSingleCalls].
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, opts...) }
}

// Client is a coordinator in another process. It is safe for concurrent use; Close ends it.
type Client struct {
	closeOnce func() error
	calls     *calls
	patience  time.Duration
	pauses    Pauses
}

// Dial makes a client of the coordinator at target, a gRPC target or host:port. It does not wait
// for the coordinator to be there. The error wraps transport.ErrPlaintext where the connection
// would be open to other machines.
func Dial(target string, opts ...Option) (*Client, error) {
	o := options{
		patience: 10 * time.Second,
		pauses:   Pauses{First: 20 * time.Millisecond, Most: 2 * time.Second},
	}
	for _, opt := range opts {
		opt(&o)
	}
	creds, err := transport.Client(o.tls, target, o.insecure)
	if err != nil {
		return nil, err
	}
	dial := append(transport.DialOptions(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	conn, err := grpc.NewClient(target, append(dial, o.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("client/remote: dial %s: %w", target, err)
	}
	c := &Client{
		calls:    newCalls(gavelv1.NewTransactionServiceClient(conn), o.single),
		patience: o.patience, pauses: o.pauses,
	}
	c.closeOnce = sync.OnceValue(func() error {
		c.calls.close()
		return conn.Close()
	})
	return c, nil
}

// Close ends the connection and waits for the goroutines of the Client. Calls that are under way
// fail; no transaction is ended by it. It may be called again.
func (c *Client) Close() error {
	if err := c.closeOnce(); err != nil {
		return fmt.Errorf("client/remote: close: %w", err)
	}
	return nil
}

// Begin starts a transaction or, with an ID, enlists resources in one. A *txn.Refusal says why
// not. Whatever the error, no work has been done that lasts: a lost answer leaves at most an empty
// transaction that expires, with or without a delegate.
func (c *Client) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	var begun txn.Begun
	err := c.ask(ctx, func(ctx context.Context) (err error) {
		begun, err = c.begin(ctx, r)
		return err
	})
	if err != nil {
		return txn.Begun{}, fmt.Errorf("client/remote: begin: %w", err)
	}
	return begun, nil
}

func (c *Client) begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	if !r.ID.IsZero() {
		return c.enlist(ctx, r)
	}
	a, err := c.calls.begin(ctx, beginRequest(r))
	if err != nil {
		return txn.Begun{}, err
	}
	begun := txn.Begun{Timeout: a.GetTimeout().AsDuration()}
	if begun.ID, err = txn.ParseID(a.GetTransactionId()); err != nil {
		return txn.Begun{}, &nonsense{err}
	}
	if begun.Branches, err = wire.DecodeEnlisted(a.GetBranches()); err != nil {
		return txn.Begun{}, &nonsense{err}
	}
	if begun.Delegate, err = wire.DecodeDelegate(a.GetDelegate(), begun.Branches); err != nil {
		return txn.Begun{}, &nonsense{err}
	}
	if a.GetExisting() != nil {
		existing, err := wire.DecodeResult(a.GetExisting())
		if err != nil {
			return txn.Begun{}, &nonsense{err}
		}
		begun.Existing = &existing
	}
	return begun, nil
}

func (c *Client) enlist(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	a, err := c.calls.enlist(ctx, &gavelv1.EnlistBranchRequest{
		TransactionId: r.ID.String(), Resources: slices.Clone(r.Resources), Delegate: r.Delegate,
		Part: r.Part,
	})
	if err != nil {
		return txn.Begun{}, err
	}
	begun := txn.Begun{ID: r.ID, Timeout: a.GetTimeout().AsDuration()}
	if begun.Branches, err = wire.DecodeEnlisted(a.GetBranches()); err != nil {
		return txn.Begun{}, &nonsense{err}
	}
	if begun.Delegate, err = wire.DecodeDelegate(a.GetDelegate(), begun.Branches); err != nil {
		return txn.Begun{}, &nonsense{err}
	}
	return begun, nil
}

// beginRequest sends a hash in place of the body: the coordinator keeps no more than a hash
// anyway, and the body may be larger than a message. Nothing of r is kept: a call whose context
// ends may still be on its way out when its caller has it back.
func beginRequest(r txn.BeginRequest) *gavelv1.BeginTransactionRequest {
	out := &gavelv1.BeginTransactionRequest{
		Resources: slices.Clone(r.Resources), Label: r.Label, IdempotencyKey: r.Key,
		Delegate: r.Delegate,
	}
	if r.Timeout != 0 {
		out.Timeout = durationpb.New(r.Timeout)
	}
	if len(r.Body) > 0 {
		sum := sha256.Sum256(r.Body)
		out.Body = sum[:]
	}
	return out
}

// Outcome tells what is known about a transaction. An undecided one has OutcomeUnknown and no
// error; an error that wraps txn.ErrUnknown says that nobody answered.
func (c *Client) Outcome(ctx context.Context, id txn.ID) (txn.Result, error) {
	return c.result(ctx, "outcome of "+id.String(), func(ctx context.Context) (txn.Result, error) {
		a, err := c.calls.get(ctx,
			&gavelv1.GetTransactionRequest{TransactionId: id.String()})
		return decode(id, a.GetTransaction(), err)
	})
}

// Rollback ends an undecided transaction without effect. One that is committed is refused. An error
// that wraps txn.ErrUnknown leaves open what became of it.
func (c *Client) Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error) {
	return c.result(ctx, "rollback of "+id.String(), func(ctx context.Context) (txn.Result, error) {
		a, err := c.calls.rollback(ctx, &gavelv1.RollbackTransactionRequest{
			TransactionId: id.String(), Reason: wire.Cut(reason, txn.MaxReasonLen),
		})
		return decode(id, a.GetTransaction(), err)
	})
}

// result is ask for calls about one transaction, where silence leaves its outcome open.
func (c *Client) result(
	ctx context.Context, what string, call func(context.Context) (txn.Result, error),
) (txn.Result, error) {
	var result txn.Result
	err := c.ask(ctx, func(ctx context.Context) (err error) {
		result, err = call(ctx)
		return err
	})
	if o, ok := errors.AsType[*wire.OutcomeError](err); ok {
		return o.Result, nil
	}
	if err == nil {
		return result, nil
	}
	if _, refused := errors.AsType[*txn.Refusal](err); !refused {
		err = fmt.Errorf("%w: %w", txn.ErrUnknown, err)
	}
	return txn.Result{}, fmt.Errorf("client/remote: %s: %w", what, err)
}

// List selects transactions in the order of their ids.
func (c *Client) List(ctx context.Context, r txn.ListRequest) ([]txn.Result, error) {
	var results []txn.Result
	err := c.ask(ctx, func(ctx context.Context) (err error) {
		results, err = c.list(ctx, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("client/remote: list: %w", err)
	}
	return results, nil
}

func (c *Client) list(ctx context.Context, r txn.ListRequest) ([]txn.Result, error) {
	req := &gavelv1.ListTransactionsRequest{PageSize: int32(r.Limit)}
	for _, s := range r.States {
		req.States = append(req.States, wire.EncodeState(s))
	}
	if r.OlderThan != 0 {
		req.OlderThan = durationpb.New(r.OlderThan)
	}
	if !r.After.IsZero() {
		req.PageToken = r.After.String()
	}
	a, err := c.calls.service.ListTransactions(ctx, req)
	if err != nil {
		return nil, err
	}
	results := make([]txn.Result, 0, len(a.GetTransactions()))
	for _, t := range a.GetTransactions() {
		result, err := wire.DecodeResult(t)
		if err != nil {
			return nil, &nonsense{err}
		}
		results = append(results, result)
	}
	return results, nil
}

// nonsense is an answer that cannot be one. Asking again would give it again.
type nonsense struct{ err error }

func (n *nonsense) Error() string { return "the answer makes no sense: " + n.err.Error() }
func (n *nonsense) Unwrap() error { return n.err }

// decode believes only an answer about the transaction that was asked for.
func decode(id txn.ID, t *gavelv1.Transaction, err error) (txn.Result, error) {
	if err != nil {
		return txn.Result{}, err
	}
	result, err := wire.DecodeResult(t)
	if err != nil {
		return txn.Result{}, &nonsense{err}
	}
	if result.ID != id {
		return txn.Result{}, &nonsense{fmt.Errorf("it is about transaction %s", result.ID)}
	}
	return result, nil
}

// newPauses is one run of waits.
func (c *Client) newPauses() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = c.pauses.First, c.pauses.Most, 2
	return b
}

// wait ends with the pause, nil, or with the context, its cause.
func wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask repeats a call until it is answered, or patience or the context ends. Its errors are
// *txn.Refusal, *wire.OutcomeError, or that nobody answered in a way that could be used.
func (c *Client) ask(ctx context.Context, call func(context.Context) error) error {
	bounded, cancel := context.WithTimeoutCause(ctx, c.patience, ErrUnreachable)
	defer cancel()
	pauses := c.newPauses()
	for {
		raw := call(bounded)
		if raw == nil {
			return nil
		}
		switch judge(raw) {
		case final:
			return wire.TransactionError(raw)
		case hopeless:
			return raw
		}
		if why := wait(bounded, pauses.NextBackOff()); why != nil {
			return silence(why, raw)
		}
	}
}

// silence joins why the asking ended with what the last attempt met. Where the coordinator did
// answer, "not now" or "not yet", that answer is what the caller can act upon.
func silence(why, last error) error {
	err := wire.TransactionError(last)
	if r, ok := errors.AsType[*txn.Refusal](err); ok {
		return r
	}
	if o, ok := errors.AsType[*wire.OutcomeError](err); ok {
		return o
	}
	if errors.Is(why, ErrUnreachable) {
		return fmt.Errorf("%w: %w", why, last)
	}
	return fmt.Errorf("%w: %w: %w", ErrUnreachable, why, last)
}

// verdict is what an error says about asking again.
type verdict uint8

const (
	// again: nothing is known, or it will be otherwise in a moment.
	again verdict = iota
	// final: the coordinator has answered.
	final
	// hopeless: nothing is known, and asking again cannot help.
	hopeless
)

func judge(raw error) verdict {
	if _, ok := errors.AsType[*nonsense](raw); ok || wire.Hopeless(raw) {
		return hopeless
	}
	err := wire.TransactionError(raw)
	if o, ok := errors.AsType[*wire.OutcomeError](err); ok {
		return outcomeVerdict(o.Result.Outcome)
	}
	r, ok := errors.AsType[*txn.Refusal](err)
	if !ok {
		return again
	}
	switch r.Reason {
	case txn.ReasonKeyBusy, txn.ReasonShutdown, txn.ReasonFailed:
		// The holder of the key ends, and another epoch takes over at the same address.
		return again
	default:
		return final
	}
}

func outcomeVerdict(o txn.Outcome) verdict {
	if o == txn.OutcomeUnknown {
		return again
	}
	return final
}
