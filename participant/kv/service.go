package kv

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// Service is the name of the data service in gRPC.
const Service = "gavel.v1.KvService"

// MaxMessage bounds one message of the data service, in bytes; a server with it needs the limit
// raised to this.
const MaxMessage = 2 << 20

// service is KvService over a store.
type service struct {
	gavelv1.UnimplementedKvServiceServer
	store *Store
}

// Register adds the store's data service to a gRPC server. The coordinator's side,
// ParticipantService, is package participant/remote over the same store.
func (s *Store) Register(r grpc.ServiceRegistrar) {
	gavelv1.RegisterKvServiceServer(r, &service{store: s})
}

// Get implements the service.
func (s *service) Get(
	ctx context.Context, r *gavelv1.GetRequest,
) (*gavelv1.GetResponse, error) {
	entries, err := s.store.Get(ctx, r.GetKeys())
	if err != nil {
		return nil, statusOf(err)
	}
	return &gavelv1.GetResponse{Entries: encodeEntries(entries)}, nil
}

// Apply implements the service.
func (s *service) Apply(
	ctx context.Context, r *gavelv1.ApplyRequest,
) (*gavelv1.ApplyResponse, error) {
	name, err := txn.ParseName(r.GetPreparedName())
	if err != nil {
		return nil, statusOf(invalid("prepared_name",
			"%.64q is not a prepared name of gavel", r.GetPreparedName()))
	}
	entries, err := s.store.Apply(ctx, name, r.GetSequence(), decodeOps(r.GetOperations()))
	if err != nil {
		return nil, statusOf(err)
	}
	return &gavelv1.ApplyResponse{Entries: encodeEntries(entries)}, nil
}

// statusOf gives the store's own errors their reasons on the wire.
func statusOf(err error) error {
	for sentinel, reason := range map[error]string{
		ErrBranchLost: wire.ReasonBranchLost, ErrBelowMinimum: wire.ReasonBelowMinimum,
		ErrNotNumber: wire.ReasonNotNumber,
	} {
		if errors.Is(err, sentinel) {
			err = wire.Refuse(reason, "%v", err)
		}
	}
	return wire.Status(err)
}

// decodeOps leaves all checks to Apply, which also knows what a bad call does to its branch. An
// operation that is none has no kind.
func decodeOps(in []*gavelv1.Operation) []Op {
	out := make([]Op, len(in))
	for i, op := range in {
		switch k := op.GetKind().(type) {
		case *gavelv1.Operation_Read:
			out[i] = Op{Kind: OpRead, Key: k.Read.GetKey()}
		case *gavelv1.Operation_Put:
			out[i] = Op{Kind: OpPut, Key: k.Put.GetKey(), Value: k.Put.GetValue()}
		case *gavelv1.Operation_Delete:
			out[i] = Op{Kind: OpDelete, Key: k.Delete.GetKey()}
		case *gavelv1.Operation_Add:
			out[i] = Op{Kind: OpAdd, Key: k.Add.GetKey(), Delta: k.Add.GetDelta()}
			if k.Add != nil {
				out[i].Minimum = k.Add.Minimum
			}
		}
	}
	return out
}

func encodeEntries(in []Entry) []*gavelv1.Entry {
	out := make([]*gavelv1.Entry, len(in))
	for i, e := range in {
		out[i] = &gavelv1.Entry{Key: e.Key, Value: e.Value, Found: e.Found}
	}
	return out
}
