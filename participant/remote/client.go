package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// Option changes how a Client is dialled.
type Option func(*options)

type options struct {
	tls      transport.TLS
	insecure bool
	resource string
	dial     []grpc.DialOption
}

// WithTLS secures the connection with these files. Defaults to plaintext, on loopback only.
func WithTLS(files transport.TLS) Option { return func(o *options) { o.tls = files } }

// WithInsecure allows plaintext to other machines.
func WithInsecure() Option { return func(o *options) { o.insecure = true } }

// WithResource names the resource that is meant: a participant that speaks for another one refuses
// every call. Defaults to no check.
func WithResource(name string) Option { return func(o *options) { o.resource = name } }

// WithDialOptions adds options of gRPC, e.g. interceptors or a stats handler.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, opts...) }
}

// Client is a resource in another process. It is a participant.Resource, OnePhaser, Delegate,
// Describer and Closer, where the description says whether the resource takes one phase, and
// whether decisions can be left to it; and a session.Runner, where the participant runs SQL.
//
// It repeats nothing: what a failed call means, and when to make it again, is the coordinator's to
// decide. The context's deadline is sent along.
type Client struct {
	closeOnce func() error
	service   gavelv1.ParticipantServiceClient
	sql       gavelv1.SqlServiceClient
	resource  string

	// greeting is held, as its one token, by the call that says Hello.
	greeting chan struct{}
	mu       sync.Mutex
	logs     map[txn.LogID]*greeted
}

// greeted is what the participant has been told about one log.
type greeted struct {
	// epoch has been told, successfully. 0: none yet.
	epoch txn.Epoch
	// highest is the newest fence of any call so far.
	highest txn.Fence
}

var (
	_ participant.Resource  = (*Client)(nil)
	_ participant.OnePhaser = (*Client)(nil)
	_ participant.Delegate  = (*Client)(nil)
	_ participant.Describer = (*Client)(nil)
	_ participant.Closer    = (*Client)(nil)
	_ session.Runner        = (*Client)(nil)
)

// Dial makes a client of the participant at target, a gRPC target or host:port. It does not wait
// for the participant to be there. The error wraps transport.ErrPlaintext where the connection
// would be open to other machines.
func Dial(target string, opts ...Option) (*Client, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	creds, err := transport.Client(o.tls, target, o.insecure)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append(transport.DialOptions(creds), o.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("participant/remote: dial %s: %w", target, err)
	}
	return &Client{
		closeOnce: sync.OnceValue(conn.Close), resource: o.resource,
		service:  gavelv1.NewParticipantServiceClient(conn),
		sql:      gavelv1.NewSqlServiceClient(conn),
		greeting: make(chan struct{}, 1), logs: map[txn.LogID]*greeted{},
	}, nil
}

// Close ends the connection; calls that are under way fail. It may be called again.
func (c *Client) Close() error {
	if err := c.closeOnce(); err != nil {
		return fmt.Errorf("participant/remote: close: %w", err)
	}
	return nil
}

// Prepare implements participant.Resource.
func (c *Client) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if err := c.greet(ctx, f); err != nil {
		return nil, err
	}
	a, err := c.service.Prepare(ctx, &gavelv1.PrepareRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
	})
	if err != nil {
		return nil, failed("prepare", err)
	}
	votes, err := wire.DecodePreparedVotes(a.GetVotes(), len(b))
	return votes, nonsense("prepare", err)
}

// Commit implements participant.Resource.
func (c *Client) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return c.commit(ctx, f, b, false)
}

// CommitOnePhase implements participant.OnePhaser. A resource that does not take it refuses with a
// *txn.Refusal, and has done nothing.
func (c *Client) CommitOnePhase(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return c.commit(ctx, f, b, true)
}

