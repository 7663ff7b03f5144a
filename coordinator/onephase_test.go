package coordinator

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// deciding is a resource that commits without a prepare, and can prove what it did.
type deciding struct {
	*fakeDB
	done map[txn.Name]bool
}

func (d *deciding) Describe(ctx context.Context) (participant.Description, error) {
	desc, err := d.fakeDB.Describe(ctx)
	desc.OnePhase = true
	return desc, err
}

func (d *deciding) CommitOnePhase(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	done, err := d.gate(ctx, f)
	if err != nil {
		return nil, err
	}
	found := make([]participant.Finding, len(b))
	for i, x := range b {
		if !d.done[x.Name] {
			d.committed = append(d.committed, x.Name)
		}
		d.done[x.Name] = true
		found[i].Standing = txn.StandingCommitted
	}
	return found, done(nil)
}

func (d *deciding) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	found, err := d.fakeDB.Inquire(ctx, f, b)
	for i := range found {
		if d.done[b[i].Name] {
			found[i].Standing = txn.StandingCommitted
		} else {
			found[i].Standing = txn.StandingRolledBack
		}
	}
	return found, err
}

// TestOnePhaseAcrossRestart: the resource did what it was told and its reply was lost, with the
// coordinator. The next epoch learns it from the resource, and so do those who ask.
func TestOnePhaseAcrossRestart(t *testing.T) {
	for name, reached := range map[string]bool{"the word arrived": true, "it did not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := &deciding{fakeDB: w.dbs["a"], done: map[txn.Name]bool{}}
				use := func(cfg *Config) { cfg.Resources[0].Manager = a }
				c := w.open(use)
				b, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a"}})
				if err != nil {
					t.Fatal(err)
				}
				a.set(func(d *fakeDB) { d.deaf, d.down = reached, !reached })
				go c.Commit(context.Background(), txn.CommitRequest{ID: b.ID})
				synctest.Wait()
				w.disk = w.disk.KillClone()
				c.Close()
				a.set(func(d *fakeDB) { d.deaf, d.down = false, false })
				c = w.open(use)
				rest()
				want := txn.OutcomeRolledBack
				if reached {
					want = txn.OutcomeCommitted
				}
				r, err := c.Outcome(t.Context(), b.ID)
				if err != nil || r.Outcome != want || len(a.done) != len(a.committed) {
					t.Errorf("told %+v, %v; committed %v", r, err, a.committed)
				}
			})
		})
	}
}
