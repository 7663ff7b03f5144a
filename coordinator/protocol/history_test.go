package protocol

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/gavel-tx/gavel/txn"
)

const testLog txn.LogID = 0xabc

// TestHistories runs the files of testdata/histories: each is a story, step by step, with
// everything that the machine wants done after each step. `go test -run Histories -rewrite` writes
// what happens into them.
func TestHistories(t *testing.T) {
	datadriven.Walk(t, "testdata/histories", func(t *testing.T, path string) {
		h := &history{t: t}
		datadriven.RunTest(t, path, h.step)
	})
}

// history drives one machine, and keeps what a log would hold.
type history struct {
	t       *testing.T
	m       *Machine
	cfg     Config
	pending []Append
	durable []Record
	now     Instant
	req     ReqID
	round   uint64
	asked   map[ReqID]Event
}

func (h *history) step(t *testing.T, d *datadriven.TestData) string {
	h.t = t
	switch d.Cmd {
	case "start":
		return h.start(d)
	case "crash":
		return h.crash(d)
	case "resource":
		name := h.arg(d, "name")
		h.m.Step(Register{Req: h.nextReq(), Name: name, Kind: "test", Identity: h.identity(d, name),
			Position: h.position(d), Floor: h.m.Seen(h.m.RM(name)), Accept: d.HasArg("accept"),
			OnePhase: d.HasArg("onephase"), Delegate: d.HasArg("delegate"),
			Evidence: !d.HasArg("blind")})
	case "begin":
		h.ask(Begin{Req: h.nextReq(), Request: h.beginRequest(d)})
	case "commit":
		h.ask(Commit{Req: h.nextReq(), Request: h.commitRequest(d)})
	case "rollback":
		h.ask(Rollback{Req: h.nextReq(), ID: h.id(d), Reason: h.arg(d, "reason")})
	case "ask":
		h.m.Step(Ask{Req: h.nextReq(), ID: h.id(d)})
	case "voted":
		for _, v := range h.votes(d) {
			h.m.Step(Voted{ID: h.id(d), Vote: v})
		}
	case "finished":
		h.m.Step(h.answer(d))
	case "swept":
		h.m.Step(h.listing(d))
	case "persist":
		h.persist()
	case "tick":
		dur, err := time.ParseDuration(h.arg(d, "by"))
		if err != nil {
			t.Fatal(err)
		}
		h.now += Instant(dur)
		h.m.Step(Tick{Now: h.now})
	case "room":
		h.m.Step(Room{Available: h.arg(d, "available") == "true"})
	case "confirm":
		h.m.Step(Confirmed{Round: h.round})
	case "cancel":
		h.m.Step(Cancel{Of: h.asked[ReqID(h.num(d, "req", 0))]})
	case "reached":
		h.m.Step(Reached{Name: h.arg(d, "name"), Up: d.HasArg("up")})
	case "drain":
		h.m.Step(Drain{})
	default:
		t.Fatalf("%s: no step %q", d.Pos, d.Cmd)
	}
	return h.ready()
}

// start makes a machine with resources a and b registered and the first block reserved, silently.
func (h *history) start(d *datadriven.TestData) string {
	h.cfg = Config{Block: 8, Classic: d.HasArg("classic")}
	d.MaybeScanArgs(h.t, "pending", &h.cfg.MaxPending)
	d.MaybeScanArgs(h.t, "active", &h.cfg.MaxActive)
	d.MaybeScanArgs(h.t, "waiters", &h.cfg.MaxWaiters)
	d.MaybeScanArgs(h.t, "keys", &h.cfg.MaxKeys)
	h.cfg.Leap = txn.Seq(h.num(d, "leap", 0))
	if d.HasArg("retention") {
		dur, err := time.ParseDuration(h.arg(d, "retention"))
		if err != nil {
			h.t.Fatal(err)
		}
		h.cfg.Retention = Instant(dur)
	}
	h.durable, h.pending = nil, nil
	h.m = New(NewState(testLog), h.cfg, 0)
	for _, name := range []string{"a", "b"} {
		h.m.Step(Register{Name: name, Kind: "test", Identity: h.identity(d, name),
			Position: txn.Position{Timeline: 1, LSN: 100}, OnePhase: d.HasArg("onephase"),
			Delegate: d.HasArg("delegate"), Evidence: true})
	}
	h.ready()
	h.persist()
	h.ready()
	return ""
}

