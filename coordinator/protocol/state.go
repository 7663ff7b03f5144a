package protocol

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"

	"github.com/gavel-tx/gavel/txn"
)

// ErrContradiction is wrapped by Apply's errors: the log says two things that cannot both be true.
// A coordinator must not run on it.
var ErrContradiction = errors.New("protocol: the log contradicts itself")

// State is what the log says, and nothing else: the one deterministic function of its records. A
// running coordinator applies each record when it is durable, a restart applies the same records in
// the same order, and the tools do too.
type State struct {
	Log   txn.LogID
	Epoch txn.Epoch
	// Low and High bound the sequences whose outcome is known: below Low it is forgotten, at or
	// above High it was never handed out by this log.
	Low, High txn.Seq

	resources []ResourceRecord       // by RM-1
	open      map[txn.ID]*Decided    // decided, not ended
	committed bitmap                 // of [Low, High), this log's own
	keys      map[[16]byte]KeyRecord // retained keys of committed transactions
	keyOrder  []KeyRecord            // the same, oldest first
	holes     []HoleRecord           // ranges that no epoch of this log handed out, ascending
	adopted   []AdoptedRecord        // logs whose decisions came along
	marks     []MarkRecord           // how old sequences are, oldest first
}

// Decided is a commit whose end is not recorded: its branches must be committed, or are a matter
// for an operator.
type Decided struct {
	Commit CommitRecord
	// Asking: only a OnePhaseRecord, an IntentRecord or a DelegateRecord is there, and resources
	// have to be asked how it ended.
	Asking bool
	// Heuristics holds the recorded contradictions, at most one for each branch.
	Heuristics []HeuristicRecord
}

// NewState is the state of a log without records.
func NewState(log txn.LogID) *State {
	return &State{Log: log, Low: 1, High: 1, open: map[txn.ID]*Decided{},
		committed: bitmap{first: 1}, keys: map[[16]byte]KeyRecord{}}
}

// Apply adds one record. An error means that the log contradicts itself or names what it never
// defined; the state must then not be used.
func (s *State) Apply(r Record) error {
	switch r := r.(type) {
	case OpenRecord:
		s.Epoch = max(s.Epoch, r.Epoch)
		return nil
	case RangeRecord:
		return s.applyRange(r)
	case ResourceRecord:
		return s.applyResource(r)
	case CommitRecord:
		return s.applyCommit(r)
	case OnePhaseRecord:
		return s.applyAsking(CommitRecord{ID: r.ID, Plan: txn.PlanOnePhase, Label: r.Label,
			Key: r.Key, Branches: []CommitBranch{r.Branch}})
	case IntentRecord:
		return s.applyAsking(CommitRecord{ID: r.ID, Plan: txn.PlanParallel, Label: r.Label,
			Key: r.Key, Branches: r.Branches})
	case DelegateRecord:
		return s.applyDelegate(r)
	case AbortRecord:
		return s.applyAbort(r)
	case EndRecord:
		return s.applyEnd(r)
	case HeuristicRecord:
		return s.applyHeuristic(r)
	case OutcomesRecord:
		return s.applyOutcomes(r)
	case KeyRecord:
		s.retainKey(r)
		return nil
	case HoleRecord:
		return s.applyHole(r)
	case MarkRecord:
		return s.applyMark(r)
	case AdoptedRecord:
		s.adopted = append(s.adopted, r)
		return nil
	}
	return fmt.Errorf("%w: record of type %T", ErrContradiction, r)
}

func (s *State) applyRange(r RangeRecord) error {
	if r.Low < s.Low || r.High < s.High || r.Low > r.High || r.High > txn.MaxSeq {
		return fmt.Errorf(
			"%w: range [%d, %d) after [%d, %d)",
			ErrContradiction,
			r.Low,
			r.High,
			s.Low,
			s.High,
		)
	}
	s.Low, s.High = r.Low, r.High
	// A hole goes only as a whole: as long as a part of it is within the range, no record there
	// must ever mean abort.
	s.holes = slices.DeleteFunc(s.holes, func(h HoleRecord) bool { return h.To <= s.Low })
	s.committed.dropBelow(s.Low)
	gone := 0
	for _, k := range s.keyOrder {
		if k.ID.Log() == s.Log && k.ID.Seq() >= s.Low {
			break
		}
		delete(s.keys, k.Key.Hash)
		gone++
	}
	s.keyOrder = slices.Delete(s.keyOrder, 0, gone)
	return nil
}

