package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// ReadState reads what a log says, without a lock and without changing anything. It works beside a
// running coordinator, whose newest records it may miss, and on a copy of the directory.
func ReadState(fs vfs.FS, dir string) (*protocol.State, txlog.Info, error) {
	state := protocol.NewState(0)
	info, err := txlog.Read(fs, dir, func(e txlog.Entry) error { return apply(state, e) })
	if err != nil {
		return nil, info, err
	}
	state.Log, state.Epoch = info.ID, max(state.Epoch, info.Epoch)
	return state, info, nil
}

// PlanRow is what recovery makes of one branch.
type PlanRow struct {
	Resource string
	Name     txn.Name
	Label    protocol.Label
	Verdict  protocol.Verdict
	Because  string
	Age      time.Duration
	Owner    string
}

// PlanRequest is what Plan works on.
type PlanRequest struct {
	State *protocol.State
	// Running says that a coordinator owns the log now: what has no record may be live, and is
	// left.
	Running bool
	// Fence is on whose behalf the resources are asked.
	Fence     txn.Fence
	Resources []Resource
	// Progress, if not nil, is told after each resource.
	Progress func(done, total int, resource string)
}

// Plan says what recovery would do, and does nothing: every prepared branch of every resource,
// judged by the log, and every decision without an end, judged by its resources. Resources that
// cannot be asked are in the error, next to the rows of the others.
func Plan(ctx context.Context, p PlanRequest) ([]PlanRow, error) {
	var rows []PlanRow
	var errs []error
	for i, r := range p.Resources {
		found, err := p.planOne(ctx, r)
		if err != nil {
			errs = append(errs, fmt.Errorf("resource %s: %w", r.Name, err))
		}
		rows = append(rows, found...)
		if p.Progress != nil {
			p.Progress(i+1, len(p.Resources), r.Name)
		}
	}
	p.intents(rows)
	return rows, errors.Join(errs...)
}

func (p PlanRequest) planOne(ctx context.Context, r Resource) ([]PlanRow, error) {
	known, ok := p.registered(r.Name)
	l, err := r.Manager.List(ctx, p.Fence)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	held := ok && (known.Identity != l.Identity || l.Position.Before(known.Position))
	listed := map[txn.Name]bool{}
	var rows []PlanRow
	for _, b := range l.Branches {
		listed[b.Name] = true
		rows = append(rows, p.judge(r.Name, l.Identity, b, held))
	}
	missing, err := p.missing(ctx, r, known.RM, listed)
	return append(rows, missing...), err
}

func (p PlanRequest) registered(name string) (protocol.ResourceRecord, bool) {
	for _, r := range p.State.Resources() {
		if r.Name == name {
			return r, true
		}
	}
	return protocol.ResourceRecord{}, false
}

// judge is the verdict on a listed branch.
func (p PlanRequest) judge(
	resource string, at txn.Identity, b participant.Listed, held bool,
) PlanRow {
	f := protocol.Facts{Standing: txn.StandingPrepared, Older: true}
	f.Says, f.Listed = p.State.Says(b.Name, at, p.State.High)
	f.Says = p.live(f.Says)
	if !b.Ours {
		f.Standing = txn.StandingForeign
	}
	if held {
		f.Standing = txn.StandingHeld
	}
	row := judged(resource, b.Name, f)
	row.Age, row.Owner = b.Age, b.Owner
	return row
}

// live is what the log of a running coordinator says: what has no record, or no answer yet, may be
// under way.
func (p PlanRequest) live(says protocol.Says) protocol.Says {
	switch says {
	case protocol.SaysNothing, protocol.SaysOnePhase, protocol.SaysIntent,
		protocol.SaysDelegate:
		if p.Running {
			return protocol.SaysLive
		}
	}
	return says
}

// intents gives the branches of intents the verdict that they have together: an intent of which all
// are prepared commits, and one of which one was never prepared rolls back.
func (p PlanRequest) intents(rows []PlanRow) {
	for _, d := range p.State.OpenDecisions() {
		if d.Says() != protocol.SaysIntent || len(d.Heuristics) > 0 {
			continue
		}
		count := map[protocol.Label]int{}
		var mine []*PlanRow
		for i := range rows {
			if r := &rows[i]; r.Name.ID() == d.Commit.ID {
				count[r.Label]++
				mine = append(mine, r)
			}
		}
		verdict := protocol.VerdictLeave
		switch {
		case count['N'] > 0:
			verdict = protocol.VerdictRollback
		case count['M'] == len(d.Commit.Branches):
			verdict = protocol.VerdictCommit
		}
		for _, r := range mine {
			if r.Label == 'M' {
				r.Verdict = verdict
			}
		}
	}
}

