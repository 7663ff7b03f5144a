// Package record is the one place that knows both a protocol record and its bytes.
//
// A record is a type number and a body. Inside a body, numbers are unsigned varints, strings are a
// length and bytes, and the words of evidence have a fixed size; there is no padding and no
// optional field. What changes gets a new type number: a reader that meets a number it does not
// know refuses the log rather than presume an abort over what it cannot read.
//
//	 1 OPEN       epoch, host, pid, version, wall clock
//	 2 RANGE      low, high
//	 3 RESOURCE   rm, name, kind, identity, position
//	 4 INTENT     id, label, key, n × {branch, rm, evidence}
//	 5 COMMIT     id, plan, label, key, n × {branch, rm, evidence}
//	 6 ABORT      id
//	 7 END        n × id
//	 8 PART       reserved
//	 9 HEURISTIC  id, branch, rm, what, wrote, reason
//	10–13         reserved (locks, leases, settings)
//	14 ONE_PHASE  id, label, key, branch, rm, evidence
//	15 OUTCOMES   first, bits            (snapshots)
//	16 KEY        key hash, body hash, id  (snapshots)
//	17 ADOPTED    log, epoch, lsn             (snapshots)
//	18 HOLE       from, to
//	19 MARK       uptime, next
//	20 DELEGATE   id, label, key, n × {branch, rm, evidence}
//	32–34         reserved (replication)
package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// The type numbers. They are part of the log's format.
const (
	TypeOpen      = 1
	TypeRange     = 2
	TypeResource  = 3
	TypeIntent    = 4
	TypeCommit    = 5
	TypeAbort     = 6
	TypeEnd       = 7
	TypeHeuristic = 9
	TypeOnePhase  = 14
	TypeOutcomes  = 15
	TypeKey       = 16
	TypeAdopted   = 17
	TypeHole      = 18
	TypeMark      = 19
	TypeDelegate  = 20
)

// ErrMalformed is wrapped by Decode's errors about a body that Encode never wrote.
var ErrMalformed = errors.New("record: malformed")

// ErrUnknownType is wrapped by Decode's error about a type number that this version does not know.
var ErrUnknownType = errors.New("record: unknown type; a newer version wrote this log")

// Name is the word for a type number, for tools.
func Name(t uint8) string {
	switch t {
	case TypeOpen:
		return "OPEN"
	case TypeRange:
		return "RANGE"
	case TypeResource:
		return "RESOURCE"
	case TypeIntent:
		return "INTENT"
	case TypeCommit:
		return "COMMIT"
	case TypeAbort:
		return "ABORT"
	case TypeEnd:
		return "END"
	case TypeHeuristic:
		return "HEURISTIC"
	case TypeOnePhase:
		return "ONE_PHASE"
	case TypeOutcomes:
		return "OUTCOMES"
	case TypeKey:
		return "KEY"
	case TypeAdopted:
		return "ADOPTED"
	case TypeHole:
		return "HOLE"
	case TypeMark:
		return "MARK"
	case TypeDelegate:
		return "DELEGATE"
	}
	return fmt.Sprintf("TYPE_%d", t)
}

// Encode appends the body of r to buf and returns the record of the log over it.
func Encode(buf []byte, r protocol.Record) txlog.Record {
	w := writer{buf}
	var t uint8
	switch r := r.(type) {
	case protocol.OpenRecord:
		t = TypeOpen
		w.num(uint64(r.Epoch)).str(r.Host).num(uint64(r.PID)).str(r.Version).num(uint64(r.Wall))
	case protocol.RangeRecord:
		t = TypeRange
		w.num(uint64(r.Low)).num(uint64(r.High))
	case protocol.ResourceRecord:
		t = TypeResource
		w.num(uint64(r.RM)).str(r.Name).str(r.Kind).identity(r.Identity).position(r.Position)
	case protocol.CommitRecord:
		t = TypeCommit
		w.commit(r)
	case protocol.OnePhaseRecord:
		t = TypeOnePhase
		w.fixed(r.ID[:]).str(r.Label).key(r.Key).branch(r.Branch)
	case protocol.IntentRecord:
		t = TypeIntent
		w.fixed(r.ID[:]).str(r.Label).key(r.Key).branches(r.Branches)
	case protocol.DelegateRecord:
		t = TypeDelegate
		w.fixed(r.ID[:]).str(r.Label).key(r.Key).branches(r.Branches)
	case protocol.AbortRecord:
		t = TypeAbort
		w.fixed(r.ID[:])
	case protocol.MarkRecord:
		t = TypeMark
		w.num(uint64(r.Uptime)).num(uint64(r.Next))
	case protocol.EndRecord:
		t = TypeEnd
		w.num(uint64(len(r.IDs)))
		for _, id := range r.IDs {
			w.fixed(id[:])
		}
	case protocol.HeuristicRecord:
		t = TypeHeuristic
		w.fixed(r.ID[:]).num(uint64(r.Branch)).num(uint64(r.RM)).num(uint64(r.What))
		w.num(r.Wrote).str(r.Reason)
	case protocol.OutcomesRecord:
		t = TypeOutcomes
		w.num(uint64(r.First)).str(string(r.Bits))
	case protocol.KeyRecord:
		t = TypeKey
		w.fixed(r.Key.Hash[:]).fixed(r.Key.Body[:]).fixed(r.ID[:])
	case protocol.HoleRecord:
		t = TypeHole
		w.num(uint64(r.From)).num(uint64(r.To))
	case protocol.AdoptedRecord:
		t = TypeAdopted
		w.num(uint64(r.Log)).num(uint64(r.Epoch)).num(r.LSN)
	default:
		panic(fmt.Sprintf("record: no encoding for %T", r))
	}
	return txlog.Record{Type: t, Data: w.b}
}

