package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// MaxLogs bounds the coordinators' logs that a journal remembers.
const MaxLogs = 1024

// errDamaged is wrapped by every error about an entry that cannot be read.
var errDamaged = errors.New("the journal's entry is damaged")

const (
	format  = 1
	metaLen = 1 + 8 + 8 + 3*4
	logLen  = 4 + 8 + 8
)

// book is the journal within one transaction, in the words of this package.
type book struct {
	tx   Tx
	meta meta
	old  meta
}

// meta is the journal's one entry about itself.
type meta struct {
	system, counter       uint64
	branches, ends, known uint32
}

func (m meta) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{format}, m.system)
	b = binary.BigEndian.AppendUint64(b, m.counter)
	for _, n := range []uint32{m.branches, m.ends, m.known} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// openBook reads what the journal says about itself. A journal that is new says nothing, and its
// system is 0.
func openBook(tx Tx) (*book, error) {
	v, err := tx.Get([]byte("m"))
	if err != nil || v == nil {
		return &book{tx: tx}, err
	}
	if len(v) != metaLen || v[0] != format {
		return nil, fmt.Errorf("%w: it is of another format, or not a journal", errDamaged)
	}
	m := meta{
		system: binary.BigEndian.Uint64(v[1:]), counter: binary.BigEndian.Uint64(v[9:]),
		branches: binary.BigEndian.Uint32(v[17:]), ends: binary.BigEndian.Uint32(v[21:]),
		known: binary.BigEndian.Uint32(v[25:]),
	}
	return &book{tx: tx, meta: m, old: m}, nil
}

// close writes what has changed of it.
func (b *book) close() error {
	if b.meta == b.old {
		return nil
	}
	return b.tx.Put([]byte("m"), b.meta.encode())
}

func (b *book) identity() txn.Identity {
	return txn.Identity{System: b.meta.system, Database: 1}
}

// position is how far the history has come. There is one timeline: a journal is never promoted.
func (b *book) position() txn.Position {
	return txn.Position{Timeline: 1, LSN: b.meta.counter}
}

func (b *book) tick() uint64 {
	b.meta.counter++
	return b.meta.counter
}

// logEntry is what is remembered of one coordinator's log.
type logEntry struct {
	fence txn.Fence
	// dropped is the highest sequence of a branch whose end was dropped.
	dropped txn.Seq
}

func logKey(log txn.LogID) []byte { return binary.BigEndian.AppendUint64([]byte("l"), uint64(log)) }

func (b *book) log(id txn.LogID) (logEntry, bool, error) {
	v, err := b.tx.Get(logKey(id))
	if err != nil || v == nil {
		return logEntry{}, false, err
	}
	if len(v) != logLen {
		return logEntry{}, false, fmt.Errorf("log %s: %w", id, errDamaged)
	}
	return logEntry{
		fence: txn.Fence{Log: id, Epoch: txn.Epoch(binary.BigEndian.Uint32(v)),
			LSN: binary.BigEndian.Uint64(v[4:])},
		dropped: txn.Seq(binary.BigEndian.Uint64(v[12:])),
	}, true, nil
}

func (b *book) putLog(id txn.LogID, e logEntry, known bool) error {
	if !known {
		b.meta.known++
	}
	v := binary.BigEndian.AppendUint32(nil, uint32(e.fence.Epoch))
	v = binary.BigEndian.AppendUint64(v, e.fence.LSN)
	return b.tx.Put(logKey(id), binary.BigEndian.AppendUint64(v, uint64(e.dropped)))
}

// judge decides about a call and says what to remember of it. A refusal wraps one of package
// participant's sentinels.
func (b *book) judge(f txn.Fence, hello bool) (next logEntry, raised, known bool, err error) {
	seen, known, err := b.log(f.Log)
	if err != nil {
		return seen, false, known, err
	}
	next = seen
	if next.fence, err = fence.Judge(seen.fence, f, hello); err != nil {
		return seen, false, known, err
	}
	if !known {
		err = b.roomForLog()
	}
	return next, next.fence.Epoch != seen.fence.Epoch, known, err
}

// roomForLog refuses a log that the journal does not know where it knows too many.
func (b *book) roomForLog() error {
	if b.meta.known < MaxLogs {
		return nil
	}
	return txn.Refusef(txn.ReasonOverloaded, "log_id",
		"%d logs are remembered already, and no more are allowed", MaxLogs)
}