// maxMarks bounds the marks. Beyond it every second one goes, and outcomes live a little longer.
const maxMarks = 128

func (s *State) applyMark(r MarkRecord) error {
	if n := len(s.marks); n > 0 && (r.Uptime < s.marks[n-1].Uptime || r.Next < s.marks[n-1].Next) {
		return fmt.Errorf("%w: mark %d at %d after %d at %d", ErrContradiction,
			r.Next, r.Uptime, s.marks[n-1].Next, s.marks[n-1].Uptime)
	}
	s.marks = append(s.marks, r)
	// One mark below the low-water mark is enough: the newest of them.
	for len(s.marks) > 1 && s.marks[1].Next <= s.Low {
		s.marks = s.marks[1:]
	}
	if len(s.marks) > maxMarks {
		keep := s.marks[:0]
		for i, m := range s.marks {
			if i%2 == 1 || i == len(s.marks)-1 {
				keep = append(keep, m)
			}
		}
		s.marks = keep
	}
	return nil
}

func (s *State) applyHole(r HoleRecord) error {
	n := len(s.holes)
	if r.From >= r.To || r.To <= s.Low || r.To > txn.MaxSeq || n > 0 && r.From < s.holes[n-1].To {
		return fmt.Errorf("%w: hole [%d, %d) in [%d, %d)", ErrContradiction, r.From, r.To,
			s.Low, s.High)
	}
	s.High = max(s.High, r.To)
	if n > 0 && r.From == s.holes[n-1].To {
		// Nothing was handed out between the two: an epoch that ended before it began to work.
		s.holes[n-1].To = r.To
		return nil
	}
	s.holes = append(s.holes, r)
	return nil
}

// Lost says whether a sequence lies in a range that this log has not handed out, or knows to have
// forgotten.
func (s *State) Lost(q txn.Seq) bool {
	i := sort.Search(len(s.holes), func(i int) bool { return q < s.holes[i].To })
	return i < len(s.holes) && s.holes[i].From <= q
}

func (s *State) applyResource(r ResourceRecord) error {
	n := RM(len(s.resources))
	switch {
	case r.RM == n+1:
		s.resources = append(s.resources, r)
	case r.RM >= 1 && r.RM <= n && s.resources[r.RM-1].Name == r.Name:
		s.resources[r.RM-1] = r
	default:
		return fmt.Errorf("%w: resource %d %q, with %d known", ErrContradiction, r.RM, r.Name, n)
	}
	return nil
}

func (s *State) applyCommit(r CommitRecord) error {
	d := s.open[r.ID]
	answered := d != nil && d.Asking && len(d.Heuristics) == 0 && r.Plan == d.Commit.Plan
	if d != nil && !answered || s.Committed(r.ID) {
		return fmt.Errorf("%w: %s is committed twice", ErrContradiction, r.ID)
	}
	if err := s.checkDecision(r); err != nil {
		return err
	}
	s.open[r.ID] = &Decided{Commit: r}
	if r.ID.Log() == s.Log {
		s.committed.set(r.ID.Seq())
	}
	if !r.Key.IsZero() {
		s.retainKey(KeyRecord{Key: r.Key, ID: r.ID})
	}
	return nil
}

