package coordinator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// stumbling is a resource whose next answers are bent, once each.
type stumbling struct {
	*fakeDB
	commit func([]participant.Finding) []participant.Finding
	list   func(participant.Listing) (participant.Listing, error)
}

func (s *stumbling) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	found, err := s.fakeDB.Commit(ctx, f, b)
	if bend := s.commit; bend != nil && err == nil {
		// It took effect: the branch is not listed any more, and no sweep will ask again.
		s.commit = nil
		return bend(found), nil
	}
	return found, err
}

func (s *stumbling) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	l, err := s.fakeDB.List(ctx, f)
	if s.list != nil && err == nil {
		return s.list(l)
	}
	return l, err
}

// TestEachDecisionWaitsForItsOwnSync: with two decisions on their way, the sync of the first lets
// only the first out.
func TestEachDecisionWaitsForItsOwnSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		held := make(chan struct{})
		holding := make(chan bool, 1)
		holding <- false
		fs := vfs.Hooked(w.disk, func(call vfs.Call) error {
			hold := <-holding
			holding <- hold
			if hold && call.Op == vfs.OpDatasync {
				<-held
			}
			return nil
		})
		c := w.open(func(cfg *Config) { cfg.FS = fs })
		time.Sleep(time.Second)
		<-holding
		holding <- true
		answers := make(chan txn.Result, 2)
		for range 2 {
			id, votes := w.begun(c)
			go func() { answers <- w.commit(c, id, votes, txn.AckDecided) }()
			synctest.Wait()
		}
		if len(answers) != 0 {
			t.Fatal("a decision was told before any sync")
		}
		held <- struct{}{}
		synctest.Wait()
		if len(answers) != 1 {
			t.Fatalf("the first sync let %d of 2 decisions out", len(answers))
		}
		w.want(1, 0)
		close(held)
		synctest.Wait()
		if len(answers) != 2 {
			t.Fatal("the second decision was never told")
		}
		w.settled()
		w.want(2, 0)
	})
}

// TestBentAnswers: answers of a commit that prove nothing are asked for again until one does.
func TestBentAnswers(t *testing.T) {
	for name, bend := range map[string]func([]participant.Finding) []participant.Finding{
		"unknown": func(f []participant.Finding) []participant.Finding {
			f[0].Standing = txn.StandingUnknown
			return f
		},
		"too few":  func(f []participant.Finding) []participant.Finding { return f[:len(f)-1] },
		"too many": func(f []participant.Finding) []participant.Finding { return append(f, f...) },
		"still prepared": func(f []participant.Finding) []participant.Finding {
			f[0].Standing = txn.StandingPrepared
			return f
		},
		"held": func(f []participant.Finding) []participant.Finding {
			f[0] = participant.Finding{Standing: txn.StandingHeld, Reason: "another server"}
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.open(func(cfg *Config) {
					cfg.Resources[1].Manager = &stumbling{fakeDB: w.dbs["b"], commit: bend}
				})
				id, votes := w.begun(c)
				r := w.commit(c, id, votes, txn.AckApplied)
				if r.State != txn.StateCommitted || len(r.Pending()) != 0 {
					t.Errorf("result %+v", r)
				}
				w.want(1, 0)
			})
		})
	}
}

// TestSilentVote: a resource that does not answer has not voted No: it is asked again.
func TestSilentVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, _ := w.begun(c)
		w.dbs["b"].set(func(d *fakeDB) { d.down = true })
		go func() {
			time.Sleep(time.Second)
			w.dbs["b"].set(func(d *fakeDB) { d.down = false })
		}()
		if r := w.commit(c, id, nil, txn.AckApplied); r.Outcome != txn.OutcomeCommitted {
			t.Errorf("result %+v", r)
		}
	})
}