// admit judges a call and remembers what is new of it, in the transaction that acts for it.
func (b *book) admit(f txn.Fence, hello bool) (raised bool, err error) {
	next, raised, known, err := b.judge(f, hello)
	if err != nil || mutant.On(mutant.FenceNotKept) {
		return raised, err
	}
	if seen, _, err := b.log(f.Log); err != nil || seen == next {
		return raised, err
	}
	return raised, b.putLog(f.Log, next, known)
}

// phase is how far a branch in the journal has come.
type phase byte

const (
	// phaseNone: the journal has no entry of a branch that has not ended.
	phaseNone phase = 0
	// phasePreparing: beside the journal the service was asked to prepare, and has not been heard.
	phasePreparing phase = 'i'
	// phasePrepared: Yes.
	phasePrepared phase = 'y'
)

// entry is a branch in the journal that has not ended.
type entry struct {
	phase phase
	xid   uint64
	epoch txn.Epoch
	at    time.Time
}

const entryLen = 1 + 8 + 4 + 8

func decodeEntry(v []byte) (entry, error) {
	if len(v) != entryLen || v[0] != byte(phasePreparing) && v[0] != byte(phasePrepared) {
		return entry{}, errDamaged
	}
	return entry{phase: phase(v[0]), xid: binary.BigEndian.Uint64(v[1:]),
		epoch: txn.Epoch(binary.BigEndian.Uint32(v[9:])),
		at:    time.Unix(0, int64(binary.BigEndian.Uint64(v[13:])))}, nil
}

func (e entry) encode() []byte {
	v := binary.BigEndian.AppendUint64([]byte{byte(e.phase)}, e.xid)
	v = binary.BigEndian.AppendUint32(v, uint32(e.epoch))
	return binary.BigEndian.AppendUint64(v, uint64(e.at.UnixNano()))
}

// evidence is that of the branch with this number.
func evidence(id txn.Identity, xid uint64) txn.Evidence {
	return txn.Evidence{Identity: id, XID: xid, Position: txn.Position{Timeline: 1, LSN: xid}}
}

func nameKey(kind byte, n txn.Name) []byte { return append([]byte{kind}, n.String()...) }

func (b *book) branch(n txn.Name) (entry, error) {
	v, err := b.tx.Get(nameKey('b', n))
	if err != nil || v == nil {
		return entry{}, err
	}
	e, err := decodeEntry(v)
	if err != nil {
		return entry{}, fmt.Errorf("branch %s: %w", n, err)
	}
	return e, nil
}

// keep writes an entry of a branch. Its number is a new one with each phase: a journal that was
// restored from between the two must look like one that went backwards.
func (b *book) keep(n txn.Name, p phase, epoch txn.Epoch, now time.Time) (entry, error) {
	e, err := b.branch(n)
	if err != nil {
		return e, err
	}
	if e.phase == phaseNone {
		e = entry{xid: b.tick(), epoch: epoch, at: now}
		b.meta.branches++
	}
	if e.phase == phasePreparing && p == phasePrepared {
		e.xid = b.tick()
	}
	e.phase = p
	return e, b.tx.Put(nameKey('b', n), e.encode())
}

// end is how a branch ended.
type end byte

const (
	endNone      end = 0
	endCommitted end = 'C'
	// endRolledBack: it was prepared or at work here, and has no effect.
	endRolledBack end = 'R'
	// endNo: the same, and its vote was No, for the reason that is kept.
	endNo end = 'N'
	// endReadOnly: it voted ReadOnly.
	endReadOnly end = 'O'
	// endRefused: a rollback came for a branch that was not known here. It proves nothing about how
	// the branch ended, since its real end may have been dropped.
	endRefused end = 'T'
)

// ended is the memory of one branch that has ended.
type ended struct {
	end              end
	xid, at          uint64
	sqlState, reason string
}

const (
	endedLen = 1 + 8 + 8 + 1
	// maxState bounds an SQLSTATE. It has five characters.
	maxState = 5
)

func (e ended) encode() []byte {
	v := binary.BigEndian.AppendUint64([]byte{byte(e.end)}, e.xid)
	v = binary.BigEndian.AppendUint64(v, e.at)
	v = append(append(v, byte(len(e.sqlState))), e.sqlState...)
	return append(v, e.reason...)
}

