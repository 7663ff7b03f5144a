package explore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// decidedWorld is a world in which transaction 1 is prepared everywhere and its COMMIT is in
// flight.
func decidedWorld(t *testing.T) (*world, *entry) {
	t.Helper()
	sc := Scenario{Resources: resources("ab", proves), Transactions: keyed("k",
		append(ofClient("a", "b"), ofClient("a", "b")...))}
	w := newWorld(&sc)
	for _, c := range []choice{{kind: doBegin}, {kind: doPrepare}, {kind: doPrepare, b: 1},
		{kind: doCommit}} {
		w.take(c)
	}
	if w.broken != nil || !w.deciding(w.entries[0].id) {
		t.Fatalf("%+v", w)
	}
	return w, &w.entries[0]
}

// durableWorld is one step further: the COMMIT is durable, and two calls are on their way.
func durableWorld(t *testing.T) (*world, *entry) {
	t.Helper()
	w, e := decidedWorld(t)
	w.take(choice{kind: doPersist})
	if w.broken != nil || !e.committed || len(w.calls) != 2 {
		t.Fatalf("%+v", w)
	}
	return w, e
}

func name1(branch txn.BranchNo) txn.Name { return txn.Name{Log: logID, Seq: 1, Branch: branch} }

func message(act protocol.Act, rm protocol.RM, n txn.Name) protocol.Message {
	return protocol.Message{Act: act, RM: rm, Name: n, ID: n.ID()}
}

func refusal(r txn.Reason) error { return txn.Refusef(r, "", "no") }

// wrong is one thing that a machine must not do, and the checker that says so.
type wrong struct {
	name string
	want Checker
	do   func(w *world, e *entry)
}

// commitOf is the decision that is right for a transaction.
func commitOf(e *entry) protocol.CommitRecord {
	r := protocol.CommitRecord{ID: e.id, Plan: txn.PlanClassic}
	for i, b := range e.branches {
		r.Branches = append(r.Branches, protocol.CommitBranch{Branch: txn.BranchNo(i + 1),
			RM: rm(b.resource), Evidence: b.evidence})
	}
	return r
}

// wrongDecisions must not be handed to the log.
func wrongDecisions() []wrong {
	return []wrong{
		{"commit of what nobody has begun", CommitValidity, func(w *world, _ *entry) {
			w.checkAppend(protocol.CommitRecord{ID: txn.NewID(logID, 7)})
		}},
		{"commit after a rollback", ClientTruth, func(w *world, e *entry) {
			e.toldBack = true
			w.checkAppend(commitOf(e))
		}},
		{"commit by another epoch", CommitValidity, func(w *world, e *entry) {
			w.epoch++
			w.checkAppend(commitOf(e))
		}},
		{"commit of a branch too many", CommitValidity, func(w *world, e *entry) {
			r := commitOf(e)
			r.Branches = append(r.Branches, protocol.CommitBranch{Branch: 3, RM: 1})
			w.checkAppend(r)
		}},
		{"commit without a branch", CommitValidity, func(w *world, e *entry) {
			r := commitOf(e)
			r.Branches = r.Branches[:1]
			w.checkAppend(r)
		}},
		{"commit at another resource", CommitValidity, func(w *world, e *entry) {
			r := commitOf(e)
			r.Branches[0].RM = 2
			w.checkAppend(r)
		}},
		{"commit with another's evidence", CommitValidity, func(w *world, e *entry) {
			r := commitOf(e)
			r.Branches[0].Evidence.XID++
			w.checkAppend(r)
		}},
		{"commit in one phase of what is not committed", CommitValidity,
			func(w *world, e *entry) {
				r := commitOf(e)
				r.Plan = txn.PlanOnePhase
				w.checkAppend(r)
			}},
		{"one phase beside another writer", CommitValidity, func(w *world, e *entry) {
			w.checkAppend(protocol.OnePhaseRecord{ID: e.id, Branch: commitOf(e).Branches[0]})
		}},
		{"one phase after a rollback", ClientTruth, func(w *world, e *entry) {
			e.sentBack = true
			w.checkAppend(protocol.OnePhaseRecord{ID: e.id, Branch: commitOf(e).Branches[0]})
		}},
	}
}

