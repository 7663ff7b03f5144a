// Command front is the service that customers ask: it has a service over gRPC debit one account and
// a service over HTTP credit another one, as one transaction. It has no database.
//
//	export GAVEL=127.0.0.1:7440 LISTEN=127.0.0.1:8000
//	export DEBIT=127.0.0.1:8001 CREDIT=127.0.0.1:8002
//	go run ./examples/services/front
//	curl -d 'from=alice&to=bob&amount=30' http://127.0.0.1:8000/transfer
//
// It answers 200 if the money was moved, 409 if it was not, and 503 if nobody knows yet.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/remote"
	bankv1 "github.com/gavel-tx/gavel/examples/services/bank/v1"
)

func main() {
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	conn, err := remote.Dial(os.Getenv("GAVEL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	debit, err := grpc.NewClient(cmp.Or(os.Getenv("DEBIT"), "127.0.0.1:8001"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(grpctx.UnaryClient()),
		grpc.WithChainStreamInterceptor(grpctx.StreamClient()))
	if err != nil {
		return err
	}
	defer debit.Close()
	lis, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8000"))
	if err != nil {
		return err
	}
	f := &front{
		gavel:  client.New(conn),
		debit:  bankv1.NewBankServiceClient(debit),
		web:    &http.Client{Transport: httptx.Transport(http.DefaultTransport)},
		credit: "http://" + cmp.Or(os.Getenv("CREDIT"), "127.0.0.1:8002") + "/credit",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /transfer", f.transfer)
	fmt.Println("HTTP", lis.Addr())
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(lis)
}

// front knows a coordinator and two services, whose connections take transactions along.
type front struct {
	gavel  *client.Client
	debit  bankv1.BankServiceClient
	web    *http.Client
	credit string
}

func (f *front) transfer(w http.ResponseWriter, r *http.Request) {
	from, to := r.FormValue("from"), r.FormValue("to")
	amount, err := strconv.ParseInt(r.FormValue("amount"), 10, 64)
	if err != nil {
		http.Error(w, "not moved: that is no amount", http.StatusBadRequest)
		return
	}
	err = f.gavel.InTx(r.Context(), func(ctx context.Context) error {
		_, err := f.debit.Debit(ctx, &bankv1.DebitRequest{Account: from, Amount: amount})
		if err != nil {
			return err
		}
		return f.callCredit(ctx, to, amount)
	})
	_, mixed := errors.AsType[*client.HeuristicError](err)
	switch {
	case err == nil:
		fmt.Fprintf(w, "moved %d from %s to %s\n", amount, from, to)
	case mixed, errors.Is(err, client.ErrInDoubt):
		http.Error(w, "nobody knows yet: "+err.Error(), http.StatusServiceUnavailable)
	default:
		http.Error(w, "not moved: "+err.Error(), http.StatusConflict)
	}
}

// callCredit asks the service over HTTP. What it prepared comes home with its answer.
func (f *front) callCredit(ctx context.Context, account string, amount int64) error {
	form := url.Values{"account": {account}, "amount": {strconv.FormatInt(amount, 10)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.credit,
		strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := f.web.Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1024))
	err = errors.Join(err, answer.Body.Close())
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("credit: %s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	return err
}