func (c *Client) commit(
	ctx context.Context, f txn.Fence, b []participant.Branch, onePhase bool,
) ([]participant.Finding, error) {
	if err := c.greet(ctx, f); err != nil {
		return nil, err
	}
	a, err := c.service.Commit(ctx, &gavelv1.CommitRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
		OnePhase: onePhase,
	})
	return findings("commit", a.GetFindings(), len(b), err)
}

// Rollback implements participant.Resource.
func (c *Client) Rollback(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := c.greet(ctx, f); err != nil {
		return nil, err
	}
	a, err := c.service.Rollback(ctx, &gavelv1.RollbackRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
	})
	return findings("roll back", a.GetFindings(), len(b), err)
}

// Inquire implements participant.Resource.
func (c *Client) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := c.greet(ctx, f); err != nil {
		return nil, err
	}
	a, err := c.service.Inquire(ctx, &gavelv1.InquireRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
	})
	return findings("inquire", a.GetFindings(), len(b), err)
}

// Decide implements participant.Delegate. A sidecar that does not know of markers is taken for one
// whose resource keeps none.
func (c *Client) Decide(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := c.greet(ctx, f); err != nil {
		return nil, err
	}
	a, err := c.service.Decide(ctx, &gavelv1.DecideRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
	})
	if status.Code(err) == codes.Unimplemented {
		return nil, fmt.Errorf("%w: %w", participant.ErrNoMarkers, err)
	}
	return findings("decide", a.GetFindings(), len(b), err)
}

// RemoveMarkers implements participant.Delegate. More ids than fit into a message are removed in
// several calls, and an error leaves those of the later ones where they are.
func (c *Client) RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error {
	if len(ids) > participant.MaxMarkers {
		return txn.Refusef(txn.ReasonInvalid, "ids",
			"%d markers in one call, at most %d are allowed", len(ids), participant.MaxMarkers)
	}
	if err := c.greet(ctx, f); err != nil {
		return err
	}
	for some := range slices.Chunk(ids, wire.MaxMarkers) {
		_, err := c.service.RemoveMarkers(ctx, &gavelv1.RemoveMarkersRequest{
			Fence: wire.EncodeFence(f), Resource: c.resource, Markers: wire.EncodeMarkers(some),
		})
		if status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("%w: %w", participant.ErrNoMarkers, err)
		}
		if err != nil {
			return failed("remove markers", err)
		}
	}
	return nil
}

func findings(
	act string, got []*gavelv1.Finding, want int, err error,
) ([]participant.Finding, error) {
	if err != nil {
		return nil, failed(act, err)
	}
	out, err := wire.DecodeFindings(got, want)
	return out, nonsense(act, err)
}

// List implements participant.Resource. A stream that ends early is an error and no short listing.
func (c *Client) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	if err := c.greet(ctx, f); err != nil {
		return participant.Listing{}, err
	}
	// Cancelling on return frees the stream where its rest is not read.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.service.ListInDoubt(ctx, &gavelv1.ListInDoubtRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource,
	})
	if err != nil {
		return participant.Listing{}, failed("list", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return participant.Listing{}, failed("list", err)
	}
	if first.GetHeader() == nil {
		return participant.Listing{}, nonsense("list", errors.New("the listing has no header"))
	}
	return receive(first, stream, f.Log)
}

// receive reads the branches and the markers of a listing and counts them against its header.
func receive(
	message *gavelv1.ListInDoubtResponse,
	stream grpc.ServerStreamingClient[gavelv1.ListInDoubtResponse], log txn.LogID,
) (participant.Listing, error) {
	header := message.GetHeader()
	listing := wire.DecodeListing(header)
	for {
		if err := take(&listing, message, header, log); err != nil {
			return participant.Listing{}, nonsense("list", err)
		}
		var err error
		message, err = stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return participant.Listing{}, failed("list", err)
		}
	}
	if b, m := len(listing.Branches), len(listing.Markers); b != int(header.GetCount()) ||
		m != int(header.GetMarkers()) {
		return participant.Listing{}, nonsense("list",
			fmt.Errorf("%d of %d branches came, and %d of %d markers", b, header.GetCount(), m,
				header.GetMarkers()))
	}
	return listing, nil
}

