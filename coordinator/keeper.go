package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// keeper looks after one resource: it learns who the resource is and registers it, and then lists
// its prepared branches every second, and at once when it answers again after a failure.
type keeper struct {
	c    *Coordinator
	res  Resource
	wake chan struct{}

	mu struct {
		sync.Mutex
		ResourceStatus
	}
}

// ResourceStatus is what is known about a resource, for people and metrics.
type ResourceStatus struct {
	Name, Kind string
	// Registered says that transactions may name it.
	Registered bool
	// Up says that its last listing succeeded. Err is why it did not, or why it is not registered.
	Up  bool
	Err error
	// Description is its own, from registration.
	Description participant.Description
	// InDoubt counts prepared branches of this log, Oldest is the age of the oldest, by the
	// resource's clock.
	InDoubt int
	Oldest  time.Duration
	// Foreign counts prepared branches of other logs, Unknown those that are not gavel's.
	Foreign, Unknown int
	// Used and Limit are its prepared slots.
	Used, Limit int
	// Pending counts branches that wait for phase two.
	Pending int
}

func newKeeper(c *Coordinator, r Resource) *keeper {
	k := &keeper{c: c, res: r, wake: make(chan struct{}, 1)}
	k.mu.Name, k.mu.Kind = r.Name, r.Kind
	return k
}

func (k *keeper) signal() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run registers and sweeps until ctx ends.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(k.c.cfg.SweepEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		err := k.round(ctx)
		if ctx.Err() != nil {
			return
		}
		k.note(err)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-k.wake:
		}
	}
}

func (k *keeper) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.c.cfg.CallTimeout)
	defer cancel()
	if !k.registered() {
		if err := k.register(ctx); err != nil {
			return err
		}
	}
	return k.sweep(ctx)
}

func (k *keeper) registered() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.Registered
}

// note keeps the last error and writes a line when it changes.
func (k *keeper) note(err error) {
	k.mu.Lock()
	before := k.mu.Err
	k.mu.Up, k.mu.Err = err == nil, err
	k.mu.Unlock()
	switch {
	case err == nil && before != nil:
		k.c.cfg.Logger.Info("resource is up", "resource", k.res.Name)
	case err != nil && (before == nil || before.Error() != err.Error()):
		k.c.cfg.Logger.Warn(
			"resource is not usable; trying again until it is",
			"resource",
			k.res.Name,
			"err",
			err,
		)
	}
	if errors.Is(err, participant.ErrFenced) || errors.Is(err, participant.ErrRegression) {
		k.c.fail(fmt.Errorf("resource %s: %w", k.res.Name, err))
	}
}

// register describes the resource and makes the machine record who it is.
func (k *keeper) register(ctx context.Context) error {
	d, ok := k.res.Manager.(participant.Describer)
	if !ok {
		return errors.New(
			"it cannot say who it is, and an unknown resource cannot be trusted with a branch",
		)
	}
	_, floor, err := k.floor(ctx)
	if err != nil {
		return err
	}
	desc, err := d.Describe(ctx)
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	k.logChecks(desc)
	for _, check := range desc.Checks {
		if check.Level == participant.LevelFail {
			return fmt.Errorf("%s (fix: %s)", check.What, check.Fix)
		}
	}
	if err := k.refuseForeign(ctx); err != nil {
		return err
	}
	_, err = k.c.request(
		ctx,
		protocol.Register{Name: k.res.Name, Kind: desc.Kind, Identity: desc.Identity,
			Position: desc.Position, Accept: k.res.AcceptIdentity, Floor: floor},
	)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.Registered, k.mu.Description = true, desc
	if k.mu.Kind == "" {
		k.mu.Kind = desc.Kind
	}
	return nil
}

func (k *keeper) logChecks(d participant.Description) {
	k.mu.Lock()
	seen := k.mu.Description.Kind != ""
	k.mu.Description = d
	k.mu.Unlock()
	if seen {
		return
	}
	for _, check := range d.Checks {
		if check.Level != participant.LevelOK {
			k.c.cfg.Logger.Warn(
				check.What,
				"resource",
				k.res.Name,
				"level",
				check.Level.String(),
				"fix",
				check.Fix,
			)
		}
	}
}

// refuseForeign keeps a log from taking over a resource in which another log still has branches: if
// that other log was lost, and this one is its careless replacement, the branches need an operator
// first.
func (k *keeper) refuseForeign(ctx context.Context) error {
	known, err := look(ctx, k.c, func(m *protocol.Machine) bool {
		return m.Registered(k.res.Name)
	})
	if err != nil {
		return err
	}
	if known || k.res.AcceptForeign {
		return nil
	}
	l, err := k.res.Manager.List(ctx, k.c.fence())
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for _, b := range l.Branches {
		if b.Name.Log != k.c.log.ID() {
			return fmt.Errorf("log %s has prepared branches in it (%s), and this is log %s; "+
				"nothing was changed; if both logs are in use on purpose, accept foreign branches",
				b.Name.Log, b.Name, k.c.log.ID())
		}
	}
	return nil
}

// floor is how far the resource has been seen to come. It is read before the resource is asked
// anything: votes that arrive meanwhile may show a later position.
func (k *keeper) floor(ctx context.Context) (protocol.RM, txn.Position, error) {
	type seen struct {
		rm protocol.RM
		at txn.Position
	}
	s, err := look(ctx, k.c, func(m *protocol.Machine) seen {
		rm := m.RM(k.res.Name)
		return seen{rm, m.Seen(rm)}
	})
	return s.rm, s.at, err
}

// sweep lists the resource and lets the machine judge what it finds. The floor is read before the
// list is taken: votes that arrive meanwhile may show a later position.
func (k *keeper) sweep(ctx context.Context) error {
	rm, floor, err := k.floor(ctx)
	if err != nil {
		return err
	}
	l, err := k.res.Manager.List(ctx, k.c.fence())
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	names := make([]protocol.SweptName, len(l.Branches))
	for i, b := range l.Branches {
		names[i] = protocol.SweptName{Name: b.Name, Ours: b.Ours}
	}
	k.c.post(protocol.Swept{RM: rm, Identity: l.Identity, Position: l.Position, Floor: floor,
		Names: names, Partial: l.Truncated})
	k.count(l)
	return nil
}

func (k *keeper) count(l participant.Listing) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.InDoubt, k.mu.Foreign, k.mu.Oldest = 0, 0, 0
	for _, b := range l.Branches {
		if b.Name.Log != k.c.log.ID() {
			k.mu.Foreign++
			continue
		}
		k.mu.InDoubt++
		k.mu.Oldest = max(k.mu.Oldest, b.Age)
	}
	k.mu.Unknown, k.mu.Used, k.mu.Limit = l.Unknown, l.Used, l.Limit
}

// Resources tells what is known about each configured resource.
func (c *Coordinator) Resources(ctx context.Context) ([]ResourceStatus, error) {
	all := make([]ResourceStatus, 0, len(c.cfg.Resources))
	for _, r := range c.cfg.Resources {
		k := c.keepers[r.Name]
		k.mu.Lock()
		all = append(all, k.mu.ResourceStatus)
		k.mu.Unlock()
	}
	pending, err := look(ctx, c, func(m *protocol.Machine) []int {
		n := make([]int, len(all))
		for i := range all {
			if rm := m.RM(all[i].Name); rm != 0 {
				n[i] = m.Pending(rm)
			}
		}
		return n
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Pending = pending[i]
	}
	return all, nil
}
