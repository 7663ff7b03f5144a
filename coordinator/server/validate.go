package server

import (
	"fmt"
	"slices"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// MaxBodyLen bounds what an idempotency key stands for, in bytes. Clients with more send a hash
// of it.
const MaxBodyLen = 4096

// invalid is the refusal of a field. Its text always ends with the promise that nothing was
// changed.
func invalid(field, format string, args ...any) error {
	return txn.Refusef(txn.ReasonInvalid, field, format, args...)
}

func (s *Server) beginRequest(r *gavelv1.BeginTransactionRequest) (txn.BeginRequest, error) {
	var none txn.BeginRequest
	if err := checkResources(r.GetResources()); err != nil {
		return none, err
	}
	if d := r.GetDelegate(); d != "" && !slices.Contains(r.GetResources(), d) {
		return none, invalid("delegate", "%.64q is none of the resources", d)
	}
	timeout, err := parseDuration("timeout", r.GetTimeout(), s.options.MaxTimeout)
	if err != nil {
		return none, err
	}
	if err := checkLabel(r.GetLabel()); err != nil {
		return none, err
	}
	if n := len(r.GetIdempotencyKey()); n > txn.MaxKeyLen {
		return none, tooLong("idempotency_key", n, txn.MaxKeyLen)
	}
	if n := len(r.GetBody()); n > MaxBodyLen {
		return none, tooLong("body", n, MaxBodyLen)
	}
	if len(r.GetBody()) > 0 && r.GetIdempotencyKey() == "" {
		return none, invalid("body", "it stands for an idempotency key, and there is none")
	}
	return txn.BeginRequest{
		Resources: r.GetResources(), Timeout: timeout, Label: r.GetLabel(),
		Key: r.GetIdempotencyKey(), Body: r.GetBody(), Delegate: r.GetDelegate(),
	}, nil
}

func enlistRequest(r *gavelv1.EnlistBranchRequest) (txn.BeginRequest, error) {
	id, err := parseID(r.GetTransactionId())
	if err != nil {
		return txn.BeginRequest{}, err
	}
	if len(r.GetResources()) == 0 {
		return txn.BeginRequest{}, invalid("resources", "no resource is named")
	}
	if err := checkResources(r.GetResources()); err != nil {
		return txn.BeginRequest{}, err
	}
	if n := len(r.GetPart()); n > txn.MaxPartLen {
		return txn.BeginRequest{}, tooLong("part", n, txn.MaxPartLen)
	}
	return txn.BeginRequest{
		ID: id, Resources: r.GetResources(), Delegate: r.GetDelegate(), Part: r.GetPart(),
	}, nil
}

func (s *Server) commitRequest(r *gavelv1.CommitTransactionRequest) (txn.CommitRequest, error) {
	var none txn.CommitRequest
	id, err := parseID(r.GetTransactionId())
	if err != nil {
		return none, err
	}
	if err := checkVotes(r.GetVotes()); err != nil {
		return none, err
	}
	votes, err := wire.DecodeBranchVotes(r.GetVotes())
	if err != nil {
		return none, invalid("votes", "%v", err)
	}
	if _, known := gavelv1.AckLevel_name[int32(r.GetAckLevel())]; !known {
		return none, invalid("ack_level", "%d is not an acknowledgement level", r.GetAckLevel())
	}
	wait, err := parseDuration("wait", r.GetWait(), s.options.MaxWait)
	if err != nil {
		return none, err
	}
	if _, known := gavelv1.Plan_name[int32(r.GetPlan())]; !known {
		return none, invalid("plan", "%d is not a plan", r.GetPlan())
	}
	return txn.CommitRequest{
		ID: id, Votes: votes, Ack: wire.DecodeAckLevel(r.GetAckLevel()), Wait: wait,
		Intent: r.GetIntent(), Plan: wire.DecodePlan(r.GetPlan()), Complete: r.GetComplete(),
	}, nil
}

func (s *Server) listRequest(r *gavelv1.ListTransactionsRequest) (txn.ListRequest, error) {
	var none txn.ListRequest
	older, err := parseDuration("older_than", r.GetOlderThan(), 1<<63-1)
	if err != nil {
		return none, err
	}
	req := txn.ListRequest{OlderThan: older, Limit: int(r.GetPageSize())}
	if req.Limit < 0 || req.Limit > txn.MaxListLimit {
		return none, invalid("page_size", "%d is not within 0 and %d", req.Limit, txn.MaxListLimit)
	}
	if req.Limit == 0 {
		req.Limit = txn.DefaultListLimit
	}
	if token := r.GetPageToken(); token != "" {
		if req.After, err = txn.ParseID(token); err != nil {
			return none, invalid("page_token", "no answer gave this token")
		}
	}
	if n := len(r.GetStates()); n > len(gavelv1.TransactionState_name) {
		return none, invalid("states", "%d states are given, and there are not so many", n)
	}
	for i, state := range r.GetStates() {
		known := wire.DecodeState(state)
		if known == txn.StateUnknown {
			return none, invalid(fmt.Sprintf("states[%d]", i), "%d is not a state", state)
		}
		req.States = append(req.States, known)
	}
	return req, nil
}

func parseID(s string) (txn.ID, error) {
	id, err := txn.ParseID(s)
	if err != nil {
		return txn.ID{}, invalid("transaction_id", "%v", err)
	}
	return id, nil
}

func tooLong(field string, n, limit int) error {
	return invalid(field, "it has %d bytes, at most %d are allowed", n, limit)
}

// checkLabel keeps labels printable, since they reach terminals and journals.
func checkLabel(label string) error {
	if len(label) > txn.MaxLabelLen {
		return tooLong("label", len(label), txn.MaxLabelLen)
	}
	for i, r := range label {
		if !unicode.IsPrint(r) {
			return invalid("label", "the character %U at byte %d is not printable", r, i)
		}
	}
	return nil
}

func checkResources(names []string) error {
	if len(names) > txn.MaxBranches {
		return txn.Refusef(txn.ReasonTooMany, "resources",
			"%d resources are named, at most %d are allowed", len(names), txn.MaxBranches)
	}
	for i, name := range names {
		if !validResource(name) {
			return invalid(fmt.Sprintf("resources[%d]", i),
				"%.64q is not a name of 1 to %d characters of [A-Za-z0-9_.-]",
				name, txn.MaxResourceNameLen)
		}
	}
	return nil
}

func validResource(name string) bool {
	if name == "" || len(name) > txn.MaxResourceNameLen {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && !('0' <= c && c <= '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// checkVotes refuses what could be read in two ways: a branch that votes twice, and a vote that
// is not given. Whether the branch exists, and whether it is the delegate, is the coordinator's to
// know.
func checkVotes(votes []*gavelv1.BranchVote) error {
	if len(votes) > txn.MaxBranches {
		return txn.Refusef(txn.ReasonTooMany, "votes",
			"%d votes are given, at most %d are allowed", len(votes), txn.MaxBranches)
	}
	seen := make(map[uint32]bool, len(votes))
	for i, v := range votes {
		field := func(name string) string { return fmt.Sprintf("votes[%d].%s", i, name) }
		_, known := gavelv1.Vote_name[int32(v.GetVote())]
		switch {
		case v.GetBranch() == 0 || v.GetBranch() > 1<<16-1:
			return invalid(field("branch"), "%d is not within 1 and 65535", v.GetBranch())
		case seen[v.GetBranch()]:
			return invalid(field("branch"), "branch %d votes twice", v.GetBranch())
		case v.GetVote() == gavelv1.Vote_VOTE_UNSPECIFIED || !known:
			return invalid(field("vote"), "%d is not a vote", v.GetVote())
		case !validSQLState(v.GetSqlstate()):
			return invalid(field("sqlstate"),
				"%.16q is not 5 characters of [0-9A-Z]", v.GetSqlstate())
		}
		seen[v.GetBranch()] = true
	}
	return nil
}

func validSQLState(s string) bool {
	if s != "" && len(s) != 5 {
		return false
	}
	for i := range len(s) {
		if !('0' <= s[i] && s[i] <= '9') && !('A' <= s[i] && s[i] <= 'Z') {
			return false
		}
	}
	return true
}

// parseDuration takes a missing duration as zero, "the default".
func parseDuration(
	field string, d *durationpb.Duration, most time.Duration,
) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "it is not a duration: %v", err)
	}
	v := d.AsDuration()
	if v < 0 || v > most {
		return 0, invalid(field, "%v is not within 0s and %v", v, most)
	}
	return v, nil
}
