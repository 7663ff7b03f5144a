package clitest

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txn"
)

// Names are the resources of a Crash.
var Names = [2]string{"bank_a", "bank_b"}

// Crash is what a coordinator left that died at a bad moment: one transaction that is decided and
// not finished, prepared in both stores, and one that is prepared in both and not decided.
type Crash struct {
	Log                string
	Stores             [2]string
	Decided, Undecided txn.ID
}

// Resources are the flags that name the stores.
func (c Crash) Resources() []string {
	return []string{"--resource", Names[0] + "=kv:" + c.Stores[0],
		"--resource", Names[1] + "=kv:" + c.Stores[1]}
}

// deaf is a store that hears no decision.
type deaf struct{ *kv.Store }

var errDeaf = errors.New("the line is cut")

func (deaf) Commit(
	context.Context, txn.Fence, []participant.Branch,
) ([]participant.Finding, error) {
	return nil, errDeaf
}

func (deaf) Rollback(
	context.Context, txn.Fence, []participant.Branch,
) ([]participant.Finding, error) {
	return nil, errDeaf
}

// MakeCrash runs a coordinator over two stores that hear no decision, and lets it die.
func MakeCrash(t *testing.T) Crash {
	t.Helper()
	c := Crash{Log: Log(t)}
	var resources []coordinator.Resource
	var stores [2]*kv.Store
	for i, name := range Names {
		c.Stores[i] = filepath.Join(t.TempDir(), name)
		store, err := kv.Open(kv.Config{Dir: c.Stores[i]})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		stores[i] = store
		resources = append(resources, coordinator.Resource{Name: name, Manager: deaf{store}})
	}
	co, err := coordinator.Open(t.Context(), coordinator.Config{Dir: c.Log, Resources: resources,
		SegmentSize: SegmentSize, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer co.Close()
	begun := begin(t, co, stores, "decided")
	r, err := co.Commit(t.Context(), txn.CommitRequest{ID: begun.ID, Ack: txn.AckDecided})
	if err != nil || r.Outcome != txn.OutcomeCommitted {
		t.Fatalf("commit: %+v, %v", r, err)
	}
	c.Decided = begun.ID
	begun = begin(t, co, stores, "undecided")
	fence := txn.Fence{Log: co.LogID(), Epoch: co.Epoch(), LSN: 1}
	for i, e := range begun.Branches {
		votes, err := stores[i].Prepare(t.Context(), fence, []participant.Branch{{Name: e.Name}})
		if err != nil || votes[0].Vote != txn.VoteYes {
			t.Fatalf("prepare: %+v, %v", votes, err)
		}
	}
	c.Undecided = begun.ID
	return c
}

// begin starts a transaction, as soon as the resources are registered, and works in both stores.
func begin(
	t *testing.T, co *coordinator.Coordinator, stores [2]*kv.Store, key string,
) (begun txn.Begun) {
	t.Helper()
	Eventually(t, "the resources are registered", func() (ok bool) {
		var err error
		begun, err = co.Begin(t.Context(), txn.BeginRequest{Resources: Names[:], Label: key})
		return err == nil
	})
	for i, e := range begun.Branches {
		op := kv.Op{Kind: kv.OpPut, Key: []byte(key), Value: []byte("done")}
		if _, err := stores[i].Apply(t.Context(), e.Name, 1, []kv.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	return begun
}

// Has says in which stores the work of a transaction of a Crash is to be seen.
func (c Crash) Has(t *testing.T, key string) (found [2]bool) {
	t.Helper()
	for i, dir := range c.Stores {
		store, err := kv.Open(kv.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := store.Get(t.Context(), [][]byte{[]byte(key)})
		if err = errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
		found[i] = entries[0].Found
	}
	return found
}
