package explore

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// intendedWorld is a world in which the intent of transaction 1 is durable and known to be, and all
// of its branches are prepared. Its client has not asked for the decision.
func intendedWorld(t *testing.T) (*world, *entry) {
	t.Helper()
	sc := Scenario{Resources: resources("ab", proves), Transactions: announced("a", "b"),
		Bounds: Bounds{Crashes: 1, Depositions: 1, Lingers: 4, Rollbacks: 1}}
	w := newWorld(&sc)
	for _, c := range []choice{{kind: doBegin}, {kind: doAnnounce}, {kind: doPersist},
		{kind: doPrepare}, {kind: doPrepare, b: 1}} {
		w.take(c)
	}
	e := &w.entries[0]
	if w.broken != nil || !e.asking || e.intent != bit(1)|bit(2) || !e.isPrepared(e.intent) {
		t.Fatalf("%+v", w)
	}
	return w, e
}

func told(e *entry, o txn.Outcome) *txn.Result { return &txn.Result{ID: e.id, Outcome: o} }

// wrongIntents must not be handed to the log.
func wrongIntents() []wrong {
	return []wrong{
		{"an intent of nobody's transaction", ClientTruth, func(w *world, _ *entry) {
			w.checkAppend(protocol.IntentRecord{ID: txn.NewID(logID, 7)})
		}},
		{"an intent after a rollback", ClientTruth, func(w *world, e *entry) {
			e.toldBack = true
			w.checkAppend(protocol.IntentRecord{ID: e.id})
		}},
		{"an intent by another epoch", ClientTruth, func(w *world, e *entry) {
			w.epoch++
			w.checkAppend(protocol.IntentRecord{ID: e.id})
		}},
		{"an intent without a branch", CommitValidity, func(w *world, e *entry) {
			e.intent = 0
			w.checkAppend(protocol.IntentRecord{ID: e.id,
				Branches: []protocol.CommitBranch{{Branch: 1, RM: 1}}})
		}},
		{"an abort of nobody's transaction", ClientTruth, func(w *world, _ *entry) {
			w.checkAppend(protocol.AbortRecord{ID: txn.NewID(logID, 7)})
		}},
		{"an abort after the commit", ClientTruth, func(w *world, e *entry) {
			e.committed = true
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		}},
		{"an abort after a commit was told", AcknowledgedDurability, func(w *world, e *entry) {
			e.told = txn.OutcomeCommitted
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		}},
		{"an abort beside a commit", UnknownAppend, func(w *world, e *entry) {
			w.take(choice{kind: doCommit})
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		}},
	}
}

// wrongWhileIntended must not be done or said while nothing but an intent is durable.
func wrongWhileIntended() []wrong {
	return []wrong{
		{"a rollback message", UnknownAppend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActRollback, 1, name1(1)))
		}},
		{"told rolled back", UnknownAppend, func(w *world, e *entry) {
			w.checkResult(told(e, txn.OutcomeRolledBack))
		}},
		{"told committed without a proof of ownership", UnknownAppend,
			func(w *world, e *entry) { w.checkResult(told(e, txn.OutcomeCommitted)) }},
		{"told committed while the proof is older than the last branch", UnknownAppend,
			func(w *world, e *entry) {
				e.branches[1].prepared = false
				w.prove()
				e.branches[1].prepared = true
				w.checkResult(told(e, txn.OutcomeCommitted))
			}},
		{"told committed beside an abort", UnknownAppend, func(w *world, e *entry) {
			w.prove()
			w.take(choice{kind: doRollback})
			w.checkResult(told(e, txn.OutcomeCommitted))
		}},
		{"told committed before the intent is durable", LogBeforeSend,
			func(w *world, e *entry) {
				w.prove()
				e.asking = false
				w.checkResult(told(e, txn.OutcomeCommitted))
			}},
		{"refused as decided", LogBeforeSend, func(w *world, e *entry) {
			w.checkRefusal(request{event: protocol.Rollback{ID: e.id}},
				refusal(txn.ReasonAlreadyDecided))
		}},
		{"a log that has lost the intent", AcknowledgedDurability, func(w *world, e *entry) {
			e.told = txn.OutcomeCommitted
			w.checkReplay(protocol.NewState(logID))
		}},
		{"an invented loss", NoMaskedHeuristic, func(w *world, e *entry) {
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 1, RM: 1,
				What: txn.BranchHeuristicHazard})
		}},
		{"COMMIT before its record", LogBeforeSend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActCommit, 1, name1(1)))
		}},
	}
}

