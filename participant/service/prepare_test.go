package service_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/txn"
)

// TestARollbackThatComesFirstIsKept: a rollback overtakes the work of its branch. The work that
// comes behind it is turned away, and the prepare that comes behind that is a No, also after a
// crash. Nothing is left that nobody would ever let go of.
func TestARollbackThatComesFirstIsKept(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	stands(t, o.Rollback, first, participant.Branch{Name: n}, txn.StandingGone)
	for range 2 {
		if err := o.try(t, n, 1, "late"); !errors.Is(err, service.ErrBranchLost) {
			t.Errorf("work that came late: %v, want ErrBranchLost", err)
		}
		if v := o.votes(t, first, n); v.Vote != txn.VoteNo || v.Reason == "" {
			t.Errorf("a prepare that came late: %v (%s), want NO", v.Vote, v.Reason)
		}
		stands(t, o.Commit, first, participant.Branch{Name: n}, txn.StandingGone)
		o = o.crash(t)
	}
	if got := o.disk.effect("late"); got != 0 {
		t.Errorf("%d effects", got)
	}
}

// TestAPrepareThatWasCutOff ends the process at each point of a prepare beside the journal. Whoever
// was not heard to say Yes is in doubt where the service may have prepared, and is rolled back.
func TestAPrepareThatWasCutOff(t *testing.T) {
	for _, when := range []string{"before the service", "after the service"} {
		t.Run(when, func(t *testing.T) {
			o, n := open(t, service.Config{}), name(1)
			fail := func(method string) error {
				if method == "prepare" {
					return errDrawer
				}
				return nil
			}
			if when == "before the service" {
				o.drawer.before = fail
			} else {
				o.drawer.after = fail
			}
			o.work(t, n, 1, "k")
			if v := o.votes(t, first, n); v.Vote != txn.VoteUnknown || v.Reason == "" {
				t.Fatalf("vote %v (%s), want UNKNOWN", v.Vote, v.Reason)
			}
			if err := o.try(t, n, 2, "more"); !errors.Is(err, service.ErrBranchLost) {
				t.Errorf("work behind a prepare: %v, want ErrBranchLost", err)
			}
			stands(t, o.Inquire, first, participant.Branch{Name: n}, txn.StandingUnknown)
			if l := o.listed(t, first); len(l) != 1 || l[0] != n {
				t.Errorf("listed: %v, want %v, which the service may have prepared", l, n)
			}
			o = o.crash(t)
			if l := o.listed(t, first); len(l) != 1 || l[0] != n {
				t.Errorf("listed after the crash: %v, want %v", l, n)
			}
			if v := o.votes(t, first, n); v.Vote != txn.VoteNo {
				t.Errorf("asked again after the crash: %v (%s), want NO", v.Vote, v.Reason)
			}
			if o.disk.holds(n) || len(o.listed(t, first)) != 0 {
				t.Error("the service keeps what it prepared")
			}
			stands(t, o.Rollback, first, participant.Branch{Name: n}, txn.StandingRolledBack)
		})
	}
}

// TestAPrepareIsAskedAgain: an error of the service is no vote, and the next time it may succeed.
func TestAPrepareIsAskedAgain(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	failed := false
	o.drawer.after = func(string) error {
		if failed {
			return nil
		}
		failed = true
		return errDrawer
	}
	o.work(t, n, 1, "k")
	if v := o.votes(t, first, n); v.Vote != txn.VoteUnknown {
		t.Fatalf("vote %v, want UNKNOWN", v.Vote)
	}
	v := o.votes(t, first, n)
	if v.Vote != txn.VoteYes {
		t.Fatalf("asked again: %v (%s)", v.Vote, v.Reason)
	}
	b := participant.Branch{Name: n, Evidence: v.Evidence}
	stands(t, o.Commit, first, b, txn.StandingCommitted)
	if got := o.disk.effect("k"); got != 1 {
		t.Errorf("%d effects", got)
	}
}

