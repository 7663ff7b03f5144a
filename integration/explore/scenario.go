package explore

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// Scenario is a small world: who takes part, and how much may go wrong.
type Scenario struct {
	// Name names it in reports, a few words.
	Name string
	// Resources take part, at most 8.
	Resources []Resource
	// Transactions are what the clients do, each once.
	Transactions []Transaction
	// Machine configures the coordinator. Here its Block defaults to 8 sequences, its
	// DefaultTimeout to 8 s.
	Machine protocol.Config
	// Bounds says how often what may happen.
	Bounds Bounds
	// Jump is a step of the clock beside those to the machine's next timer and over a grace time,
	// in nanoseconds. Defaults to none.
	Jump protocol.Instant
	// Retained says that outcomes may be forgotten here. Otherwise the clock stays so far below the
	// retention that a Run may leave it out of what tells states apart.
	Retained bool
	// ListAlways lets resources be listed that have nothing to show.
	ListAlways bool
	// Registers lets resources introduce themselves again after a restart, in steps of their own.
	// It is always so where one commits in one phase, or keeps markers, because the log does not
	// say that it can.
	Registers bool
	// Flaw is a deliberate mistake around the machine. Defaults to none.
	Flaw Flaw
	// Only, if set, is the one checker that is heard. Defaults to all.
	Only Checker
	// MaxStates bounds the states. Defaults to 2,000,000.
	MaxStates int
}

// Resource is a resource manager of a scenario.
type Resource struct {
	Name string
	// Evidence says that it can prove how a branch ended that is not prepared any more.
	Evidence bool
	// OnePhase says that it can commit a branch that is not prepared.
	OnePhase bool
	// Marks says that it can keep markers.
	Marks bool
	// Decoys puts branches into it that are not the coordinator's to touch.
	Decoys bool
	// Quiet says that nothing befalls it: no failover, no person, no lost session or call, no
	// listing.
	Quiet bool
}

// Transaction is what one client wants.
type Transaction struct {
	// Resources names the resources of its branches.
	Resources []string
	// Readers are those of Resources where it writes nothing.
	Readers []string
	// ByClient are those of Resources where the client prepares the branch itself, and sends its
	// vote. The others are the coordinator's to ask.
	ByClient []string
	// Calls are the resources of each call of another process that takes the transaction along, and
	// works in a part of its own. The client waits for their votes.
	Calls [][]string
	// Complete says that its votes are those of every branch that is to commit.
	Complete bool
	// Announces says that the client tells, beside its PREPAREs, that it sends them.
	Announces bool
	// Delegate is the one of Resources to which the decision is to be left, or empty. Its branch
	// must be among ByClient.
	Delegate string
	// Terse says that it tells the coordinator of the delegate's vote alone.
	Terse bool
	Ack   txn.AckLevel
	// Key is an idempotency key, or empty.
	Key string
}

// Bounds says how often each thing may happen in one history. Zero means never.
type Bounds struct {
	// Crashes of the coordinator, each with any part of the appends in flight durable. A failed or
	// unanswered append is such a crash: the process stops and reads its log again.
	Crashes int
	// Depositions start a new epoch while the old one goes on for up to Lingers steps. Of what it
	// appends nothing becomes durable any more.
	Depositions, Lingers int
	// Losses are calls whose caller gives up. The call may still arrive, at any later time.
	Losses int
	// Noes are branches that a resource refuses to prepare.
	Noes int
	// Strays are branches that a client prepares at another server than the registered one.
	Strays int
	// SessionLosses are sessions that end before their branch is prepared.
	SessionLosses int
	// Sweeps are listings of a resource, Ticks steps of the clock.
	Sweeps, Ticks int
	// Failovers promote a standby that lacks up to LostOps of the last operations.
	Failovers, LostOps int
	// Interventions are prepared branches that a person commits or rolls back.
	Interventions int
	// Repeats are Commits and announcements after a client's first, Rollbacks and Asks what they
	// are called.
	Repeats, Rollbacks, Asks int
	// Retries are calls of other processes that a retry policy makes again, at any time. The answer
	// to the first may be there, or under way, or lost, which is one of the Losses.
	Retries int
	// Enlists are late Enlist requests, Cancels callers that go away.
	Enlists, Cancels int
	// Outages are times in which the coordinator believes that a resource does not answer. That
	// is a hint, which may come late or be wrong: nothing else happens to the resource.
	Outages int
}

func (s *Scenario) validate() error {
	if len(s.Resources) == 0 || len(s.Resources) > 8 || len(s.Transactions) == 0 {
		return fmt.Errorf("explore: scenario %q needs 1 to 8 resources, and a transaction", s.Name)
	}
	for _, t := range s.Transactions {
		for _, name := range slices.Concat(t.Resources, slices.Concat(t.Calls...)) {
			if s.resource(name) < 0 {
				return fmt.Errorf("explore: scenario %q has no resource %q", s.Name, name)
			}
		}
	}
	return nil
}

// calm says whether nothing can happen here that needs a person.
func (s *Scenario) calm() bool {
	b := s.Bounds
	for _, r := range s.Resources {
		if !r.Evidence || r.Decoys {
			return false
		}
	}
	return b.Failovers+b.Interventions+b.Strays+b.Depositions == 0
}

// resource is the place of a name among the resources, or -1.
func (s *Scenario) resource(name string) int {
	for i, r := range s.Resources {
		if r.Name == name {
			return i
		}
	}
	return -1
}

// registers says whether resources come back after a restart in steps of their own.
func (s *Scenario) registers() bool {
	for _, r := range s.Resources {
		if r.OnePhase || r.Marks {
			return true
		}
	}
	return s.Registers
}

// machine is the coordinator's configuration with this package's defaults.
func (s *Scenario) machine() protocol.Config {
	c := s.Machine
	if c.Block == 0 {
		c.Block = 8
	}
	if c.DefaultTimeout == 0 {
		c.DefaultTimeout = 8 * second
	}
	return c.WithDefaults()
}

func (s *Scenario) maxStates() int {
	if s.MaxStates == 0 {
		return 2_000_000
	}
	return s.MaxStates
}
