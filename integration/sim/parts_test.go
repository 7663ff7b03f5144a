package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// TestAgenda: what is planned happens in the order of its time, and of its planning within one
// instant; what is planned for the past happens now.
func TestAgenda(t *testing.T) {
	var a agenda
	rng := rand.New(rand.NewPCG(1, 1))
	type stamp struct {
		at    instant
		order int
	}
	var want, got []stamp
	for i := range 500 {
		s := stamp{instant(rng.IntN(50)), i}
		want = append(want, s)
		a.at(s.at, func() {
			if a.now != s.at {
				t.Fatalf("it is %d, and %d was planned", a.now, s.at)
			}
			got = append(got, s)
		})
	}
	slices.SortStableFunc(want, func(x, y stamp) int { return int(x.at - y.at) })
	for do := a.next(); do != nil; do = a.next() {
		do()
	}
	if !slices.Equal(got, want) {
		t.Error("another order")
	}
	late := a.now
	a.at(1, func() {})
	if a.next(); a.now != late {
		t.Errorf("the clock went from %d to %d", late, a.now)
	}
}

func name(seq txn.Seq) txn.Name { return txn.Name{Log: logID, Seq: seq, Branch: 1} }

// TestServerHistory: a new server on the next timeline knows what it has, and says what it lacks;
// numbers that left nothing behind are given out again.
func TestServerHistory(t *testing.T) {
	s := newServer(txn.Identity{System: 1})
	x := s.open(name(1), 1)
	s.drop(x)
	s.write(opPrepare, name(1), x.xid)
	vote := s.position()
	s.finish(name(1), true)
	y := s.open(name(2), 1)
	if s.status(x.xid) != txn.StandingCommitted || y.xid != x.xid+1 {
		t.Errorf("%s, numbers %d and %d", s.status(x.xid), x.xid, y.xid)
	}
	f := s.fork(1)
	if !f.isPrepared(name(1)) || !f.contains(vote) || f.contains(s.position()) {
		t.Errorf("a fork with %+v, cut at %+v", f.rows, f.forks)
	}
	g := f.fork(1)
	if g.contains(vote) || g.timeline != 3 || g.status(x.xid) != txn.StandingGone {
		t.Errorf("a fork of it on %d: %s", g.timeline, g.status(x.xid))
	}
	z := s.backup(1)
	if z.timeline != 1 || !before(z.position(), s.position()) || !z.isPrepared(name(1)) ||
		z.open(name(4), 1).xid != y.xid {
		t.Errorf("a backup at %+v with %+v", z.position(), z.rows)
	}
	lost := s.crash()
	if len(lost) != 1 || !y.gone || s.open(name(3), 1).xid != y.xid {
		t.Errorf("%d sessions lost; the next number is %d", len(lost), s.nextXID)
	}
}

// quietWorld is a world in which nothing happens by itself.
func quietWorld() *world {
	o := draw(1, false, noFlaw)
	o.calm, o.cut, o.refuse = true, 0, 0
	o.databases = []databaseOptions{{slots: 1, decoys: true}, {slots: 64, kv: true, hosted: true}}
	w := newWorld(1, o, nil)
	w.agenda = agenda{}
	return w
}

func ask(d *database, what core.What, f txn.Fence, b ...participant.Branch) core.Answer {
	return d.serve(question{what: what, fence: f, branches: b})
}

// TestDatabaseFences: a lower epoch is refused, and so is a higher one with a lower position; what
// was refused has done nothing.
func TestDatabaseFences(t *testing.T) {
	d := quietWorld().dbs[0]
	for _, c := range []struct {
		epoch txn.Epoch
		lsn   uint64
		want  error
	}{
		{2, 10, nil}, {2, 4, nil}, {1, 99, participant.ErrFenced},
		{3, 9, participant.ErrRegression}, {3, 10, nil}, {2, 10, participant.ErrFenced},
	} {
		a := ask(d, core.List, txn.Fence{Log: logID, Epoch: c.epoch, LSN: c.lsn})
		if !errors.Is(a.Err, c.want) || (a.Err == nil) != (c.want == nil) {
			t.Errorf("epoch %d at %d: %v", c.epoch, c.lsn, a.Err)
		}
		if a.Err == nil && len(a.Listing.Branches) != 3 {
			t.Errorf("%d branches are listed", len(a.Listing.Branches))
		}
	}
}

