package grpctx_test

import (
	"context"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/pgxtx"
)

// The service: it has a database, and no code about transactions.
func ExampleUnaryServer() {
	serve := func(c *client.Client, pool *pgxpool.Pool, lis net.Listener) error {
		srv := grpc.NewServer(
			grpc.ChainUnaryInterceptor(grpctx.UnaryServer(c)),
			grpc.ChainStreamInterceptor(grpctx.StreamServer(c)))
		testpb.RegisterTestServiceServer(srv, &service{
			handle: credits(pgxtx.New("bank_b", pool)),
		})
		return srv.Serve(lis)
	}
	_ = serve
	fmt.Println("its votes go home in the trailer")
	// Output: its votes go home in the trailer
}

// The caller: its own database and the service commit as one.
func ExampleUnaryClient() {
	transfer := func(ctx context.Context, c *client.Client, a *pgxtx.DB, addr string) error {
		conn, err := grpc.NewClient(addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithChainUnaryInterceptor(grpctx.UnaryClient()),
			grpc.WithChainStreamInterceptor(grpctx.StreamClient()))
		if err != nil {
			return err
		}
		defer conn.Close()
		bank := testpb.NewTestServiceClient(conn)
		return c.InTx(ctx, func(ctx context.Context) error {
			if _, err := a.Exec(ctx, debit, 30); err != nil {
				return err
			}
			_, err := bank.UnaryCall(ctx, &testpb.SimpleRequest{})
			return err
		})
	}
	_ = transfer
	fmt.Println("one Commit carries all votes")
	// Output: one Commit carries all votes
}