// Decode reads a record of the log. It accepts exactly what Encode writes, keeps nothing of
// rec.Data, and allocates no more than a small multiple of its length.
func Decode(rec txlog.Record) (protocol.Record, error) {
	r := reader{b: rec.Data}
	out := r.record(rec.Type)
	switch {
	case out == nil:
		return nil, fmt.Errorf("%w: number %d", ErrUnknownType, rec.Type)
	case r.bad || len(r.b) != 0:
		return nil, fmt.Errorf("%w: %s of %d bytes", ErrMalformed, Name(rec.Type), len(rec.Data))
	}
	return out, nil
}

type writer struct{ b []byte }

func (w *writer) num(v uint64) *writer {
	w.b = binary.AppendUvarint(w.b, v)
	return w
}

func (w *writer) str(s string) *writer {
	w.num(uint64(len(s)))
	w.b = append(w.b, s...)
	return w
}

func (w *writer) fixed(b []byte) *writer {
	w.b = append(w.b, b...)
	return w
}

func (w *writer) identity(i txn.Identity) *writer {
	w.b = binary.LittleEndian.AppendUint64(w.b, i.System)
	w.b = binary.LittleEndian.AppendUint32(w.b, i.Database)
	return w
}

func (w *writer) position(p txn.Position) *writer {
	w.b = binary.LittleEndian.AppendUint32(w.b, p.Timeline)
	w.b = binary.LittleEndian.AppendUint64(w.b, p.LSN)
	return w
}

func (w *writer) commit(r protocol.CommitRecord) {
	w.fixed(r.ID[:]).num(uint64(r.Plan)).str(r.Label).key(r.Key).branches(r.Branches)
}

func (w *writer) branches(all []protocol.CommitBranch) {
	w.num(uint64(len(all)))
	for _, b := range all {
		w.branch(b)
	}
}

// key writes whether there is one, and it.
func (w *writer) key(k protocol.Key) *writer {
	if k.IsZero() {
		return w.num(0)
	}
	return w.num(1).fixed(k.Hash[:]).fixed(k.Body[:])
}

func (w *writer) branch(b protocol.CommitBranch) *writer {
	w.num(uint64(b.Branch)).num(uint64(b.RM))
	return w.identity(b.Evidence.Identity).position(b.Evidence.Position).num(b.Evidence.XID)
}