// TestGoodIntents: what is right while nothing but an intent is durable is not complained about.
func TestGoodIntents(t *testing.T) {
	for name, do := range map[string]func(w *world, e *entry){
		"told committed after the proof": func(w *world, e *entry) {
			w.prove()
			w.checkResult(told(e, txn.OutcomeCommitted))
			w.checkRefusal(request{event: protocol.Rollback{ID: e.id}},
				refusal(txn.ReasonAlreadyDecided))
		},
		"told rolled back after the abort": func(w *world, e *entry) {
			w.take(choice{kind: doRollback})
			w.persist()
			if e.told != txn.OutcomeRolledBack || !e.aborted {
				w.fail(Liveness, "nobody was told")
			}
		},
		"a loss that cannot be ruled out": func(w *world, e *entry) {
			w.failover(0, 0)
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 1, RM: 1,
				What: txn.BranchHeuristicHazard})
		},
		"a person without a trace": func(w *world, e *entry) {
			w.prove()
			w.checkResult(told(e, txn.OutcomeCommitted))
			w.intervene(0, 0, false)
			w.take(choice{kind: doCrash})
			w.settle()
			if e.told != txn.OutcomeRolledBack {
				w.fail(Liveness, "told %s", e.told)
			}
		},
		"a reader beside them": func(w *world, e *entry) {
			e.branches = append(e.branches, truth{readOnly: true})
			w.checkAppend(protocol.IntentRecord{ID: e.id})
		},
		"a branch for a person": func(w *world, e *entry) {
			e.heuristic = bit(2)
			if len(w.inDoubt()) != 0 {
				w.fail(Liveness, "a machine has to finish %v", w.inDoubt())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, e := intendedWorld(t)
			do(w, e)
			if w.broken != nil {
				t.Error(*w.broken)
			}
		})
	}
}

// TestANextEpochAsks: of an intent alone the next epoch finds out what it has come to.
func TestANextEpochAsks(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*world)
		want txn.Outcome
	}{
		{"all prepared", func(*world) {}, txn.OutcomeCommitted},
		{"one rolled back by a person", func(w *world) { w.intervene(1, 0, false) },
			txn.OutcomeRolledBack},
		{"one lost", func(w *world) { w.failover(1, 1) }, txn.OutcomeHeuristicHazard},
		{"a failover that loses nothing", func(w *world) { w.failover(1, 0) },
			txn.OutcomeCommitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, e := intendedWorld(t)
			c.do(w)
			w.take(choice{kind: doCrash})
			w.settle()
			if w.broken != nil || e.told != c.want {
				t.Errorf("told %s, want %s: %v", e.told, c.want, w.broken)
			}
		})
	}
}

// TestDeposedOwner: who is deposed hears of what became durable before, of proofs of before, and of
// nothing that it appends afterwards; what it replies counts.
func TestDeposedOwner(t *testing.T) {
	w, e := intendedWorld(t)
	w.take(choice{kind: doCommit})
	w.take(choice{kind: doDepose, b: 1})
	if w.former == nil || w.former.epoch != 1 || w.epoch != 2 || len(w.requests) != 0 {
		t.Fatalf("%+v", w)
	}
	var kinds []kind
	for _, c := range w.formerChoices(nil) {
		kinds = append(kinds, c.kind)
	}
	if len(kinds) != 2 || kinds[0] != doRollback || kinds[1] != doConfirm {
		t.Fatalf("the deposed owner may do %v", kinds)
	}
	w.trace = &trace{}
	w.take(choice{kind: doConfirm, former: true})
	if e.told != txn.OutcomeCommitted || e.committed || !w.sights["told by a deposed owner"] {
		t.Errorf("told %s by\n%s", e.told, w.trace.b.String())
	}
	w.settle()
	if w.broken != nil || !e.committed || w.former != nil {
		t.Errorf("%v, committed: %v", w.broken, e.committed)
	}
	if !strings.Contains(w.trace.b.String(), "the deposed owner goes on") {
		t.Errorf("the history does not say who acts:\n%s", w.trace.b.String())
	}
}