// TestAnInquiryOfANewerEpochEndsAPrepareThatWasCutOff: what it hears must stay true.
func TestAnInquiryOfANewerEpochEndsAPrepareThatWasCutOff(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	o.drawer.after = func(method string) error {
		if method == "prepare" {
			return errDrawer
		}
		return nil
	}
	o.work(t, n, 1, "k")
	o.votes(t, first, n)
	current := fenceAt(2, 2)
	b := participant.Branch{Name: n}
	got := stands(t, o.Inquire, current, b, txn.StandingRolledBack)
	if got.Evidence.XID != 0 || got.Evidence.Identity != o.Identity() {
		t.Errorf("evidence %+v of what was never prepared", got.Evidence)
	}
	if o.disk.holds(n) {
		t.Error("the service keeps what it prepared")
	}
	o = o.crash(t)
	stands(t, o.Inquire, current, b, txn.StandingRolledBack)
}

// TestVotes: what a service answers is bounded, and a vote that is not Yes is the branch's end.
func TestVotes(t *testing.T) {
	long := strings.Repeat("ä", txn.MaxReasonLen)
	for what, c := range map[string]struct {
		vote participant.Vote
		want txn.Vote
		then txn.Standing
	}{
		"no":           {service.No("sold out"), txn.VoteNo, txn.StandingRolledBack},
		"no, at odds":  {service.No(""), txn.VoteNo, txn.StandingRolledBack},
		"no, at large": {service.No(long), txn.VoteNo, txn.StandingRolledBack},
		"conflict": {participant.Vote{Vote: txn.VoteNo, Reason: "busy", SQLState: "40001"},
			txn.VoteNo, txn.StandingRolledBack},
		"read only": {service.ReadOnly(), txn.VoteReadOnly, txn.StandingGone},
	} {
		t.Run(what, func(t *testing.T) {
			o, n := open(t, service.Config{}), name(1)
			o.drawer.vote = &c.vote
			o.work(t, n, 1, "k")
			one := o.votes(t, first, n)
			if one.Vote != c.want || len(one.Reason) > txn.MaxReasonLen ||
				one.SQLState != c.vote.SQLState || c.want == txn.VoteNo && one.Reason == "" {
				t.Errorf("vote %+v", one)
			}
			if len(o.drawer.keys(n)) != 0 {
				t.Error("the service was not told to let go")
			}
			o = o.crash(t)
			if again := o.votes(t, first, n); again != one {
				t.Errorf("then %+v", again)
			}
			stands(t, o.Rollback, first, participant.Branch{Name: n}, c.then)
		})
	}
	o, n := open(t, service.Config{}), name(1)
	o.drawer.vote = &participant.Vote{Vote: txn.VoteCommitted}
	o.work(t, n, 1, "k")
	if v := o.votes(t, first, n); v.Vote != txn.VoteUnknown || v.Reason == "" {
		t.Errorf("a vote that a branch cannot have: %+v", v)
	}
}

// TestANoThatCannotBeRolledBack is no No yet: the service may still hold something.
func TestANoThatCannotBeRolledBack(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	no := service.No("sold out")
	o.drawer.vote = &no
	o.drawer.before = func(string) error { return errDrawer }
	o.work(t, n, 1, "k")
	if v := o.votes(t, first, n); v.Vote != txn.VoteUnknown {
		t.Errorf("vote %v, want UNKNOWN", v.Vote)
	}
	o.drawer.before, o.drawer.vote = nil, nil
	if v := o.votes(t, first, n); v.Vote != txn.VoteNo {
		t.Errorf("then %v (%s), want the same NO", v.Vote, v.Reason)
	}
}