// reader takes a body apart. After the first fault every further read yields zero and bad stays
// set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) record(t uint8) protocol.Record {
	switch t {
	case TypeOpen:
		return protocol.OpenRecord{
			Epoch:   txn.Epoch(r.num(1<<32 - 1)),
			Host:    r.str(),
			PID:     int(r.num(1 << 31)),
			Version: r.str(),
			Wall:    int64(r.num(1<<63 - 1)),
		}
	case TypeRange:
		return protocol.RangeRecord{Low: r.seq(), High: r.seq()}
	case TypeResource:
		return protocol.ResourceRecord{
			RM:       r.rm(),
			Name:     r.str(),
			Kind:     r.str(),
			Identity: r.identity(),
			Position: r.position(),
		}
	case TypeCommit:
		return r.commit()
	case TypeOnePhase:
		return protocol.OnePhaseRecord{ID: r.id(), Label: r.str(), Key: r.optionalKey(),
			Branch: r.commitBranch()}
	case TypeIntent:
		return protocol.IntentRecord{ID: r.id(), Label: r.str(), Key: r.optionalKey(),
			Branches: r.branches()}
	case TypeDelegate:
		return protocol.DelegateRecord{ID: r.id(), Label: r.str(), Key: r.optionalKey(),
			Branches: r.branches()}
	case TypeAbort:
		return protocol.AbortRecord{ID: r.id()}
	case TypeMark:
		return protocol.MarkRecord{Uptime: protocol.Instant(r.num(1<<63 - 1)), Next: r.seq()}
	case TypeEnd:
		var e protocol.EndRecord
		for range r.count(len(txn.ID{})) {
			e.IDs = append(e.IDs, r.id())
		}
		return e
	case TypeHeuristic:
		return protocol.HeuristicRecord{ID: r.id(), Branch: r.branch(), RM: r.rm(),
			What:  txn.BranchState(r.num(uint64(txn.BranchHeuristicHazard))),
			Wrote: r.num(1<<64 - 1), Reason: r.str()}
	case TypeOutcomes:
		return protocol.OutcomesRecord{First: r.seq(), Bits: []byte(r.str())}
	case TypeKey:
		return protocol.KeyRecord{Key: r.key(), ID: r.id()}
	case TypeHole:
		return protocol.HoleRecord{From: r.seq(), To: r.seq()}
	case TypeAdopted:
		return protocol.AdoptedRecord{Log: txn.LogID(r.num(uint64(txn.MaxLogID))),
			Epoch: txn.Epoch(r.num(1<<32 - 1)), LSN: r.num(1<<64 - 1)}
	}
	return nil
}

func (r *reader) commit() protocol.CommitRecord {
	return protocol.CommitRecord{
		ID:       r.id(),
		Plan:     txn.Plan(r.num(uint64(txn.PlanDelegate))),
		Label:    r.str(),
		Key:      r.optionalKey(),
		Branches: r.branches(),
	}
}

func (r *reader) branches() (all []protocol.CommitBranch) {
	n := r.count(2)
	if n > txn.MaxBranches {
		r.bad = true
		return nil
	}
	for range n {
		all = append(all, r.commitBranch())
	}
	return all
}

func (r *reader) commitBranch() protocol.CommitBranch {
	b := protocol.CommitBranch{Branch: r.branch(), RM: r.rm()}
	b.Evidence = txn.Evidence{
		Identity: r.identity(),
		Position: r.position(),
		XID:      r.num(1<<64 - 1),
	}
	return b
}

// optionalKey reads a key if there is one. One that says it is there and is not is a fault.
func (r *reader) optionalKey() protocol.Key {
	if r.num(1) == 0 {
		return protocol.Key{}
	}
	k := r.key()
	r.bad = r.bad || k.IsZero()
	return k
}

// num reads a number in its shortest form, at most limit.
func (r *reader) num(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit || n > 1 && r.b[n-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) seq() txn.Seq         { return txn.Seq(r.num(uint64(txn.MaxSeq))) }
func (r *reader) rm() protocol.RM      { return protocol.RM(r.num(1<<16 - 1)) }
func (r *reader) branch() txn.BranchNo { return txn.BranchNo(r.num(txn.MaxBranches)) }

// count reads how many items follow, each at least size bytes long, so that a lie cannot make us
// allocate.
func (r *reader) count(size int) int {
	n := r.num(uint64(len(r.b) / size))
	return int(n)
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) str() string { return string(r.take(int(r.num(uint64(len(r.b)))))) }

// id reads a transaction id; one that no coordinator can have made is a fault.
func (r *reader) id() txn.ID {
	id := txn.ID(r.take(16))
	if !id.Valid() {
		r.fail()
	}
	return id
}

func (r *reader) key() protocol.Key {
	return protocol.Key{Hash: [16]byte(r.take(16)), Body: [16]byte(r.take(16))}
}

func (r *reader) identity() txn.Identity {
	b := r.take(12)
	return txn.Identity{
		System:   binary.LittleEndian.Uint64(b),
		Database: binary.LittleEndian.Uint32(b[8:]),
	}
}

func (r *reader) position() txn.Position {
	b := r.take(12)
	return txn.Position{
		Timeline: binary.LittleEndian.Uint32(b),
		LSN:      binary.LittleEndian.Uint64(b[4:]),
	}
}

func (r *reader) fail() {
	r.bad = true
	r.b = nil
}
