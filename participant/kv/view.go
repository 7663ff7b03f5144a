package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/txn"
)

// view is the file at one moment, within a bbolt transaction. Its writing methods need a writable
// one. Byte slices that it returns live as long as the transaction.
type view struct {
	tx *bbolt.Tx
	// promised are the bytes for which branches have been given room in this transaction.
	promised *int64
}

func viewOf(tx *bbolt.Tx) view { return view{tx: tx, promised: new(int64)} }

func (v view) bucket(name string) *bbolt.Bucket { return v.tx.Bucket([]byte(name)) }

// position is how far the history has come. There is one timeline: a store is never promoted.
func (v view) position() txn.Position {
	return txn.Position{Timeline: 1, LSN: v.bucket("meta").Sequence()}
}

// tick moves the history on.
func (v view) tick() (uint64, error) { return v.bucket("meta").NextSequence() }

// count is how many entries a bucket has that counts them in its sequence.
func (v view) count(bucket string) int { return int(v.bucket(bucket).Sequence()) }

// add puts an entry into a bucket that counts, unless it is there already.
func (v view) add(bucket, key string, value []byte) error {
	b := v.bucket(bucket)
	if b.Get([]byte(key)) == nil {
		if err := b.SetSequence(b.Sequence() + 1); err != nil {
			return err
		}
	}
	return b.Put([]byte(key), value)
}

// remove takes an entry out of a bucket that counts.
func (v view) remove(bucket, key string) error {
	b := v.bucket(bucket)
	if b.Get([]byte(key)) == nil {
		return nil
	}
	if err := b.SetSequence(b.Sequence() - 1); err != nil {
		return err
	}
	return b.Delete([]byte(key))
}

// fenceOf is the newest fence seen from a log, or the zero Fence.
func (v view) fenceOf(log txn.LogID) (txn.Fence, error) {
	b := v.bucket("fences").Get(binary.BigEndian.AppendUint64(nil, uint64(log)))
	if b == nil {
		return txn.Fence{}, nil
	}
	if len(b) != 12 {
		return txn.Fence{}, fmt.Errorf("the fence of log %s is damaged", log)
	}
	return txn.Fence{
		Log: log, Epoch: txn.Epoch(binary.BigEndian.Uint32(b)), LSN: binary.BigEndian.Uint64(b[4:]),
	}, nil
}

// judge decides about a call and says what to remember. A refusal wraps one of package
// participant's sentinels.
func (v view) judge(f txn.Fence, hello bool) (next txn.Fence, raised bool, err error) {
	seen, err := v.fenceOf(f.Log)
	if err != nil {
		return txn.Fence{}, false, err
	}
	if next, err = fence.Judge(seen, f, hello); err != nil {
		return txn.Fence{}, false, err
	}
	if seen == (txn.Fence{}) && v.bucket("fences").Stats().KeyN >= MaxLogs {
		return txn.Fence{}, false, txn.Refusef(txn.ReasonOverloaded, "fence.log_id",
			"the store remembers %d logs already, and no more are allowed; give this one a store "+
				"of its own", MaxLogs)
	}
	return next, next.Epoch != seen.Epoch, nil
}

func (v view) remember(f txn.Fence) error {
	value := binary.BigEndian.AppendUint32(nil, uint32(f.Epoch))
	value = binary.BigEndian.AppendUint64(value, f.LSN)
	return v.bucket("fences").Put(binary.BigEndian.AppendUint64(nil, uint64(f.Log)), value)
}

// read is a committed value with its version. Version 0 means that the key does not exist.
func (v view) read(key string) (version uint64, value []byte, err error) {
	b := v.bucket("data").Get([]byte(key))
	switch {
	case b == nil:
		return 0, nil, nil
	case len(b) < versionLen:
		return 0, nil, fmt.Errorf("the value of key %.64q is damaged", key)
	}
	return binary.BigEndian.Uint64(b), b[versionLen:], nil
}

// versionLen is what a value has in front of it.
const versionLen = 8

// put commits a write at a point of the history.
func (v view) put(w write, version uint64) error {
	if w.deleted {
		return v.bucket("data").Delete([]byte(w.key))
	}
	value := binary.BigEndian.AppendUint64(make([]byte, 0, versionLen+len(w.value)), version)
	return v.bucket("data").Put([]byte(w.key), append(value, w.value...))
}

// The two kinds of locks.
const (
	lockShared    = 's'
	lockExclusive = 'x'
)

// lockKey sorts all locks of one key together.
func lockKey(key, name string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(key)))
	return append(append(b, key...), name...)
}

// blocker is the branch that keeps name from locking key in a mode, or "".
func (v view) blocker(key, name string, mode byte) string {
	prefix := lockKey(key, "")
	c := v.bucket("locks").Cursor()
	for k, held := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, held = c.Next() {
		holder := string(k[len(prefix):])
		conflict := mode == lockExclusive || held[0] == lockExclusive
		if holder != name && conflict {
			return holder
		}
	}
	return ""
}

// lock and unlock take and give back every lock of a prepared branch.
func (v view) lock(name string, r record) error {
	for _, key := range r.reads {
		if err := v.bucket("locks").Put(lockKey(key, name), []byte{lockShared}); err != nil {
			return err
		}
	}
	// After the shared ones: a key that was read and written is held exclusively.
	for _, w := range r.writes {
		if err := v.bucket("locks").Put(lockKey(w.key, name), []byte{lockExclusive}); err != nil {
			return err
		}
	}
	return nil
}

func (v view) unlock(name string, r record) error {
	var errs []error
	for _, key := range r.reads {
		errs = append(errs, v.bucket("locks").Delete(lockKey(key, name)))
	}
	for _, w := range r.writes {
		errs = append(errs, v.bucket("locks").Delete(lockKey(w.key, name)))
	}
	return errors.Join(errs...)
}

// prepared is the record of a prepared branch.
func (v view) prepared(name string) (record, bool, error) {
	b := v.bucket("prepared").Get([]byte(name))
	if b == nil {
		return record{}, false, nil
	}
	r, err := decodeRecord(b)
	if err != nil {
		return record{}, false, fmt.Errorf("prepared branch %s: %w", name, err)
	}
	return r, true, nil
}
