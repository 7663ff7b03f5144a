package kv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// ErrBelowMinimum is returned by Apply when an addition would lead below its minimum. The call
// changed nothing, and the branch goes on.
var ErrBelowMinimum = errors.New("kv: the sum is below the minimum")

// ErrNotNumber is returned by Apply when an addition meets a value that is not a decimal number
// of 64 bits, or leads beyond them. The call changed nothing, and the branch goes on.
var ErrNotNumber = errors.New("kv: not a number of 64 bits")

// OpKind is what an operation does.
type OpKind uint8

// The kinds of operations. The zero OpKind is none of them.
const (
	// OpRead reads a key. The branch votes no if the key changes before it is prepared.
	OpRead OpKind = iota + 1
	// OpPut writes Value.
	OpPut
	// OpDelete removes a key; one that does not exist is no error.
	OpDelete
	// OpAdd adds Delta to a decimal number, 0 if the key does not exist.
	OpAdd
)

// Op is one operation within a branch.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte
	Delta int64
	// Minimum, if not nil, refuses a sum below it.
	Minimum *int64
}

// Entry is a key and its value, if it is Found.
type Entry struct {
	Key, Value []byte
	Found      bool
}

// Get reads committed values, all at one moment, outside of every branch.
func (s *Store) Get(ctx context.Context, keys [][]byte) ([]Entry, error) {
	if len(keys) > MaxOps {
		return nil, invalid("keys", "%d are asked for, at most %d are allowed", len(keys), MaxOps)
	}
	entries := make([]Entry, len(keys))
	err := s.view(ctx, func(v view) error {
		for i, key := range keys {
			if err := checkKey(fmt.Sprintf("keys[%d]", i), key); err != nil {
				return err
			}
			version, value, err := v.read(string(key))
			if err != nil {
				return fmt.Errorf("kv: get: %w", err)
			}
			entries[i] = Entry{Key: key, Value: value, Found: version != 0}
		}
		// The values are the file's own memory, and must be copied before the view ends.
		entries = cloneEntries(entries)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Apply runs operations within the branch of that prepared name, all or none, and returns one
// entry per operation, as the branch sees it afterwards. The calls of a branch are numbered from
// 1; the last one may be repeated and gives its first answer again. Nothing is durable before the
// branch is prepared.
//
// An error is a *txn.Refusal, ErrBranchLost, ErrBelowMinimum or ErrNotNumber, and ends the
// branch: it will vote no. An application that overlooks the error would otherwise commit a part
// of its work.
func (s *Store) Apply(
	ctx context.Context, name txn.Name, sequence uint64, ops []Op,
) ([]Entry, error) {
	if err := checkOps(sequence, ops); err != nil {
		s.spoil(name, err)
		return nil, err
	}
	b, err := s.enlist(ctx, name, sequence)
	if err != nil {
		return nil, err
	}
	var answer []Entry
	err = s.view(ctx, func(v view) (err error) {
		if err := v.fresh(name.String()); err != nil {
			s.branches.drop(name)
			return err
		}
		answer, err = b.apply(v, sequence, ops)
		return err
	})
	return answer, err
}

// enlist finds the branch of a call, and makes it for the first one. Whether its name has ended is
// looked up only afterwards: an end that comes before that look is seen by it, and one that comes
// later finds the branch and drops it, so that none is left in memory behind its own end.
func (s *Store) enlist(ctx context.Context, name txn.Name, sequence uint64) (*branch, error) {
	if sequence > 1 {
		return s.branches.use(name, 0, false)
	}
	var f txn.Fence
	var h horizon
	err := s.view(ctx, func(v view) (err error) {
		if f, err = v.fenceOf(name.Log); err == nil {
			h, err = v.horizonOf(name.Log)
		}
		return wrap(err)
	})
	if err != nil {
		return nil, err
	}
	// A name whose end may have been dropped cannot be told from one that has not begun. Its branch
	// must not live twice: a late copy of its calls would commit its work again.
	return s.branches.use(name, f.Epoch, name.Seq > h.dropped)
}

// spoil ends the branch of a request that is not valid, if there is one.
func (s *Store) spoil(name txn.Name, why error) {
	if b, _ := s.branches.find(name); b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.spoil(why)
	}
}

func (b *branch) spoil(why error) {
	if !b.closed {
		b.end(participant.Vote{
			Vote: txn.VoteNo, Reason: fmt.Sprintf("an earlier call of the branch failed: %v", why),
		})
	}
}

// apply is one call on a branch. What an operation must not do ends the branch.
func (b *branch) apply(v view, sequence uint64, ops []Op) ([]Entry, error) {
	// The writer takes this lock within its transaction, and this call has one too. They cannot
	// wait for each other: the writer remaps the file, for which readers must be gone, only while
	// it commits, and holds no branch then.
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	switch {
	case b.closed:
		return nil, fmt.Errorf("%w: it is prepared, rolled back, or has failed", ErrBranchLost)
	case sequence == b.sequence:
		return cloneEntries(b.answer), nil
	case sequence < b.sequence:
		// A copy of an older call, which its caller does not wait for any more.
		return nil, fmt.Errorf("%w: call %d comes after call %d", ErrBranchLost, sequence,
			b.sequence)
	case sequence > b.sequence+1:
		err = fmt.Errorf("%w: call %d follows call %d", ErrBranchLost, sequence, b.sequence)
	}
	var answer []Entry
	if err == nil {
		answer, err = b.run(v, sequence, ops)
	}
	if err != nil {
		b.spoil(err)
	}
	return answer, err
}

// fresh refuses work for a branch that is prepared or finished: it could never become part of it.
func (v view) fresh(name string) error {
	e, err := v.endOf(name)
	if err != nil {
		return fmt.Errorf("kv: apply: %w", err)
	}
	if e.end != endNone || v.bucket("prepared").Get([]byte(name)) != nil {
		return fmt.Errorf("%w: it is prepared or finished", ErrBranchLost)
	}
	return nil
}

// run works on copies, and puts them in place only when every operation succeeded.
func (b *branch) run(v view, sequence uint64, ops []Op) ([]Entry, error) {
	r := runner{
		view: v, reads: maps.Clone(b.reads), writes: maps.Clone(b.writes), bytes: b.bytes,
	}
	answer := make([]Entry, len(ops))
	for i, op := range ops {
		entry, err := r.do(op)
		if err != nil {
			return nil, fmt.Errorf("operation %d: %w", i, err)
		}
		answer[i] = entry
	}
	if err := b.charge(r.bytes + sizeOf(answer)); err != nil {
		return nil, err
	}
	b.reads, b.writes, b.bytes = r.reads, r.writes, r.bytes
	b.sequence, b.answer = sequence, cloneEntries(answer)
	return answer, nil
}

// runner carries out one call's operations.
type runner struct {
	view   view
	reads  map[string]uint64
	writes map[string]write
	bytes  int
}

func (r *runner) do(op Op) (Entry, error) {
	key := string(op.Key)
	switch op.Kind {
	case OpRead:
		value, found, err := r.read(key)
		return Entry{Key: slices.Clone(op.Key), Value: value, Found: found}, err
	case OpPut:
		return r.write(write{key: key, value: slices.Clone(op.Value)})
	case OpDelete:
		return r.write(write{key: key, deleted: true})
	default: // OpAdd: checkOps lets no other kind through.
		return r.sum(key, op)
	}
}

// read sees the branch's own writes first, and notes the version of everything else.
func (r *runner) read(key string) ([]byte, bool, error) {
	if w, ok := r.writes[key]; ok {
		return slices.Clone(w.value), !w.deleted, nil
	}
	version, value, err := r.view.read(key)
	if err != nil {
		return nil, false, fmt.Errorf("kv: apply: %w", err)
	}
	// The first version counts: a later one would hide a change between two reads.
	if _, seen := r.reads[key]; !seen {
		if err := r.grow(len(key)); err != nil {
			return nil, false, err
		}
		r.reads[key] = version
	}
	return slices.Clone(value), version != 0, nil
}

func (r *runner) write(w write) (Entry, error) {
	if err := r.grow(len(w.key) + len(w.value)); err != nil {
		return Entry{}, err
	}
	if old, ok := r.writes[w.key]; ok {
		r.bytes -= len(old.key) + len(old.value)
	}
	r.writes[w.key] = w
	return Entry{Key: []byte(w.key), Value: slices.Clone(w.value), Found: !w.deleted}, nil
}

func (r *runner) sum(key string, op Op) (Entry, error) {
	value, found, err := r.read(key)
	if err != nil {
		return Entry{}, err
	}
	var old int64
	if found {
		if old, err = strconv.ParseInt(string(value), 10, 64); err != nil {
			return Entry{}, fmt.Errorf("%w: key %.64q holds %.32q", ErrNotNumber, key, value)
		}
	}
	over := op.Delta > 0 && old > math.MaxInt64-op.Delta
	under := op.Delta < 0 && old < math.MinInt64-op.Delta
	if over || under {
		return Entry{}, fmt.Errorf("%w: %d and %d, key %.64q", ErrNotNumber, old, op.Delta, key)
	}
	sum := old + op.Delta
	if op.Minimum != nil && sum < *op.Minimum {
		return Entry{}, fmt.Errorf("%w: key %.64q would be %d, and the minimum is %d",
			ErrBelowMinimum, key, sum, *op.Minimum)
	}
	return r.write(write{key: key, value: strconv.AppendInt(nil, sum, 10)})
}

func (r *runner) grow(n int) error {
	if r.bytes += n; r.bytes > MaxBranchBytes {
		return invalid("operations", "the branch would hold more than %d bytes of keys and values",
			MaxBranchBytes)
	}
	return nil
}

// sizeOf is what entries take, in bytes.
func sizeOf(entries []Entry) int {
	n := 0
	for _, e := range entries {
		n += len(e.Key) + len(e.Value)
	}
	return n
}

func cloneEntries(in []Entry) []Entry {
	out := make([]Entry, len(in))
	for i, e := range in {
		out[i] = Entry{Key: slices.Clone(e.Key), Value: slices.Clone(e.Value), Found: e.Found}
	}
	return out
}

func invalid(field, format string, args ...any) error {
	return txn.Refusef(txn.ReasonInvalid, field, format, args...)
}

func checkOps(sequence uint64, ops []Op) error {
	if sequence == 0 {
		return invalid("sequence", "it is 0, and the first call of a branch is 1")
	}
	if len(ops) == 0 || len(ops) > MaxOps {
		return invalid("operations", "%d are given, and 1 to %d are allowed", len(ops), MaxOps)
	}
	for i, op := range ops {
		field := fmt.Sprintf("operations[%d]", i)
		if op.Kind < OpRead || op.Kind > OpAdd {
			return invalid(field, "it is none of read, put, delete and add")
		}
		if err := checkKey(field, op.Key); err != nil {
			return err
		}
		if len(op.Value) > MaxValueLen {
			return invalid(field, "its value has %d bytes, at most %d are allowed",
				len(op.Value), MaxValueLen)
		}
	}
	return nil
}

func checkKey(field string, key []byte) error {
	if len(key) == 0 || len(key) > MaxKeyLen {
		return invalid(field, "its key has %d bytes, and 1 to %d are allowed", len(key), MaxKeyLen)
	}
	return nil
}
