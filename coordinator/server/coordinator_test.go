package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/client"
	clientremote "github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// The coordinator is what this server stands in front of, and its client what an SDK decides with.
var (
	_ server.Coordinator = (*coordinator.Coordinator)(nil)
	_ client.Decider     = (*clientremote.Client)(nil)
)

// wired serves a gRPC server in memory, and dials it whoever listens at the moment.
type wired struct {
	lis atomic.Pointer[bufconn.Listener]
}

func (w *wired) dialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		if lis := w.lis.Load(); lis != nil {
			return lis.DialContext(ctx)
		}
		return nil, errors.New("connection refused")
	})
}

func (w *wired) serve(t *testing.T, register func(grpc.ServiceRegistrar)) (stop func()) {
	t.Helper()
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	register(g)
	lis, done := bufconn.Listen(1<<20), make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	w.lis.Store(lis)
	return func() {
		w.lis.Store(nil)
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// deployment is a coordinator behind its server, a store in its process and one behind a sidecar.
type deployment struct {
	t          *testing.T
	dir        string
	net        wired
	options    server.Options
	near, far  *kv.Store
	farManager participant.Resource
	client     *clientremote.Client
	stop       func()
}

func deploy(t *testing.T) *deployment { return deployWith(t, server.Options{}) }

func deployWith(t *testing.T, o server.Options) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: filepath.Join(t.TempDir(), "log"), options: o}
	if _, err := coordinator.Init(vfs.OS(), d.dir); err != nil {
		t.Fatal(err)
	}
	d.near, d.far = d.open("near"), d.open("far")
	var sidecar wired
	s, err := remote.NewServer(remote.Config{Name: "far", Resource: d.far})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sidecar.serve(t, s.Register))
	manager, err := remote.Dial("passthrough:///far", remote.WithInsecure(),
		remote.WithResource("far"), remote.WithDialOptions(sidecar.dialer()))
	if err != nil {
		t.Fatal(err)
	}
	d.closing(manager)
	d.farManager = manager
	d.client, err = clientremote.Dial("passthrough:///coordinator", clientremote.WithInsecure(),
		clientremote.WithDialOptions(d.net.dialer()))
	if err != nil {
		t.Fatal(err)
	}
	d.closing(d.client)
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

func (d *deployment) closing(c io.Closer) {
	d.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			d.t.Error(err)
		}
	})
}

func (d *deployment) open(name string) *kv.Store {
	d.t.Helper()
	s, err := kv.Open(kv.Config{Dir: filepath.Join(d.dir, "..", name)})
	if err != nil {
		d.t.Fatal(err)
	}
	d.closing(s)
	return s
}