// TestAnOlderEpochsWorkIsRolledBack when the newer one is heard of, and not prepared by it.
func TestAnOlderEpochsWorkIsRolledBack(t *testing.T) {
	o := open(t, service.Config{})
	if err := o.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	o.work(t, name(1), 1, "a")
	current := fenceAt(2, 2)
	if err := o.Hello(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	if len(o.drawer.keys(name(1))) != 0 {
		t.Error("the service was not told to let go")
	}
	if err := o.try(t, name(1), 2, "b"); !errors.Is(err, service.ErrBranchLost) {
		t.Errorf("more work: %v, want ErrBranchLost", err)
	}
	if v := o.votes(t, current, name(1)); v.Vote != txn.VoteNo {
		t.Errorf("vote %v, want NO", v.Vote)
	}
	o.work(t, name(2), 1, "c")
	if v := o.votes(t, current, name(2)); v.Vote != txn.VoteYes {
		t.Errorf("the new epoch's own branch: %v (%s)", v.Vote, v.Reason)
	}
}

// TestTheRoomForPreparedBranchesIsBounded: beyond it branches vote No.
func TestTheRoomForPreparedBranchesIsBounded(t *testing.T) {
	o := open(t, service.Config{MaxPrepared: 2})
	o.prepared(t, name(1), "a")
	b := o.prepared(t, name(2), "b")
	d, err := o.Describe(t.Context())
	if err != nil || d.Used != 2 || d.Limit != 2 || d.Checks[0].Level != participant.LevelWarn {
		t.Errorf("%+v, %v", d, err)
	}
	o.work(t, name(3), 1, "c")
	if v := o.votes(t, first, name(3)); v.Vote != txn.VoteNo {
		t.Errorf("vote %v, want NO", v.Vote)
	}
	stands(t, o.Commit, first, b, txn.StandingCommitted)
	o.prepared(t, name(4), "d")
}

// TestAPanicIsNoWork: a call of Work that did not return leaves a branch that votes No.
func TestAPanicIsNoWork(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	func() {
		defer func() { _ = recover() }()
		_ = o.Work(t.Context(), n, 1, func(context.Context) error { panic("halfway") })
	}()
	if v := o.votes(t, first, n); v.Vote != txn.VoteNo {
		t.Errorf("vote %v, want NO", v.Vote)
	}
}

// TestBranchesThatAreLeftAloneAreGivenUp when there is other work, and never prepared.
func TestBranchesThatAreLeftAloneAreGivenUp(t *testing.T) {
	c := newClock()
	o := open(t, service.Config{Now: c.Now, IdleAfter: time.Minute, MaxWorking: 2})
	o.work(t, name(1), 1, "a")
	c.advance(40 * time.Second)
	o.work(t, name(2), 1, "b")
	var refusal *txn.Refusal
	if err := o.try(t, name(3), 1, "c"); !errors.As(err, &refusal) ||
		refusal.Reason != txn.ReasonOverloaded {
		t.Errorf("a third branch: %v, want a refusal", err)
	}
	c.advance(40 * time.Second)
	o.work(t, name(3), 1, "c")
	if v := o.votes(t, first, name(1)); v.Vote != txn.VoteNo {
		t.Errorf("the branch that was left alone: %v, want NO", v.Vote)
	}
	if v := o.votes(t, first, name(2)); v.Vote != txn.VoteYes {
		t.Errorf("the other one: %v (%s)", v.Vote, v.Reason)
	}
	// A listing gives up too: a service without new work must not hold what nobody wants.
	c.advance(2 * time.Minute)
	o.listed(t, first)
	if keys := o.drawer.keys(name(3)); len(keys) != 0 {
		t.Errorf("still held: %v", keys)
	}
}

// TestBranchesThatCannotBeGivenUpHoldNobodyUp: one call gives up no more than 16, those first that
// were unused for longest. What the service does not roll back is tried again behind the others.
func TestBranchesThatCannotBeGivenUpHoldNobodyUp(t *testing.T) {
	const stuck, all = 16, 20
	c := newClock()
	o := open(t, service.Config{Now: c.Now, IdleAfter: time.Minute})
	for seq := range txn.Seq(all) {
		o.work(t, name(1+seq), 1, "k")
	}
	tries := 0
	o.drawer.before = func(string) error {
		if tries++; tries <= stuck {
			return errDrawer
		}
		return nil
	}
	held := func() (n int) {
		for seq := range txn.Seq(all) {
			n += len(o.drawer.keys(name(1 + seq)))
		}
		return n
	}
	c.advance(2 * time.Minute)
	o.listed(t, first)
	if tries != stuck || held() != all {
		t.Errorf("%d were tried first, and %d are held", tries, held())
	}
	o.listed(t, first)
	if tries != all || held() != stuck || len(o.drawer.keys(name(all))) != 0 {
		t.Errorf("%d were tried then, and %d are held", tries, held())
	}
	// They never commit, and go when the service lets them.
	if v := o.votes(t, first, name(1)); v.Vote != txn.VoteNo {
		t.Errorf("one that was given up: %v, want NO", v.Vote)
	}
	c.advance(2 * time.Minute)
	o.listed(t, first)
	if held() != 0 {
		t.Errorf("%d are held in the end", held())
	}
}