// TestListedAndNotOurs: what this role may not finish is left alone.
func TestListedAndNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		theirs := func(l participant.Listing) (participant.Listing, error) {
			for i := range l.Branches {
				l.Branches[i].Ours = false
			}
			return l, nil
		}
		c := w.open(func(cfg *Config) {
			cfg.Resources[0].Manager = &stumbling{fakeDB: w.dbs["a"], list: theirs}
		})
		id, _ := w.begun(c)
		if _, err := c.Rollback(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		w.settled()
		for _, d := range w.dbs {
			d.prepare(txn.NameOf(id, 1))
		}
		rest()
		if n, _, _ := w.dbs["a"].counts(); n != 1 {
			t.Error("a branch of another owner was finished")
		}
		if n, _, _ := w.dbs["b"].counts(); n != 0 {
			t.Error("the late branch of b is still there")
		}
	})
}

// TestRegressionStops: a participant that remembers a later position of this log stops it for good.
func TestRegressionStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		late := func(l participant.Listing) (participant.Listing, error) {
			if time.Since(start) > 5*time.Second {
				return participant.Listing{}, participant.ErrRegression
			}
			return l, nil
		}
		c := w.open(func(cfg *Config) {
			cfg.Resources[1].Manager = &stumbling{fakeDB: w.dbs["b"], list: late}
		})
		time.Sleep(10 * time.Second)
		if !errors.Is(c.Err(), participant.ErrRegression) {
			t.Errorf("because %v", c.Err())
		}
		w.off(false)
		calls := len(w.dbs["a"].fences)
		rest()
		if more := len(w.dbs["a"].fences); more != calls {
			t.Errorf("%d calls after it stopped", more-calls)
		}
	})
}

// TestUnconfiguredResource: one that only the log knows cannot be named: nobody could finish it.
func TestUnconfiguredResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.open().Close()
		c := w.open(func(cfg *Config) { cfg.Resources = cfg.Resources[:1] })
		_, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
		if txn.ReasonOf(err) != txn.ReasonNoResource {
			t.Errorf("error %v", err)
		}
	})
}

// TestWaitBoundAfterARestart: a repeated Commit hears "decided, pending" within its own bound.
func TestWaitBoundAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		decided, _ := w.inDoubt()
		w.dbs["b"].set(func(d *fakeDB) { d.hang = true })
		c := w.open()
		start := time.Now()
		r, err := c.Commit(t.Context(), txn.CommitRequest{ID: decided, Wait: time.Second})
		if err != nil || r.Outcome != txn.OutcomeCommitted || len(r.Pending()) != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		if d := time.Since(start); d < time.Second || d > 2*time.Second {
			t.Errorf("it waited %v", d)
		}
		w.dbs["b"].set(func(d *fakeDB) { d.hang = false })
		w.settled()
	})
}

// TestAbandonedKey: callers that have gone away while they waited for a key are not served.
func TestAbandonedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		begin := txn.BeginRequest{Key: "order", Timeout: 10 * time.Second}
		if _, err := c.Begin(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Begin(ctx, begin); !errors.Is(err, txn.ErrUnknown) {
				t.Errorf("a waiting caller hears %v", err)
			}
			cancel()
		}
		got, err := c.Begin(t.Context(), begin)
		if err != nil || got.Existing != nil {
			t.Errorf("%+v, %v", got, err)
		}
		all, err := c.List(t.Context(), txn.ListRequest{})
		if err != nil || len(all) != 1 {
			t.Errorf("%d transactions hold the key, %v", len(all), err)
		}
	})
}

// waiting counts the callers that the loop knows.
func (w *world) waiting(c *Coordinator) int {
	w.t.Helper()
	n := make(chan int, 1)
	if !c.mail.put(input{do: func(l *loop) { n <- len(l.waiting) }}) {
		w.t.Fatal("the loop has ended")
	}
	return <-n
}

