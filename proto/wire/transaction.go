package wire

import (
	"fmt"
	"slices"
	"strings"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

func states() table[txn.State, gavelv1.TransactionState] {
	return table[txn.State, gavelv1.TransactionState]{
		{txn.StateUnknown, gavelv1.TransactionState_TRANSACTION_STATE_UNSPECIFIED},
		{txn.StateActive, gavelv1.TransactionState_TRANSACTION_STATE_ACTIVE},
		{txn.StatePreparing, gavelv1.TransactionState_TRANSACTION_STATE_PREPARING},
		{txn.StateDeciding, gavelv1.TransactionState_TRANSACTION_STATE_DECIDING},
		{txn.StateCommitting, gavelv1.TransactionState_TRANSACTION_STATE_COMMITTING},
		{txn.StateCommitted, gavelv1.TransactionState_TRANSACTION_STATE_COMMITTED},
		{txn.StateRollingBack, gavelv1.TransactionState_TRANSACTION_STATE_ROLLING_BACK},
		{txn.StateRolledBack, gavelv1.TransactionState_TRANSACTION_STATE_ROLLED_BACK},
		{txn.StateInDoubt, gavelv1.TransactionState_TRANSACTION_STATE_IN_DOUBT},
		{txn.StateHeuristic, gavelv1.TransactionState_TRANSACTION_STATE_HEURISTIC},
	}
}

func outcomes() table[txn.Outcome, gavelv1.Outcome] {
	return table[txn.Outcome, gavelv1.Outcome]{
		{txn.OutcomeUnknown, gavelv1.Outcome_OUTCOME_UNKNOWN},
		{txn.OutcomeCommitted, gavelv1.Outcome_OUTCOME_COMMITTED},
		{txn.OutcomeRolledBack, gavelv1.Outcome_OUTCOME_ROLLED_BACK},
		{txn.OutcomeHeuristicCommit, gavelv1.Outcome_OUTCOME_HEURISTIC_COMMIT},
		{txn.OutcomeHeuristicRollback, gavelv1.Outcome_OUTCOME_HEURISTIC_ROLLBACK},
		{txn.OutcomeHeuristicMixed, gavelv1.Outcome_OUTCOME_HEURISTIC_MIXED},
		{txn.OutcomeHeuristicHazard, gavelv1.Outcome_OUTCOME_HEURISTIC_HAZARD},
		{txn.OutcomeForgotten, gavelv1.Outcome_OUTCOME_FORGOTTEN},
	}
}

func branchStates() table[txn.BranchState, gavelv1.BranchState] {
	return table[txn.BranchState, gavelv1.BranchState]{
		{txn.BranchUnknown, gavelv1.BranchState_BRANCH_STATE_UNSPECIFIED},
		{txn.BranchEnlisted, gavelv1.BranchState_BRANCH_STATE_ENLISTED},
		{txn.BranchPrepared, gavelv1.BranchState_BRANCH_STATE_PREPARED},
		{txn.BranchReadOnly, gavelv1.BranchState_BRANCH_STATE_READ_ONLY},
		{txn.BranchCommitted, gavelv1.BranchState_BRANCH_STATE_COMMITTED},
		{txn.BranchRolledBack, gavelv1.BranchState_BRANCH_STATE_ROLLED_BACK},
		{txn.BranchHeuristicCommit, gavelv1.BranchState_BRANCH_STATE_HEURISTIC_COMMIT},
		{txn.BranchHeuristicRollback, gavelv1.BranchState_BRANCH_STATE_HEURISTIC_ROLLBACK},
		{txn.BranchHeuristicHazard, gavelv1.BranchState_BRANCH_STATE_HEURISTIC_HAZARD},
	}
}

func plans() table[txn.Plan, gavelv1.Plan] {
	return table[txn.Plan, gavelv1.Plan]{
		{txn.PlanUnset, gavelv1.Plan_PLAN_UNSPECIFIED},
		{txn.PlanNone, gavelv1.Plan_PLAN_NONE},
		{txn.PlanOnePhase, gavelv1.Plan_PLAN_ONE_PHASE},
		{txn.PlanClassic, gavelv1.Plan_PLAN_CLASSIC},
		{txn.PlanParallel, gavelv1.Plan_PLAN_PARALLEL},
		{txn.PlanDelegate, gavelv1.Plan_PLAN_DELEGATE},
	}
}

func ackLevels() table[txn.AckLevel, gavelv1.AckLevel] {
	return table[txn.AckLevel, gavelv1.AckLevel]{
		{txn.AckApplied, gavelv1.AckLevel_ACK_LEVEL_APPLIED},
		{txn.AckDecided, gavelv1.AckLevel_ACK_LEVEL_DECIDED},
	}
}

// EncodePlan writes a plan.
func EncodePlan(p txn.Plan) gavelv1.Plan {
	return plans().toWire(p, gavelv1.Plan_PLAN_UNSPECIFIED)
}

// DecodePlan reads a plan; what it does not know is PlanUnset.
func DecodePlan(p gavelv1.Plan) txn.Plan { return plans().fromWire(p, txn.PlanUnset) }

// EncodeState writes a transaction's state.
func EncodeState(s txn.State) gavelv1.TransactionState {
	return states().toWire(s, gavelv1.TransactionState_TRANSACTION_STATE_UNSPECIFIED)
}

// DecodeState reads a transaction's state; what it does not know is StateUnknown.
func DecodeState(s gavelv1.TransactionState) txn.State {
	return states().fromWire(s, txn.StateUnknown)
}

// EncodeAckLevel writes an acknowledgement level.
func EncodeAckLevel(a txn.AckLevel) gavelv1.AckLevel {
	return ackLevels().toWire(a, gavelv1.AckLevel_ACK_LEVEL_APPLIED)
}

// DecodeAckLevel reads an acknowledgement level. What it does not know is the strongest of all,
// AckApplied.
func DecodeAckLevel(a gavelv1.AckLevel) txn.AckLevel {
	return ackLevels().fromWire(a, txn.AckApplied)
}

// EncodeResult writes what is known about a transaction.
func EncodeResult(r txn.Result) *gavelv1.Transaction {
	t := &gavelv1.Transaction{
		State:    EncodeState(r.State),
		Outcome:  outcomes().toWire(r.Outcome, gavelv1.Outcome_OUTCOME_UNKNOWN),
		Plan:     plans().toWire(r.Plan, gavelv1.Plan_PLAN_UNSPECIFIED),
		Label:    clean(r.Label),
		Age:      duration(r.Age),
		Branches: make([]*gavelv1.Branch, len(r.Branches)),
		Reason:   clean(r.Reason),
		Cause:    string(r.Cause),
		Sqlstate: r.SQLState,
		Resource: r.Resource,
	}
	if !r.ID.IsZero() {
		t.TransactionId = r.ID.String()
	}
	for i, b := range r.Branches {
		t.Branches[i] = encodeStatus(b)
	}
	return t
}

func encodeStatus(b txn.BranchStatus) *gavelv1.Branch {
	return &gavelv1.Branch{
		Branch:       uint32(b.Branch),
		Resource:     b.Resource,
		PreparedName: b.Name.String(),
		State:        branchStates().toWire(b.State, gavelv1.BranchState_BRANCH_STATE_UNSPECIFIED),
		Attempts:     uint32(b.Attempts),
		LastError:    clean(b.LastError),
	}
}

// DecodeResult reads what is known about a transaction. An outcome that it does not know is
// OutcomeUnknown; a nil transaction is an error, because silence is not an answer.
func DecodeResult(t *gavelv1.Transaction) (txn.Result, error) {
	if t == nil {
		return txn.Result{}, fmt.Errorf("wire: the answer names no transaction")
	}
	id, err := txn.ParseID(t.GetTransactionId())
	if err != nil {
		return txn.Result{}, fmt.Errorf("wire: transaction: %w", err)
	}
	r := txn.Result{
		ID:       id,
		State:    DecodeState(t.GetState()),
		Outcome:  outcomes().fromWire(t.GetOutcome(), txn.OutcomeUnknown),
		Plan:     plans().fromWire(t.GetPlan(), txn.PlanUnset),
		Label:    t.GetLabel(),
		Age:      t.GetAge().AsDuration(),
		Reason:   t.GetReason(),
		Cause:    txn.Cause(t.GetCause()),
		SQLState: t.GetSqlstate(),
		Resource: t.GetResource(),
	}
	for _, b := range t.GetBranches() {
		s, err := decodeStatus(b)
		if err != nil {
			return txn.Result{}, err
		}
		r.Branches = append(r.Branches, s)
	}
	return r, nil
}

func decodeStatus(b *gavelv1.Branch) (txn.BranchStatus, error) {
	e, err := decodeEnlisted(b)
	if err != nil {
		return txn.BranchStatus{}, err
	}
	return txn.BranchStatus{
		Branch:    e.Branch,
		Resource:  e.Resource,
		Name:      e.Name,
		State:     branchStates().fromWire(b.GetState(), txn.BranchUnknown),
		Attempts:  int(b.GetAttempts()),
		LastError: b.GetLastError(),
	}, nil
}

// EncodeEnlisted writes the branches of a transaction that nobody has prepared yet.
func EncodeEnlisted(branches []txn.Enlisted) []*gavelv1.Branch {
	out := make([]*gavelv1.Branch, len(branches))
	for i, b := range branches {
		out[i] = &gavelv1.Branch{
			Branch:       uint32(b.Branch),
			Resource:     b.Resource,
			PreparedName: b.Name.String(),
			State:        gavelv1.BranchState_BRANCH_STATE_ENLISTED,
			At:           EncodeEvidence(b.At),
		}
	}
	return out
}

// DecodeEnlisted reads the branches of a transaction. Each must carry a prepared name that is
// its own: a client that prepared under another one would make a branch that nobody commits.
func DecodeEnlisted(branches []*gavelv1.Branch) ([]txn.Enlisted, error) {
	out := make([]txn.Enlisted, len(branches))
	for i, b := range branches {
		e, err := decodeEnlisted(b)
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

func decodeEnlisted(b *gavelv1.Branch) (txn.Enlisted, error) {
	name, err := txn.ParseName(b.GetPreparedName())
	if err != nil {
		return txn.Enlisted{}, fmt.Errorf("wire: branch %d: %w", b.GetBranch(), err)
	}
	if uint32(name.Branch) != b.GetBranch() {
		return txn.Enlisted{}, fmt.Errorf("wire: branch %d has the name %s of another branch",
			b.GetBranch(), name)
	}
	return txn.Enlisted{Branch: name.Branch, Resource: b.GetResource(), Name: name,
		At: DecodeEvidence(b.GetAt())}, nil
}

// DecodeDelegate reads which of the branches is the delegate; 0 is none. One that is none of them
// is an error: a client that took it for none would prepare the delegate, which nobody asks then.
func DecodeDelegate(no uint32, branches []txn.Enlisted) (txn.BranchNo, error) {
	is := func(b txn.Enlisted) bool { return uint32(b.Branch) == no }
	if no != 0 && !slices.ContainsFunc(branches, is) {
		return 0, fmt.Errorf("wire: the delegate is branch %d, and there is none", no)
	}
	return txn.BranchNo(no), nil
}

// EncodeBranchVotes writes the votes of a commit.
func EncodeBranchVotes(votes []txn.BranchVote) []*gavelv1.BranchVote {
	out := make([]*gavelv1.BranchVote, len(votes))
	for i, v := range votes {
		out[i] = &gavelv1.BranchVote{
			Branch:   uint32(v.Branch),
			Vote:     EncodeVote(v.Vote),
			Evidence: EncodeEvidence(v.Evidence),
			Reason:   clean(Cut(v.Reason, txn.MaxReasonLen)),
			Sqlstate: v.SQLState,
		}
	}
	return out
}

// DecodeBranchVotes reads the votes of a commit. It checks nothing but that branch numbers fit;
// that is the server's work.
func DecodeBranchVotes(votes []*gavelv1.BranchVote) ([]txn.BranchVote, error) {
	out := make([]txn.BranchVote, len(votes))
	for i, v := range votes {
		no := txn.BranchNo(v.GetBranch())
		if uint32(no) != v.GetBranch() {
			return nil, fmt.Errorf("wire: branch number %d is above 65535", v.GetBranch())
		}
		out[i] = txn.BranchVote{
			Branch:   no,
			Vote:     DecodeVote(v.GetVote()),
			Evidence: DecodeEvidence(v.GetEvidence()),
			Reason:   Cut(v.GetReason(), txn.MaxReasonLen),
			SQLState: v.GetSqlstate(),
		}
	}
	return out, nil
}

// clean makes a text safe for a protobuf string, which must be UTF-8: database errors in other
// encodings would otherwise make the whole answer impossible to send.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