// wrongRecords and messages must not come while the COMMIT is in flight.
func wrongRecords() []wrong {
	return []wrong{
		{"end without a decision", Forget, func(w *world, e *entry) {
			w.checkAppend(protocol.EndRecord{IDs: []txn.ID{e.id}})
		}},
		{"forgetting what is prepared", PresumedAbort, func(w *world, _ *entry) {
			w.checkAppend(protocol.RangeRecord{Low: 2, High: 9})
		}},
		{"commit message before the record", LogBeforeSend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActCommit, 1, name1(1)))
		}},
		{"one-phase message before the record", LogBeforeSend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActOnePhase, 1, name1(1)))
		}},
		{"rollback message while it is in flight", UnknownAppend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActRollback, 1, name1(1)))
		}},
		{"a vote asked for by another epoch", CommitValidity, func(w *world, _ *entry) {
			w.epoch++
			w.checkMessage(message(protocol.ActPrepare, 1, name1(1)))
		}},
		{"a message to another resource", Containment, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActPrepare, 2, name1(1)))
		}},
		{"a message about nobody's branch", Containment, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActRollback, 1, name1(3)))
		}},
		{"a message about another log", Containment, func(w *world, _ *entry) {
			n := name1(1)
			n.Log = foreignLog
			w.checkMessage(message(protocol.ActRollback, 1, n))
		}},
	}
}

// wrongAnswers must not be given while the COMMIT is in flight.
func wrongAnswers() []wrong {
	about := func(e *entry) request { return request{event: protocol.Ask{ID: e.id}} }
	return []wrong{
		{"told committed while it is in flight", UnknownAppend, func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
		}},
		{"told rolled back while it is in flight", UnknownAppend, func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeRolledBack})
		}},
		{"told heuristic without a record", LogBeforeSend, func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeHeuristicMixed})
		}},
		{"told committed by a one-phase commit that is not recorded", LogBeforeSend,
			func(w *world, e *entry) {
				w.inflight, e.asking, e.branches[0].committed = nil, true, true
				w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
			}},
		{"told of what nobody has begun", ClientTruth, func(w *world, _ *entry) {
			w.checkResult(&txn.Result{ID: txn.NewID(logID, 7), Outcome: txn.OutcomeCommitted})
		}},
		{"refused as never begun", ClientTruth, func(w *world, e *entry) {
			w.checkRefusal(about(e), refusal(txn.ReasonNotFound))
		}},
		{"refused as decided", LogBeforeSend, func(w *world, e *entry) {
			w.checkRefusal(about(e), refusal(txn.ReasonAlreadyDecided))
		}},
		{"an error without an effect", ClientTruth, func(w *world, e *entry) {
			w.checkRefusal(about(e), errors.New("sorry"))
		}},
		{"a reply to nobody", ClientTruth, func(w *world, _ *entry) {
			w.replied(protocol.Reply{Req: 77})
		}},
		{"an id twice", ExactlyOnce, func(w *world, e *entry) {
			w.begunReply(1, 0, &txn.Begun{ID: e.id})
		}},
		{"a branch twice", ExactlyOnce, func(w *world, _ *entry) {
			w.notePrepared(name1(1), txn.Evidence{})
		}},
		{"an end without a resource's answer", Liveness, func(w *world, e *entry) {
			w.requests, e.committed = nil, false
			w.checkRest()
		}},
	}
}

