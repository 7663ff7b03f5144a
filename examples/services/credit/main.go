// Command credit is a service over HTTP with a database of its own: it puts money on accounts. It
// has no code about transactions. Called within one, it takes part in it, by its handler's wrapper.
//
//	export GAVEL=127.0.0.1:7440 BANK_B=postgres://… LISTEN=127.0.0.1:8002
//	go run ./examples/services/credit
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/remote"
)

func main() {
	if err := serve(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("BANK_B"))
	if err != nil {
		return err
	}
	defer pool.Close()
	conn, err := remote.Dial(os.Getenv("GAVEL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	lis, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8002"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	// A call without a transaction of its caller's is one by itself.
	mux.Handle("POST /credit", credit(pgxtx.New("bank_b", pool, pgxtx.AllowAutocommit())))
	srv := &http.Server{
		Handler: httptx.Handler(client.New(conn), mux), ReadHeaderTimeout: 5 * time.Second,
	}
	fmt.Println("HTTP", lis.Addr())
	return srv.Serve(lis)
}

// credit is an update, with the context that the request came with. Whatever is 400 or above rolls
// the caller's transaction back.
func credit(db *pgxtx.DB) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		amount, err := strconv.ParseInt(r.FormValue("amount"), 10, 64)
		if err != nil || amount <= 0 {
			http.Error(w, "the amount must be positive", http.StatusBadRequest)
			return
		}
		const credit = `UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal`
		var has int64
		err = db.QueryRow(r.Context(), credit, amount, r.FormValue("account")).Scan(&has)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			http.Error(w, "no account "+r.FormValue("account"), http.StatusNotFound)
		case err != nil:
			log.Print(err)
			http.Error(w, "the account cannot be changed now", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, has)
		}
	}
}
