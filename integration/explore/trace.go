package explore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// trace writes a history down, in the manner of the histories that the protocol's own tests replay:
// an event, a line of dashes, what the machine wants. What the machine cannot see stands as a
// comment. A nil trace writes nothing and costs nothing.
type trace struct{ b strings.Builder }

// say writes a comment.
func (t *trace) say(format string, args ...any) {
	if t != nil {
		fmt.Fprintf(&t.b, "\n# "+format+"\n", args...)
	}
}

func (t *trace) line(format string, args ...any) {
	if t != nil {
		fmt.Fprintf(&t.b, format+"\n", args...)
	}
}

func (t *trace) event(w *world, e protocol.Event) {
	if t != nil {
		t.line("\n%s\n----", describeEvent(w, e))
	}
}

func (t *trace) crash(keep, inflight int) {
	switch {
	case t == nil:
	case keep == inflight && keep > 0:
		t.line("\ncrash keep\n----")
	case keep > 0:
		t.line("\n# The oldest %d of %d appends in flight are durable.\ncrash\n----", keep,
			inflight)
	default:
		t.line("\ncrash\n----")
	}
}

func (t *trace) appended(a protocol.Append) {
	if t == nil {
		return
	}
	how := "lazy"
	if a.Forced {
		how = "force"
	}
	t.line("%s %s", how, describeRecord(a.Record))
}

func (t *trace) sent(w *world, m protocol.Message) {
	if t != nil {
		t.line("send %s", describeCall(w, call{msg: m, epoch: w.epoch}))
	}
}

// arrived writes down what a call has come to. An empty word stands for its answer.
func (t *trace) arrived(w *world, c call, word string) {
	if t == nil {
		return
	}
	if word == "" {
		word = describeAnswer(c)
	}
	t.say("%s: %s", describeCall(w, c), word)
}

func (t *trace) replied(r protocol.Reply) {
	if t != nil {
		t.line("reply #%d %s", r.Req, describeReply(r))
	}
}

func (t *trace) noted(n protocol.Note) {
	if t == nil {
		return
	}
	switch n.Kind {
	case protocol.NoteDone:
		t.line("note done %d %s", n.ID.Seq(), n.Result.Outcome)
	case protocol.NoteSwept:
		t.line("note sweep %s %s", describeName(n.Name), n.Label)
	default:
		t.line("note ALARM %s %s", describeName(n.Name), n.Reason)
	}
}

func (t *trace) broken(b Broken) {
	t.say("%s: %s", strings.ToUpper(string(b.Checker)), b.What)
}

func describeName(n txn.Name) string {
	if n.Log != logID {
		return fmt.Sprintf("%d.%d log=%d", n.Seq, n.Branch, uint64(n.Log))
	}
	return fmt.Sprintf("%d.%d", n.Seq, n.Branch)
}

func describeNames(names []protocol.SweptName) string {
	var all []string
	for _, n := range names {
		all = append(all, describeName(n.Name))
	}
	return "[" + strings.Join(all, " ") + "]"
}

func describeCall(w *world, c call) string {
	s := fmt.Sprintf("%s %s %s", w.sc.Resources[c.msg.RM-1].Name, c.msg.Act,
		describeName(c.msg.Name))
	if c.epoch != w.epoch && !c.client {
		s += fmt.Sprintf(" of epoch %d", c.epoch)
	}
	if c.stale {
		s += ", late"
	}
	return s
}

func describeAnswer(c call) string {
	if c.client {
		return "whatever becomes of it, nobody hears it"
	}
	if c.msg.Act == protocol.ActPrepare {
		return describeVote(c.vote)
	}
	return c.standing.String()
}

func describeVote(v txn.BranchVote) string {
	if v.Evidence.XID != 0 {
		return fmt.Sprintf("%s xid %d", v.Vote, v.Evidence.XID)
	}
	return v.Vote.String()
}

func describeEvent(w *world, e protocol.Event) string {
	switch e := e.(type) {
	case protocol.Begin:
		return describeBegin(e)
	case protocol.Confirmed:
		return "confirm"
	case protocol.Commit:
		if e.Request.Intent {
			return fmt.Sprintf("commit seq=%d intent", e.Request.ID.Seq())
		}
		complete := ""
		if e.Request.Complete {
			complete = " complete"
		}
		return fmt.Sprintf("commit seq=%d%s%s%s", e.Request.ID.Seq(), ackWord(e.Request.Ack),
			complete, voteLines(e.Request.Votes))
	case protocol.Rollback:
		return fmt.Sprintf("rollback seq=%d", e.ID.Seq())
	case protocol.Ask:
		return fmt.Sprintf("ask seq=%d", e.ID.Seq())
	case protocol.Voted:
		return fmt.Sprintf("voted seq=%d%s", e.ID.Seq(), voteLines([]txn.BranchVote{e.Vote}))
	case protocol.Finished:
		return strings.ToLower(fmt.Sprintf("finished seq=%d branch=%d act=%s standing=%s%s",
			e.ID.Seq(), e.Branch, e.Act, e.Standing, foundWords(e.Evidence)))
	case protocol.Swept:
		return describeSwept(w, e)
	case protocol.Register:
		return fmt.Sprintf("resource name=%s tli=%d lsn=%d", e.Name, e.Position.Timeline,
			e.Position.LSN)
	case protocol.Reached:
		if e.Up {
			return fmt.Sprintf("reached name=%s up", e.Name)
		}
		return fmt.Sprintf("reached name=%s", e.Name)
	case protocol.Persisted:
		return describePersisted(w, e)
	case protocol.Tick:
		return fmt.Sprintf("tick to=%v", txn.Nanoseconds(int64(e.Now-start)))
	case protocol.Cancel:
		return fmt.Sprintf("cancel %T seq=%d", e.Of, subject(e.Of).Seq())
	}
	return fmt.Sprintf("%T", e)
}

