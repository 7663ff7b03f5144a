package remote

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// runs is a runner with one branch, which does what the text of a statement says.
type runs struct {
	refuse   error
	attached session.Attachment
	// done is what the branch's Done is. said are "finish" and "close", in their order.
	done chan struct{}
	said chan string
	// sent gets a token for each row that the branch was rid of.
	sent chan struct{}
}

func newRuns() *runs {
	return &runs{done: make(chan struct{}), said: make(chan string, 10),
		sent: make(chan struct{}, 100_000)}
}

func (r *runs) Attach(_ context.Context, a session.Attachment) (session.Branch, error) {
	r.attached = a
	if r.refuse != nil {
		return nil, r.refuse
	}
	return r, nil
}

func (r *runs) Identity() txn.Identity { return txn.Identity{System: 3, Database: 4} }
func (r *runs) Done() <-chan struct{}  { return r.done }
func (r *runs) Finish() error          { r.said <- "finish"; return nil }
func (r *runs) Close()                 { r.said <- "close" }

func (r *runs) Execute(
	ctx context.Context, s session.Statement, sink session.Sink,
) (session.Result, error) {
	switch s.SQL {
	case "fail":
		return session.Result{}, session.Failed(errors.New("x"), "boom", "23505")
	case "panic":
		panic("inside")
	case "rows":
		err := sink([]string{"a"}, [][]any{{"x"}, {nil}})
		return session.Result{Rows: 2, Read: true}, err
	case "many":
		for ctx.Err() == nil {
			if err := sink(nil, [][]any{{make([]byte, 10_000)}}); err != nil {
				return session.Result{}, err
			}
			r.sent <- struct{}{}
		}
		return session.Result{}, context.Cause(ctx)
	}
	return session.Result{Rows: 5}, nil
}