// TestCallersThatGoAway: a caller that gives up, without a deadline that anybody knew, leaves
// nothing behind, whatever it had asked for. A Begin that waited for a key is not served.
func TestCallersThatGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		keyed := txn.BeginRequest{Key: "order", Timeout: time.Hour}
		first, err := c.Begin(t.Context(), keyed)
		if err != nil {
			t.Fatal(err)
		}
		pending, votes := w.begun(c)
		w.dbs["b"].set(func(d *fakeDB) { d.hang = true })
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 3)
		go func() {
			_, err := c.Begin(ctx, keyed)
			gone <- err
		}()
		go func() {
			_, err := c.Commit(ctx, txn.CommitRequest{ID: pending, Votes: votes, Wait: time.Hour})
			gone <- err
		}()
		synctest.Wait()
		go func() {
			_, err := c.Commit(ctx, txn.CommitRequest{ID: pending, Wait: time.Hour})
			gone <- err
		}()
		synctest.Wait()
		if n := w.waiting(c); n != 3 {
			t.Fatalf("%d callers wait, want 3", n)
		}
		cancel()
		for range 3 {
			if err := <-gone; !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.Canceled) {
				t.Errorf("one that gave up hears %v", err)
			}
		}
		if n := w.waiting(c); n != 0 {
			t.Errorf("%d callers are left in the loop", n)
		}
		if _, err := c.Rollback(t.Context(), first.ID, ""); err != nil {
			t.Fatal(err)
		}
		all, err := c.List(t.Context(), txn.ListRequest{})
		if err != nil || len(all) != 1 || all[0].ID != pending {
			t.Errorf("a Begin was served for nobody: %+v, %v", all, err)
		}
		if got, err := c.Begin(t.Context(), keyed); err != nil || got.Existing != nil {
			t.Errorf("the key is not free: %+v, %v", got, err)
		}
		w.dbs["b"].set(func(d *fakeDB) { d.hang = false })
		w.settled()
		w.want(1, 0)
	})
}

// TestGoneBeforeTheLoopLooked: a caller may come and go while the loop does something else, and one
// may go that has its answer already.
func TestGoneBeforeTheLoopLooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		first, err := c.Begin(t.Context(), txn.BeginRequest{Key: "order"})
		if err != nil {
			t.Fatal(err)
		}
		asleep := make(chan struct{})
		c.mail.put(input{do: func(*loop) { <-asleep }})
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 2)
		for _, e := range []protocol.Event{
			protocol.Begin{Request: txn.BeginRequest{Key: "order"}}, protocol.Ask{ID: first.ID},
		} {
			go func() {
				_, err := c.request(ctx, e)
				gone <- err
			}()
		}
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-gone; !errors.Is(err, txn.ErrUnknown) {
				t.Errorf("one that gave up hears %v", err)
			}
		}
		close(asleep)
		if n := w.waiting(c); n != 0 {
			t.Errorf("%d callers are left in the loop", n)
		}
		answered := &call{reply: make(chan protocol.Reply, 1)}
		ask := protocol.Ask{ID: first.ID}
		c.mail.put(input{event: ask, call: answered})
		<-answered.reply
		c.mail.put(input{event: ask, call: answered, gone: true})
		if _, err := c.Outcome(t.Context(), first.ID); err != nil {
			t.Error(err)
		}
	})
}

// TestUntil: the machine hears of a caller's deadline on its own clock.
func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWorld(t).open()
		time.Sleep(7 * time.Second)
		if got := c.until(t.Context()); got != 0 {
			t.Errorf("no deadline is %d", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if got, want := c.until(ctx), c.now()+protocol.Instant(5*time.Second); got != want {
			t.Errorf("a deadline in 5 s is %d, want %d", got, want)
		}
	})
}

// TestFence: every call says which log, which epoch, and how far the log is durable.
func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var last uint64
		for epoch := range txn.Epoch(2) {
			c := w.open()
			id, votes := w.begun(c)
			w.commit(c, id, votes, txn.AckApplied)
			c.Close()
			d := w.dbs["a"]
			f := d.fences[len(d.fences)-1]
			if f.Log != w.log || f.Epoch != epoch+1 || f.LSN <= last {
				t.Errorf("fence %+v after position %d", f, last)
			}
			last = f.LSN
		}
	})
}

// TestPlanBesideARunningCoordinator: what has no record may be live, and is left.
func TestPlanBesideARunningCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		w.begun(c)
		rows, err := c.Plan(t.Context(), nil)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%+v, %v", rows, err)
		}
		for _, r := range rows {
			if r.Label != 'F' {
				t.Errorf("a live branch is judged %s: %s", r.Label, r.Verdict)
			}
		}
	})
}