// TestDatabaseGoesAstray: an adapter holds what is asked of a server with a lower timeline or
// another identity, and one that was just started shows it.
func TestDatabaseGoesAstray(t *testing.T) {
	d := quietWorld().dbs[0]
	f := txn.Fence{Log: logID, Epoch: 1}
	ask(d, core.List, f)
	d.failover(0)
	ask(d, core.List, f)
	for _, s := range []*server{d.old, newServer(txn.Identity{System: 99})} {
		d.at, d.forgetful = s, false
		if a := ask(d, core.List, f); !errors.Is(a.Err, errHeld) {
			t.Errorf("listed on timeline %d: %v", s.timeline, a.Err)
		}
		if a := ask(d, core.Commit, f); a.Err != nil || len(a.Findings) != 0 {
			t.Errorf("%+v", a)
		}
		d.forgetful = true
		a := ask(d, core.List, f)
		if a.Err != nil || a.Listing.Position.Timeline != 1 || a.Listing.Identity != s.identity {
			t.Errorf("%+v", a)
		}
	}
}

// TestDatabaseIsRestored: a backup beside the primary is held, and only the adapter is led to it.
// If it becomes the primary, it is on a new timeline, and lacks what it has lacked.
func TestDatabaseIsRestored(t *testing.T) {
	d := quietWorld().dbs[0]
	f := txn.Fence{Log: logID, Epoch: 1}
	for range 50 {
		d.primary.other()
	}
	ask(d, core.List, f)
	d.restored()
	if d.at == d.primary || d.front() != d.primary || d.at.timeline != 1 {
		t.Errorf("led to %+v, and clients to %+v", d.at.position(), d.front().position())
	}
	a := ask(d, core.Commit, f, participant.Branch{Name: name(1)})
	b := ask(d, core.List, f)
	if a.Findings[0].Standing != txn.StandingHeld || !d.forgetful && !errors.Is(b.Err, errHeld) {
		t.Errorf("%+v, %+v", a, b.Err)
	}
	if d.w.count[restore] != 1 {
		t.Errorf("%d restores", d.w.count[restore])
	}
	lsn := d.at.lsn
	d.giveUp()
	if d.at != d.primary || d.at.timeline != 2 || d.at.forks[0].end != lsn {
		t.Errorf("the primary is on %d, cut at %+v", d.at.timeline, d.at.forks)
	}
	d.restored()
	for before(d.at.position(), d.seen) {
		d.at.other()
	}
	if ask(d, core.List, f); d.at != d.primary {
		t.Error("a backup that has caught up is listed")
	}
}

// TestOnePhaseIsForGood: a branch that was ruled out stays so, and the answer to a repeated call is
// the same.
func TestOnePhaseIsForGood(t *testing.T) {
	w := quietWorld()
	d := w.dbs[1]
	begun := &txn.Begun{ID: txn.NewID(logID, 1),
		Branches: []txn.Enlisted{{Branch: 1, Resource: "b"}}}
	for seq := range txn.Seq(2) {
		begun.ID = txn.NewID(logID, 1+seq)
		w.book.begun(newLife(w, 1), txn.BeginRequest{}, begun)
	}
	f := txn.Fence{Log: logID, Epoch: 1}
	d.at.open(name(1), 1)
	for range 2 {
		for seq, want := range []txn.Standing{txn.StandingCommitted, txn.StandingRolledBack} {
			a := ask(d, core.OnePhase, f, participant.Branch{Name: name(txn.Seq(1 + seq))})
			if len(a.Findings) != 1 || a.Findings[0].Standing != want {
				t.Errorf("%d: %+v", seq, a)
			}
		}
	}
}