// checkDecision refuses what names a sequence or a branch that cannot be.
func (s *State) checkDecision(r CommitRecord) error {
	if r.ID.Log() == s.Log && (r.ID.Seq() < s.Low || r.ID.Seq() >= s.High) {
		return fmt.Errorf(
			"%w: commit of %s outside [%d, %d)",
			ErrContradiction,
			r.ID,
			s.Low,
			s.High,
		)
	}
	for _, b := range r.Branches {
		if b.RM < 1 || int(b.RM) > len(s.resources) {
			return fmt.Errorf("%w: commit of %s names resource %d", ErrContradiction, r.ID, b.RM)
		}
		if b.Branch < 1 || b.Branch > txn.MaxBranches {
			return fmt.Errorf("%w: commit of %s names branch %d", ErrContradiction, r.ID, b.Branch)
		}
	}
	return nil
}

// applyAsking takes what comes before a decision of which an absent record tells nothing.
func (s *State) applyAsking(c CommitRecord) error {
	if s.open[c.ID] != nil || s.Committed(c.ID) {
		return fmt.Errorf("%w: %s begins to commit twice", ErrContradiction, c.ID)
	}
	if err := s.checkDecision(c); err != nil {
		return err
	}
	s.open[c.ID] = &Decided{Commit: c, Asking: true}
	return nil
}

// applyDelegate takes who decides, or more branches of the same transaction.
func (s *State) applyDelegate(r DelegateRecord) error {
	c := CommitRecord{ID: r.ID, Plan: txn.PlanDelegate, Label: r.Label, Key: r.Key,
		Branches: r.Branches}
	if len(r.Branches) == 0 {
		return fmt.Errorf("%w: %s is left to nobody", ErrContradiction, r.ID)
	}
	d := s.open[r.ID]
	if d == nil || !d.Asking || d.Commit.Plan != c.Plan || len(d.Heuristics) > 0 ||
		len(r.Branches) < len(d.Commit.Branches) ||
		r.Branches[0].Branch != d.Commit.Branches[0].Branch {
		return s.applyAsking(c)
	}
	if err := s.checkDecision(c); err != nil {
		return err
	}
	d.Commit = c
	return nil
}

func (s *State) applyAbort(r AbortRecord) error {
	if d := s.open[r.ID]; d == nil || !d.Asking || len(d.Heuristics) > 0 {
		return fmt.Errorf("%w: abort of %s, which nobody was asked about", ErrContradiction, r.ID)
	}
	delete(s.open, r.ID)
	return nil
}

func (s *State) applyEnd(r EndRecord) error {
	for _, id := range r.IDs {
		if d := s.open[id]; d == nil || d.Asking {
			return fmt.Errorf("%w: end of %s, which is not open", ErrContradiction, id)
		}
		delete(s.open, id)
	}
	return nil
}

func (s *State) applyHeuristic(r HeuristicRecord) error {
	if r.Branch < 1 || r.Branch > txn.MaxBranches || r.RM < 1 || int(r.RM) > len(s.resources) {
		return fmt.Errorf("%w: heuristic end of branch %d of %s at resource %d",
			ErrContradiction, r.Branch, r.ID, r.RM)
	}
	d := s.open[r.ID]
	if d == nil {
		// A branch that somebody committed against a decision to abort: no commit record exists.
		d = &Decided{Commit: CommitRecord{ID: r.ID}}
		s.open[r.ID] = d
	}
	for i, h := range d.Heuristics {
		if h.Branch == r.Branch {
			d.Heuristics[i] = r
			return nil
		}
	}
	d.Heuristics = append(d.Heuristics, r)
	return nil
}

