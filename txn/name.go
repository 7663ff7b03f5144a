package txn

import (
	"errors"
	"fmt"
	"strings"
)

// BranchNo numbers the branches of one transaction, from 1.
type BranchNo uint16

// Name is the prepared name: the string under which a database keeps a prepared branch. PostgreSQL
// calls it gid. Its text is
//
//	gavel1.<log, 12>.<sequence, 13>.<branch>            at most 44 bytes of [0-9a-z.]
//	gavel1.<log, 12>.<sequence, 13>.<branch>.d<decider>
//
// in Crockford's base 32, lower case; log and sequence have fixed width, so that a range of names
// is a range of sequences. A name is built and read here and nowhere else.
type Name struct {
	Log    LogID
	Seq    Seq
	Branch BranchNo
	// Decider is zero. It is reserved for a resource that decides, so that a branch could be judged
	// by whoever sees its name alone; one that has it is read, and left alone.
	Decider uint16
}

// NamePrefix starts every prepared name of this product, whatever log it belongs to. Names without
// it are never touched.
const NamePrefix = "gavel1."

// MaxNameLen bounds the text of a name in bytes.
const MaxNameLen = 44

// ErrBadName is returned for a string that is not exactly what [Name.String] writes.
var ErrBadName = errors.New("txn: not a prepared name of gavel")

const (
	crockford = "0123456789abcdefghjkmnpqrstvwxyz"
	logChars  = 12
	seqChars  = 13
)

// NameOf is the prepared name of one branch of id.
func NameOf(id ID, branch BranchNo) Name {
	return Name{Log: id.Log(), Seq: id.Seq(), Branch: branch}
}

// ID is the transaction that the named branch belongs to.
func (n Name) ID() ID { return NewID(n.Log, n.Seq) }

// String is the text of the name. It needs no escaping in SQL, and is quoted all the same.
func (n Name) String() string {
	var b strings.Builder
	b.Grow(MaxNameLen)
	b.WriteString(NamePrefix)
	writeFixed(&b, uint64(n.Log), logChars)
	b.WriteByte('.')
	writeFixed(&b, uint64(n.Seq), seqChars)
	b.WriteByte('.')
	writeShort(&b, uint64(n.Branch))
	if n.Decider != 0 {
		b.WriteString(".d")
		writeShort(&b, uint64(n.Decider))
	}
	return b.String()
}

// MarshalText writes the text of the name.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads the text of a name.
func (n *Name) UnmarshalText(b []byte) error {
	v, err := ParseName(string(b))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// ParseName reads the text of a name. Whatever it accepts, [Name.String] writes back byte for byte;
// all else is [ErrBadName] and is somebody else's.
func ParseName(s string) (Name, error) {
	rest, ok := strings.CutPrefix(s, NamePrefix)
	if !ok || len(s) > MaxNameLen {
		return Name{}, ErrBadName
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 && len(parts) != 4 || len(parts[0]) != logChars ||
		len(parts[1]) != seqChars {
		return Name{}, ErrBadName
	}
	log, ok1 := readBase32(parts[0], uint64(MaxLogID))
	seq, ok2 := readBase32(parts[1], uint64(MaxSeq))
	branch, ok3 := readBase32(parts[2], 1<<16-1)
	n := Name{Log: LogID(log), Seq: Seq(seq), Branch: BranchNo(branch)}
	if len(parts) == 4 {
		text, isDecider := strings.CutPrefix(parts[3], "d")
		decider, ok4 := readBase32(text, 1<<16-1)
		if !isDecider || !ok4 || decider == 0 {
			return Name{}, ErrBadName
		}
		n.Decider = uint16(decider)
	}
	if !ok1 || !ok2 || !ok3 || log == 0 || seq == 0 || branch == 0 || n.String() != s {
		return Name{}, ErrBadName
	}
	return n, nil
}

// Text is the log id as it stands in prepared names and in messages to people: 12 characters.
func (l LogID) String() string {
	var b strings.Builder
	writeFixed(&b, uint64(l), logChars)
	return b.String()
}

// ParseLogID reads the 12 characters of a log id.
func ParseLogID(s string) (LogID, error) {
	v, ok := readBase32(s, uint64(MaxLogID))
	if !ok || v == 0 || len(s) != logChars {
		return 0, fmt.Errorf("txn: %.32q is not a log id (12 characters of %s)", s, crockford)
	}
	return LogID(v), nil
}

func writeFixed(b *strings.Builder, v uint64, chars int) {
	for shift := 5 * (chars - 1); shift >= 0; shift -= 5 {
		b.WriteByte(crockford[v>>shift&31])
	}
}

func writeShort(b *strings.Builder, v uint64) {
	chars := 1
	for v>>(5*chars) != 0 {
		chars++
	}
	writeFixed(b, v, chars)
}

func readBase32(s string, limit uint64) (uint64, bool) {
	if s == "" || len(s) > seqChars {
		return 0, false
	}
	var v uint64
	for i := range len(s) {
		d := strings.IndexByte(crockford, s[i])
		if d < 0 {
			return 0, false
		}
		v = v<<5 | uint64(d)
	}
	return v, v <= limit
}
