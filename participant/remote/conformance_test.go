package remote_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// sidecar is a participant in a process of its own, and the client by which it is reached. To the
// suite it is one resource.
type sidecar struct {
	*remote.Client
	store *kv.Store
	close func() error
}

func (s *sidecar) Close() error { return s.close() }

// start runs a sidecar over the store in dir. Fences are kept by both the server and the store.
func start(cfg kv.Config) (*sidecar, error) {
	store, err := kv.Open(cfg)
	if err != nil {
		return nil, err
	}
	server, err := remote.NewServer(remote.Config{
		Name: "stock", Resource: store, FenceFile: filepath.Join(cfg.Dir, "fences"),
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	server.Register(g)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() {
		err := g.Serve(lis)
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil // the test was over before it began
		}
		done <- err
	}()
	client, err := remote.Dial("passthrough:///bufconn", remote.WithInsecure(),
		remote.WithResource("stock"), remote.WithDialOptions(grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) })))
	return &sidecar{Client: client, store: store, close: sync.OnceValue(func() error {
		err := client.Close()
		g.Stop()
		return errors.Join(err, <-done, server.Close(), store.Close())
	})}, err
}

// site is the resource of the suite: a directory, and whatever sidecar runs over it.
type site struct {
	mu   sync.Mutex
	cfg  kv.Config
	now  time.Time
	last txn.Fence
	seq  txn.Seq
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// crash copies what is on disk, as after a power cut, and goes on with the copy.
func (s *site) crash(t *testing.T, _ participant.Resource) participant.Resource {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{"kv.db", "fences"} {
		body, err := os.ReadFile(filepath.Join(s.cfg.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.Dir = dir
	r, err := start(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// work is a branch whose application talks to the store itself.
type work struct {
	site *site
	r    *sidecar
	f    txn.Fence
	name txn.Name
}

func (s *site) begin(
	t *testing.T, r participant.Resource, f txn.Fence, n txn.Name, key string,
) participanttest.Work {
	t.Helper()
	s.last = f
	w := &work{site: s, r: r.(*sidecar), f: f, name: n}
	// The coordinator is heard of before its clients: what begins under an older epoch is dropped.
	if _, err := r.Inquire(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	w.put(t, n, key)
	return w
}

func (w *work) put(t *testing.T, n txn.Name, key string) {
	t.Helper()
	op := kv.Op{Kind: kv.OpPut, Key: []byte(key), Value: []byte("there")}
	if _, err := w.r.store.Apply(t.Context(), n, 1, []kv.Op{op}); err != nil {
		t.Fatal(err)
	}
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	votes, err := w.r.Prepare(t.Context(), w.f, []participant.Branch{{Name: w.name}})
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

func (w *work) Fail(t *testing.T) {
	t.Helper()
	_, err := w.r.store.Apply(t.Context(), w.name, 2, []kv.Op{
		{Kind: kv.OpPut, Key: []byte("text"), Value: []byte("abc")},
		{Kind: kv.OpAdd, Key: []byte("text"), Delta: 1},
	})
	if !errors.Is(err, kv.ErrNotNumber) {
		t.Fatalf("the failing step: %v", err)
	}
}

// Abandon lets the application fall silent until the store gives its work up to make room for
// another's.
func (w *work) Abandon(t *testing.T) {
	t.Helper()
	w.site.mu.Lock()
	w.site.now = w.site.now.Add(2 * w.site.cfg.IdleAfter)
	w.site.seq++
	other := txn.NameOf(txn.NewID(4711, w.site.seq), 1)
	w.site.mu.Unlock()
	w.put(t, other, "another")
}

// TestConformance holds both ends of the wire to what a resource owes: the suite must not notice
// that there is a network in between.
func TestConformance(t *testing.T) {
	s := &site{now: time.Unix(1_800_000_000, 0)}
	s.cfg = kv.Config{
		Dir: t.TempDir(), Now: s.clock, IdleAfter: time.Minute, LockWait: time.Millisecond,
	}
	conformance.Keep(t, "remote", participanttest.Run(t, participanttest.Harness{
		Open: func(*testing.T) (participant.Resource, error) {
			r, err := start(s.cfg)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		Begin: s.begin,
		Effect: func(t *testing.T, r participant.Resource, key string) bool {
			entries, err := r.(*sidecar).store.Get(t.Context(), [][]byte{[]byte(key)})
			if err != nil {
				t.Fatal(err)
			}
			return string(entries[0].Value) == "there"
		},
		Resolve: func(t *testing.T, r participant.Resource, n txn.Name, commit bool) {
			finish := r.(*sidecar).store.Rollback
			if commit {
				finish = r.(*sidecar).store.Commit
			}
			if _, err := finish(t.Context(), s.last, []participant.Branch{{Name: n}}); err != nil {
				t.Fatal(err)
			}
		},
		Crash: s.crash,
		Traits: participanttest.Traits{Proof: participanttest.ProofMemory, OnePhase: true,
			Undecided: true},
	}))
}