// TestInquiryShowsEvidence: of what is prepared an inquiry shows the vote. Of what is not, only a
// database that remembers how branches ended knows a number, and only if there was a vote.
func TestInquiryShowsEvidence(t *testing.T) {
	w := quietWorld()
	f := txn.Fence{Log: logID, Epoch: 1}
	for i, d := range w.dbs {
		seq := txn.Seq(1 + i)
		begun := &txn.Begun{ID: txn.NewID(logID, seq),
			Branches: []txn.Enlisted{{Branch: 1, Resource: d.name}}}
		w.book.begun(newLife(w, 1), txn.BeginRequest{}, begun)
		b := participant.Branch{Name: name(seq),
			Evidence: txn.Evidence{Identity: d.identity, Position: d.at.position()}}
		vote := d.prepare(d.at.open(b.Name, 1))
		got := ask(d, core.Inquire, f, b).Findings[0]
		if got.Standing != txn.StandingPrepared || got.Evidence != vote {
			t.Errorf("%s is prepared with %+v: %+v", d.name, vote, got)
		}
		d.at.finish(b.Name, false)
		got = ask(d, core.Inquire, f, b).Findings[0]
		want := txn.Evidence{Identity: d.identity, Position: d.at.position()}
		standing := txn.StandingGone
		if d.spec.kv {
			want.XID, standing = vote.XID, txn.StandingRolledBack
		}
		if got.Standing != standing || got.Evidence != want {
			t.Errorf("%s has rolled back: %+v", d.name, got)
		}
	}
}

// TestAbsent: that a branch is not listed refutes an intent, unless a failover may have taken it or
// its database remembers what has ended.
func TestAbsent(t *testing.T) {
	w := quietWorld()
	for _, c := range []struct {
		db                        int
		prepared, human           bool
		timeline                  uint32
		wantAbsent, wantOverruled bool
	}{
		{0, false, false, 2, true, false}, {0, true, false, 2, false, false},
		{0, true, true, 2, true, true}, {0, true, false, 1, true, false},
		{1, false, false, 1, true, false}, {1, true, true, 1, false, false},
	} {
		e := &entry{id: txn.NewID(logID, 1), intent: bit(1), asking: true, branches: []truth{{
			db: c.db, prepared: c.prepared, humanRollback: c.human,
			intended: txn.Evidence{Position: txn.Position{Timeline: 1}}}}}
		w.book.bySq[1] = e
		w.book.inquired(name(1), c.timeline, false)
		if e.refuted() != c.wantAbsent || w.overruled(e) != c.wantOverruled {
			t.Errorf("%+v: refuted %v, overruled %v", c, e.refuted(), w.overruled(e))
		}
	}
}

// TestMarkers: whoever writes the marker first decides, and each later question has the same
// answer.
func TestMarkers(t *testing.T) {
	w := quietWorld()
	d, f := w.dbs[0], txn.Fence{Log: logID, Epoch: 1}
	decision := string(txn.AppendDecision(nil, []txn.BranchVote{{Branch: 2,
		Vote: txn.VoteReadOnly}}))
	decide := func(n txn.Name) participant.Finding {
		return ask(d, core.Decide, f, participant.Branch{Name: n}).Findings[0]
	}
	var b []*branch
	for seq := txn.Seq(1); seq <= 3; seq++ {
		begun := &txn.Begun{ID: txn.NewID(logID, seq),
			Branches: []txn.Enlisted{{Branch: 1, Resource: "a"}}}
		w.book.begun(newLife(w, 1), txn.BeginRequest{}, begun)
		b = append(b, &branch{name: name(seq), d: d, server: d.at, session: d.at.open(name(seq), 1),
			at: txn.Evidence{Identity: d.identity, Position: d.at.position()}})
	}
	if v, ev := d.commitMarked(b[0], decision); v != txn.VoteCommitted || ev.XID == 0 ||
		d.at.status(ev.XID) != txn.StandingCommitted {
		t.Errorf("the first one votes %s, with %+v", v, ev)
	}
	b[2].session.marking = true
	for range 2 {
		first, second, third := decide(name(1)), decide(name(2)), decide(name(3))
		if first.Standing != txn.StandingCommitted || len(first.Votes) != 1 ||
			first.Evidence.Identity != d.identity || second.Standing != txn.StandingRolledBack ||
			second.Evidence.Position != d.at.position() || third.Standing != txn.StandingUnknown {
			t.Errorf("%+v, %+v, %+v", first, second, third)
		}
	}
	if v, _ := d.commitMarked(b[1], decision); v != txn.VoteNo || w.count[markedLate] != 1 ||
		w.count[decidedNever] != 1 {
		t.Errorf("a late one votes %s: %s", v, &w.count)
	}
	ids := []txn.ID{b[0].name.ID(), b[1].name.ID()}
	if l := ask(d, core.List, f).Listing; !slices.Equal(l.Markers, ids[:1]) {
		t.Errorf("%v are listed", l.Markers)
	}
	d.serve(question{what: core.RemoveMarkers, fence: f, ids: ids})
	if _, kept := d.at.markers[ids[1]]; len(d.at.marked()) != 0 || !kept {
		t.Errorf("%q are left", d.at.markers)
	}
}

