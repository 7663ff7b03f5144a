package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/integration/proxy"
)

// cuttable is a ground on which the coordinator can be separated from the sidecars, one way or
// both.
type cuttable interface {
	ground
	fmt.Stringer
	cut(crash.Fault) error
	heal() error
}

// TestRealPartition cuts the way between coordinator and sidecars until the coordinator has
// noticed, while a branch is on its way to its end. Nothing is decided differently for it, and
// after the heal nothing is left.
func TestRealPartition(t *testing.T) {
	rng := dice(t, 28)
	cuts := []crash.Fault{crash.CutToSidecar, crash.CutFromSidecar, crash.CutBothWays}
	apart, err := newApart(t)
	if err != nil {
		t.Logf("namespaces are not permitted here, so that relays cut alone: %v", err)
	} else {
		partition(t, rng, apart, sample(rng, cuts, len(cuts)))
	}
	some := 1
	if err != nil {
		some = len(cuts)
	}
	partition(t, rng, &relayed{t: t}, sample(rng, cuts, some))
}

func partition(t *testing.T, rng *rand.Rand, g cuttable, cuts []crash.Fault) {
	t.Helper()
	w := build(t, layout{mode: crash.Sidecars, ground: g,
		flags: []string{"--call-timeout", impatient.String()}}, rng)
	for _, c := range cuts {
		for _, step := range sample(rng, []string{"beforeSend", "afterVote", "beforeForce"}, 1) {
			w.begun = fmt.Sprintf("round %d: %s (by %s) while one stands at %s", w.round+1, c, g,
				step)
			w.cutRound(g, c, step)
		}
	}
	w.checkWhole()
	w.end()
}

// cutRound lasts until the coordinator complains of both sidecars.
func (w *world) cutRound(g cuttable, c crash.Fault, step string) {
	w.t.Helper()
	w.open()
	h := w.reach(step)
	before := w.complaints()
	w.must(g.cut(c))
	h.release()
	w.await("the coordinator to notice", func(context.Context) bool {
		return w.complaints() >= before+2
	})
	w.must(g.heal())
	shared.faults.Add(c)
	w.gate()
	w.t.Log(w.mode, w.begun)
}

// complaints counts how often the coordinator could not use a resource.
func (w *world) complaints() int {
	w.t.Helper()
	text, err := os.ReadFile(w.journals["coordinator"].file)
	w.must(err)
	return bytes.Count(text, []byte("resource is not usable"))
}

// relayed has a relay before each sidecar.
type relayed struct {
	loopback
	t      *testing.T
	relays []*proxy.Relay
}

func (*relayed) String() string { return "relays" }

// target makes a relay for every life of the coordinator.
func (r *relayed) target(address string) string {
	relay, err := proxy.Listen(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { relay.Close() })
	r.relays = append(r.relays, relay)
	return relay.Addr()
}

func (r *relayed) cut(c crash.Fault) error {
	for _, relay := range r.relays {
		if c != crash.CutFromSidecar {
			relay.Silence(proxy.ToTarget)
		}
		if c != crash.CutToSidecar {
			relay.Silence(proxy.ToClient)
		}
	}
	return nil
}

func (r *relayed) heal() error {
	for _, relay := range r.relays {
		relay.Resume(proxy.ToTarget)
		relay.Resume(proxy.ToClient)
	}
	return nil
}

// apart is two network namespaces with a wire between them: the coordinator and its client are
// near, the sidecars far. A namespace has no name: it lives as long as the process that holds it,
// and nothing of it is left on the machine.
type apart struct {
	near, far *process
	// door is the near namespace, for the test's own connections.
	door *os.File
	// wrong are the wrong ideas that are to be forgotten.
	wrong []neighbour
}

// neighbour is what one end of the wire believes of the other.
type neighbour struct {
	where   *process
	ip, dev string
}

func (*apart) String() string { return "network namespaces" }

// The two ends of the wire.
const (
	nearIP, farIP = "10.213.7.1", "10.213.7.2"
	nearEnd       = "gavel0"
	farEnd        = "gavel1"
	// nobody is a hardware address that no interface has: what is sent there is dropped by whoever
	// receives it, silently, as a broken switch drops it.
	nobody = "02:00:00:00:00:fe"
)