// wrongWords must not be said once the COMMIT is durable.
func wrongWords() []wrong {
	ask := request{event: protocol.Rollback{ID: txn.NewID(logID, 1)}}
	return []wrong{
		{"rollback message", PresumedAbort, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActRollback, 1, name1(1)))
		}},
		{"told rolled back", ClientTruth, func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeRolledBack})
		}},
		{"told the opposite of before", OneTruth, func(w *world, e *entry) {
			e.told = txn.OutcomeRolledBack
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
		}},
		{"told clean after heuristic", OneTruth, func(w *world, e *entry) {
			e.told = txn.OutcomeHeuristicHazard
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
		}},
		{"told that a branch is committed", NoMaskedHeuristic, func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Branches: []txn.BranchStatus{
				{Branch: 1, Name: name1(1), State: txn.BranchCommitted}}})
		}},
		{"refused as rolled back", ClientTruth, func(w *world, _ *entry) {
			w.checkRefusal(ask, refusal(txn.ReasonRolledBack))
		}},
	}
}

// commitUnheard lets branch 1 be committed, and nobody hear of it.
func commitUnheard(w *world) {
	w.commitAt(&w.resources[0], name1(1), txn.Evidence{})
}

// wrongDenials must not be written, or said, of what a resource has committed.
func wrongDenials() []wrong {
	return []wrong{
		{"told rolled back what a resource has committed", ClientTruth,
			func(w *world, e *entry) {
				commitUnheard(w)
				e.committed, w.faulty = false, true
				w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeRolledBack})
			}},
		{"refused as rolled back what a resource has committed", ClientTruth,
			func(w *world, e *entry) {
				commitUnheard(w)
				e.committed = false
				w.checkRefusal(request{event: protocol.Ask{ID: e.id}},
					refusal(txn.ReasonRolledBack))
			}},
		{"an abort of what a resource has committed", ClientTruth, func(w *world, e *entry) {
			commitUnheard(w)
			e.committed = false
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		}},
		{"a commit after a rollback was told", ClientTruth, func(w *world, e *entry) {
			e.toldBack = true
			commitUnheard(w)
		}},
		{"a commit after an abort", ClientTruth, func(w *world, e *entry) {
			e.aborted = true
			commitUnheard(w)
		}},
	}
}

// wrongEnds must not come to a transaction whose COMMIT is durable.
func wrongEnds() []wrong {
	end := func(w *world, e *entry) { w.checkAppend(protocol.EndRecord{IDs: []txn.ID{e.id}}) }
	return []wrong{
		{"end before the branches", Forget, end},
		{"end over a branch that is gone", NoMaskedHeuristic, func(w *world, e *entry) {
			e.branches[0].humanRollback = true
			end(w, e)
		}},
		{"end without proof", Forget, func(w *world, e *entry) {
			e.branches[0].humanCommit = true
			end(w, e)
		}},
		{"an invented rollback", NoMaskedHeuristic, func(w *world, e *entry) {
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 1, RM: 1,
				What: txn.BranchHeuristicRollback})
		}},
		{"an invented loss", NoMaskedHeuristic, func(w *world, e *entry) {
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 2, RM: 2,
				What: txn.BranchHeuristicHazard})
		}},
		{"a contradiction of nobody's branch", NoMaskedHeuristic, func(w *world, e *entry) {
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 9, RM: 1})
		}},
		{"a key twice", ExactlyOnce, func(w *world, e *entry) {
			w.entries = append(w.entries, entry{id: txn.NewID(logID, 2), client: 1})
			w.noteDurable(protocol.CommitRecord{ID: txn.NewID(logID, 2)})
		}},
		{"one branch rolled back", Atomicity, func(w *world, e *entry) {
			e.branches[0].committed, e.branches[1].rolledBack = true, true
			w.checkAtomicity(e.id)
		}},
		{"one branch never prepared", Atomicity, func(w *world, e *entry) {
			e.branches[1].committed, e.branches[0].ended = true, true
			w.checkAtomicity(e.id)
		}},
		{"an older epoch obeyed", Fencing, func(w *world, _ *entry) {
			w.checkFence(w.calls[0], w.epoch+1)
		}},
		{"a log that has lost it", AcknowledgedDurability, func(w *world, e *entry) {
			e.told = txn.OutcomeCommitted
			w.checkReplay(protocol.NewState(logID))
		}},
		{"a contradiction without a record", NoMaskedHeuristic, func(w *world, e *entry) {
			e.branches[0].lost = true
			w.checkEnding(e)
		}},
		{"a contradiction without an alarm", NoMaskedHeuristic, func(w *world, e *entry) {
			e.branches[0].humanRollback, e.heuristic = true, bit(1)
			w.checkEnding(e)
		}},
		{"a branch that nobody commits", AcknowledgedDurability, func(w *world, e *entry) {
			w.checkEnding(e)
		}},
	}
}