func (s *State) applyOutcomes(r OutcomesRecord) error {
	for i := range txn.Seq(len(r.Bits)) * 8 {
		if r.Bits[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if q := r.First + i; q < s.Low || q >= s.High {
			return fmt.Errorf(
				"%w: outcome of %d outside [%d, %d)",
				ErrContradiction,
				q,
				s.Low,
				s.High,
			)
		}
		s.committed.set(r.First + i)
	}
	return nil
}

func (s *State) retainKey(k KeyRecord) {
	if _, known := s.keys[k.Key.Hash]; !known {
		s.keyOrder = append(s.keyOrder, k)
	}
	s.keys[k.Key.Hash] = k
}

// Committed says whether the log holds the decision to commit id. False means "not in this log",
// which is a rollback only inside the known range and only to somebody who owns the log.
func (s *State) Committed(id txn.ID) bool {
	if d := s.open[id]; d != nil && d.Commit.Plan != txn.PlanUnset && !d.Asking {
		return true
	}
	return id.Log() == s.Log && s.committed.has(id.Seq())
}

// OpenDecision is the decision on id if its end is not recorded, or nil. The caller must not change
// it.
func (s *State) OpenDecision(id txn.ID) *Decided { return s.open[id] }

// OpenDecisions lists every decision without a recorded end, oldest first.
func (s *State) OpenDecisions() []*Decided {
	all := make([]*Decided, 0, len(s.open))
	for _, d := range s.open {
		all = append(all, d)
	}
	slices.SortFunc(
		all,
		func(a, b *Decided) int { return slices.Compare(a.Commit.ID[:], b.Commit.ID[:]) },
	)
	return all
}

// Resources lists the registered resources in the order of their numbers. The caller must not
// change it.
func (s *State) Resources() []ResourceRecord { return s.resources }

// Adopted lists the logs whose decisions this one took over.
func (s *State) Adopted() []AdoptedRecord { return s.adopted }

// Keys is the number of retained idempotency keys.
func (s *State) Keys() int { return len(s.keys) }

// Records writes the state as records, in an order that Apply accepts on a new State: a snapshot.
func (s *State) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		if !yield(OpenRecord{Epoch: s.Epoch}) || !yield(RangeRecord{Low: s.Low, High: s.High}) {
			return
		}
		for _, h := range s.holes {
			if !yield(h) {
				return
			}
		}
		for _, a := range s.adopted {
			if !yield(a) {
				return
			}
		}
		for _, r := range s.resources {
			if !yield(r) {
				return
			}
		}
		for _, k := range s.marks {
			if !yield(k) {
				return
			}
		}
		for _, k := range s.keyOrder {
			if !yield(k) {
				return
			}
		}
		for _, d := range s.OpenDecisions() {
			if r := d.record(); r != nil && !yield(r) {
				return
			}
			for _, h := range d.Heuristics {
				if !yield(h) {
					return
				}
			}
		}
		s.committed.records(yield)
	}
}

// record is what made d, or nil for an abort that somebody contradicted.
func (d *Decided) record() Record {
	c := d.Commit
	switch {
	case c.Plan == txn.PlanUnset:
		return nil
	case d.Asking && c.Plan == txn.PlanParallel:
		return IntentRecord{ID: c.ID, Label: c.Label, Key: c.Key, Branches: c.Branches}
	case d.Asking && c.Plan == txn.PlanDelegate:
		return DelegateRecord{ID: c.ID, Label: c.Label, Key: c.Key, Branches: c.Branches}
	case d.Asking:
		return OnePhaseRecord{ID: c.ID, Label: c.Label, Key: c.Key, Branch: c.Branches[0]}
	}
	return c
}

// Inheritance is what a log takes over from this one, whose absences of records nobody may trust:
// its resources, and its decisions, under the old ids. Nothing else of it counts in the new log.
// Lsn is how far it was read.
func (s *State) Inheritance(lsn uint64) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		if !yield(AdoptedRecord{Log: s.Log, Epoch: s.Epoch, LSN: lsn}) {
			return
		}
		for r := range s.Records() {
			switch c := r.(type) {
			case ResourceRecord, HeuristicRecord, AdoptedRecord:
			case CommitRecord:
				c.Key = Key{}
				r = c
			case OnePhaseRecord:
				c.Key = Key{}
				r = c
			case IntentRecord:
				c.Key = Key{}
				r = c
			case DelegateRecord:
				c.Key = Key{}
				r = c
			default:
				continue
			}
			if !yield(r) {
				return
			}
		}
	}
}

// later is the further of two positions: a higher timeline wins, then a higher LSN.
func later(a, b txn.Position) txn.Position {
	if a.Before(b) {
		return b
	}
	return a
}