// TestMarkersElsewhere: nobody commits with a marker but where the delegate was registered, and a
// failover takes the marker with the commit.
func TestMarkersElsewhere(t *testing.T) {
	w := quietWorld()
	d := w.dbs[0]
	begun := &txn.Begun{ID: txn.NewID(logID, 1),
		Branches: []txn.Enlisted{{Branch: 1, Resource: "a"}}}
	w.book.begun(newLife(w, 1), txn.BeginRequest{}, begun)
	at := txn.Evidence{Identity: d.identity, Position: d.at.position()}
	another, further := newServer(txn.Identity{System: 99}), d.primary.fork(0)
	for _, c := range []struct {
		server *server
		want   txn.Vote
	}{{another, txn.VoteNo}, {further, txn.VoteNo}, {d.primary, txn.VoteCommitted}} {
		b := &branch{name: name(1), d: d, server: c.server, at: at,
			session: c.server.open(name(1), 1)}
		if v, _ := d.commitMarked(b, "x"); v != c.want || (len(c.server.marked()) == 1) !=
			(v == txn.VoteCommitted) {
			t.Errorf("%+v votes %s, and has %v", c.server.position(), v, c.server.markers)
		}
	}
	held := participant.Branch{Name: name(1), Evidence: txn.Evidence{Identity: d.identity,
		Position: txn.Position{Timeline: 2}}}
	if f := d.decide(held); f.Standing != txn.StandingHeld {
		t.Errorf("%+v", f)
	}
	d.failover(0)
	if len(d.primary.marked()) != 1 || w.book.truth(name(1)).lost {
		t.Error("a failover without loss has lost a marker")
	}
	d.failover(len(d.primary.wal))
	if len(d.primary.marked()) != 0 || !w.book.truth(name(1)).lost || w.count[markerLost] != 1 {
		t.Error("a failover has kept the marker that it has lost")
	}
}

// TestReportSaysHow: a broken world is reported with its seed, its checker, its last lines and the
// one command that plays it again.
func TestReportSaysHow(t *testing.T) {
	var r report
	for seed := uint64(1); r.broken == nil; seed++ {
		r = play(seed, false, votesEarly, nil, nil)
	}
	text := r.String()
	for _, part := range []string{"commit validity", "append COMMIT", "commit validity is broken",
		"-run TestReplay -v -sim.world=bare -sim.seed="} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in %s", part, text)
		}
	}
}

// TestTally: what never happened is missing, except for what bare worlds cannot know.
func TestTally(t *testing.T) {
	var c, other tally
	for k := range c {
		c[k] = 1
	}
	c[tornWrite], c[twin] = 0, 0
	if m := c.missing(false); !slices.Equal(m, []string{"twin commits"}) {
		t.Errorf("%q", m)
	}
	if m := c.missing(true); !slices.Equal(m, []string{"torn writes", "twin commits"}) {
		t.Errorf("%q", m)
	}
	other[twin] = 3
	c.add(&other)
	if c[twin] != 3 || c[lost] != 1 || !strings.Contains(c.String(), "twin commits=3") {
		t.Error(c)
	}
}
