// Command purse is the service of the ring: a program as a user of package participant/service
// writes it, with accounts and a ledger in a bbolt file of its own. Its API is JSON over HTTP
// (crash.Job, crash.Statement); coordinators call it by gRPC.
//
//	purse -dir DIR -grpc ADDR -http ADDR            its journal is a file beside its own
//	purse -dir DIR -grpc ADDR -http ADDR -join      its journal is in its own file
//	purse -dir DIR -grpc ADDR -http ADDR -deaf      it says that it has committed, and has not
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/remote"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "purse:", err)
		os.Exit(1)
	}
}

// run serves until something fails: the service is only ever killed.
func run(args []string) error {
	fs := flag.NewFlagSet("purse", flag.ContinueOnError)
	dir := fs.String("dir", "", "`DIR` of its files, which exists")
	calls := fs.String("grpc", "", "`ADDR` that coordinators call")
	work := fs.String("http", "", "`ADDR` of its own API")
	join := fs.Bool("join", false, "keep the journal in its own file")
	deaf := fs.Bool("deaf", false, "answer that a branch is committed without committing it")
	if err := fs.Parse(args); err != nil {
		return err
	}
	p, err := openPurse(*dir, *join)
	if err != nil {
		return err
	}
	p.deaf = *deaf
	return errors.Join(serve(p, *calls, *work), p.Close())
}

// slowest bounds how long a client may take to send its head.
const slowest = 10 * time.Second

func serve(p *purse, calls, work string) error {
	g := grpc.NewServer()
	if err := remote.Register(g, crash.Service.String(), p.resource); err != nil {
		return err
	}
	called, err := net.Listen("tcp", calls)
	if err != nil {
		return err
	}
	worked, err := net.Listen("tcp", work)
	if err != nil {
		return errors.Join(err, called.Close())
	}
	api := &http.Server{Handler: p.api(), ReadHeaderTimeout: slowest}
	ended := make(chan error, 2)
	go func() { ended <- g.Serve(called) }()
	go func() { ended <- api.Serve(worked) }()
	err = <-ended
	g.Stop()
	return errors.Join(err, api.Close(), <-ended)
}