func newApart(t *testing.T) (*apart, error) {
	t.Helper()
	a := &apart{}
	var err error
	if a.near, err = hold(t, "near"); err != nil {
		return nil, err
	}
	if a.far, err = hold(t, "far"); err != nil {
		return nil, err
	}
	err = errors.Join(
		ip(a.near, "link", "set", "lo", "up"), ip(a.far, "link", "set", "lo", "up"),
		ip(a.near, "link", "add", nearEnd, "type", "veth", "peer", "name", farEnd, "netns",
			strconv.Itoa(a.far.pid())),
		ip(a.near, "addr", "add", nearIP+"/24", "dev", nearEnd),
		ip(a.far, "addr", "add", farIP+"/24", "dev", farEnd),
		ip(a.near, "link", "set", nearEnd, "up"), ip(a.far, "link", "set", farEnd, "up"))
	if err != nil {
		return nil, err
	}
	a.door, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", a.near.pid()))
	if err == nil {
		t.Cleanup(func() { a.door.Close() })
	}
	return a, err
}

// hold starts a process that does nothing in a namespace of its own, until the test ends.
func hold(t *testing.T, name string) (*process, error) {
	t.Helper()
	there := make(chan struct{}, 1)
	p := program{name: name, path: "unshare", args: []string{"--net", "cat"},
		journal: filepath.Join(t.TempDir(), name), line: func([]byte) { there <- struct{}{} }}
	r, err := p.start()
	if err != nil {
		return nil, err
	}
	t.Cleanup(r.kill)
	r.order("are you there?")
	select {
	case <-there:
		return r, nil
	case <-r.done:
		r.killed.Store(true)
		return nil, fmt.Errorf("unshare --net: %w: %s", r.err, tail(p.journal, 200))
	}
}

// ip runs the command of that name in the namespace of a process.
func ip(where *process, args ...string) error {
	args = append([]string{"-t", strconv.Itoa(where.pid()), "-n", "ip"}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("nsenter %v: %w: %s", args, err, out)
	}
	return nil
}

// address: the ports of a new namespace are all free.
func (a *apart) address(_ *testing.T, name string, _ *rand.Rand) string {
	switch name {
	case crash.ResourceA:
		return farIP + ":7450"
	case crash.ResourceB:
		return farIP + ":7460"
	}
	return "127.0.0.1:7440"
}

func (a *apart) place(p program) program {
	where := a.near
	if p.name == crash.ResourceA || p.name == crash.ResourceB {
		where = a.far
	}
	p.args = append([]string{"-t", strconv.Itoa(where.pid()), "-n", p.path}, p.args...)
	p.path = "nsenter"
	return p
}

func (a *apart) target(address string) string { return address }

func (a *apart) flags() []string { return []string{"--insecure"} }

func (a *apart) local() bool { return true }

func (a *apart) dialing() []remote.Option {
	return []remote.Option{remote.WithDialOptions(grpc.WithContextDialer(a.dial))}
}

// dial connects from within the near namespace: a socket belongs to the one that its thread was in.
// The thread is never unlocked, so that it ends with its goroutine and serves nobody else.
func (a *apart) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(int(a.door.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		}
	}()
	<-done
	return conn, err
}

// cut gives the senders a wrong idea of who is at the other end.
func (a *apart) cut(c crash.Fault) error {
	if c != crash.CutFromSidecar {
		a.wrong = append(a.wrong, neighbour{a.near, farIP, nearEnd})
	}
	if c != crash.CutToSidecar {
		a.wrong = append(a.wrong, neighbour{a.far, nearIP, farEnd})
	}
	var errs []error
	for _, n := range a.wrong {
		errs = append(errs, ip(n.where, "neigh", "replace", n.ip, "lladdr", nobody, "dev", n.dev,
			"nud", "permanent"))
	}
	return errors.Join(errs...)
}

// heal makes the senders ask again who is there.
func (a *apart) heal() error {
	var errs []error
	for _, n := range a.wrong {
		errs = append(errs, ip(n.where, "neigh", "del", n.ip, "dev", n.dev))
	}
	a.wrong = nil
	return errors.Join(errs...)
}