// sqlOver serves a runner, and dials it.
func sqlOver(t *testing.T, r session.Runner) *Client {
	t.Helper()
	s, err := NewServer(Config{Name: "bank_a", Resource: &fake{}, SQL: r,
		FenceFile: t.TempDir() + "/fences"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return serve(t, s)
}

func attached(t *testing.T, c *Client) session.Branch {
	t.Helper()
	b, err := c.Attach(t.Context(), session.Attachment{Name: branch(1).Name,
		Options: session.Options{Isolation: session.Serializable, ReadOnly: true}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExecuteOverTheWire: what the client asks for is what the branch hears, and its end is an
// orderly one.
func TestExecuteOverTheWire(t *testing.T) {
	r := newRuns()
	c := sqlOver(t, r)
	if _, err := c.List(t.Context(), at(6, 1)); err != nil {
		t.Fatal(err)
	}
	b := attached(t, c)
	want := session.Attachment{Name: branch(1).Name, Epoch: 6,
		Options: session.Options{Isolation: session.Serializable, ReadOnly: true}}
	if r.attached != want || b.Identity() != r.Identity() {
		t.Errorf("attached %+v, identity %v", r.attached, b.Identity())
	}
	var rows [][]any
	got, err := b.Execute(t.Context(), session.Statement{SQL: "rows"},
		func(_ []string, more [][]any) error { rows = append(rows, more...); return nil })
	if err != nil || got.Rows != 2 || len(rows) != 2 || rows[0][0] != "x" || rows[1][0] != nil {
		t.Errorf("%+v, %v, %v", got, rows, err)
	}
	if got, err := b.Execute(t.Context(), session.Statement{SQL: "x"}, nil); err != nil ||
		got.Rows != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := b.Finish(); err != nil {
		t.Error(err)
	}
	b.Close()
	if first, second := <-r.said, <-r.said; first != "finish" || second != "close" {
		t.Errorf("it heard %s, %s", first, second)
	}
}

// TestABrokenStreamClosesTheBranch, which was not finished; also while a statement runs whose rows
// nobody reads, of which only few are taken.
func TestABrokenStreamClosesTheBranch(t *testing.T) {
	for _, sql := range []string{"", "many"} {
		r := newRuns()
		b := attached(t, sqlOver(t, r))
		if sql != "" {
			stop := errors.New("enough")
			_, err := b.Execute(t.Context(), session.Statement{SQL: sql},
				func([]string, [][]any) error { return stop })
			if !errors.Is(err, stop) {
				t.Errorf("%v", err)
			}
		}
		b.Close()
		if heard := <-r.said; heard != "close" {
			t.Errorf("%q: it heard %s", sql, heard)
		}
		if n := len(r.sent); n > 1000 {
			t.Errorf("%d rows were taken for a client that does not read", n)
		}
	}
}

// TestABranchThatEndsEndsItsCall: also of a client that neither sends nor reads.
func TestABranchThatEndsEndsItsCall(t *testing.T) {
	r := newRuns()
	c := sqlOver(t, r)
	stream, err := c.sql.Execute(t.Context())
	if err == nil {
		err = stream.Send(attachment(branch(1).Name.String()))
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		err = stream.Send(&gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Statement{
			Statement: &gavelv1.ExecuteStatement{Sql: "many"}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	<-r.sent
	close(r.done)
	if first, second := <-r.said, <-r.said; first != "finish" || second != "close" {
		t.Errorf("it heard %s, %s", first, second)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the call ended with %v", err)
	}
}

// endless is a database whose statements return rows for as long as somebody takes them.
type endless struct{ sent chan struct{} }

func (d *endless) Open(context.Context, txn.Name, session.Options) (session.Conn, error) {
	return d, nil
}
func (d *endless) Checks(context.Context) []participant.Check { return nil }
func (d *endless) Close() error                               { return nil }
func (d *endless) Identity() txn.Identity                     { return txn.Identity{} }
func (d *endless) Rollback(context.Context)                   {}

func (d *endless) Prepare(context.Context) participant.Vote {
	return participant.Vote{Vote: txn.VoteYes}
}

func (d *endless) Run(
	_ context.Context, _ session.Statement, sink session.Sink,
) (session.Result, error) {
	for {
		if err := sink(nil, [][]any{{make([]byte, 10_000)}}); err != nil {
			return session.Result{}, err
		}
		select {
		case d.sent <- struct{}{}:
		default:
		}
	}
}

// kept serves a Keeper of endless sessions, and attaches a client to it that reads nothing after
// its attachment.
func kept(t *testing.T, idle time.Duration) (*Client, *endless, executeClient) {
	t.Helper()
	d := &endless{sent: make(chan struct{}, 1)}
	k, err := session.New(session.Config{Resource: &fake{}, Database: d, Idle: idle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := NewServer(Config{Name: "bank_a", Resource: k, SQL: k,
		FenceFile: t.TempDir() + "/fences"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := serve(t, s)
	stream, err := c.sql.Execute(t.Context())
	if err == nil {
		err = stream.Send(attachment(branch(1).Name.String()))
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, d, stream
}

type executeClient = grpc.BidiStreamingClient[gavelv1.ExecuteRequest, gavelv1.ExecuteResponse]

// answer reads on until the call ends.
func answer(stream executeClient) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return wire.ParticipantError(err)
		}
	}
}

// TestAClientThatDoesNotReadHoldsNobodyUp: a coordinator that was restarted is not kept waiting by
// a session of before, whose rows nobody takes; and the session is gone.
func TestAClientThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	c, d, stream := kept(t, 0)
	if err := stream.Send(&gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Statement{
		Statement: &gavelv1.ExecuteStatement{Sql: "many"}}}); err != nil {
		t.Fatal(err)
	}
	<-d.sent
	if _, err := c.List(t.Context(), at(7, 1)); err != nil {
		t.Fatal(err)
	}
	votes, err := c.Prepare(t.Context(), at(7, 1), []participant.Branch{branch(1)})
	if err != nil || votes[0].Vote != txn.VoteNo {
		t.Errorf("%+v, %v", votes, err)
	}
	if err := answer(stream); !strings.Contains(err.Error(), "restarted, or replaced") {
		t.Errorf("the client heard %v", err)
	}
}

// TestWhatAClientHearsOfItsEndedBranch: one that waits hears why, or who tells the outcome.
func TestWhatAClientHearsOfItsEndedBranch(t *testing.T) {
	_, _, idle := kept(t, time.Millisecond)
	if err := answer(idle); !strings.Contains(err.Error(), "its session was idle for 1ms") {
		t.Errorf("after too long a pause: %v", err)
	}
	c, _, prepared := kept(t, 0)
	if _, err := c.Prepare(t.Context(), at(1, 1), []participant.Branch{branch(1)}); err != nil {
		t.Fatal(err)
	}
	err := answer(prepared)
	if txn.ReasonOf(err) != txn.ReasonClosed || !strings.Contains(err.Error(), "GetTransaction") {
		t.Errorf("after PREPARE: %v", err)
	}
}

func attachment(name string) *gavelv1.ExecuteRequest {
	return &gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Attach{
		Attach: &gavelv1.ExecuteAttach{Resource: "bank_a", PreparedName: name}}}
}

// TestExecuteErrors: a failed statement ends the call with its words, and a panic stays within it.
func TestExecuteErrors(t *testing.T) {
	for sql, want := range map[string]codes.Code{
		"fail": codes.FailedPrecondition, "panic": codes.Internal,
	} {
		r := newRuns()
		b := attached(t, sqlOver(t, r))
		_, err := b.Execute(t.Context(), session.Statement{SQL: sql}, nil)
		e, ok := errors.AsType[*session.Error](err)
		if ok != (sql == "fail") || ok && (e.SQLState != "23505" || e.Reason != "failed: boom") ||
			!ok && status.Code(err) != want {
			t.Errorf("%s: %v", sql, err)
		}
		if heard := <-r.said; heard != "close" {
			t.Errorf("%s: it heard %s", sql, heard)
		}
		if err := b.Finish(); err == nil {
			t.Errorf("%s: finished all the same", sql)
		}
	}
}

// TestExecuteMisused: what cannot be an attachment, or a statement, is refused.
func TestExecuteMisused(t *testing.T) {
	statement := &gavelv1.ExecuteRequest{Step: &gavelv1.ExecuteRequest_Statement{
		Statement: &gavelv1.ExecuteStatement{Sql: "x"}}}
	other := attachment(branch(1).Name.String())
	other.GetAttach().Resource = "bank_b"
	level := attachment(branch(1).Name.String())
	level.GetAttach().Isolation = 99
	twice := attachment(branch(1).Name.String())
	for name, steps := range map[string][]*gavelv1.ExecuteRequest{
		"a statement first":   {statement},
		"nothing":             {{}},
		"no name":             {attachment("order_981")},
		"an unknown level":    {level},
		"attached twice":      {twice, twice},
		"nothing afterwards":  {twice, {}},
		"another participant": {other},
	} {
		r := newRuns()
		stream, err := sqlOver(t, r).sql.Execute(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps {
			if err := stream.Send(step); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = stream.Recv()
		}
		want := codes.InvalidArgument
		if name == "another participant" {
			want = codes.NotFound
		}
		if status.Code(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAttachRefused: the runner's refusal arrives; where nobody runs SQL, that is said.
func TestAttachRefused(t *testing.T) {
	r := newRuns()
	r.refuse = txn.Refusef(txn.ReasonOverloaded, "", "64 sessions are open")
	_, err := sqlOver(t, r).Attach(t.Context(), session.Attachment{Name: branch(1).Name})
	if txn.ReasonOf(err) != txn.ReasonOverloaded {
		t.Errorf("%v", err)
	}
	c, _ := over(t, &fake{})
	_, err = c.Attach(t.Context(), session.Attachment{Name: branch(1).Name})
	if txn.ReasonOf(err) != txn.ReasonNotReady {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Attach(ctx, session.Attachment{Name: branch(1).Name}); err == nil {
		t.Error("attached although nobody waited")
	}
}