func foundWords(ev txn.Evidence) (s string) {
	if ev.Timeline != 0 {
		s += fmt.Sprintf(" tli=%d lsn=%d", ev.Timeline, ev.LSN)
	}
	if ev.XID != 0 {
		s += fmt.Sprintf(" xid=%d", ev.XID)
	}
	return s
}

func describeBegin(e protocol.Begin) string {
	s := fmt.Sprintf("begin resources=(%s)", strings.Join(e.Request.Resources, ","))
	if !e.Request.ID.IsZero() {
		s += fmt.Sprintf(" seq=%d", e.Request.ID.Seq())
	}
	if e.Request.Part != "" {
		s += " part=" + e.Request.Part
	}
	if e.Request.Delegate != "" {
		s += " delegate=" + e.Request.Delegate
	}
	if e.Request.Key != "" {
		s += " key=" + e.Request.Key
	}
	return s
}

func describePersisted(w *world, e protocol.Persisted) string {
	behind := slices.ContainsFunc(w.inflight, func(a protocol.Append) bool {
		return a.Index > e.Index
	})
	if behind {
		return "# Only the oldest append in flight.\npersist"
	}
	return "persist"
}

func describeSwept(w *world, e protocol.Swept) string {
	s := fmt.Sprintf("swept resource=%s tli=%d lsn=%d", w.sc.Resources[e.RM-1].Name,
		e.Position.Timeline, e.Position.LSN)
	for _, n := range e.Names {
		s += fmt.Sprintf("\n%d %d", n.Name.Seq, n.Name.Branch)
		if n.Name.Log != logID {
			s += fmt.Sprintf(" log=%d", uint64(n.Name.Log))
		}
		if !n.Ours {
			s += " notours"
		}
	}
	for _, id := range e.Markers {
		s += fmt.Sprintf("\n%d marker", id.Seq())
	}
	return s
}

func ackWord(a txn.AckLevel) string {
	if a == txn.AckDecided {
		return " ack=decided"
	}
	return ""
}

func voteLines(votes []txn.BranchVote) string {
	words := map[txn.Vote]string{txn.VoteUnknown: "unknown", txn.VoteYes: "yes",
		txn.VoteNo: "no", txn.VoteReadOnly: "readonly", txn.VoteCommitted: "committed"}
	var b strings.Builder
	for _, v := range votes {
		fmt.Fprintf(&b, "\n%d %s", v.Branch, words[v.Vote])
	}
	return b.String()
}

func describeRecord(r protocol.Record) string {
	switch r := r.(type) {
	case protocol.RangeRecord:
		return fmt.Sprintf("RANGE [%d, %d)", r.Low, r.High)
	case protocol.ResourceRecord:
		return fmt.Sprintf("RESOURCE %d %s timeline %d", r.RM, r.Name, r.Position.Timeline)
	case protocol.CommitRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d xid %d", b.Branch, b.RM,
				b.Evidence.XID))
		}
		return fmt.Sprintf("COMMIT %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case protocol.IntentRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d", b.Branch, b.RM))
		}
		return fmt.Sprintf("INTENT %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case protocol.DelegateRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d", b.Branch, b.RM))
		}
		return fmt.Sprintf("DELEGATE %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case protocol.OnePhaseRecord:
		return fmt.Sprintf("ONE_PHASE %d {%d@%d}", r.ID.Seq(), r.Branch.Branch, r.Branch.RM)
	case protocol.AbortRecord:
		return fmt.Sprintf("ABORT %d", r.ID.Seq())
	case protocol.EndRecord:
		s := "END"
		for _, id := range r.IDs {
			s += fmt.Sprintf(" %d", id.Seq())
		}
		return s
	case protocol.HeuristicRecord:
		return fmt.Sprintf("HEURISTIC %d.%d %s", r.ID.Seq(), r.Branch, r.What)
	case protocol.HoleRecord:
		return fmt.Sprintf("HOLE [%d, %d)", r.From, r.To)
	}
	return fmt.Sprintf("%T", r)
}

func describeReply(r protocol.Reply) string {
	switch {
	case r.Err != nil:
		if refusal, ok := errors.AsType[*txn.Refusal](r.Err); ok {
			return "refused " + string(refusal.Reason)
		}
		return "refused: " + r.Err.Error()
	case r.Begun != nil && r.Begun.Existing != nil:
		return fmt.Sprintf("existing %d %s", r.Begun.ID.Seq(), r.Begun.Existing.Outcome)
	case r.Begun != nil:
		var branches []string
		for _, b := range r.Begun.Branches {
			branches = append(branches, fmt.Sprintf("%d=%s", b.Branch, b.Resource))
		}
		return fmt.Sprintf("begun %d [%s]", r.Begun.ID.Seq(), strings.Join(branches, " "))
	case r.Result != nil:
		s := fmt.Sprintf("%s outcome %s", r.Result.State, r.Result.Outcome)
		if p := r.Result.Pending(); len(p) > 0 {
			s += fmt.Sprintf(" pending %v", p)
		}
		return s
	}
	return "ok"
}
