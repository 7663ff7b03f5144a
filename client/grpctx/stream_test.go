package grpctx_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/banks"
)

// streams are the ways to stream, each to its end. A handler runs once in each.
func streams() map[string]func(context.Context, testpb.TestServiceClient) error {
	return map[string]func(context.Context, testpb.TestServiceClient) error{
		"many answers": func(ctx context.Context, svc testpb.TestServiceClient) error {
			s, err := svc.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
			if err != nil {
				return err
			}
			return readAll(s.Recv, 3)
		},
		"many requests": func(ctx context.Context, svc testpb.TestServiceClient) error {
			s, err := svc.StreamingInputCall(ctx)
			if err != nil {
				return err
			}
			err = s.Send(&testpb.StreamingInputCallRequest{})
			_, answered := s.CloseAndRecv()
			return errors.Join(err, answered)
		},
		"both": func(ctx context.Context, svc testpb.TestServiceClient) error {
			s, err := svc.FullDuplexCall(ctx)
			if err != nil {
				return err
			}
			err = errors.Join(s.Send(&testpb.StreamingOutputCallRequest{}), s.CloseSend())
			return errors.Join(err, readAll(s.Recv, 1))
		},
	}
}

// readAll reads answers to the end, of which there are so many before an error.
func readAll(
	recv func() (*testpb.StreamingOutputCallResponse, error), want int,
) error {
	for n := 0; ; n++ {
		_, err := recv()
		switch {
		case errors.Is(err, io.EOF) && n == want:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("answers are missing")
		case err != nil:
			return err
		}
	}
}

func TestAStreamIsPartOfTheTransaction(t *testing.T) {
	for name, stream := range streams() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			svc := w.serve(credits(bankB(t)), setup{})
			err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
				return errors.Join(w.Debit(ctx), stream(ctx, svc))
			})
			if err != nil {
				t.Fatal(err)
			}
			w.Want(70, 130)
		})
	}
}

func TestAStreamThatFailsRollsBack(t *testing.T) {
	for name, stream := range streams() {
		for how, h := range map[string]struct {
			handle func(context.Context, handler) error
			code   codes.Code
			bare   bool
		}{
			"the handler fails": {func(ctx context.Context, h handler) error {
				return errors.Join(h(ctx), status.Error(codes.OutOfRange, "too much"))
			}, codes.OutOfRange, false},
			"the handler ignores an error": {func(ctx context.Context, h handler) error {
				_, _ = h(ctx), h(ctx)
				return nil
			}, codes.Aborted, false},
			"the service has no interceptor": {func(context.Context, handler) error {
				return nil
			}, codes.Aborted, true},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				w := newWorld(t)
				b := bankB(t)
				svc := w.serve(func(ctx context.Context) error {
					return h.handle(ctx, func(ctx context.Context) error {
						_, err := b.Exec(ctx, `UPDATE acct SET bal = bal - 60 WHERE id = 'bob'`)
						return err
					})
				}, setup{bare: h.bare})
				var heard error
				err := w.Client.InTx(t.Context(), swallow(func(ctx context.Context) error {
					heard = errors.Join(w.Debit(ctx), stream(ctx, svc))
					return heard
				}))
				banks.WantAborted(t, err)
				if code := codeOf(heard); code != h.code {
					t.Errorf("the caller hears %s: %v", code, heard)
				}
				w.Want(100, 100)
			})
		}
	}
}

// codeOf looks into joined errors.
func codeOf(err error) codes.Code {
	if s, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		return s.GRPCStatus().Code()
	}
	return codes.OK
}

// A stream that is not read to its end brings no votes home.
func TestAStreamThatIsLeft(t *testing.T) {
	for name, leave := range map[string]func(context.Context, testpb.TestServiceClient) error{
		"never read": func(ctx context.Context, svc testpb.TestServiceClient) error {
			_, err := svc.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
			return err
		},
		"all but the end is read": func(ctx context.Context, svc testpb.TestServiceClient) error {
			s, err := svc.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
			for range 3 {
				if err == nil {
					_, err = s.Recv()
				}
			}
			return err
		},
		"sent to and left": func(ctx context.Context, svc testpb.TestServiceClient) error {
			s, err := svc.FullDuplexCall(ctx)
			if err != nil {
				return err
			}
			if err := s.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			svc := w.serve(credits(bankB(t)), setup{})
			err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
				return errors.Join(leave(ctx, svc), w.Debit(ctx))
			})
			if banks.WantAborted(t, err); !strings.Contains(err.Error(), "still under way") {
				t.Error(err)
			}
			w.Want(100, 100)
		})
	}
}

// What cannot be sent, or cannot even be opened, has failed.
func TestAStreamThatCannotBeSent(t *testing.T) {
	w := newWorld(t)
	svc := w.serve(credits(bankB(t)), setup{dial: []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(10))}})
	large := &testpb.StreamingOutputCallRequest{
		Payload: &testpb.Payload{Body: make([]byte, 100)}}
	for name, f := range map[string]func(context.Context) error{
		"a message": func(ctx context.Context) error {
			s, err := svc.FullDuplexCall(ctx)
			if err != nil {
				return err
			}
			return s.Send(large)
		},
		"the only message": func(ctx context.Context) error {
			_, err := svc.StreamingOutputCall(ctx, large)
			return err
		},
		"nothing": func(ctx context.Context) error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, err := svc.FullDuplexCall(ended)
			return err
		},
	} {
		err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
			if err := f(ctx); err == nil {
				t.Errorf("%s: no error", name)
			}
			return w.Debit(ctx)
		})
		if _, ok := errors.AsType[*client.CallError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.Want(100, 100)
}

// Outside of a transaction a stream is only a stream.
func TestAStreamWithoutATransaction(t *testing.T) {
	w := newWorld(t)
	ran := 0
	svc := w.serve(func(context.Context) error { ran++; return nil }, setup{})
	for name, stream := range streams() {
		if err := stream(t.Context(), svc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ran != len(streams()) {
		t.Errorf("%d ran", ran)
	}
}
