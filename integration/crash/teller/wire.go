package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gavel-tx/gavel/participant/kv"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// store is a kv store in another process: a kvtx.Store.
type store struct {
	conn *grpc.ClientConn
	data gavelv1.KvServiceClient
}

func dialStore(target string) (*store, error) {
	conn, err := grpc.NewClient(target, transport.DialOptions(insecure.NewCredentials())...)
	if err != nil {
		return nil, err
	}
	return &store{conn, gavelv1.NewKvServiceClient(conn)}, nil
}

func (s *store) close() { _ = s.conn.Close() }

// Apply implements kvtx.Store.
func (s *store) Apply(
	ctx context.Context, name txn.Name, sequence uint64, ops []kv.Op,
) ([]kv.Entry, error) {
	r := &gavelv1.ApplyRequest{PreparedName: name.String(), Sequence: sequence}
	for _, op := range ops {
		r.Operations = append(r.Operations, encodeOp(op))
	}
	a, err := s.data.Apply(ctx, r)
	if err != nil {
		return nil, wire.ParticipantError(err)
	}
	entries := make([]kv.Entry, len(a.GetEntries()))
	for i, e := range a.GetEntries() {
		entries[i] = kv.Entry{Key: e.GetKey(), Value: e.GetValue(), Found: e.GetFound()}
	}
	return entries, nil
}

// encodeOp knows the operations of the ring: it deletes nothing.
func encodeOp(op kv.Op) *gavelv1.Operation {
	switch op.Kind {
	case kv.OpPut:
		return &gavelv1.Operation{Kind: &gavelv1.Operation_Put{
			Put: &gavelv1.PutOperation{Key: op.Key, Value: op.Value}}}
	case kv.OpAdd:
		return &gavelv1.Operation{Kind: &gavelv1.Operation_Add{
			Add: &gavelv1.AddOperation{Key: op.Key, Delta: op.Delta, Minimum: op.Minimum}}}
	case kv.OpRead:
		return &gavelv1.Operation{Kind: &gavelv1.Operation_Read{
			Read: &gavelv1.ReadOperation{Key: op.Key}}}
	}
	panic(fmt.Sprintf("teller: operation %d is none of the ring's", op.Kind))
}

// maxAnswer bounds what is read of an answer that is an error, in bytes.
const maxAnswer = 4 << 10

// post sends a job to the service, once: whether a lost answer was yes or no the transaction need
// not know, because it rolls back.
func post(ctx context.Context, url string, job any) error {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	said, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("the service says %s: %s", a.Status, bytes.TrimSpace(said))
	}
	return err
}
