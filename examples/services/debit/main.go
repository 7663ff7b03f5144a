// Command debit is a service over gRPC with a database of its own: it takes money from accounts. It
// has no code about transactions. Called within one, it takes part in it, by its interceptors.
//
//	export GAVEL=127.0.0.1:7440 BANK_A=postgres://… LISTEN=127.0.0.1:8001
//	go run ./examples/services/debit
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/remote"
	bankv1 "github.com/gavel-tx/gavel/examples/services/bank/v1"
)

func main() {
	if err := serve(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("BANK_A"))
	if err != nil {
		return err
	}
	defer pool.Close()
	conn, err := remote.Dial(os.Getenv("GAVEL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	lis, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8001"))
	if err != nil {
		return err
	}
	c := client.New(conn)
	srv := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpctx.UnaryServer(c)),
		grpc.ChainStreamInterceptor(grpctx.StreamServer(c)))
	// A call without a transaction of its caller's is one by itself.
	db := pgxtx.New("bank_a", pool, pgxtx.AllowAutocommit())
	bankv1.RegisterBankServiceServer(srv, &bank{db: db})
	fmt.Println("gRPC", lis.Addr())
	return srv.Serve(lis)
}

type bank struct {
	bankv1.UnimplementedBankServiceServer
	db *pgxtx.DB
}

// Debit is an update, with the context that the call came with.
func (b *bank) Debit(
	ctx context.Context, r *bankv1.DebitRequest,
) (*bankv1.DebitResponse, error) {
	if r.GetAmount() <= 0 {
		return nil, status.Error(codes.InvalidArgument, "the amount must be positive")
	}
	const debit = `UPDATE acct SET bal = bal - $1 WHERE id = $2 RETURNING bal`
	var has int64
	err := b.db.QueryRow(ctx, debit, r.GetAmount(), r.GetAccount()).Scan(&has)
	refused, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, status.Errorf(codes.NotFound, "no account %q", r.GetAccount())
	case refused != nil && refused.Code == "23514": // CHECK (bal >= 0)
		return nil, status.Errorf(codes.FailedPrecondition, "%s has too little", r.GetAccount())
	case err != nil:
		return nil, err
	}
	return &bankv1.DebitResponse{Balance: has}, nil
}