// TestCheckers breaks one rule at a time, by hand, where no flaw of a whole world leads: every
// sentence of every checker is said at least once.
func TestCheckers(t *testing.T) {
	run := func(all []wrong, world func(*testing.T) (*world, *entry)) {
		for _, x := range all {
			t.Run(x.name, func(t *testing.T) {
				w, e := world(t)
				x.do(w, e)
				if w.broken == nil || w.broken.Checker != x.want {
					t.Errorf("%v, want %q", w.broken, x.want)
				}
			})
		}
	}
	run(wrongDecisions(), decidedWorld)
	run(wrongRecords(), decidedWorld)
	run(wrongAnswers(), decidedWorld)
	run(wrongWords(), durableWorld)
	run(wrongDenials(), durableWorld)
	run(wrongEnds(), durableWorld)
	run(wrongIntents(), intendedWorld)
	run(wrongWhileIntended(), intendedWorld)
}

// TestGoodThings: what is right is not complained about.
func TestGoodThings(t *testing.T) {
	for name, do := range map[string]func(w *world, e *entry){
		"commit message": func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActCommit, 1, name1(1)))
		},
		"told committed": func(w *world, e *entry) {
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
		},
		"told later that a branch contradicts it": func(w *world, e *entry) {
			e.told, e.heuristic = txn.OutcomeCommitted, bit(1)
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeHeuristicMixed})
		},
		"forgotten": func(w *world, e *entry) {
			e.told = txn.OutcomeCommitted
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeForgotten})
		},
		"refused as decided": func(w *world, e *entry) {
			w.checkRefusal(request{event: protocol.Rollback{ID: e.id}},
				refusal(txn.ReasonAlreadyDecided))
		},
		"a loss by a failover": func(w *world, e *entry) {
			w.failover(0, 1)
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 1, RM: 1,
				What: txn.BranchHeuristicHazard})
		},
		"an abort of what a person has committed": func(w *world, e *entry) {
			w.intervene(0, 0, true)
			e.committed = false
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		},
		"an abort of what a failover has taken back": func(w *world, e *entry) {
			commitUnheard(w)
			w.failover(0, 1)
			e.committed = false
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		},
		"readers": func(w *world, e *entry) {
			for i := range e.branches {
				e.branches[i].readOnly = true
			}
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeCommitted})
			w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeRolledBack})
		},
		"end after every proof": func(w *world, e *entry) {
			w.flow()
			if !e.branches[0].proven || !e.branches[1].proven {
				w.fail(Liveness, "nothing is proven")
			}
		},
		"rest": func(w *world, _ *entry) { w.settle() },
	} {
		t.Run(name, func(t *testing.T) {
			w, e := durableWorld(t)
			do(w, e)
			if w.broken != nil {
				t.Error(*w.broken)
			}
		})
	}
}

// TestCrashKeepsWhatIsDurable: the log after a crash is the durable part and what of the rest
// happened to be written, and the next epoch goes on from there.
func TestCrashKeepsWhatIsDurable(t *testing.T) {
	for keep, want := range []txn.Outcome{txn.OutcomeRolledBack, txn.OutcomeCommitted} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			w, e := decidedWorld(t)
			w.crash(keep)
			w.settle()
			if w.broken != nil || e.told != want || w.epoch != 2 {
				t.Errorf("told %s in epoch %d: %v", e.told, w.epoch, w.broken)
			}
			if done := e.branches[0].done() && e.branches[1].done(); done != (keep == 1) {
				t.Errorf("committed: %v", done)
			}
		})
	}
}