// crash loses everything that is not durable, and starts the next epoch. With "keep" the appends
// that nobody had heard of yet turn out to be on the disk.
func (h *history) crash(d *datadriven.TestData) string {
	if d.HasArg("keep") {
		for _, a := range h.pending {
			h.durable = append(h.durable, a.Record)
		}
	}
	h.pending = nil
	state := NewState(testLog)
	for _, r := range h.durable {
		if err := state.Apply(r); err != nil {
			h.t.Fatalf("%s: %v", d.Pos, err)
		}
	}
	state.Epoch++
	h.now = 0
	h.m = New(state, h.cfg, 0)
	return h.ready()
}

func (h *history) persist() {
	for _, a := range h.pending {
		h.durable = append(h.durable, a.Record)
		h.m.Step(Persisted{Index: a.Index})
	}
	h.pending = nil
}

// ask hands over the event of a caller, who may cancel it.
func (h *history) ask(e Event) {
	if h.asked == nil {
		h.asked = map[ReqID]Event{}
	}
	h.asked[h.req] = e
	h.m.Step(e)
}

func (h *history) nextReq() ReqID {
	h.req++
	return h.req
}

func (h *history) arg(d *datadriven.TestData, key string) string {
	if !d.HasArg(key) {
		return ""
	}
	var s string
	d.ScanArgs(h.t, key, &s)
	return s
}

func (h *history) num(d *datadriven.TestData, key string, def uint64) uint64 {
	s := h.arg(d, key)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		h.t.Fatalf("%s: %s: %v", d.Pos, key, err)
	}
	return n
}

func (h *history) id(d *datadriven.TestData) txn.ID {
	return txn.NewID(txn.LogID(h.num(d, "log", uint64(testLog))), txn.Seq(h.num(d, "seq", 1)))
}

// identity of resource a is 1, of b is 2.
func (h *history) identity(d *datadriven.TestData, name string) txn.Identity {
	if d.HasArg("system") {
		return txn.Identity{System: h.num(d, "system", 0), Database: 7}
	}
	return txn.Identity{System: uint64(name[0]-'a') + 1, Database: 7}
}

func (h *history) position(d *datadriven.TestData) txn.Position {
	return txn.Position{Timeline: uint32(h.num(d, "tli", 1)), LSN: h.num(d, "lsn", 100)}
}

func (h *history) beginRequest(d *datadriven.TestData) txn.BeginRequest {
	r := txn.BeginRequest{
		Delegate: h.arg(d, "delegate"),
		Part:     h.arg(d, "part"),
		Label:    h.arg(d, "label"),
		Key:      h.arg(d, "key"),
		Body:     []byte(h.arg(d, "body")),
	}
	if d.HasArg("seq") {
		r.ID = h.id(d)
	}
	for _, a := range d.CmdArgs {
		if a.Key == "resources" {
			r.Resources = a.Vals
		}
	}
	if d.HasArg("timeout") {
		dur, err := time.ParseDuration(h.arg(d, "timeout"))
		if err != nil {
			h.t.Fatal(err)
		}
		r.Timeout = dur
	}
	if d.HasArg("long") {
		r.Label = strings.Repeat("x", txn.MaxLabelLen+1)
	}
	return r
}

func (h *history) commitRequest(d *datadriven.TestData) txn.CommitRequest {
	r := txn.CommitRequest{ID: h.id(d), Votes: h.votes(d), Intent: d.HasArg("intent"),
		Complete: d.HasArg("complete")}
	switch h.arg(d, "plan") {
	case "classic":
		r.Plan = txn.PlanClassic
	case "delegate":
		r.Plan = txn.PlanDelegate
	}
	if h.arg(d, "ack") == "decided" {
		r.Ack = txn.AckDecided
	}
	return r
}

