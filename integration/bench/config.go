package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Resource is one of the databases. It prints with its secrets: do not.
type Resource struct {
	// Name is the one under which the coordinators know it.
	Name string
	// DSN is what the driver gets.
	DSN string
	// OwnerRole owns prepared branches; empty for the role of DSN.
	OwnerRole string
}

// Config describes a run.
type Config struct {
	// Resources are the databases, at least two. Transfers use the first two, and the first N where
	// the cost of N branches is measured. Each gets a table of accounts for the time of the run.
	Resources []Resource
	// Coordinator is the gRPC address, plaintext, of a coordinator process that has all Resources.
	Coordinator string
	// Dir is an empty directory for the logs of the embedded coordinator and of floors. It should
	// be on the same disk as the process's log.
	Dir string

	// Clients are the numbers of clients to measure with. Defaults to 1, 8, 32, 64.
	Clients []int
	// Branches are the numbers of branches to measure the cost of growth with, as far as there are
	// Resources. Defaults to 2, 4, 8.
	Branches []int
	// Duration of one measurement; a fifth of it comes before as a warm-up. Defaults to 1.5 s.
	Duration time.Duration
	// Rounds is how often everything is measured. Defaults to 5.
	Rounds int
	// Rate is the arrival rate of the open loop as a share of the best throughput of 2pc in the
	// same round. Zero leaves the open loop out.
	Rate float64
	// Markers says that the first of Resources is set up for markers. Without it the lines that
	// need them are left out, and refused if they are asked for.
	Markers bool
	// Lines are the lines to measure, with their floors. Defaults to all.
	Lines []string
	// Seed of the order, the accounts and the amounts.
	Seed uint64
	// Accounts in each database. Defaults to 10,000.
	Accounts int

	// Progress is told after each measurement how many of how many are done. Defaults to nobody.
	Progress func(done, total int)
	// Version of the program, for the report.
	Version string
}

// Limits of a Config.
const (
	MaxClients  = 512
	MaxRounds   = 100
	MaxDuration = 10 * time.Minute
	MaxAccounts = 1_000_000
	// MaxRate allows an open loop beyond what the floor can do, where a queue grows.
	MaxRate = 2
)

// growthClients is how many clients measure the cost of more branches.
const growthClients = 8

// ErrConfig is wrapped by the errors of a Config that cannot be run.
var ErrConfig = errors.New("bench: invalid configuration")

func (c Config) withDefaults() Config {
	if len(c.Clients) == 0 {
		c.Clients = []int{1, 8, 32, 64}
	}
	if c.Branches == nil {
		c.Branches = []int{2, 4, 8}
	}
	c.Branches = slices.DeleteFunc(slices.Clone(c.Branches), func(n int) bool {
		return n > len(c.Resources)
	})
	if c.Duration == 0 {
		c.Duration = 1500 * time.Millisecond
	}
	if c.Rounds == 0 {
		c.Rounds = 5
	}
	if c.Accounts == 0 {
		c.Accounts = 10_000
	}
	if c.Progress == nil {
		c.Progress = func(int, int) {}
	}
	return c
}

// Validate reports every fault at once. All of them are ErrConfig.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(good bool, format string, args ...any) {
		if !good {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
		}
	}
	check(len(c.Resources) >= 2, "%d databases, and a transfer needs two", len(c.Resources))
	for _, n := range c.Clients {
		check(n >= 1 && n <= MaxClients, "%d clients are not within 1 and %d", n, MaxClients)
	}
	for _, n := range c.Branches {
		check(n >= 2, "%d branches are less than 2", n)
	}
	check(c.Duration > 0 && c.Duration <= MaxDuration, "a duration of %v is not within 0 and %v",
		c.Duration, MaxDuration)
	check(c.Rounds > 0 && c.Rounds <= MaxRounds, "%d rounds are not within 1 and %d", c.Rounds,
		MaxRounds)
	check(c.Rate >= 0 && c.Rate <= MaxRate, "a rate of %v is not within 0 and %v", c.Rate, MaxRate)
	check(c.Accounts > 0 && c.Accounts <= MaxAccounts, "%d accounts are not within 1 and %d",
		c.Accounts, MaxAccounts)
	for _, name := range c.Lines {
		check(slices.Contains(Names(), name), "no line is called %q", name)
		marks := slices.ContainsFunc(Rows(), func(r Row) bool { return r.Name == name && r.Marks })
		check(c.Markers || !marks, "%s leaves decisions to the first database, which has no "+
			"markers; run gavel markers", name)
	}
	return errors.Join(errs...)
}

// maxClients is the most clients that any cell has at one of the databases.
func (c Config) maxClients(database int) int {
	most := 0
	if database < 2 {
		most = slices.Max(c.Clients)
	}
	if database < slices.Max(append(c.Branches, 0)) {
		most = max(most, growthClients)
	}
	return most
}
