package coordinator

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// List selects among the transactions that run or need a person, in the order of their ids. Each
// one is told as it was at some moment of the call, and not all at the same.
func (c *Coordinator) List(ctx context.Context, r txn.ListRequest) ([]txn.Result, error) {
	if r.Limit < 0 || r.Limit > txn.MaxListLimit {
		return nil, txn.Refusef(txn.ReasonInvalid, "page_size", "%d is not within 0 and %d",
			r.Limit, txn.MaxListLimit)
	}
	limit := cmp.Or(r.Limit, txn.DefaultListLimit)
	var picked []txn.Result
	for t, err := range c.transactions(ctx, r.After) {
		if err != nil {
			return nil, err
		}
		if t.Age >= r.OlderThan && (len(r.States) == 0 || slices.Contains(r.States, t.State)) {
			picked = append(picked, t)
		}
		if len(picked) == limit {
			break
		}
	}
	return picked, nil
}

// listPage bounds what one look at transactions costs the loop.
const listPage = 1000

// transactions yields what runs or needs a person, behind after, in the order of ids. An error is
// the last thing it yields. The loop goes on with other work between two pages.
func (c *Coordinator) transactions(
	ctx context.Context, after txn.ID,
) iter.Seq2[txn.Result, error] {
	type page struct {
		all  []txn.Result
		next txn.ID
	}
	return func(yield func(txn.Result, error) bool) {
		for more := true; more; more = !after.IsZero() {
			p, err := look(ctx, c, func(m *protocol.Machine) (p page) {
				p.all, p.next = m.List(after, listPage)
				return p
			})
			if err != nil {
				yield(txn.Result{}, err)
				return
			}
			for _, t := range p.all {
				if !yield(t, nil) {
					return
				}
			}
			after = p.next
		}
	}
}
