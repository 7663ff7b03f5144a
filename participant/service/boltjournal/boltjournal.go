// Package boltjournal keeps the journal of a service in bbolt: in a file of its own ([Open]), or in
// the file in which the service keeps its data ([In]), where both change in one transaction.
package boltjournal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant/service"
)

// ErrFailed is wrapped by every error of a journal whose disk failed. What was being written may or
// may not be there; opening the file again tells.
var ErrFailed = errors.New("boltjournal: the journal has failed and must be opened again")

// Bucket is the bucket of the journal. Nobody else may write to it.
const Bucket = "gavel-journal"

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = time.Second

// maxGroup bounds the updates of one bbolt transaction.
const maxGroup = 256

// Journal is a service.Journal in bbolt.
type Journal struct {
	db    *bbolt.DB
	joins bool
	// run is db.Update: it is durable when it returns nil.
	run func(func(*bbolt.Tx) error) error

	// turn holds a token while a group is being written.
	turn chan struct{}
	// seen is locked for a write until that is durable: bbolt shows a commit to readers before it
	// has synced the page that makes it one.
	seen sync.RWMutex

	mu     sync.Mutex
	queue  []*update
	failed error
}

var _ service.Journal = (*Journal)(nil)

type update struct {
	ctx  context.Context
	f    func(context.Context, service.Tx) error
	done chan error
}

// Open opens the journal in a file of its own, which is made if it does not exist, in a directory
// that does. The service's changes are not part of its transactions. On return the file and its
// name are durable. Only one process can have it open.
func Open(path string) (*Journal, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("boltjournal: open %s: %w", path, err)
	}
	j, err := newJournal(db)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("boltjournal: open %s: %w", path, err), db.Close())
	}
	return j, nil
}

// In keeps the journal in a file of the service's own, which stays the caller's: Close does not
// close it. The caller has made sure that the file's name is durable, and that no other process can
// open it. The methods of the service find the transaction of the journal by [Tx].
func In(db *bbolt.DB) (*Journal, error) {
	if db.NoSync || db.IsReadOnly() {
		return nil, errors.New("boltjournal: the file is not synced, or read only")
	}
	j, err := newJournal(db)
	if err != nil {
		return nil, fmt.Errorf("boltjournal: begin a journal in %s: %w", db.Path(), err)
	}
	j.joins = true
	return j, nil
}

func newJournal(db *bbolt.DB) (*Journal, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(Bucket))
		return err
	})
	return &Journal{db: db, run: db.Update, turn: make(chan struct{}, 1)}, err
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close closes a file that Open has opened.
func (j *Journal) Close() error {
	if j.joins {
		return nil
	}
	return j.db.Close()
}

// Joins implements service.Journal.
func (j *Journal) Joins() bool { return j.joins }

type key struct{}

// Tx is the transaction in which a method of a service is called whose journal is in its own file.
// Without such a journal it is nil.
func Tx(ctx context.Context) *bbolt.Tx {
	tx, _ := ctx.Value(key{}).(*bbolt.Tx)
	return tx
}

func (j *Journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// Update implements service.Journal. The sync that runs is the window in which the next group
// gathers; whoever gets the turn writes for all that wait. An update that waits is not given up
// when its context ends.
func (j *Journal) Update(
	ctx context.Context, f func(context.Context, service.Tx) error,
) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("boltjournal: not begun: %w", context.Cause(ctx))
	}
	u := &update{ctx: ctx, f: f, done: make(chan error, 1)}
	j.mu.Lock()
	j.queue = append(j.queue, u)
	j.mu.Unlock()
	for {
		select {
		case err := <-u.done:
			return err
		case j.turn <- struct{}{}:
			j.lead()
		}
	}
}

// lead writes one group and gives the turn back, also when a method of the service panics.
func (j *Journal) lead() {
	defer func() { <-j.turn }()
	group, returned := j.gather(), false
	defer func() {
		for _, u := range group {
			if returned {
				return
			}
			select {
			case u.done <- errPanicked:
			default: // it was answered before the panic
			}
		}
	}()
	j.write(group)
	returned = true
}

// errPanicked is the answer to updates that were taken back because one of them panicked, in a
// goroutine that goes on all the same.
var errPanicked = errors.New("boltjournal: a panic broke off the transaction, which was taken back")

// gather takes the next group. Where the service's changes are part of the transaction there is one
// update in it, so that none is taken back, and made again, because of another.
func (j *Journal) gather() []*update {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := min(len(j.queue), maxGroup)
	if j.joins {
		n = min(n, 1)
	}
	group := j.queue[:n:n]
	j.queue = j.queue[n:]
	return group
}

// write makes a group durable. When one of its updates refuses, all are taken back and made one by
// one. When the commit fails, nobody knows what is on the disk, and the journal must not be used on
// what memory says about it.
func (j *Journal) write(group []*update) {
	if len(group) == 0 {
		return
	}
	applied, err := j.commit(group)
	if err != nil && !applied && len(group) > 1 {
		for i := range group {
			j.write(group[i : i+1])
		}
		return
	}
	for _, u := range group {
		u.done <- err
	}
}

func (j *Journal) commit(group []*update) (applied bool, err error) {
	if err := j.err(); err != nil {
		return false, err
	}
	j.seen.Lock()
	defer j.seen.Unlock()
	err = j.run(func(tx *bbolt.Tx) error {
		for _, u := range group {
			ctx := context.WithValue(u.ctx, key{}, tx)
			if err := u.f(ctx, entries{tx.Bucket([]byte(Bucket))}); err != nil {
				return err
			}
		}
		applied = true
		return nil
	})
	if err != nil && applied {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.failed = fmt.Errorf("%w: %w", ErrFailed, err)
		return true, j.failed
	}
	return applied, err
}

// View implements service.Journal.
func (j *Journal) View(ctx context.Context, f func(service.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("boltjournal: not begun: %w", context.Cause(ctx))
	}
	j.seen.RLock()
	defer j.seen.RUnlock()
	if err := j.err(); err != nil {
		return err
	}
	return j.db.View(func(tx *bbolt.Tx) error { return f(entries{tx.Bucket([]byte(Bucket))}) })
}

// entries is the journal within one bbolt transaction.
type entries struct{ bucket *bbolt.Bucket }

func (e entries) Get(key []byte) ([]byte, error) { return e.bucket.Get(key), nil }

func (e entries) Put(key, value []byte) error {
	if value == nil {
		return e.bucket.Delete(key)
	}
	return e.bucket.Put(bytes.Clone(key), bytes.Clone(value))
}

func (e entries) Scan(prefix []byte, f func(key, value []byte) (bool, error)) error {
	c := e.bucket.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		more, err := f(k, v)
		if err != nil || !more {
			return err
		}
	}
	return nil
}
