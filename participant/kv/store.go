package kv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Limits of a single operation and of a branch.
const (
	// MaxKeyLen bounds a key, in bytes. An empty key is refused.
	MaxKeyLen = 1024
	// MaxValueLen bounds a value, in bytes.
	MaxValueLen = 64 << 10
	// MaxOps bounds the operations of one Apply, and the keys of one Get.
	MaxOps = 256
	// MaxBranchBytes bounds the keys and values of one branch together.
	MaxBranchBytes = 1 << 20
)

// ErrFailed is wrapped by every error of a store whose disk failed. What was being written may or
// may not be there; opening the store again tells.
var ErrFailed = errors.New("kv: the store has failed and must be opened again")

// ErrClosed is returned by calls of a closed store.
var ErrClosed = errors.New("kv: the store is closed")

// Config describes a store.
type Config struct {
	// Dir holds the file kv.db. It is made if it does not exist. Only one process can have it open.
	Dir string
	// MaxPrepared bounds the prepared branches. Beyond it branches vote no. Defaults to 10,000.
	MaxPrepared int
	// MaxBranches bounds the branches that are not prepared yet. Defaults to 10,000.
	MaxBranches int
	// MaxWorkingBytes bounds the keys and values of the branches that are not prepared, and their
	// last answers, all together; they are in memory. Beyond it Apply is refused. Defaults to
	// 256 MiB.
	MaxWorkingBytes int
	// MaxBytes bounds what the file holds, in bytes; free pages do not count. Beyond it branches
	// that would make the store larger vote no. What is being committed is never refused, so that
	// the file can exceed it by what one group of branches adds, and by what is prepared. Defaults
	// to 4 GiB.
	MaxBytes int64
	// MaxFinished bounds the finished branches whose end is remembered. Defaults to 100,000.
	MaxFinished int
	// MaxRefused bounds the remembered branches that were rolled back before they were prepared.
	// Defaults to 10,000.
	MaxRefused int
	// RefusedAge is how long these are remembered. It should exceed the longest timeout of a
	// transaction. Defaults to 24 h.
	RefusedAge time.Duration
	// IdleAfter is when an unprepared branch without a call is dropped. Defaults to 10 min.
	IdleAfter time.Duration
	// LockWait is how long Open waits for another process to let go of the file. Defaults to 1 s.
	LockWait time.Duration
	// Now is the clock. It must not decide more than how long something is remembered. Defaults
	// to time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	fill(&c.MaxPrepared, 10_000)
	fill(&c.MaxBranches, 10_000)
	fill(&c.MaxWorkingBytes, 256<<20)
	fill(&c.MaxBytes, 4<<30)
	fill(&c.MaxFinished, 100_000)
	fill(&c.MaxRefused, 10_000)
	fill(&c.RefusedAge, 24*time.Hour)
	fill(&c.IdleAfter, 10*time.Minute)
	fill(&c.LockWait, time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("kv: Dir is empty: it must name the store's directory"))
	}
	for name, n := range map[string]int64{
		"MaxPrepared": int64(c.MaxPrepared), "MaxBranches": int64(c.MaxBranches),
		"MaxWorkingBytes": int64(c.MaxWorkingBytes), "MaxBytes": c.MaxBytes,
		"MaxFinished": int64(c.MaxFinished), "MaxRefused": int64(c.MaxRefused),
		"RefusedAge": int64(c.RefusedAge), "IdleAfter": int64(c.IdleAfter),
		"LockWait": int64(c.LockWait),
	} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("kv: %s is negative", name))
		}
	}
	return errors.Join(errs...)
}

// Store is an open store. It is a participant.Resource, OnePhaser, Describer and Closer, and safe
// for concurrent use.
type Store struct {
	cfg      Config
	db       *bbolt.DB
	identity txn.Identity
	branches *branches
	writer   *writer
}

var (
	_ participant.Resource  = (*Store)(nil)
	_ participant.OnePhaser = (*Store)(nil)
	_ participant.Describer = (*Store)(nil)
	_ participant.Closer    = (*Store)(nil)
)

// The formats of the file. In the first one ends were dropped without a trace.
const (
	firstFormat = 1
	format      = 2
)

