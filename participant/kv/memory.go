package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// end is how a branch ended.
type end byte

const (
	// endNone: nothing is remembered.
	endNone end = 0
	// endCommitted: committed.
	endCommitted end = 'C'
	// endRolledBack: this store saw it end without effect.
	endRolledBack end = 'R'
	// endConflict: rolled back as well, when it was told to commit in one phase, because of another
	// branch. Running its work again may succeed.
	endConflict end = 'K'
	// endRefused: a rollback came for a branch that was not known here. A prepare that comes late
	// votes no. It does not prove how the branch ended, since its real end may have been forgotten.
	endRefused end = 'T'
)

// ended is the memory of one finished branch:
//
//	end (1) · xid of its prepare, or 0 (8) · history counter at its end (8) · unix ns (8)
type ended struct {
	end end
	xid uint64
	at  uint64
	by  time.Time
}

const endedLen = 25

func (e ended) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{byte(e.end)}, e.xid)
	b = binary.BigEndian.AppendUint64(b, e.at)
	return binary.BigEndian.AppendUint64(b, uint64(e.by.UnixNano()))
}

func decodeEnded(b []byte) (ended, error) {
	if len(b) != endedLen {
		return ended{}, errDamaged
	}
	e := ended{
		end: end(b[0]), xid: binary.BigEndian.Uint64(b[1:]), at: binary.BigEndian.Uint64(b[9:]),
		by: time.Unix(0, int64(binary.BigEndian.Uint64(b[17:]))),
	}
	switch e.end {
	case endCommitted, endRolledBack, endConflict, endRefused:
		return e, nil
	}
	return ended{}, errDamaged
}

// endOf is how a branch ended, as far as it is remembered.
func (v view) endOf(name string) (ended, error) {
	for _, bucket := range []string{"finished", "refused"} {
		if b := v.bucket(bucket).Get([]byte(name)); b != nil {
			e, err := decodeEnded(b)
			if err != nil {
				return ended{}, fmt.Errorf("finished branch %s: %w", name, err)
			}
			return e, nil
		}
	}
	return ended{}, nil
}

// bound is the limit of one kind of memory.
type bound struct {
	bucket string
	most   int
	// oldest, if not zero, is when entries are too old.
	oldest time.Time
}

// memorise adds the end of a branch and drops the oldest entries beyond the bound. What is
// dropped costs certainty, never atomicity: of a finished branch the store then says Gone, which
// its coordinator treats as a hazard and shows; and a prepare that comes so late that its refusal
// is forgotten leaves an orphan, which the next sweep rolls back. What was finished moves the
// horizon as it is dropped, so that its absence is not taken for a proof.
func (v view) memorise(m bound, name string, e ended) error {
	if err := v.forget(m.bucket, name); err != nil {
		return err
	}
	if err := v.add(m.bucket, name, e.encode()); err != nil {
		return err
	}
	order := v.bucket(m.bucket + "-order")
	if err := order.Put(orderKey(e.at), []byte(name)); err != nil {
		return err
	}
	for {
		k, value := order.Cursor().First()
		oldest := string(value)
		if k == nil || v.count(m.bucket) <= m.most && !v.tooOld(m, oldest) {
			return nil
		}
		// Deleted by its own key too, so that an entry without its memory cannot stay the oldest.
		if err := order.Delete(bytes.Clone(k)); err != nil {
			return err
		}
		if err := v.drop(m.bucket, oldest); err != nil {
			return err
		}
	}
}

// drop takes one memory for want of room. A name that cannot be read may have been any, and then
// nothing's absence is a proof any more.
func (v view) drop(bucket, name string) error {
	if bucket == "finished" {
		log, by := everyLog, horizon{forgotten: txn.MaxSeq}
		if n, err := txn.ParseName(name); err == nil {
			log, by = n.Log, horizon{dropped: n.Seq}
		}
		if err := v.push(log, by); err != nil {
			return err
		}
	}
	return v.forget(bucket, name)
}

func (v view) tooOld(m bound, name string) bool {
	e, err := decodeEnded(v.bucket(m.bucket).Get([]byte(name)))
	return err != nil || !m.oldest.IsZero() && e.by.Before(m.oldest)
}

// forgetFinished drops the end of a branch that its coordinator will never ask about again. The
// horizon moves all the same, so that one that does ask hears Gone.
func (v view) forgetFinished(n txn.Name) error {
	if v.bucket("finished").Get([]byte(n.String())) == nil {
		return nil
	}
	if err := v.push(n.Log, horizon{forgotten: n.Seq}); err != nil {
		return err
	}
	return v.forget("finished", n.String())
}

// forget drops one memory, if it is there.
func (v view) forget(bucket, name string) error {
	b := v.bucket(bucket).Get([]byte(name))
	if b == nil {
		return nil
	}
	if e, err := decodeEnded(b); err == nil {
		if err := v.bucket(bucket + "-order").Delete(orderKey(e.at)); err != nil {
			return err
		}
	}
	return v.remove(bucket, name)
}

func orderKey(at uint64) []byte { return binary.BigEndian.AppendUint64(nil, at) }