// votes reads lines "BRANCH VOTE [system=N] [tli=N] [noevidence]" from the step's input.
func (h *history) votes(d *datadriven.TestData) []txn.BranchVote {
	var votes []txn.BranchVote
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		no, err := strconv.Atoi(f[0])
		if err != nil {
			h.t.Fatalf("%s: %v", d.Pos, err)
		}
		v := txn.BranchVote{Branch: txn.BranchNo(no), Evidence: txn.Evidence{
			Identity: txn.Identity{System: uint64(no), Database: 7},
			Position: txn.Position{Timeline: 1, LSN: 200}, XID: 700 + uint64(no)}}
		switch f[1] {
		case "yes":
			v.Vote = txn.VoteYes
		case "no":
			v.Vote, v.Reason, v.SQLState = txn.VoteNo, "duplicate key", "23505"
			v.Evidence = txn.Evidence{}
		case "regret":
			v.Vote, v.Reason = txn.VoteNo, "no row was changed"
		case "readonly":
			v.Vote = txn.VoteReadOnly
		case "committed":
			v.Vote = txn.VoteCommitted
		case "unknown":
			v.Reason = "connection lost"
		default:
			h.t.Fatalf("%s: vote %q", d.Pos, f[1])
		}
		for _, opt := range f[2:] {
			key, val, _ := strings.Cut(opt, "=")
			n, _ := strconv.ParseUint(val, 10, 64)
			switch key {
			case "system":
				v.Evidence.System = n
			case "tli":
				v.Evidence.Timeline = uint32(n)
			case "noevidence":
				v.Evidence = txn.Evidence{}
			}
		}
		votes = append(votes, v)
	}
	return votes
}

func (h *history) answer(d *datadriven.TestData) Finished {
	f := Finished{
		ID:     h.id(d),
		Branch: txn.BranchNo(h.num(d, "branch", 1)),
		Reason: h.arg(d, "reason"),
	}
	f.Evidence = txn.Evidence{Position: h.position(d), XID: h.num(d, "xid", 0),
		Identity: h.identity(d, string(rune('a'+f.Branch-1)))}
	switch h.arg(d, "act") {
	case "commit":
		f.Act = ActCommit
	case "rollback":
		f.Act = ActRollback
	case "onephase":
		f.Act = ActOnePhase
	case "inquire":
		f.Act = ActInquire
	case "decide":
		f.Act, f.Votes = ActDecide, h.votes(d)
	}
	for s := txn.StandingUnknown; s <= txn.StandingForeign; s++ {
		if strings.EqualFold(s.String(), h.arg(d, "standing")) {
			f.Standing = s
		}
	}
	return f
}

// listing reads lines "SEQ BRANCH [log=N] [notours]" and "SEQ marker".
func (h *history) listing(d *datadriven.TestData) Swept {
	name := h.arg(d, "resource")
	s := Swept{RM: h.m.RM(name), Identity: h.identity(d, name), Position: h.position(d),
		Floor: h.m.Seen(h.m.RM(name)), Partial: d.HasArg("partial")}
	s.Position.LSN = h.num(d, "lsn", 1000)
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		seq, _ := strconv.ParseUint(f[0], 10, 64)
		if f[1] == "marker" {
			s.Markers = append(s.Markers, txn.NewID(testLog, txn.Seq(seq)))
			continue
		}
		branch, _ := strconv.ParseUint(f[1], 10, 16)
		n := SweptName{
			Ours: true,
			Name: txn.Name{Log: testLog, Seq: txn.Seq(seq), Branch: txn.BranchNo(branch)},
		}
		for _, opt := range f[2:] {
			if key, val, _ := strings.Cut(opt, "="); key == "log" {
				v, _ := strconv.ParseUint(val, 10, 64)
				n.Name.Log = txn.LogID(v)
			} else {
				n.Ours = false
			}
		}
		s.Names = append(s.Names, n)
	}
	return s
}

// ready renders what the machine wants, one line each, in its order.
func (h *history) ready() string {
	var b strings.Builder
	r := h.m.Ready()
	for _, a := range r.Appends {
		h.pending = append(h.pending, a)
		kind := "lazy"
		if a.Forced {
			kind = "force"
		}
		fmt.Fprintf(&b, "%s %s\n", kind, describe(a.Record))
	}
	for _, m := range r.Messages {
		fmt.Fprintf(&b, "send %s %s %d.%d", h.m.Name(m.RM), m.Act, m.ID.Seq(), m.Name.Branch)
		if m.Evidence.XID != 0 {
			fmt.Fprintf(&b, " xid %d", m.Evidence.XID)
		}
		b.WriteByte('\n')
	}
	for _, rep := range r.Replies {
		fmt.Fprintf(&b, "reply #%d %s\n", rep.Req, describeReply(rep))
	}
	for _, rem := range r.Removals {
		fmt.Fprintf(&b, "remove at %s:", h.m.Name(rem.RM))
		for _, id := range rem.IDs {
			fmt.Fprintf(&b, " %d", id.Seq())
		}
		b.WriteByte('\n')
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note %s\n", describeNote(n))
	}
	if r.Confirm != 0 {
		h.round = r.Confirm
		b.WriteString("confirm\n")
	}
	return b.String()
}

