package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	sessions "github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// callOffLimit bounds how long a transaction that failed is being called off, beyond the patience
// of its caller.
const callOffLimit = 5 * time.Second

// ExecuteTransaction implements the service: begin, every statement in a session of its resource,
// and a commit without votes, so that the coordinator has the sessions prepared. What goes wrong
// before that is a No vote, as it would be of a client that works with the database itself.
func (s *Server) ExecuteTransaction(
	ctx context.Context, r *gavelv1.ExecuteTransactionRequest,
) (*gavelv1.ExecuteTransactionResponse, error) {
	x, err := s.execution(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	begun, err := s.coordinator.Begin(ctx, x.begin)
	if err != nil {
		return nil, wire.Status(err)
	}
	if begun.Existing != nil {
		return executed(*begun.Existing, nil)
	}
	x.begun, x.attached = begun, map[string]sessions.Branch{}
	defer x.close()
	bounded, cancel := context.WithTimeout(ctx, begun.Timeout)
	defer cancel()
	if no := x.run(bounded); no != nil {
		return nil, wire.Status(s.callOff(ctx, begun.ID, *no))
	}
	// A Yes that is told again is one by listing, which only the classic plan may use.
	result, err := s.coordinator.Commit(ctx, txn.CommitRequest{
		ID: begun.ID, Ack: x.ack, Plan: txn.PlanClassic,
	})
	if err != nil {
		return nil, wire.Status(err)
	}
	return executed(result, x.results)
}

// executed is the answer about a committed transaction, and the error about any other.
func executed(
	result txn.Result, results []*gavelv1.StatementResult,
) (*gavelv1.ExecuteTransactionResponse, error) {
	if result.Outcome != txn.OutcomeCommitted {
		return nil, wire.Status(&wire.OutcomeError{Result: result})
	}
	return &gavelv1.ExecuteTransactionResponse{Transaction: wire.EncodeResult(result),
		PendingResources: result.Pending(), Results: results}, nil
}

// callOff has the transaction rolled back because of a branch, also if nobody waits for it any
// more. Its error tells the outcome.
func (s *Server) callOff(ctx context.Context, id txn.ID, no txn.BranchVote) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callOffLimit)
	defer cancel()
	result, err := s.coordinator.Commit(ctx, txn.CommitRequest{
		ID: id, Votes: []txn.BranchVote{no}, Plan: txn.PlanClassic,
	})
	if err != nil {
		// It is rolled back at its deadline, at the latest. That is not known to have happened.
		return fmt.Errorf("%w: call off %s: %v", txn.ErrUnknown, id, err)
	}
	return &wire.OutcomeError{Result: result}
}

// execution is one ExecuteTransaction.
type execution struct {
	runners    map[string]sessions.Runner
	epoch      txn.Epoch
	begin      txn.BeginRequest
	ack        txn.AckLevel
	options    sessions.Options
	statements []statement

	begun    txn.Begun
	attached map[string]sessions.Branch
	results  []*gavelv1.StatementResult
	// rows and bytes of all results so far.
	rows, bytes int
}

// statement is one with the resource that it is for.
type statement struct {
	sessions.Statement
	resource string
}

// execution checks a request. It is refused as a whole, before anything is begun.
func (s *Server) execution(r *gavelv1.ExecuteTransactionRequest) (*execution, error) {
	x := &execution{runners: s.options.SQL, epoch: s.options.Epoch,
		ack: wire.DecodeAckLevel(r.GetAckLevel())}
	if n := len(r.GetStatements()); n < 1 || n > wire.MaxStatements {
		return nil, invalid("statements", "%d are given, and there must be 1 to %d", n,
			wire.MaxStatements)
	}
	if _, known := gavelv1.AckLevel_name[int32(r.GetAckLevel())]; !known {
		return nil, invalid("ack_level", "%d is not an acknowledgement level", r.GetAckLevel())
	}
	var err error
	if x.options.Isolation, err = wire.DecodeIsolation(r.GetIsolation()); err != nil {
		return nil, err
	}
	var resources []string
	for i, m := range r.GetStatements() {
		one, err := x.statement(m)
		if err != nil {
			return nil, inStatement(i, err)
		}
		x.statements = append(x.statements, one)
		if !slices.Contains(resources, one.resource) {
			resources = append(resources, one.resource)
		}
	}
	begin := &gavelv1.BeginTransactionRequest{Resources: resources, Label: r.GetLabel(),
		Timeout: r.GetTimeout(), IdempotencyKey: r.GetIdempotencyKey()}
	if begin.IdempotencyKey != "" {
		if begin.Body, err = bodyOf(r); err != nil {
			return nil, err
		}
	}
	x.begin, err = s.beginRequest(begin)
	return x, err
}