// TestDeposedOwnerHearsOfItsLog: what of its appends is durable, and no more.
func TestDeposedOwnerHearsOfItsLog(t *testing.T) {
	w, e := intendedWorld(t)
	w.take(choice{kind: doCommit})
	w.take(choice{kind: doDepose, a: 1})
	w.take(choice{kind: doPersist, former: true})
	if e.told != txn.OutcomeCommitted || !e.committed || len(w.calls) != 2+2 {
		t.Errorf("told %s, and %d calls are under way", e.told, len(w.calls))
	}
	for _, c := range w.formerChoices(nil) {
		if c.kind == doPersist || c.kind == doConfirm {
			t.Errorf("the deposed owner may do step %d", c.kind)
		}
	}
	w.dismiss()
	for _, c := range w.calls {
		if c.stale != (c.epoch == 1) {
			t.Errorf("%s is stale: %v", describeCall(w, c), c.stale)
		}
	}
}

// TestDeposedOwnerEnds: after its last step it is never heard of again.
func TestDeposedOwnerEnds(t *testing.T) {
	w, e := intendedWorld(t)
	w.left.Lingers = 1
	w.take(choice{kind: doDepose})
	w.take(choice{kind: doRollback, former: true})
	if w.former != nil || len(w.formerChoices(nil)) != 0 || w.left.Lingers != 0 {
		t.Errorf("%+v", w.former)
	}
	if e.told != txn.OutcomeUnknown || len(w.requests) != 0 {
		t.Errorf("told %s; %v wait at the new owner", e.told, w.requests)
	}
}

// TestTwoAreDeposed: only the last one goes on.
func TestTwoAreDeposed(t *testing.T) {
	w, _ := intendedWorld(t)
	w.take(choice{kind: doDepose})
	w.take(choice{kind: doDepose})
	if w.former.epoch != 2 || w.epoch != 3 || w.former.deposed != true || w.deposed {
		t.Errorf("epoch %d was deposed by %d", w.former.epoch, w.epoch)
	}
	if len(w.calls) != 4 {
		t.Errorf("%d inquiries are under way", len(w.calls))
	}
	w.crash(0)
	for _, c := range w.calls {
		if c.stale != (c.epoch < 4) {
			t.Errorf("%s is stale: %v", describeCall(w, c), c.stale)
		}
	}
}

// TestConfirmIsCumulative: the answer to a round stands for those before.
func TestConfirmIsCumulative(t *testing.T) {
	w, _ := intendedWorld(t)
	w.confirms = []confirm{{round: 1}, {round: 2}, {round: 3}}
	w.confirmed(1)
	if len(w.confirms) != 1 || w.confirms[0].round != 3 || !w.confirms[0].proven {
		t.Errorf("%v", w.confirms)
	}
}

// TestInquiries: what a resource answers about a branch, and by what evidence.
func TestInquiries(t *testing.T) {
	for _, c := range []struct {
		name string
		how  func(*Resource)
		ops  []opKind
		want txn.Standing
		xid  uint64
	}{
		{"prepared", proves, []opKind{opPrepare}, txn.StandingPrepared, firstXID},
		{"never prepared", proves, nil, txn.StandingGone, 0},
		{"rolled back without a trace", proves, []opKind{opPrepare, opRollback},
			txn.StandingGone, 0},
		{"prepared, no evidence", forgets, []opKind{opPrepare}, txn.StandingPrepared, 0},
		{"remembered as prepared", commitsPlainly, []opKind{opPrepare}, txn.StandingPrepared,
			firstXID},
		{"remembered as rolled back", commitsPlainly, []opKind{opPrepare, opRollback},
			txn.StandingRolledBack, firstXID},
		{"remembered as committed", commitsPlainly, []opKind{opPlain}, txn.StandingCommitted, 0},
		{"not remembered", commitsPlainly, nil, txn.StandingRolledBack, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := Scenario{Resources: resources("a", c.how), Transactions: ofClient("a")}
			w := newWorld(&sc)
			r := &w.resources[0]
			ev := txn.Evidence{Identity: r.identity, Position: r.position()}
			for _, kind := range c.ops {
				r.write(kind, named(1))
			}
			s, found := w.inquireAt(r, named(1), ev)
			if s != c.want || found.XID != c.xid || found.Identity != r.identity ||
				found.Position != r.position() {
				t.Errorf("%s by %+v, want %s by %d", s, found, c.want, c.xid)
			}
			r.failover(0)
			if _, found := w.inquireAt(r, named(1), ev); found.Timeline != 2 {
				t.Errorf("after a failover it answers from timeline %d", found.Timeline)
			}
		})
	}
}
