package kv

import (
	"encoding/binary"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// horizon is how far back the memory of a log's ends reaches.
type horizon struct {
	// dropped is the highest sequence whose end was dropped for want of room.
	dropped txn.Seq
	// forgotten is the highest sequence whose end its coordinator has told the store to forget.
	forgotten txn.Seq
}

// remembers says whether every branch of this sequence that has ended is remembered.
func (h horizon) remembers(seq txn.Seq) bool { return seq > h.dropped && seq > h.forgotten }

const horizonLen = 16

// everyLog is no log's id. Its horizon holds for all of them.
const everyLog txn.LogID = 0

// horizonOf is the horizon of a log, by the entries of its own and of everyLog.
func (v view) horizonOf(log txn.LogID) (horizon, error) {
	own, err := v.horizonEntry(log)
	if err != nil {
		return horizon{}, err
	}
	all, err := v.horizonEntry(everyLog)
	return horizon{
		dropped: max(own.dropped, all.dropped), forgotten: max(own.forgotten, all.forgotten),
	}, err
}

func (v view) horizonEntry(log txn.LogID) (horizon, error) {
	b := v.bucket("horizon").Get(horizonKey(log))
	switch len(b) {
	case 0:
		return horizon{}, nil
	case horizonLen:
		return decodeHorizon(b), nil
	}
	return horizon{}, fmt.Errorf("the horizon of log %s: %w", log, errDamaged)
}

// push moves the horizon of a log on, never back. It belongs into the transaction that drops the
// ends: a crash between the two would leave a store that takes what it forgot for what never was.
func (v view) push(log txn.LogID, by horizon) error {
	now, err := v.horizonEntry(log)
	if err != nil {
		return err
	}
	by.dropped, by.forgotten = max(by.dropped, now.dropped), max(by.forgotten, now.forgotten)
	if by == now {
		return nil
	}
	return v.bucket("horizon").Put(horizonKey(log), by.encode())
}

func horizonKey(log txn.LogID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(log)) }

func (h horizon) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(h.dropped))
	return binary.BigEndian.AppendUint64(b, uint64(h.forgotten))
}

func decodeHorizon(b []byte) horizon {
	return horizon{
		dropped:   txn.Seq(binary.BigEndian.Uint64(b)),
		forgotten: txn.Seq(binary.BigEndian.Uint64(b[8:])),
	}
}
