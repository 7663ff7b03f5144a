package coordinator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/txn"
)

// Drain refuses new transactions and waits until those that run have ended, or ctx does. It does
// not wait for branches of resources that do not answer or are not configured, once nothing else is
// left: they are decided or rolled back, the log keeps what is decided, and the next start finishes
// them. Which they are is told in the journal.
func (c *Coordinator) Drain(ctx context.Context) error {
	c.mail.put(input{do: func(l *loop) { l.core.Drain() }})
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		active, err := c.Active(ctx)
		if err != nil || active == 0 {
			return err
		}
		// Looking at every transaction is dear.
		if n%drainLook == 0 {
			stuck, only, err := c.onlyStuck(ctx)
			if err != nil {
				return err
			}
			if only {
				c.cfg.Logger.Warn("drained, except for branches that nobody can finish now; "+
					"the next start goes on with them", "branches", stuck)
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("coordinator: %d transactions still run: %w", active,
				context.Cause(ctx))
		}
	}
}

const (
	// drainEvery is the time between two counts of what runs.
	drainEvery = 20 * time.Millisecond
	// drainLook is the number of counts between two looks at what it is: a second.
	drainLook = 50
)

// onlyStuck says whether all that runs are branches past their decision that have no way to their
// resource, and how many they are for each resource.
func (c *Coordinator) onlyStuck(ctx context.Context) (stuck string, only bool, err error) {
	type place struct {
		resource string
		log      txn.LogID
	}
	places, count := map[place]bool{}, map[string]int{}
	var doubts []txn.ID
	for t, err := range c.transactions(ctx, txn.ID{}) {
		switch {
		case err != nil:
			return "", false, err
		case t.State == txn.StateHeuristic:
			// It needs a person, and does not count as running.
			continue
		case undecided(t):
			return "", false, nil
		case t.State == txn.StateInDoubt:
			// Its other branches wait, like it, for those that are being asked.
			doubts = append(doubts, t.ID)
			continue
		}
		for _, name := range t.Pending() {
			places[place{name, t.ID.Log()}] = true
			count[name]++
		}
	}
	all, err := inside(ctx, c, func(k *core.Core) bool {
		for _, id := range doubts {
			waiting, held := k.Machine().Asked(id)
			if len(waiting)+len(held) == 0 {
				return false // it has been decided since
			}
			for _, name := range waiting {
				places[place{name, id.Log()}] = true
			}
			for _, name := range append(waiting, held...) {
				count[name]++
			}
		}
		for p := range places {
			if !k.Stuck(p.resource, p.log) {
				return false
			}
		}
		return true
	})
	return describe(count), all && len(count) > 0, err
}

// undecided says whether t can still end either way here. With one phase its resource decides, and
// has the word.
func undecided(t txn.Result) bool {
	switch t.State {
	case txn.StateActive, txn.StatePreparing:
		return true
	case txn.StateDeciding:
		return t.Plan != txn.PlanOnePhase
	}
	return false
}

// describe is "a: 2, b: 1".
func describe(count map[string]int) string {
	parts := make([]string, 0, len(count))
	for _, name := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%s: %d", name, count[name]))
	}
	return strings.Join(parts, ", ")
}
