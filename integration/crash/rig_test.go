package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// hang is how long anything is waited for before it counts as never. No healthy run comes near.
const hang = 60 * time.Second

// rig is what every installation has, whatever its resources are: a coordinator and a teller, the
// processes beside them, the post to which they report, and the rounds in which they are disturbed.
type rig struct {
	t    *testing.T
	rng  *rand.Rand
	name string
	dir  string
	post *post
	net  ground

	coordinator *process
	teller      *process
	// sidecars are the other processes, each at its place.
	sidecars  []*process
	addresses map[string]string
	journals  map[string]*journal

	slips  *slips
	asking *remote.Client
	round  int64
	want   int64
	// begun is how the round that runs is called, for a failure's story.
	begun string
}

// newRig has nothing running yet. The names are of those that listen somewhere.
func newRig(t *testing.T, name string, net ground, rng *rand.Rand, names ...string) *rig {
	t.Helper()
	g := &rig{
		t: t, rng: rng, name: name, dir: t.TempDir(), post: newPost(t), net: net,
		slips: &slips{}, addresses: map[string]string{}, journals: map[string]*journal{},
	}
	g.slips.begin(0)
	for _, n := range names {
		g.addresses[n] = net.address(t, n, rng)
	}
	return g
}

// end kills every process.
func (g *rig) end() {
	for _, p := range append([]*process{g.teller, g.coordinator}, g.sidecars...) {
		if p != nil {
			p.kill()
		}
	}
	if g.asking != nil {
		_ = g.asking.Close()
	}
}

func (g *rig) must(err error) {
	g.t.Helper()
	if err != nil {
		g.fatal(err.Error())
	}
}

// fatal ends the test with everything that helps to understand it.
func (g *rig) fatal(what string) {
	g.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s, %s\nthe last steps:\n%s", what, g.name, g.begun, g.post.story(80))
	for name, j := range g.journals {
		fmt.Fprintf(&b, "the journal of %s ends:\n%s\n", name, tail(j.file, 3000))
	}
	g.t.Fatal(b.String())
}

// context is for one wait.
func (g *rig) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(g.t.Context(), hang)
}

// await asks until the answer is yes. The death of a process that nobody killed ends the test.
func (g *rig) await(what string, yes func(context.Context) bool) {
	g.t.Helper()
	ctx, cancel := g.context()
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for !yes(ctx) {
		g.checkAlive()
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.fatal("waited in vain for " + what)
		}
	}
}

func (g *rig) checkAlive() {
	g.t.Helper()
	for _, p := range append([]*process{g.coordinator, g.teller}, g.sidecars...) {
		if p != nil && p.lost() {
			g.fatal(fmt.Sprintf("%s ended, and nobody killed it: %v", p.name, p.err))
		}
	}
}

func (g *rig) logDir() string { return filepath.Join(g.dir, "log") }

func (g *rig) initLog() {
	g.t.Helper()
	out, err := exec.CommandContext(g.t.Context(), shared.gavel, "log", "init",
		g.logDir()).CombinedOutput()
	if err != nil {
		g.fatal(fmt.Sprintf("gavel log init: %v: %s", err, out))
	}
}

// start starts one life of a program.
func (g *rig) start(p program) *process {
	g.t.Helper()
	p.journal = filepath.Join(g.dir, p.name+".journal")
	if g.journals[p.name] == nil {
		g.journals[p.name] = &journal{file: p.journal}
	}
	p.env = append(p.env, "GAVEL_POINTS="+g.post.socket)
	p = g.net.place(p)
	r, err := p.start()
	g.must(err)
	g.post.born(r.pid())
	return r
}

// runCoordinator starts one life of the coordinator, over resources that are given as NAME=URL and
// go by the environment, because of their passwords. The sweeps are quick, so that orphans are
// found soon. The grace between two sightings is not what keeps anybody safe.
func (g *rig) runCoordinator(resources []string, flags ...string) *process {
	g.t.Helper()
	args := []string{"coordinator", "--data", g.logDir(), "--grpc", g.addresses["coordinator"],
		"--http", "127.0.0.1:0", "--sweep", "40ms", "--grace", "40ms", "--log-format", "json"}
	args = append(args, flags...)
	var env []string
	for _, r := range resources {
		name, url, _ := strings.Cut(r, "=")
		args = append(args, "--resource", name+"=env:CRASH_"+name)
		env = append(env, "CRASH_"+name+"="+url)
	}
	return g.start(program{name: "coordinator", path: shared.gavel, args: args, env: env})
}

// kill kills a process. When it returns, the post takes nothing from it any more.
func (g *rig) kill(p *process) {
	g.post.bury(p.pid())
	p.kill()
}

// dial makes a client of the coordinator's for the test itself.
func (g *rig) dial() *remote.Client {
	g.t.Helper()
	opts := append(g.net.dialing(), remote.WithPauses(
		remote.Pauses{First: again, Most: 10 * again}))
	c, err := remote.Dial(g.addresses["coordinator"], opts...)
	g.must(err)
	return c
}

