package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// sqlServer implements SqlService: each call is one branch of the runner.
type sqlServer struct {
	gavelv1.UnimplementedSqlServiceServer
	server *Server
	runner session.Runner
	// recovery keeps a panic within its call: the server's own guards only the call's goroutine.
	recovery grpc.UnaryServerInterceptor
}

type executeStream = grpc.BidiStreamingServer[gavelv1.ExecuteRequest, gavelv1.ExecuteResponse]

// Execute implements the service. The call ends when its branch does, also while its client neither
// sends nor reads: the goroutine that waits for the client then ends with the stream.
func (s *sqlServer) Execute(stream executeStream) error {
	branch, err := s.attach(stream)
	if err != nil {
		return wire.Status(err)
	}
	defer branch.Close()
	served := make(chan error, 1)
	s.server.sessions.Go(func() {
		_, err := s.recovery(stream.Context(), nil, nil, func(context.Context, any) (any, error) {
			return nil, runStatements(stream, branch)
		})
		served <- err
	})
	select {
	case err = <-served:
	case <-branch.Done():
		select {
		case err = <-served: // it has more to say
		default:
			err = ended(branch)
		}
	}
	return wire.Status(err)
}

// ended is what a client hears whose branch has ended meanwhile: why it was rolled back or, if it
// was not, who tells its outcome.
func ended(branch session.Branch) error {
	if err := branch.Finish(); err != nil {
		return err
	}
	return &txn.Refusal{Reason: txn.ReasonClosed,
		Message: "the commit of the branch was asked for, and it takes no more statements",
		Effect:  "the outcome is the coordinator's: ask GetTransaction"}
}

// attach reads the first request, and begins the branch.
func (s *sqlServer) attach(stream executeStream) (session.Branch, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	a := first.GetAttach()
	if a == nil {
		return nil, txn.Refusef(txn.ReasonInvalid, "attach", "the first request attaches")
	}
	if err := s.server.checkName(a.GetResource()); err != nil {
		return nil, err
	}
	name, err := txn.ParseName(a.GetPreparedName())
	if err != nil {
		return nil, txn.Refusef(txn.ReasonInvalid, "prepared_name", "%v", err)
	}
	level, err := wire.DecodeIsolation(a.GetIsolation())
	if err != nil {
		return nil, err
	}
	branch, err := s.runner.Attach(stream.Context(), session.Attachment{
		Name: name, Epoch: s.server.epochOf(name.Log),
		Options: session.Options{Isolation: level, ReadOnly: a.GetReadOnly()}})
	if err != nil {
		return nil, err
	}
	err = stream.Send(&gavelv1.ExecuteResponse{Event: &gavelv1.ExecuteResponse_Attached{
		Attached: &gavelv1.ExecuteAttached{Identity: wire.EncodeIdentity(branch.Identity())}}})
	if err != nil {
		branch.Close()
		return nil, err
	}
	return branch, nil
}

// epochOf is the newest epoch of a log that is known durably, or 0: what a participant that was
// restarted since still knows of the coordinator whose clients come.
func (s *Server) epochOf(log txn.LogID) txn.Epoch {
	if s.memory == nil {
		return 0
	}
	return s.memory.epoch(log)
}

// runStatements runs statements until the client has no more, which finishes the branch, or one
// fails. Whatever else ends the stream leaves the branch to be closed unfinished.
func runStatements(stream executeStream, branch session.Branch) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return branch.Finish()
		}
		if err != nil {
			return err
		}
		if r.GetStatement() == nil {
			return txn.Refusef(txn.ReasonInvalid, "statement", "only the first request attaches")
		}
		done, err := execute(stream, branch, r.GetStatement())
		if err != nil {
			return err
		}
		err = stream.Send(&gavelv1.ExecuteResponse{Event: &gavelv1.ExecuteResponse_Done{
			Done: &gavelv1.ExecuteDone{RowsAffected: done.Rows}}})
		if err != nil {
			return err
		}
	}
}

// execute runs one statement. Its rows are sent as the database gives them: while the client does
// not read them, none are taken from the database.
func execute(
	stream executeStream, branch session.Branch, m *gavelv1.ExecuteStatement,
) (session.Result, error) {
	s, err := wire.DecodeStatement(m, m.ExpectRows)
	if err != nil {
		return session.Result{}, err
	}
	return branch.Execute(stream.Context(), s, func(columns []string, rows [][]any) error {
		return stream.Send(&gavelv1.ExecuteResponse{Event: &gavelv1.ExecuteResponse_Rows{
			Rows: &gavelv1.ExecuteRows{Columns: columns, Rows: wire.EncodeRows(rows)}}})
	})
}