func decodeEnded(v []byte) (ended, error) {
	if len(v) < endedLen || len(v) < endedLen+int(v[endedLen-1]) {
		return ended{}, errDamaged
	}
	reason := endedLen + int(v[endedLen-1])
	e := ended{end: end(v[0]), xid: binary.BigEndian.Uint64(v[1:]),
		at:       binary.BigEndian.Uint64(v[9:]),
		sqlState: string(v[endedLen:reason]), reason: string(v[reason:])}
	switch e.end {
	case endCommitted, endRolledBack, endNo, endReadOnly, endRefused:
		return e, nil
	}
	return ended{}, errDamaged
}

func (b *book) endOf(n txn.Name) (ended, error) {
	v, err := b.tx.Get(nameKey('e', n))
	if err != nil || v == nil {
		return ended{}, err
	}
	e, err := decodeEnded(v)
	if err != nil {
		return ended{}, fmt.Errorf("ended branch %s: %w", n, err)
	}
	return e, nil
}

// conclude ends a branch. Its number stays known only if it was prepared. At most so many ends are
// kept: what is dropped costs certainty, never atomicity. The answer is then Gone, which a
// coordinator treats as a hazard and shows.
func (b *book) conclude(n txn.Name, e ended, most int) error {
	was, err := b.branch(n)
	if err != nil {
		return err
	}
	if was.phase == phasePrepared {
		e.xid = was.xid
	}
	if was.phase != phaseNone {
		b.meta.branches--
		if err := b.tx.Put(nameKey('b', n), nil); err != nil {
			return err
		}
	}
	e.at = b.tick()
	b.meta.ends++
	if err := b.tx.Put(nameKey('e', n), e.encode()); err != nil {
		return err
	}
	order := binary.BigEndian.AppendUint64([]byte("o"), e.at)
	if err := b.tx.Put(order, []byte(n.String())); err != nil {
		return err
	}
	for int(b.meta.ends) > most {
		if err := b.dropOldest(); err != nil {
			return err
		}
	}
	return nil
}

// dropOldest forgets one end. The mark that it leaves in the entry of its log belongs into the same
// transaction: without it a late copy of the branch's work could bring it to life again.
func (b *book) dropOldest() error {
	var key []byte
	var n txn.Name
	err := b.tx.Scan([]byte("o"), func(k, v []byte) (bool, error) {
		key = append(key, k...)
		var err error
		n, err = txn.ParseName(string(v))
		return false, err
	})
	if err != nil || key == nil {
		return fmt.Errorf("the oldest end: %w", errors.Join(errDamaged, err))
	}
	e, known, err := b.log(n.Log)
	if err != nil {
		return err
	}
	e.fence.Log, e.dropped = n.Log, max(e.dropped, n.Seq)
	b.meta.ends--
	return errors.Join(b.putLog(n.Log, e, known), b.tx.Put(key, nil),
		b.tx.Put(nameKey('e', n), nil))
}

// finding is the answer about a branch that has ended.
func (e ended) finding() participant.Finding {
	switch e.end {
	case endCommitted:
		return found(txn.StandingCommitted, "")
	case endRolledBack, endNo:
		return participant.Finding{Standing: txn.StandingRolledBack, Reason: e.reason,
			SQLState: e.sqlState}
	case endReadOnly:
		return found(txn.StandingGone, "the branch changed nothing, and has ended")
	case endRefused:
		return found(txn.StandingGone, "a rollback of the branch came before any work of it")
	default:
		return found(txn.StandingGone, "the branch is not prepared, and how it ended is not known")
	}
}

// sight is what the journal says about a branch at one moment.
type sight struct {
	entry    entry
	ended    ended
	position txn.Position
}

func (b *book) look(n txn.Name) (s sight, err error) {
	s.position = b.position()
	if s.entry, err = b.branch(n); err != nil {
		return s, err
	}
	s.ended, err = b.endOf(n)
	return s, err
}

// closed says whether the branch is prepared or has ended, so that it is not at work.
func (s sight) closed() bool {
	return s.entry.phase == phasePrepared || s.ended.end != endNone
}

// errMoved is an Update's answer where the branch is not any more as it was seen: an earlier one,
// of which it was not known whether it remains, has come to its end in between.
var errMoved = errors.New("service: the branch has moved on since it was looked at")

// still compares the branch with what was seen of it.
func (b *book) still(n txn.Name, seen sight) error {
	now, err := b.look(n)
	if mutant.On(mutant.SeenOnce) {
		return err
	}
	if err == nil && (now.entry.phase != seen.entry.phase || now.entry.xid != seen.entry.xid ||
		now.ended.end != seen.ended.end) {
		err = errMoved
	}
	return err
}

func found(s txn.Standing, reason string) participant.Finding {
	return participant.Finding{Standing: s, Reason: reason}
}
