package txn

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// LogID is the identity of one transaction log: 60 random bits, made once when the log is
// initialised. The zero LogID means "none".
type LogID uint64

// Seq numbers the transactions of one log, in 62 bits: densely within an epoch, which begins far
// behind the one before it. The zero Seq means "none".
type Seq uint64

// Epoch is one life of a coordinator on its log: it rises by one, durably, at every open.
// Participants refuse a lower epoch than the highest they have seen.
type Epoch uint32

// ID names a global transaction. It is an ordinary UUID (version 8) and prints as one. The zero ID
// means "none". An ID is a name, not a capability.
type ID uuid.UUID

const (
	logBits = 60
	seqBits = 62

	// MaxLogID and MaxSeq are the largest values that fit a transaction id.
	MaxLogID LogID = 1<<logBits - 1
	MaxSeq   Seq   = 1<<seqBits - 1
)

// ErrBadID is wrapped by every error about a string that is not a transaction id of this product.
var ErrBadID = errors.New("txn: not a transaction id")

// NewLogID draws a LogID from the operating system's random source.
func NewLogID() (LogID, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("txn: draw a log id: %w", err)
		}
		if id := LogID(binary.BigEndian.Uint64(b[:]) >> (64 - logBits)); id != 0 {
			return id, nil
		}
	}
}

// NewID packs a log id and a sequence number. It panics if either is zero or too large: ids are
// made only by a coordinator from its own log, so such a value is a broken invariant and not bad
// input.
func NewID(log LogID, seq Seq) ID {
	if log == 0 || log > MaxLogID || seq == 0 || seq > MaxSeq {
		panic(fmt.Sprintf("txn: id from log %#x, sequence %d", uint64(log), uint64(seq)))
	}
	var id ID
	hi := uint64(log)>>12<<16 | 8<<12 | uint64(log)&0xfff
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], 2<<62|uint64(seq))
	return id
}

// Log is the log that the transaction belongs to.
func (id ID) Log() LogID {
	hi := binary.BigEndian.Uint64(id[:8])
	return LogID(hi>>16<<12 | hi&0xfff)
}

// Seq is the transaction's place in its log.
func (id ID) Seq() Seq { return Seq(binary.BigEndian.Uint64(id[8:]) & uint64(MaxSeq)) }

// Valid says whether a coordinator can have made id.
func (id ID) Valid() bool {
	return id[6]>>4 == 8 && id[8]>>6 == 2 && id.Log() != 0 && id.Seq() != 0
}

// IsZero says whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String is the usual 36 characters of a UUID.
func (id ID) String() string { return uuid.UUID(id).String() }

// MarshalText writes the id as its 36 characters, for JSON and flags.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseID reads the 36-character form. The error wraps [ErrBadID] and says what is wrong with the
// string.
func ParseID(s string) (ID, error) {
	if len(s) != 36 {
		return ID{}, fmt.Errorf("%w: %.64q has %d characters, not 36", ErrBadID, s, len(s))
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q is not a UUID", ErrBadID, s)
	}
	id := ID(u)
	if !id.Valid() {
		return ID{}, fmt.Errorf("%w: %q is a UUID, but no coordinator made it", ErrBadID, s)
	}
	return id, nil
}