// Attach implements session.Runner at the participant. The context bounds the attachment alone. A
// participant that runs no SQL refuses.
func (c *Client) Attach(ctx context.Context, a session.Attachment) (session.Branch, error) {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	b, err := c.attach(whole, a)
	if !stop() && err == nil {
		b.Close()
		err = fmt.Errorf("%w: %w", txn.ErrUnknown, context.Cause(ctx))
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("participant/remote: attach %s: %w", a.Name, err)
	}
	b.cancel = cancel
	return b, nil
}

func (c *Client) attach(ctx context.Context, a session.Attachment) (*remoteBranch, error) {
	stream, err := c.sql.Execute(ctx)
	if err != nil {
		return nil, sqlError(err)
	}
	err = stream.Send(&gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Attach{
		Attach: &gavelv1.ExecuteAttach{Resource: c.resource, PreparedName: a.Name.String(),
			Isolation: wire.EncodeIsolation(a.Isolation), ReadOnly: a.ReadOnly}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, sqlError(err)
	}
	m, err := stream.Recv()
	if err != nil {
		return nil, sqlError(err)
	}
	if m.GetAttached() == nil {
		return nil, nonsense("attach", errors.New("the answer is not about the attachment"))
	}
	return &remoteBranch{stream: stream, cancel: func() {},
		identity: wire.DecodeIdentity(m.GetAttached().GetIdentity())}, nil
}

// sqlError reads the error of a call of SqlService.
func sqlError(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return txn.Refusef(txn.ReasonNotReady, "", "the participant runs no SQL of clients: start "+
			"it with --sql, the address that it is run at")
	}
	return wire.ParticipantError(err)
}

// remoteBranch is a branch whose session is at a participant.
type remoteBranch struct {
	stream   grpc.BidiStreamingClient[gavelv1.ExecuteRequest, gavelv1.ExecuteResponse]
	identity txn.Identity
	// cancel breaks the stream.
	cancel context.CancelFunc
	once   sync.Once
	// finished: the participant has heard that there are no more statements.
	finished bool
}

// Identity implements session.Branch.
func (b *remoteBranch) Identity() txn.Identity { return b.identity }

// Done implements session.Branch.
func (b *remoteBranch) Done() <-chan struct{} { return b.stream.Context().Done() }

// Execute implements session.Branch.
func (b *remoteBranch) Execute(
	ctx context.Context, s session.Statement, sink session.Sink,
) (session.Result, error) {
	if err := s.Validate(); err != nil {
		b.Close()
		return session.Result{}, err
	}
	defer context.AfterFunc(ctx, b.Close)()
	r, err := b.execute(s, sink)
	if err != nil && ctx.Err() != nil {
		err = &session.Error{Err: err,
			Reason: fmt.Sprintf("was cancelled: %v", context.Cause(ctx))}
	}
	if err != nil {
		b.Close()
	}
	return r, err
}

func (b *remoteBranch) execute(s session.Statement, sink session.Sink) (session.Result, error) {
	err := b.stream.Send(&gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Statement{
		Statement: wire.EncodeStatement(s)}})
	if err != nil && !errors.Is(err, io.EOF) {
		return session.Result{}, sqlError(err)
	}
	for {
		m, err := b.stream.Recv()
		switch {
		case err != nil:
			return session.Result{}, sqlError(err)
		case m.GetDone() != nil:
			return session.Result{Rows: m.GetDone().GetRowsAffected()}, nil
		case m.GetRows() == nil:
			return session.Result{}, nonsense("execute", errors.New("an answer without an event"))
		case sink == nil:
			continue
		}
		rows := m.GetRows()
		if err := sink(rows.GetColumns(), wire.DecodeRows(rows.GetRows())); err != nil {
			return session.Result{}, err
		}
	}
}

// Finish implements session.Branch.
func (b *remoteBranch) Finish() error {
	if b.finished {
		return nil
	}
	err := b.stream.CloseSend()
	if err == nil {
		_, err = b.stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		b.Close()
		if err == nil {
			return nonsense("finish", errors.New("an answer to no statement"))
		}
		return sqlError(err)
	}
	b.finished = true
	return nil
}

// Close implements session.Branch.
func (b *remoteBranch) Close() { b.once.Do(b.cancel) }
