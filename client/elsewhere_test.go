package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// keptElsewhere is a database whose resource keeps the work, under the name that is noted.
func keptElsewhere(name string, got *txn.Name) *database {
	db := writer(name)
	db.review.Elsewhere = true
	db.prepared, db.finished = client.Ending{}, client.Ending{}
	db.onOpen = func(ctx context.Context) { *got, _ = client.NameFrom(ctx, name) }
	return db
}

// TestElsewhere: the coordinator decides, also over one such branch, which it has to ask for the
// vote, because the client sends none.
func TestElsewhere(t *testing.T) {
	for what, others := range map[string][]*database{
		"alone": nil, "behind a writer": {writer("b")}, "behind a reader": {reader("b")},
	} {
		t.Run(what, func(t *testing.T) {
			var name txn.Name
			d, kept := &decider{}, keptElsewhere("a", &name)
			wantNil(t, client.New(d).InTx(t.Context(), all(append(others, kept)...)))
			no := txn.BranchNo(len(others) + 1)
			if want := txn.NameOf(firstID(), no); name != want {
				t.Errorf("its name is %s, want %s", name, want)
			}
			_, commits := d.calls()
			if len(commits) != 1 || len(commits[0].Votes) != len(others) {
				t.Fatalf("%+v", commits)
			}
			for _, v := range commits[0].Votes {
				if v.Branch == no {
					t.Errorf("it voted %+v", v)
				}
			}
		})
	}
}

// TestElsewhereRollsBack: a function that fails has it rolled back by the coordinator.
func TestElsewhereRollsBack(t *testing.T) {
	var name txn.Name
	d, kept := rollbacker{&decider{}}, keptElsewhere("a", &name)
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		return errors.Join(kept.do(ctx), errPoor)
	})
	wantAborted(t, err)
	if len(d.rollbacks) != 1 || d.rollbacks[0] != firstID() {
		t.Errorf("rolled back %v", d.rollbacks)
	}
}

// TestElsewhereBesideADelegate: a marker would come before the vote. Where it can be, nobody is
// asked to leave the decision to a branch; where it was left to one, all is rolled back.
func TestElsewhereBesideADelegate(t *testing.T) {
	for _, first := range []bool{true, false} {
		var name txn.Name
		d, a, kept := rollbacker{leaving()}, newKeeper("a"), keptElsewhere("k", &name)
		dbs := []*database{a.database, writer("b"), kept}
		if first {
			dbs = []*database{kept, a.database, writer("b")}
		}
		c := client.New(d, client.Delegate("a"))
		err := c.InTx(t.Context(), func(ctx context.Context) error {
			for _, db := range dbs {
				if err := db.do(ctx); err != nil {
					return err
				}
				if db.name == "b" && !first {
					// By then the coordinator has left it to a.
					if _, err := client.IDFrom(ctx); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if first {
			wantNil(t, err)
			continue
		}
		if wantAborted(t, err); !strings.Contains(err.Error(), "Delegate") {
			t.Error(err)
		}
		wantAllNo(t, d)
	}
}

// TestNameFrom: only what the transaction has joined has a name.
func TestNameFrom(t *testing.T) {
	if _, err := client.NameFrom(t.Context(), "a"); !errors.Is(err, client.ErrNoTransaction) {
		t.Error(err)
	}
	var late context.Context
	d := &decider{}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		if _, err := client.NameFrom(ctx, "a"); err == nil {
			t.Error("a branch that nobody has joined has a name")
		}
		return nil
	})
	wantNil(t, err)
	if _, err := client.NameFrom(late, "a"); !errors.Is(err, client.ErrFinished) {
		t.Error(err)
	}
}