// Open opens the store in cfg.Dir, and makes it, with a new identity, if there is none. What was
// prepared is prepared again; unprepared branches are lost. On return the file and its name are
// durable.
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("kv: make %s: %w", cfg.Dir, err)
	}
	path := filepath.Join(cfg.Dir, fileName)
	db, err := openFile(path, cfg.LockWait, os.OpenFile)
	if err != nil {
		return nil, fmt.Errorf("kv: open %s: %w", path, err)
	}
	s := &Store{cfg: cfg, db: db, branches: newBranches(cfg)}
	if err := s.prepareFile(); err != nil {
		return nil, errors.Join(fmt.Errorf("kv: open %s: %w", path, err), db.Close())
	}
	s.writer = newWriter(db.Update)
	return s, nil
}

// prepareFile makes what is missing in the file, and its name durable: a file that bbolt has just
// made, or a compaction has renamed, may otherwise be gone after a power cut, with everything that
// was prepared in it.
func (s *Store) prepareFile() error {
	if err := s.db.Update(s.makeBuckets); err != nil {
		return err
	}
	// With the lock in hand no compaction is under way: this one did not end.
	if err := removeIfThere(filepath.Join(s.cfg.Dir, compactName)); err != nil {
		return err
	}
	for _, dir := range []string{s.cfg.Dir, filepath.Dir(filepath.Clean(s.cfg.Dir))} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) makeBuckets(tx *bbolt.Tx) error {
	for _, name := range []string{
		"meta", "fences", "data", "prepared", "locks",
		"finished", "finished-order", "refused", "refused-order", "horizon",
	} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte("meta"))
	switch got := meta.Get([]byte("format")); {
	case got == nil:
		if err := newIdentity(meta); err != nil {
			return err
		}
	case bytes.Equal(got, []byte{firstFormat}):
		if err := upgrade(viewOf(tx)); err != nil {
			return err
		}
	case len(got) != 1 || got[0] != format:
		return fmt.Errorf("the file has format %v, and this version reads %d", got, format)
	}
	system := meta.Get([]byte("system"))
	if len(system) != 8 {
		return errors.New("the file has lost its identity")
	}
	s.identity = txn.Identity{System: binary.BigEndian.Uint64(system), Database: 1}
	return nil
}

// upgrade reads a file of the first format on. Any end may have been dropped from it, so that the
// absence of one proves nothing, whatever the sequence. An older version refuses the file from now
// on, because it would go on dropping ends without a trace.
func upgrade(v view) error {
	return errors.Join(
		v.push(everyLog, horizon{forgotten: txn.MaxSeq}),
		v.bucket("meta").Put([]byte("format"), []byte{format}))
}

func newIdentity(meta *bbolt.Bucket) error {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	return errors.Join(
		meta.Put([]byte("system"), id[:]), meta.Put([]byte("format"), []byte{format}))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close waits for the calls under way and closes the file. What is prepared stays prepared.
func (s *Store) Close() error {
	s.writer.close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("kv: close: %w", err)
	}
	return nil
}

// Identity is the store's own, drawn when it was made.
func (s *Store) Identity() txn.Identity { return s.identity }

// Describe implements participant.Describer.
func (s *Store) Describe(ctx context.Context) (participant.Description, error) {
	d := participant.Description{
		Kind: "kv", Version: fmt.Sprintf("format %d", format), Identity: s.identity,
		Limit: s.cfg.MaxPrepared, Evidence: true,
	}
	var sizes []participant.Check
	err := s.view(ctx, func(v view) error {
		d.Position, d.Used, sizes = v.position(), v.count("prepared"), s.sizeChecks(v)
		all, err := v.horizonEntry(everyLog)
		// A store of the first format can prove no absence, and a lost answer would need a person.
		d.OnePhase = all.forgotten < txn.MaxSeq
		return err
	})
	if err == nil {
		err = s.writer.settled(ctx)
	}
	if err != nil {
		return participant.Description{}, err
	}
	check := participant.Check{
		What: fmt.Sprintf("%d of %d branches are prepared", d.Used, d.Limit),
	}
	if 5*d.Used >= 4*d.Limit {
		check.Level = participant.LevelWarn
		check.Fix = "raise MaxPrepared, or look for branches that nobody finishes"
	}
	d.Checks = append([]participant.Check{check}, sizes...)
	return d, nil
}

// view reads at one moment. It may see what the writer is about to make durable, and a power cut
// would take back; an answer that others keep must wait for [writer.settled].
func (s *Store) view(ctx context.Context, f func(view) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("kv: %w", context.Cause(ctx))
	}
	if err := s.writer.err(); err != nil {
		return err
	}
	err := s.db.View(func(tx *bbolt.Tx) error { return f(viewOf(tx)) })
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}