// take adds one message to a listing, which must not grow beyond what was announced.
func take(
	listing *participant.Listing, message *gavelv1.ListInDoubtResponse,
	header *gavelv1.ListingHeader, log txn.LogID,
) error {
	listed, err := wire.DecodeListed(message.GetBranches())
	if err != nil {
		return err
	}
	markers, err := wire.DecodeMarkers(message.GetMarkers(), log)
	if err != nil {
		return err
	}
	listing.Branches = append(listing.Branches, listed...)
	listing.Markers = append(listing.Markers, markers...)
	if len(listing.Branches) > min(int(header.GetCount()), participant.MaxListed) {
		return fmt.Errorf("more than the %d branches that were announced", header.GetCount())
	}
	if len(listing.Markers) > min(int(header.GetMarkers()), participant.MaxMarkers) {
		return fmt.Errorf("more than the %d markers that were announced", header.GetMarkers())
	}
	return nil
}

// Describe implements participant.Describer.
func (c *Client) Describe(ctx context.Context) (participant.Description, error) {
	a, err := c.service.Describe(ctx, &gavelv1.DescribeRequest{Resource: c.resource})
	if err != nil {
		return participant.Description{}, failed("describe", err)
	}
	return wire.DecodeDescription(a), nil
}

// Forget tells the participant that these branches will not be asked about again.
func (c *Client) Forget(ctx context.Context, f txn.Fence, b []participant.Branch) error {
	if err := c.greet(ctx, f); err != nil {
		return err
	}
	_, err := c.service.Forget(ctx, &gavelv1.ForgetRequest{
		Fence: wire.EncodeFence(f), Resource: c.resource, Branches: wire.EncodeBranches(b),
	})
	if err != nil {
		return failed("forget", err)
	}
	return nil
}

// greet says Hello before the first call of an epoch. Only one call at a time does, and it tells
// the highest LSN of all calls so far: of two Hellos that race, the lower would look like a log
// that went backwards.
func (c *Client) greet(ctx context.Context, f txn.Fence) error {
	if c.known(f) {
		return nil
	}
	select {
	case c.greeting <- struct{}{}:
		defer func() { <-c.greeting }()
	case <-ctx.Done():
		return failed("hello", context.Cause(ctx))
	}
	if c.known(f) {
		return nil
	}
	c.mu.Lock()
	newest := c.logs[f.Log].highest
	c.mu.Unlock()
	if newest.Epoch > f.Epoch {
		// A newer epoch of this process has called already; the participant knows it or is about
		// to.
		return fmt.Errorf("participant/remote: hello: epoch %d after epoch %d: %w",
			f.Epoch, newest.Epoch, participant.ErrFenced)
	}
	_, err := c.service.Hello(ctx, &gavelv1.HelloRequest{
		Fence: wire.EncodeFence(newest), Resource: c.resource,
	})
	if err != nil {
		return failed("hello", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs[f.Log].epoch = newest.Epoch
	return nil
}

// known takes note of a call's fence, and says whether its epoch has been told.
func (c *Client) known(f txn.Fence) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.logs[f.Log]
	if g == nil {
		g = &greeted{}
		c.logs[f.Log] = g
	}
	if f.Epoch > g.highest.Epoch || f.Epoch == g.highest.Epoch && f.LSN > g.highest.LSN {
		g.highest = f
	}
	return g.epoch == f.Epoch
}

func failed(act string, err error) error {
	return fmt.Errorf("participant/remote: %s: %w", act, wire.ParticipantError(err))
}

// nonsense marks an answer that cannot be one as what it is worth: nothing is known.
func nonsense(act string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("participant/remote: %s: %w: %w", act, txn.ErrUnknown, err)
}