// statement checks one. Only the resources that an operator has named are allowed.
func (x *execution) statement(m *gavelv1.TransactionStatement) (statement, error) {
	if !validResource(m.GetResource()) {
		return statement{}, invalid("resource",
			"%.64q is not a name of 1 to %d characters of [A-Za-z0-9_.-]", m.GetResource(),
			txn.MaxResourceNameLen)
	}
	if x.runners[m.GetResource()] == nil {
		return statement{}, txn.Refusef(txn.ReasonNotAllowed, "resource",
			"the coordinator may not run SQL at resource %s", m.GetResource())
	}
	decoded, err := wire.DecodeStatement(m, m.ExpectRows)
	return statement{decoded, m.GetResource()}, err
}

// inStatement puts the number of a statement before the field of a refusal.
func inStatement(i int, err error) error {
	r, ok := errors.AsType[*txn.Refusal](err)
	if !ok {
		return err
	}
	at := *r
	at.Field = fmt.Sprintf("statements[%d].%s", i, r.Field)
	return &at
}

// bodyOf is what an idempotency key stands for: all that the transaction does. How it is waited
// for, and what it is called, is not part of it.
func bodyOf(r *gavelv1.ExecuteTransactionRequest) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(
		&gavelv1.ExecuteTransactionRequest{Statements: r.GetStatements(),
			Isolation: r.GetIsolation()})
	if err != nil {
		return nil, invalid("statements", "%v", err)
	}
	sum := sha256.Sum256(body)
	return sum[:], nil
}

// run runs the statements. It returns the No vote of the first branch that cannot go on, or nil
// when all of them wait for their coordinator.
func (x *execution) run(ctx context.Context) *txn.BranchVote {
	for i, one := range x.statements {
		if err := x.execute(ctx, one); err != nil {
			return x.no(one.resource, fmt.Sprintf("statement %d on %s", i+1, one.resource), err)
		}
	}
	for resource, b := range x.attached {
		if err := b.Finish(); err != nil {
			return x.no(resource, "the end of the statements on "+resource, err)
		}
	}
	return nil
}

// no is the vote of a branch because of what went wrong with a part of it.
func (x *execution) no(resource, part string, err error) *txn.BranchVote {
	v := &txn.BranchVote{Branch: x.branch(resource).Branch, Vote: txn.VoteNo}
	failed, ok := errors.AsType[*sessions.Error](err)
	if !ok {
		failed = &sessions.Error{Reason: "was not run: " + err.Error()}
	}
	v.Reason = wire.Cut(part+" "+failed.Reason, txn.MaxReasonLen)
	if validSQLState(failed.SQLState) {
		v.SQLState = failed.SQLState
	}
	return v
}

func (x *execution) branch(resource string) txn.Enlisted {
	at := slices.IndexFunc(x.begun.Branches, func(e txn.Enlisted) bool {
		return e.Resource == resource
	})
	return x.begun.Branches[at]
}

// execute runs one statement, and attaches its branch first if need be.
func (x *execution) execute(ctx context.Context, one statement) error {
	b := x.attached[one.resource]
	if b == nil {
		var err error
		b, err = x.runners[one.resource].Attach(ctx, sessions.Attachment{
			Name: x.branch(one.resource).Name, Epoch: x.epoch, Options: x.options})
		if err != nil {
			return err
		}
		x.attached[one.resource] = b
	}
	out := &gavelv1.StatementResult{}
	x.results = append(x.results, out)
	done, err := b.Execute(ctx, one.Statement, func(columns []string, rows [][]any) error {
		return x.take(out, columns, rows)
	})
	out.RowsAffected = done.Rows
	return err
}

// take adds rows to a result, within the limits of all of them.
func (x *execution) take(out *gavelv1.StatementResult, columns []string, rows [][]any) error {
	if columns != nil {
		out.Columns = columns
	}
	x.rows += len(rows)
	for _, row := range wire.EncodeRows(rows) {
		x.bytes += proto.Size(row)
		out.Rows = append(out.Rows, row)
	}
	if x.rows > wire.MaxResultRows || x.bytes > wire.MaxResultBytes {
		return &sessions.Error{Reason: fmt.Sprintf("returned too much: all results together may "+
			"have %d rows and %d bytes", wire.MaxResultRows, wire.MaxResultBytes)}
	}
	return nil
}

// close lets go of all branches: those that are not finished are rolled back.
func (x *execution) close() {
	for _, b := range x.attached {
		b.Close()
	}
}
