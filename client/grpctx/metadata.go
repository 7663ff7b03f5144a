package grpctx

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// The entries of a call's metadata and of its trailer.
const (
	idKey       = "gavel-transaction-id"
	deadlineKey = "gavel-deadline"
	votesKey    = "gavel-votes-bin"
)

// maxRemaining bounds what a caller may say that remains, so that it can be computed with. No
// coordinator allows a transaction so long a life.
const maxRemaining = 1000 * time.Hour

// outgoing is the context of a call that carries a transaction.
func outgoing(ctx context.Context, call *client.Call) context.Context {
	ctx = metadata.AppendToOutgoingContext(without(ctx), idKey, call.ID().String())
	if left := call.Remaining(); left > 0 {
		ms := max(left/time.Millisecond, 1)
		ctx = metadata.AppendToOutgoingContext(ctx, deadlineKey, strconv.FormatInt(int64(ms), 10))
	}
	return ctx
}

// without is the context of a call that carries none. Entries that were handed on from an incoming
// call would have a service work in a transaction whose client does not hear of it.
func without(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok || len(md.Get(idKey))+len(md.Get(deadlineKey)) == 0 {
		return ctx
	}
	md = md.Copy()
	md.Delete(idKey)
	md.Delete(deadlineKey)
	return metadata.NewOutgoingContext(ctx, md)
}

// carried is what a caller says of its transaction.
type carried struct {
	id txn.ID
	// remaining is zero if it does not say.
	remaining time.Duration
}

// incoming reads what came with a call. Without a transaction it is nil.
func incoming(ctx context.Context) (*carried, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	id, err := single(md, idKey)
	if id == "" || err != nil {
		return nil, err
	}
	c := &carried{}
	if c.id, err = txn.ParseID(id); err != nil {
		return nil, fmt.Errorf("metadata %s: %w", idKey, err)
	}
	deadline, err := single(md, deadlineKey)
	if deadline == "" || err != nil {
		return c, err
	}
	ms, err := strconv.ParseUint(deadline, 10, 63)
	if err != nil || ms == 0 {
		return nil, fmt.Errorf("metadata %s: %.32q is not a number of milliseconds from 1 on",
			deadlineKey, deadline)
	}
	c.remaining = maxRemaining
	if ms < uint64(maxRemaining/time.Millisecond) {
		c.remaining = time.Duration(ms) * time.Millisecond
	}
	return c, nil
}

// single is the one value of an entry, or empty if there is none.
func single(md metadata.MD, key string) (string, error) {
	values := md.Get(key)
	if len(slices.Compact(slices.Clone(values))) > 1 {
		return "", fmt.Errorf("metadata %s: it stands there %d times, with different values; "+
			"do not hand on the metadata of an incoming call", key, len(values))
	}
	if len(values) == 0 {
		return "", nil
	}
	if values[0] == "" {
		return "", fmt.Errorf("metadata %s: it is empty", key)
	}
	return values[0], nil
}