// missing judges the branches of open decisions that the resource does not list.
func (p PlanRequest) missing(
	ctx context.Context,
	r Resource,
	rm protocol.RM,
	listed map[txn.Name]bool,
) ([]PlanRow, error) {
	var ask []participant.Branch
	var rows []PlanRow
	says := map[txn.Name]protocol.Says{}
	for _, d := range p.State.OpenDecisions() {
		for _, b := range d.Commit.Branches {
			name := txn.NameOf(d.Commit.ID, b.Branch)
			if b.RM != rm || listed[name] {
				continue
			}
			says[name] = p.live(d.Says())
			if says[name] == protocol.SaysLive || says[name] == protocol.SaysDelegate {
				// Its coordinator has asked, or is to ask for the marker; and an inquiry is no mere
				// look: a resource may remember what it has answered.
				rows = append(rows, judged(r.Name, name, protocol.Facts{Says: says[name],
					Standing: txn.StandingGone}))
				continue
			}
			ask = append(ask, participant.Branch{Name: name, Evidence: b.Evidence})
		}
	}
	for len(ask) > 0 {
		n := 1
		for n < min(len(ask), participant.MaxBatch) && ask[n].Name.Log == ask[0].Name.Log {
			n++
		}
		found, err := r.Manager.Inquire(ctx, p.fence(ask[0].Name.Log), ask[:n])
		if err == nil && len(found) != n {
			err = fmt.Errorf("the resource gave %d answers to %d questions", len(found), n)
		}
		if err != nil {
			return rows, fmt.Errorf("inquire: %w", err)
		}
		for i, f := range found {
			rows = append(rows, judged(r.Name, ask[i].Name, protocol.Facts{
				Says: says[ask[i].Name], Standing: f.Standing, Listed: true,
				Never: protocol.NeverPrepared(ask[i].Evidence, f.Standing, f.Evidence)}))
		}
		ask = ask[n:]
	}
	return rows, nil
}

// judged is the row of a branch by its facts.
func judged(resource string, name txn.Name, f protocol.Facts) PlanRow {
	label, verdict := protocol.Judge(f)
	return PlanRow{Resource: resource, Name: name, Label: label, Verdict: verdict,
		Because: label.Because()}
}

// fence is on whose behalf branches of log are asked about.
func (p PlanRequest) fence(log txn.LogID) txn.Fence {
	for _, a := range p.State.Adopted() {
		if a.Log == log {
			return txn.Fence{Log: a.Log, Epoch: a.Epoch, LSN: a.LSN}
		}
	}
	return p.Fence
}

// Settle waits until nothing is left to do that can be done without a person: every configured
// resource was listed, no listed branch has a verdict of commit or rollback, and no decision waits
// for a resource. It reports what it waits for when ctx ends.
func (c *Coordinator) Settle(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := look(ctx, c, func(m *protocol.Machine) (left []string) {
			for _, r := range c.cfg.Resources {
				if why := m.Unsettled(r.Name); why != "" {
					left = append(left, r.Name+": "+why)
				}
			}
			return left
		})
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("coordinator: not settled: %v: %w", left, context.Cause(ctx))
		case <-c.loopDone:
			return c.stopped()
		}
	}
}

// Plan is the package's Plan on this coordinator's own log and resources.
func (c *Coordinator) Plan(
	ctx context.Context,
	progress func(done, total int, resource string),
) ([]PlanRow, error) {
	// The state belongs to the loop; its records carry it out.
	type said struct {
		records []protocol.Record
		fence   txn.Fence
	}
	now, err := inside(ctx, c, func(k *core.Core) said {
		return said{slices.Collect(k.Machine().State().Records()), k.Fence()}
	})
	if err != nil {
		return nil, err
	}
	state := protocol.NewState(c.log.ID())
	for _, r := range now.records {
		if err := state.Apply(r); err != nil {
			return nil, fmt.Errorf("coordinator: plan: %w", err)
		}
	}
	return Plan(ctx, PlanRequest{State: state, Running: true, Fence: now.fence,
		Resources: c.cfg.Resources, Progress: progress})
}

// Unsynced is for how long the disk of the log has owed a sync. It is a moment old while everything
// works; some seconds mean that the disk has stalled, and that nothing can be decided.
func (c *Coordinator) Unsynced(ctx context.Context) (time.Duration, error) {
	return inside(ctx, c, func(k *core.Core) time.Duration { return time.Duration(k.Unsynced()) })
}

// ResourceStatus is what is known about a resource, for people and metrics.
type ResourceStatus = core.ResourceStatus

// Resources tells what is known about each configured resource.
func (c *Coordinator) Resources(ctx context.Context) ([]ResourceStatus, error) {
	return inside(ctx, c, (*core.Core).Resources)
}
