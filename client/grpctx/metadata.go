package grpctx

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/ticket"
)

// The entries of a call's metadata and of its trailer.
const (
	idKey       = "gavel-transaction-id"
	deadlineKey = "gavel-deadline"
	votesKey    = "gavel-votes-bin"
)

// outgoing is the context of a call that carries a transaction.
func outgoing(ctx context.Context, call *client.Call) context.Context {
	ctx = metadata.AppendToOutgoingContext(without(ctx), idKey, call.ID().String())
	if left := ticket.Deadline(call.Remaining()); left != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, deadlineKey, left)
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

// incoming reads what came with a call. Without a transaction it is nil.
func incoming(ctx context.Context) (*ticket.Ticket, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return ticket.Parse(md.Get(idKey), md.Get(deadlineKey))
}