// start opens a new epoch of the coordinator and serves it at the same address.
func (d *deployment) start() {
	d.t.Helper()
	c, err := coordinator.Open(d.t.Context(), coordinator.Config{
		Dir: d.dir, Logger: slog.New(slog.DiscardHandler), SegmentSize: 1 << 20,
		Resources: []coordinator.Resource{
			{Name: "near", Kind: "kv", Manager: d.near},
			{Name: "far", Kind: "grpc", Manager: d.farManager},
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	stop := d.net.serve(d.t, server.New(c, d.options).Register)
	d.stop = func() {
		stop()
		if err := c.Close(); err != nil {
			d.t.Error(err)
		}
	}
}

// begin waits until both resources have shown who they are.
func (d *deployment) begin(r txn.BeginRequest) txn.Begun {
	d.t.Helper()
	r.Resources = []string{"near", "far"}
	for {
		b, err := d.client.Begin(d.t.Context(), r)
		switch {
		case txn.ReasonOf(err) == txn.ReasonNotReady, txn.ReasonOf(err) == txn.ReasonNoResource:
			time.Sleep(time.Millisecond)
			continue
		case err != nil:
			d.t.Fatal(err)
		}
		return b
	}
}

func (d *deployment) transfer(b txn.Begun, amount int64) {
	d.t.Helper()
	for i, s := range []*kv.Store{d.near, d.far} {
		op := kv.Op{Kind: kv.OpAdd, Key: []byte("acct"), Delta: amount}
		if _, err := s.Apply(d.t.Context(), b.Branches[i].Name, 1, []kv.Op{op}); err != nil {
			d.t.Fatal(err)
		}
		amount = -amount
	}
}

func (d *deployment) commit(id txn.ID) txn.Result {
	d.t.Helper()
	r, err := d.client.Commit(d.t.Context(), txn.CommitRequest{ID: id})
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *deployment) want(near, far string) {
	d.t.Helper()
	for s, want := range map[*kv.Store]string{d.near: near, d.far: far} {
		e, err := s.Get(d.t.Context(), [][]byte{[]byte("acct")})
		if err != nil || string(e[0].Value) != want {
			d.t.Errorf("account is %q, want %q (%v)", e[0].Value, want, err)
		}
	}
}

// TestWholeWay is a transaction from an application's client to two stores and back, over two
// wires.
func TestWholeWay(t *testing.T) { synctest.Test(t, testWholeWay) }

func testWholeWay(t *testing.T) {
	d := deploy(t)
	b := d.begin(txn.BeginRequest{Label: "transfer", Key: "order-42", Body: []byte("30")})
	d.transfer(b, 30)
	if r, err := d.client.Outcome(t.Context(), b.ID); err != nil || r.State != txn.StateActive {
		t.Errorf("before the commit: %+v, %v", r, err)
	}
	if r := d.commit(b.ID); r.Outcome != txn.OutcomeCommitted || len(r.Pending()) != 0 {
		t.Fatalf("%+v", r)
	}
	d.want("30", "-30")
	again := d.begin(txn.BeginRequest{Key: "order-42", Body: []byte("30")})
	if again.ID != b.ID || again.Existing == nil ||
		again.Existing.Outcome != txn.OutcomeCommitted {
		t.Errorf("the same key again: %+v", again)
	}
	_, err := d.client.Begin(t.Context(), txn.BeginRequest{Key: "order-42", Body: []byte("31")})
	if txn.ReasonOf(err) != txn.ReasonKeyReused {
		t.Errorf("the same key for another body: %v", err)
	}
	if _, err := d.client.Rollback(t.Context(), b.ID, ""); txn.ReasonOf(err) !=
		txn.ReasonAlreadyDecided {
		t.Errorf("rollback: %v", err)
	}
}

// TestManyAtOnce: transactions that share messages share nothing else. Sessions come and go under
// them.
func TestManyAtOnce(t *testing.T) { synctest.Test(t, testManyAtOnce) }

func testManyAtOnce(t *testing.T) {
	d := deployWith(t, server.Options{SessionAge: time.Millisecond})
	d.begin(txn.BeginRequest{})
	const callers, each = 16, 10
	var join sync.WaitGroup
	for i := range callers {
		join.Go(func() {
			for range each {
				b := d.begin(txn.BeginRequest{})
				op := kv.Op{Kind: kv.OpAdd, Key: fmt.Append(nil, i), Delta: 1}
				for j, s := range []*kv.Store{d.near, d.far} {
					_, err := s.Apply(t.Context(), b.Branches[j].Name, 1, []kv.Op{op})
					if err != nil {
						t.Error(err)
						return
					}
				}
				if r := d.commit(b.ID); r.ID != b.ID || r.Outcome != txn.OutcomeCommitted {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	join.Wait()
	for _, s := range []*kv.Store{d.near, d.far} {
		for i := range callers {
			e, err := s.Get(t.Context(), [][]byte{fmt.Append(nil, i)})
			if err != nil || string(e[0].Value) != fmt.Sprint(each) {
				t.Errorf("account %d is %q, %v", i, e[0].Value, err)
			}
		}
	}
}

// TestConflict: a vote of no travels from the sidecar to the application with its reason.
func TestConflict(t *testing.T) { synctest.Test(t, testConflict) }

func testConflict(t *testing.T) {
	d := deploy(t)
	first, second := d.begin(txn.BeginRequest{}), d.begin(txn.BeginRequest{})
	d.transfer(first, 1)
	d.transfer(second, 2)
	d.commit(first.ID)
	r := d.commit(second.ID)
	if r.Outcome != txn.OutcomeRolledBack || r.Cause != txn.CauseVotedNo || r.SQLState != "40001" ||
		r.Resource == "" || r.Reason == "" {
		t.Errorf("%+v", r)
	}
	d.want("1", "-1")
}

// TestRestart: what was decided stays decided, what was not is rolled back, and the client hears
// both from the next epoch.
func TestRestart(t *testing.T) { synctest.Test(t, testRestart) }

func testRestart(t *testing.T) {
	d := deploy(t)
	done, open := d.begin(txn.BeginRequest{}), d.begin(txn.BeginRequest{})
	d.transfer(done, 5)
	d.commit(done.ID)
	d.transfer(open, 100)
	d.stop()
	answers := make(chan txn.Result, 1)
	go func() {
		r, err := d.client.Commit(t.Context(), txn.CommitRequest{ID: open.ID})
		if err != nil {
			t.Error(err)
		}
		answers <- r
	}()
	d.start()
	if r := <-answers; r.Outcome != txn.OutcomeRolledBack {
		t.Errorf("the undecided one: %+v", r)
	}
	if r := d.commit(done.ID); r.Outcome != txn.OutcomeCommitted {
		t.Errorf("the decided one: %+v", r)
	}
	d.want("5", "-5")
	if list, err := d.client.List(t.Context(), txn.ListRequest{}); err != nil {
		t.Errorf("%+v, %v", list, err)
	}
}
