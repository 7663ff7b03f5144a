package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// Resource is a resource manager and the name by which transactions call it.
type Resource struct {
	Name string
	// Kind is shown to people: "postgres", "kv", "grpc".
	Kind string
	// Manager stays the caller's: Close does not close it.
	Manager participant.Resource
	// AcceptIdentity takes whatever database answers as the resource from now on, by an operator's
	// word.
	AcceptIdentity bool
	// AcceptForeign registers the resource although branches of another log are prepared in it.
	AcceptForeign bool
}

// Config describes a coordinator.
type Config struct {
	// Dir is the directory of the log, made by Init.
	Dir string
	// FS holds Dir. Defaults to the operating system's files.
	FS vfs.FS
	// Resources are what transactions may name. Those in the log that are missing here keep their
	// undecided branches until they come back.
	Resources []Resource

	// DefaultTimeout is the undecided life of a transaction that names none. Defaults to 30 s.
	DefaultTimeout time.Duration
	// MaxTimeout bounds what a transaction may name. Defaults to 1 h.
	MaxTimeout time.Duration
	// Grace is how far apart two sightings of an orphan are before it is finished. Defaults to 2 s.
	Grace time.Duration
	// SweepEvery is the time between two listings of a resource. Defaults to 1 s.
	SweepEvery time.Duration
	// Retention is how long outcomes stay answerable at least. Defaults to 24 h.
	Retention time.Duration
	// Classic rules the parallel plan out, which is otherwise used for callers that ask for
	// txn.AckDecided: after a crash of the coordinator such a transaction waits until every one of
	// its resources can be asked.
	Classic bool
	// MaxActive bounds the transactions in memory. Defaults to 100,000.
	MaxActive int
	// MaxPending bounds the branches of one resource that wait for phase two. Defaults to 10,000.
	MaxPending int

	// CallTimeout bounds one call of a resource. Its result is unknown afterwards, and it is asked
	// again. Defaults to 5 s.
	CallTimeout time.Duration
	// Workers is how many calls of one resource may run at once. While all of them do, what waits
	// gathers for the next call. Defaults to 16.
	Workers int
	// SnapshotEvery is the log volume after which a snapshot is written, in bytes. Defaults to 64
	// MiB.
	SnapshotEvery int64
	// SegmentSize is the size of a log segment in bytes. Defaults to 64 MiB.
	SegmentSize int64

	// SlowAfter is the age at which a finished transaction gets a line in the journal. Defaults to
	// 1 s.
	SlowAfter time.Duration
	// Logger takes the journal. Defaults to slog.Default.
	Logger *slog.Logger
	// Observer is told of what can be counted. Defaults to nobody.
	Observer Observer
	// Version is written into the log, for people.
	Version string
}

// Observer is told of events as they happen, from the loop: it must not block.
type Observer interface {
	// TransactionDone: a transaction reached its outcome after so long.
	TransactionDone(outcome txn.Outcome, cause txn.Cause, age time.Duration)
	// Synced: the log made a group of records durable.
	Synced(took time.Duration)
	// Alarmed: a branch needs a person.
	Alarmed(resource string, label protocol.Label)
}

type nobody struct{}

func (nobody) TransactionDone(txn.Outcome, txn.Cause, time.Duration) {}
func (nobody) Synced(time.Duration)                                  {}
func (nobody) Alarmed(string, protocol.Label)                        {}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("coordinator: "+format, args...))
	}
	if c.Dir == "" {
		fault("Dir is empty: it must name the directory of the log")
	}
	seen := map[string]bool{}
	for i, r := range c.Resources {
		switch {
		case r.Name == "" || len(r.Name) > txn.MaxResourceNameLen:
			fault(
				"Resources[%d]: the name %q must have 1 to %d bytes",
				i,
				r.Name,
				txn.MaxResourceNameLen,
			)
		case seen[r.Name]:
			fault("Resources[%d]: %q is there twice", i, r.Name)
		case r.Manager == nil:
			fault("Resources[%d]: %q has no Manager", i, r.Name)
		}
		seen[r.Name] = true
	}
	for name, d := range map[string]time.Duration{
		"DefaultTimeout": c.DefaultTimeout, "MaxTimeout": c.MaxTimeout, "Grace": c.Grace,
		"SweepEvery": c.SweepEvery, "Retention": c.Retention, "CallTimeout": c.CallTimeout,
	} {
		if d < 0 {
			fault("%s is negative: %v", name, d)
		}
	}
	if c.MaxActive < 0 || c.MaxPending < 0 || c.Workers < 0 {
		fault("MaxActive, MaxPending and Workers must not be negative")
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	def(&c.SweepEvery, time.Second)
	def(&c.CallTimeout, 5*time.Second)
	def(&c.SlowAfter, time.Second)
	def(&c.Workers, 16)
	def(&c.SnapshotEvery, 64<<20)
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	return c
}

func def[T ~int | ~int64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// core is what the core needs of c. Its leap and its retries are random.
func (c Config) core() core.Config {
	cfg := core.Config{
		Machine: protocol.Config{
			DefaultTimeout: protocol.Instant(c.DefaultTimeout),
			MaxTimeout:     protocol.Instant(c.MaxTimeout),
			Grace:          protocol.Instant(c.Grace),
			Retention:      protocol.Instant(c.Retention),
			Classic:        c.Classic,
			Leap:           protocol.MinLeap + rand.N(protocol.MinLeap),
			MaxActive:      c.MaxActive,
			MaxPending:     c.MaxPending,
		},
		Workers:       c.Workers,
		SweepEvery:    protocol.Instant(c.SweepEvery),
		SnapshotEvery: c.SnapshotEvery,
		Rand:          rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
	for _, r := range c.Resources {
		cfg.Resources = append(cfg.Resources, core.Resource{Name: r.Name, Kind: r.Kind,
			AcceptIdentity: r.AcceptIdentity, AcceptForeign: r.AcceptForeign})
	}
	return cfg
}