// registered asks the coordinator whether it takes transactions of some resources, by one.
func (g *rig) registered(resources []string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		begun, err := g.asking.Begin(ctx, txn.BeginRequest{Resources: resources})
		if err != nil {
			return false
		}
		_, err = g.asking.Rollback(ctx, begun.ID, "it was a question")
		return err == nil
	}
}

// from is the first number of the round's transfers.
func (g *rig) from() int64 { return g.round * 1_000_000 }

// open begins a round: the teller works, and it works so well that some transfers commit.
func (g *rig) open() {
	g.t.Helper()
	g.round++
	g.slips.begin(g.from())
	g.teller.order(fmt.Sprintf("go %d", g.from()))
	g.awaitCommits(1 + g.rng.IntN(4))
}

// awaitCommits waits until the teller has heard of so many more commits.
func (g *rig) awaitCommits(more int) {
	g.t.Helper()
	before, _, err := g.slips.state()
	g.must(err)
	g.await("transfers to commit", func(context.Context) bool {
		n, _, err := g.slips.state()
		g.must(err)
		return n >= before+more
	})
}

// closeRound lets the teller finish what is under way.
func (g *rig) closeRound() {
	g.t.Helper()
	g.teller.order("rest")
	g.await("the teller to rest", func(context.Context) bool {
		_, rests, err := g.slips.state()
		g.must(err)
		return rests
	})
}

// caught waits until a trap has caught somebody.
func (g *rig) caught(trap *trap) (h held) {
	g.t.Helper()
	g.await("a process at "+trap.step, func(context.Context) bool {
		select {
		case h = <-trap.caught:
			return true
		default:
			return false
		}
	})
	return h
}

// skip is how many reports of a step are let by, so that it is not always the first transaction
// after a quiet moment that is hit. Some steps are rare, and one comes once in a life.
func (g *rig) skip(step string) int {
	switch step {
	case "duringRecovery", "duringCheckpoint", "duringRoll":
		return 0
	}
	return g.rng.IntN(8)
}

// passSteps lets so many steps go by, of whatever process. It is how a moment is drawn without a
// clock.
func (g *rig) passSteps(n int) {
	g.t.Helper()
	until := g.post.arrivals() + n
	g.await("something to happen", func(context.Context) bool {
		return g.post.arrivals() >= until
	})
}

// reach waits until a process stands at a step. One step is reached only by a coordinator that
// starts, so that for it recover kills the one that runs, and starts the next.
func (g *rig) reach(step string, recover func()) held {
	g.t.Helper()
	trap := g.post.arm(step, g.skip(step))
	if step == "duringRecovery" {
		recover()
	}
	return g.caught(trap)
}

// learnOutcome asks the coordinator until it knows: a transaction whose client is dead is undecided
// until its time is over.
func (g *rig) learnOutcome(t *crash.Transfer) {
	g.t.Helper()
	if t.ID.IsZero() {
		return
	}
	g.await("the outcome of "+t.ID.String(), func(ctx context.Context) bool {
		r, err := g.asking.Outcome(ctx, t.ID)
		if err != nil && !errors.Is(err, txn.ErrUnknown) {
			g.fatal(fmt.Sprintf("the coordinator refuses to tell the outcome of %s: %v", t.ID, err))
		}
		t.Outcome = r.Outcome
		return err == nil && r.Outcome != txn.OutcomeUnknown
	})
}

// readLog reads the decisions from the files of the log, beside the coordinator that writes them.
// Every decision that somebody has heard of was durable before.
func (g *rig) readLog(transfers []crash.Transfer) {
	g.t.Helper()
	state, _, err := coordinator.ReadState(vfs.OS(), g.logDir())
	g.must(err)
	for i := range transfers {
		transfers[i].Decided = state.Committed(transfers[i].ID)
	}
}

// verifyLog has the command verify the log, and returns what it says of a damaged one.
func (g *rig) verifyLog(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, shared.gavel, "log", "verify", g.logDir()).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("gavel log verify: %v: %s", err, out)
	}
	return ""
}

// alarms are what a person would have been called for since the last look.
func (g *rig) alarms() []alarm {
	g.t.Helper()
	var all []alarm
	for _, j := range g.journals {
		text, err := j.news()
		g.must(err)
		all = append(all, alarms(text)...)
	}
	return all
}

// report ends the test if a book has violations.
func (g *rig) report(book crash.Book) {
	g.t.Helper()
	if violations := book.Check(); len(violations) > 0 {
		var b strings.Builder
		for _, v := range violations {
			fmt.Fprintln(&b, "VIOLATED:", v)
		}
		g.fatal(b.String())
	}
}

// learn is what the tellers said, with the coordinator's word to each.
func (g *rig) learn() []crash.Transfer {
	g.t.Helper()
	transfers := g.slips.all()
	for i := range transfers {
		g.learnOutcome(&transfers[i])
	}
	return transfers
}
