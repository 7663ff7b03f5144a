package explore

import (
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

func oneResource(how func(*Resource)) *resource {
	sc := Scenario{Resources: resources("a", how)}
	r := newResource(&sc, 0)
	return &r
}

func named(seq txn.Seq) txn.Name { return txn.Name{Log: logID, Seq: seq, Branch: 1} }

// TestStandings walks a branch through its life, and through the ways in which it is asked for.
func TestStandings(t *testing.T) {
	r := oneResource(proves)
	n := named(1)
	expect := func(at string, want txn.Standing) {
		t.Helper()
		if got, _ := r.standing(n); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	expect("before", txn.StandingUnknown)
	o := r.write(opPrepare, n)
	ev := r.evidenceOf(o)
	expect("prepared", txn.StandingPrepared)
	if got := r.judge(ev); got != txn.StandingUnknown {
		t.Errorf("evidence of a prepared branch: %s", got)
	}
	r.write(opCommit, n)
	expect("committed", txn.StandingCommitted)
	if got := r.judge(ev); got != txn.StandingCommitted {
		t.Errorf("evidence of a committed branch: %s", got)
	}
	r.write(opPrepare, named(2))
	second := r.evidenceOf(r.wal[len(r.wal)-1])
	r.write(opRollback, named(2))
	if got := r.judge(second); got != txn.StandingRolledBack || second.XID == ev.XID {
		t.Errorf("evidence of a branch that was rolled back: %s", got)
	}
}

// TestFailovers: what a standby lacks is gone, its number is given out again, and only a history
// that contains the vote lets the number speak.
func TestFailovers(t *testing.T) {
	r := oneResource(proves)
	kept := r.evidenceOf(r.write(opPrepare, named(1)))
	r.write(opCommit, named(1))
	lost := r.evidenceOf(r.write(opPrepare, named(2)))
	r.open(named(9))
	cut := r.failover(1)
	if len(cut) != 1 || cut[0].name != named(2) || len(r.sessions) != 0 || r.timeline != 2 {
		t.Fatalf("cut %v, sessions %v, timeline %d", cut, r.sessions, r.timeline)
	}
	stranger := r.evidenceOf(r.write(opPrepare, named(3)))
	r.write(opCommit, named(3))
	if stranger.XID != lost.XID {
		t.Fatalf("the number of a lost branch, %d, is not given out again: %d", lost.XID,
			stranger.XID)
	}
	if got := r.judge(lost); got != txn.StandingGone {
		t.Errorf("a lost branch is %s by the number of another", got)
	}
	if got := r.judge(kept); got != txn.StandingCommitted {
		t.Errorf("a branch that every timeline has is %s", got)
	}
	// Back before the first fork: now even the older branch is in no history.
	r.failover(len(r.wal))
	if got := r.judge(kept); got != txn.StandingGone {
		t.Errorf("a branch that was cut off later is %s", got)
	}
	if got := r.absent(txn.Evidence{Position: txn.Position{Timeline: 1}}); got != txn.StandingGone {
		t.Errorf("what a failover may have lost is %s", got)
	}
}

// TestACommitThatIsCutOff leaves its branch prepared.
func TestACommitThatIsCutOff(t *testing.T) {
	r := oneResource(proves)
	r.write(opPrepare, named(1))
	r.write(opCommit, named(1))
	r.failover(1)
	if !slices.Equal(r.prepared(), []txn.Name{named(1)}) {
		t.Errorf("prepared: %v", r.prepared())
	}
}

func TestWithoutEvidenceEverythingIsGone(t *testing.T) {
	r := oneResource(forgets)
	ev := r.evidenceOf(r.write(opPrepare, named(1)))
	r.write(opCommit, named(1))
	if got := r.judge(ev); got != txn.StandingGone || ev.IsZero() {
		t.Errorf("%s by %+v", got, ev)
	}
}

func TestFence(t *testing.T) {
	r := oneResource(proves)
	for _, c := range []struct {
		epoch   txn.Epoch
		ignored bool
		in      bool
		fence   txn.Epoch
	}{
		{2, false, true, 2}, {1, false, false, 2}, {2, false, true, 2}, {1, true, true, 2},
		{3, false, true, 3},
	} {
		if in := r.admit(c.epoch, c.ignored); in != c.in || r.fence != c.fence {
			t.Errorf("epoch %d: let in %v, fence %d; want %v, %d", c.epoch, in, r.fence, c.in,
				c.fence)
		}
	}
}

// TestListings: decoys are shown as what they are, or, by a mistaken adapter, as its own.
func TestListings(t *testing.T) {
	r := oneResource(isShared)
	r.write(opPrepare, named(1))
	honest, mistaken := r.listed(false), r.listed(true)
	if len(honest) != 4 || honest[0].Name != named(1) || honest[1].Name.Log != foreignLog ||
		honest[2].Ours {
		t.Errorf("an honest list: %v", honest)
	}
	for _, n := range mistaken {
		if !n.Ours || n.Name.Log != logID {
			t.Errorf("a mistaken list has %v", n)
		}
	}
	if r.decoys[0].Name.Log != foreignLog {
		t.Error("the list has changed the decoys")
	}
}
