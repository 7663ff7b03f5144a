package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// story is the demo as it is told.
type story struct {
	io    ui.IO
	o     options
	dir   string
	start time.Time
	step  int

	coordinator *child
	log         txn.LogID
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.io.Out, format+"\n", args...) }

func (s *story) chapter(format string, args ...any) {
	s.step++
	s.say("\n%d  "+format, append([]any{s.step}, args...)...)
}

func (s *story) line(what, format string, args ...any) {
	s.say("     %-12s %s", what, fmt.Sprintf(format, args...))
}

func (s *story) logDir() string { return filepath.Join(s.dir, "log") }

// tell is the story from the books to their audit.
func (s *story) tell(ctx context.Context, b banks) (err error) {
	s.chapter("Two databases, ready after %s", short(s.io.Now().Sub(s.start)))
	for _, line := range b.describe() {
		s.say("     %s", line)
	}
	s.line("money", "%d accounts in each, %d in all", accounts, total)
	if err := s.openCoordinator(ctx, b); err != nil {
		return err
	}
	// Whatever happens, the process is gone when the demo is.
	defer s.coordinator.kill()
	c, err := remote.Dial(s.coordinator.grpc, remote.WithPauses(
		remote.Pauses{First: 5 * time.Millisecond, Most: 50 * time.Millisecond}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	t := newTraffic(b, c)
	running, stop := context.WithCancel(ctx)
	defer func() { stop(); t.join.Wait() }()
	s.chapter("%d clients move money; each transfer changes both databases or none", s.o.clients)
	s.say("     The coordinator is killed (kill -9) at random moments, until it dies between")
	s.say("     a decision and its second phase.")
	t.start(running, s.o.clients, s.o.seed)
	w, err := s.hunt(ctx, b, t)
	if err != nil {
		return err
	}
	s.show(w)
	took, err := s.recover(ctx, b, w)
	if err != nil {
		return err
	}
	answers, err := s.finish(ctx, t)
	if err != nil {
		return err
	}
	if err := s.settle(ctx, b, w); err != nil {
		return err
	}
	return s.prove(ctx, b, w, answers, took)
}

// openCoordinator makes a log and starts the production binary on it. The databases' URLs go by the
// environment, as they should.
func (s *story) openCoordinator(ctx context.Context, b banks) (err error) {
	if s.log, err = coordinator.Init(vfs.OS(), s.logDir()); err != nil {
		return err
	}
	urls := b.urls()
	s.coordinator = &child{binary: s.o.binary, journal: filepath.Join(s.dir, "coordinator.journal"),
		args: []string{"coordinator", "--data", s.logDir(),
			// How long an orphan waits is politeness; a demonstration is in a hurry.
			"--grace", "200ms", "--sweep", "100ms",
			"--resource", bankNames[0] + "=env:GAVEL_DEMO_A",
			"--resource", bankNames[1] + "=env:GAVEL_DEMO_B"},
		env: []string{"GAVEL_DEMO_A=" + urls[0], "GAVEL_DEMO_B=" + urls[1]},
	}
	if err := s.launch(ctx); err != nil {
		return err
	}
	s.chapter("A coordinator, the binary you would run")
	s.line("process", "%d at %s", s.coordinator.cmd.Process.Pid, s.coordinator.grpc)
	s.line("log", "%s, every decision is forced to disk before anybody hears of it", s.log)
	return nil
}

func (s *story) launch(ctx context.Context) error {
	if err := s.coordinator.start(ctx); err != nil {
		return err
	}
	return s.coordinator.ready(ctx)
}

// witness is a transaction whose coordinator died between its decision and its end, as read while
// nobody ran: the decision from the log, the prepared branches from the databases.
type witness struct {
	id     txn.ID
	key    string
	names  [2]txn.Name
	inside [2]bool
	// decisions have no end in the log; prepared are all branches in the databases.
	decisions int
	prepared  [2]map[txn.Name]bool
	kills     int
	fence     txn.Fence
}

// maxKills bounds the hunt: one kill in two or three meets the window. minKills are made in any
// case, so that the audit has something to say about clients whose coordinator died under them.
const (
	maxKills = 300
	minKills = 3
)

// hunt kills the coordinator until it has died in the window.
func (s *story) hunt(ctx context.Context, b banks, t *traffic) (witness, error) {
	random := rand.New(rand.NewPCG(s.o.seed, 0))
	bar := s.io.Bar("transfers so far", ui.Things, int64(s.o.transfers))
	defer bar.Done()
	progress := func(n int) { bar.Set(int64(min(n, s.o.transfers-1)), int64(s.o.transfers)) }
	for kills := 1; kills <= maxKills; kills++ {
		if err := s.untilBusy(ctx, t, random, progress); err != nil {
			return witness{}, err
		}
		s.coordinator.kill()
		w, found, err := s.look(ctx, b)
		if w.kills = kills; found && kills >= minKills || err != nil {
			return w, err
		}
		if err := s.launch(ctx); err != nil {
			return witness{}, err
		}
	}
	return witness{}, fmt.Errorf("demo: %d kills, and none between a decision and its second phase",
		maxKills)
}

// untilBusy waits for the first commits of this life of the coordinator, and then for a random
// moment: phase two of some client is under way nearly always.
func (s *story) untilBusy(
	ctx context.Context, t *traffic, random *rand.Rand, progress func(int),
) error {
	done, _, err := t.count()
	if err == nil {
		err = t.await(ctx, done+1, progress)
	}
	if err != nil {
		return err
	}
	if !pause(ctx, time.Duration(5+random.IntN(76))*time.Millisecond) {
		return context.Cause(ctx)
	}
	return nil
}

// look reads log and databases while the coordinator is dead.
func (s *story) look(ctx context.Context, b banks) (w witness, found bool, err error) {
	state, info, err := coordinator.ReadState(vfs.OS(), s.logDir())
	if err != nil {
		return w, false, err
	}
	// Whoever asks now does so in the place of the next epoch: nobody else speaks for the log, and
	// the dead one must not, should it still have a word on its way.
	w.fence = txn.Fence{Log: info.ID, Epoch: info.Epoch + 1, LSN: info.Tail}
	if w.prepared, err = b.prepared(ctx, w.fence); err != nil {
		return w, false, err
	}
	open := state.OpenDecisions()
	w.decisions = len(open)
	for _, d := range open {
		half := w.of(d, state)
		if half.inside[0] || half.inside[1] {
			w, found = half, true
		}
		if half.inside[0] != half.inside[1] {
			// Committed here and prepared there: the picture that nobody wants to see.
			return w, true, nil
		}
	}
	return w, found, nil
}

// of is the same crash with an eye on one decision.
func (w witness) of(d *protocol.Decided, state *protocol.State) witness {
	w.id, w.key, w.inside = d.Commit.ID, d.Commit.Label, [2]bool{}
	for _, branch := range d.Commit.Branches {
		i := slices.Index(bankNames[:], state.Resources()[branch.RM-1].Name)
		w.names[i] = txn.NameOf(d.Commit.ID, branch.Branch)
		w.inside[i] = w.prepared[i][w.names[i]]
	}
	return w
}

// show is the crash as it is on disk.
func (s *story) show(w witness) {
	s.chapter("Kill %d. The coordinator is dead, and this is what it left behind", w.kills)
	s.line("transaction", "%s (%s)", w.id, w.key)
	s.line("log", "COMMIT is durable, END is missing: decided, not finished")
	for i, name := range bankNames {
		if w.inside[i] {
			s.line(name, "PREPARED as %s, rows locked", w.names[i])
		} else {
			s.line(name, "committed already")
		}
	}
	s.line("in all", "%d decisions without an end, %d branches prepared", w.decisions,
		len(w.prepared[0])+len(w.prepared[1]))
}

// recover starts the coordinator again and measures, from the moment it is started, how long it
// takes until the witness is committed everywhere.
func (s *story) recover(ctx context.Context, b banks, w witness) (time.Duration, error) {
	begun := s.io.Now()
	if err := s.coordinator.start(ctx); err != nil {
		return 0, err
	}
	s.chapter("The coordinator is started again; nobody helps")
	err := s.poll(ctx, b, w.fence, func(now [2]map[txn.Name]bool) (bool, error) {
		has, err := b.has(ctx, w.key)
		return has[0] && has[1] && !now[0][w.names[0]] && !now[1][w.names[1]], err
	})
	if err != nil {
		return 0, fmt.Errorf("demo: %s was decided and did not get committed: %w", w.id, err)
	}
	took := s.io.Now().Sub(begun)
	s.line(short(took), "%s is committed in both databases", w.key)
	err = s.poll(ctx, b, w.fence, func(now [2]map[txn.Name]bool) (bool, error) {
		for i := range now {
			for name := range w.prepared[i] {
				if now[i][name] {
					return false, nil
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return 0, fmt.Errorf("demo: what the crash left prepared was not resolved: %w", err)
	}
	s.line(short(s.io.Now().Sub(begun)), "nothing that the crash left behind is in doubt any more")
	return took, nil
}

// pollEvery is the time between two looks at the databases.
const pollEvery = 2 * time.Millisecond

func (s *story) poll(
	ctx context.Context, b banks, f txn.Fence,
	done func([2]map[txn.Name]bool) (bool, error),
) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		now, err := b.prepared(ctx, f)
		if err != nil {
			return err
		}
		if ok, err := done(now); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-s.coordinator.ended:
			return fmt.Errorf("the coordinator ended: %s\n%s", s.coordinator.cmd.ProcessState,
				s.coordinator.tail())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish lets the clients do the rest.
func (s *story) finish(ctx context.Context, t *traffic) ([]heard, error) {
	s.chapter("The clients go on and finish")
	bar := s.io.Bar("transfers", ui.Things, int64(s.o.transfers))
	defer bar.Done()
	return t.finish(ctx, s.o.transfers, func(n int) {
		bar.Set(int64(min(n, s.o.transfers)), int64(s.o.transfers))
	})
}

// settle waits until the last orphan of an attempt that was rolled back is gone, and ends the
// coordinator in order.
func (s *story) settle(ctx context.Context, b banks, w witness) error {
	err := s.poll(ctx, b, w.fence, func(now [2]map[txn.Name]bool) (bool, error) {
		return len(now[0])+len(now[1]) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("demo: branches stay prepared: %w", err)
	}
	return s.coordinator.stop(ctx)
}

// maxFaults bounds how many faults are told.
const maxFaults = 10

// prove audits the books against everything that the clients were told.
func (s *story) prove(
	ctx context.Context, b banks, w witness, answers []heard, took time.Duration,
) error {
	all, err := b.books(ctx)
	if err != nil {
		return err
	}
	faults := audit(all, answers)
	rep, err := txlog.Verify(vfs.OS(), s.logDir(), nil)
	if err != nil {
		return err
	}
	for _, f := range rep.Faults {
		faults = append(faults, f)
	}
	left, err := b.left(ctx, w.fence)
	if err != nil {
		return err
	}
	if left > 0 {
		faults = append(faults, fmt.Errorf("%d branches are still prepared", left))
	}
	if len(faults) > 0 {
		return fmt.Errorf("demo: the proof failed: %w",
			errors.Join(faults[:min(len(faults), maxFaults)]...))
	}
	n := tally(answers)
	s.chapter("The proof")
	s.line("money", "%d before, %d after", total, all.sum)
	s.line("transfers", "%d, each in both ledgers or in none", len(all.ledgers[0]))
	s.line("answers", "all true: %d committed, %d rolled back and tried again, %d open for a while",
		n.committed, n.rolledBack, n.doubted)
	s.line("in doubt", "nothing: no branch is prepared in either database")
	s.line("log", "every byte verified, %d records", rep.Records)
	s.say("\nEvery database voted; the gavel fell once. Recovery took %s, all of it %s.",
		short(took), short(s.io.Now().Sub(s.start)))
	return nil
}

func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