func describe(r Record) string {
	switch r := r.(type) {
	case RangeRecord:
		return fmt.Sprintf("RANGE [%d, %d)", r.Low, r.High)
	case ResourceRecord:
		return fmt.Sprintf("RESOURCE %d %s %s timeline %d",
			r.RM, r.Name, r.Identity, r.Position.Timeline)
	case CommitRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d xid %d", b.Branch, b.RM, b.Evidence.XID))
		}
		return fmt.Sprintf("COMMIT %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case IntentRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d", b.Branch, b.RM))
		}
		return fmt.Sprintf("INTENT %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case DelegateRecord:
		var branches []string
		for _, b := range r.Branches {
			branches = append(branches, fmt.Sprintf("%d@%d", b.Branch, b.RM))
		}
		return fmt.Sprintf("DELEGATE %d {%s}", r.ID.Seq(), strings.Join(branches, ", "))
	case OnePhaseRecord:
		return fmt.Sprintf("ONE_PHASE %d {%d@%d}", r.ID.Seq(), r.Branch.Branch, r.Branch.RM)
	case AbortRecord:
		return fmt.Sprintf("ABORT %d", r.ID.Seq())
	case MarkRecord:
		return fmt.Sprintf("MARK %d at %s", r.Next, time.Duration(r.Uptime))
	case EndRecord:
		var seqs []string
		for _, id := range r.IDs {
			seqs = append(seqs, fmt.Sprint(id.Seq()))
		}
		return "END " + strings.Join(seqs, " ")
	case HoleRecord:
		return fmt.Sprintf("HOLE [%d, %d)", r.From, r.To)
	case HeuristicRecord:
		return fmt.Sprintf("HEURISTIC %d.%d %s: %s", r.ID.Seq(), r.Branch, r.What, r.Reason)
	}
	return fmt.Sprintf("%T", r)
}

func describeReply(r Reply) string {
	switch {
	case r.Err != nil:
		return fmt.Sprintf("refused %s: %v", txn.ReasonOf(r.Err), r.Err)
	case r.Begun != nil && r.Begun.Existing != nil:
		return fmt.Sprintf("existing %d %s", r.Begun.ID.Seq(), r.Begun.Existing.Outcome)
	case r.Begun != nil:
		var branches []string
		for _, b := range r.Begun.Branches {
			branches = append(branches, fmt.Sprintf("%d=%s", b.Branch, b.Resource))
		}
		s := fmt.Sprintf("begun %d [%s]", r.Begun.ID.Seq(), strings.Join(branches, " "))
		if r.Begun.Delegate != 0 {
			s += fmt.Sprintf(" left to %d", r.Begun.Delegate)
		}
		return s
	case r.Result != nil:
		s := fmt.Sprintf("%s outcome %s", r.Result.State, r.Result.Outcome)
		if p := r.Result.Pending(); len(p) > 0 {
			s += fmt.Sprintf(" pending %v", p)
		}
		if r.Result.Cause != "" {
			s += fmt.Sprintf(" because %s", r.Result.Cause)
		}
		return s
	}
	return "ok"
}

func describeNote(n Note) string {
	switch n.Kind {
	case NoteDone:
		return fmt.Sprintf("done %d %s", n.ID.Seq(), n.Result.Outcome)
	case NoteSwept:
		return fmt.Sprintf("sweep %d.%d %s", n.Name.Seq, n.Name.Branch, n.Label)
	}
	s := "ALARM"
	if n.Label != 0 {
		s += " " + n.Label.String()
	}
	if n.Name != (txn.Name{}) {
		s += fmt.Sprintf(" %d.%d", n.Name.Seq, n.Name.Branch)
	}
	return s + ": " + n.Reason
}
