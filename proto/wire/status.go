package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// maxMessage bounds the text of a status, in bytes: it travels in a header, and some clients give
// all headers together no more than 8 KiB.
const maxMessage = 1024

// retryPause is what a caller is told to wait where the server is short of something.
const retryPause = time.Second

// The keys of an ErrorInfo's metadata.
const (
	keyField     = "field"
	keyMessage   = "message"
	keyEffect    = "effect"
	keyID        = "transaction_id"
	keyResource  = "resource"
	keySQLState  = "sqlstate"
	keyRetryable = "retryable"
	keyOutcome   = "outcome"
)

// OutcomeError carries the Result of a transaction that did not end the way the call asked for,
// through a status and out again. On the client's side its Result has no branches; GetTransaction
// has them.
type OutcomeError struct{ Result txn.Result }

// Error names the transaction and says what happened, what it means for the data, and what to do.
func (e *OutcomeError) Error() string {
	_, what := e.explain()
	return fmt.Sprintf("transaction %s: %s", e.Result.ID,
		sentence(what.What, what.Data, what.Do))
}

// Unwrap makes an open outcome recognisable as one.
func (e *OutcomeError) Unwrap() error {
	if e.Result.Outcome == txn.OutcomeUnknown {
		return txn.ErrUnknown
	}
	return nil
}

// explain is the reason of the result and its text, with the result's own words where it has some.
func (e *OutcomeError) explain() (string, Explanation) {
	r := e.Result
	reason := ReasonOutcomeUnknown
	switch {
	case r.Outcome == txn.OutcomeRolledBack:
		reason = rollbackReason(r.Cause)
	case r.Outcome.IsHeuristic():
		reason = ReasonHeuristic
	case r.Outcome == txn.OutcomeForgotten:
		reason = string(txn.ReasonForgotten)
	}
	what, _ := Explain(reason)
	if r.Outcome == txn.OutcomeRolledBack && r.Cause != txn.CauseNone {
		if cause, ok := ExplainCause(r.Cause); ok {
			what = cause
		}
	}
	if r.Reason != "" {
		what.What = clean(r.Reason)
	}
	return reason, what
}

// rollbackReason is the reason of a rolled back transaction. A cause that this version cannot
// explain, and no cause at all, become ROLLED_BACK: the outcome is certain all the same.
func rollbackReason(c txn.Cause) string {
	if _, ok := ExplainCause(c); ok {
		return string(c)
	}
	return string(txn.ReasonRolledBack)
}

// named is an error of the wire's own vocabulary with a text: what a participant refuses.
type named struct {
	reason string
	text   string
}

func (e *named) Error() string { return e.text }

// Refuse makes an error that [Status] sends with one of this package's reasons.
func Refuse(reason, format string, args ...any) error {
	return &named{reason: reason, text: fmt.Sprintf(format, args...)}
}

// ReasonOf is the reason in err's chain, whether it is about to be sent or was received, or "".
func ReasonOf(err error) string {
	if n, ok := errors.AsType[*named](err); ok {
		return n.reason
	}
	if r := txn.ReasonOf(err); r != "" {
		return string(r)
	}
	if info := infoOf(err); info != nil {
		return info.GetReason()
	}
	return ""
}

// Status is the gRPC status of an error: the one place where that is decided. nil stays nil, and
// an error that is a status already stays as it is.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if o, ok := errors.AsType[*OutcomeError](err); ok {
		return outcomeStatus(o)
	}
	if r, ok := errors.AsType[*txn.Refusal](err); ok {
		return refusalStatus(r)
	}
	if n, ok := errors.AsType[*named](err); ok {
		return reasonStatus(n.reason, n.text)
	}
	if e, ok := errors.AsType[*session.Error](err); ok {
		return statementStatus(e)
	}
	if reason := sentinelReason(err); reason != "" {
		return reasonStatus(reason, err.Error())
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return unknownStatus(err)
}

func sentinelReason(err error) string {
	switch {
	case errors.Is(err, participant.ErrFenced):
		return string(txn.ReasonFenced)
	case errors.Is(err, participant.ErrRegression):
		return string(txn.ReasonRegression)
	case errors.Is(err, participant.ErrNotResolver):
		return ReasonNotResolver
	case errors.Is(err, participant.ErrNoMarkers):
		return ReasonNoMarkers
	default:
		return ""
	}
}

// outcomeStatus sends the result along, so that a client in Go has what an embedded coordinator
// would have returned. The branches stay behind: 64 of them do not fit the headers of every
// client.
func outcomeStatus(o *OutcomeError) error {
	r := o.Result
	r.Branches = nil
	r.Reason = Cut(r.Reason, txn.MaxReasonLen)
	reason, what := o.explain()
	meta := map[string]string{keyOutcome: r.Outcome.String()}
	put(meta, keyResource, r.Resource)
	put(meta, keySQLState, r.SQLState)
	if !r.ID.IsZero() {
		meta[keyID] = r.ID.String()
	}
	if r.Outcome == txn.OutcomeRolledBack {
		meta[keyRetryable] = strconv.FormatBool(Retryable(r.Cause, r.SQLState))
	}
	return build(what.Code, sentence(what.What, what.Data, what.Do), reason, meta, EncodeResult(r))
}

func refusalStatus(r *txn.Refusal) error {
	what, ok := explainRefusal(r.Reason)
	if !ok {
		return unknownStatus(r)
	}
	if r.Message != "" {
		what.What = Cut(clean(r.Message), txn.MaxReasonLen)
	}
	if r.Effect != "" {
		what.Data = Cut(clean(r.Effect), txn.MaxReasonLen)
	}
	meta := map[string]string{keyMessage: what.What}
	put(meta, keyField, clean(r.Field))
	if r.Effect != "" {
		meta[keyEffect] = what.Data
	}
	text := sentence(what.What, what.Data, what.Do)
	if r.Field != "" {
		text = clean(r.Field) + ": " + text
	}
	return build(what.Code, text, string(r.Reason), meta)
}

func reasonStatus(reason, text string) error {
	what, ok := Explain(reason)
	if !ok {
		return unknownStatus(errors.New(text))
	}
	text = Cut(clean(text), txn.MaxReasonLen)
	return build(what.Code, sentence(text, what.Data, what.Do), reason,
		map[string]string{keyMessage: text})
}

// statementStatus is about a statement that failed. What its error says travels without the subject
// of its sentence, which the other side puts before it again.
func statementStatus(e *session.Error) error {
	what, _ := explainParticipant(ReasonStatementFailed)
	reason := Cut(clean(e.Reason), txn.MaxReasonLen)
	meta := map[string]string{keyMessage: reason}
	put(meta, keySQLState, e.SQLState)
	return build(what.Code, sentence("the statement "+reason, what.Data, what.Do),
		ReasonStatementFailed, meta)
}

// unknownStatus is for every error that is not positively a refusal or an outcome. Its code tells
// whose patience ended; its reason is always that the outcome is unknown.
func unknownStatus(err error) error {
	what, _ := explainParticipant(ReasonOutcomeUnknown)
	code := codes.Internal
	switch {
	case errors.Is(err, txn.ErrUnknown):
		code = codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	text := Cut(clean(err.Error()), txn.MaxReasonLen)
	return build(code, sentence(text, what.Data, what.Do), ReasonOutcomeUnknown,
		map[string]string{keyMessage: text})
}

func build(
	code codes.Code, text, reason string, meta map[string]string, more ...protoadapt.MessageV1,
) error {
	details := append([]protoadapt.MessageV1{
		&errdetails.ErrorInfo{Domain: Domain, Reason: reason, Metadata: meta},
	}, more...)
	if code == codes.ResourceExhausted {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryPause)})
	}
	bare := status.New(code, Cut(text, maxMessage))
	full, err := bare.WithDetails(details...)
	if err != nil {
		// Only a message that cannot be encoded gets here, and all texts above are cleaned. The
		// code and the text still say what matters.
		return bare.Err()
	}
	return full.Err()
}

// sentence joins what happened, what it means for the data, and what to do.
func sentence(what, data, do string) string {
	text := strings.TrimRight(what, ". ") + "; " + data + "."
	if do != "" {
		text += " " + do
	}
	return text
}

func put(meta map[string]string, key, value string) {
	if value != "" {
		meta[key] = clean(value)
	}
}

// TransactionError reads the error of a TransactionService call. It returns a *txn.Refusal or an
// *OutcomeError only for a definite answer of gavel's own, and else an error that wraps
// txn.ErrUnknown and the status.
func TransactionError(err error) error {
	if err == nil {
		return nil
	}
	s, info := status.Convert(err), infoOf(err)
	if info == nil {
		return unknownError(err)
	}
	if o := outcomeOf(s, info); o != nil {
		return o
	}
	if r := refusalOf(s, info); r != nil {
		return r
	}
	return unknownError(err)
}

// ParticipantError reads the error of a ParticipantService, SqlService or KvService call: one of
// package participant's sentinels, a *txn.Refusal, a *session.Error, an error with a reason of this
// package ([ReasonOf]), or an error that wraps txn.ErrUnknown.
func ParticipantError(err error) error {
	if err == nil {
		return nil
	}
	s, info := status.Convert(err), infoOf(err)
	if info == nil {
		return unknownError(err)
	}
	text := info.GetMetadata()[keyMessage]
	switch info.GetReason() {
	case string(txn.ReasonFenced):
		return fmt.Errorf("wire: %s: %w", text, participant.ErrFenced)
	case string(txn.ReasonRegression):
		return fmt.Errorf("wire: %s: %w", text, participant.ErrRegression)
	case ReasonNotResolver:
		return fmt.Errorf("wire: %s: %w", text, participant.ErrNotResolver)
	case ReasonNoMarkers:
		return fmt.Errorf("wire: %s: %w", text, participant.ErrNoMarkers)
	case ReasonBranchLost, ReasonBelowMinimum, ReasonNotNumber:
		return &named{reason: info.GetReason(), text: text}
	case ReasonStatementFailed:
		return &session.Error{Reason: text, SQLState: info.GetMetadata()[keySQLState]}
	}
	if r := refusalOf(s, info); r != nil {
		return r
	}
	return unknownError(err)
}

// unknownError keeps the status in the chain, for its code, and marks it as open.
func unknownError(err error) error { return fmt.Errorf("%w: %w", txn.ErrUnknown, err) }

// outcomeOf believes a result only where code, reason and result agree with each other.
func outcomeOf(s *status.Status, info *errdetails.ErrorInfo) *OutcomeError {
	for _, d := range s.Details() {
		t, ok := d.(*gavelv1.Transaction)
		if !ok {
			continue
		}
		r, err := DecodeResult(t)
		if err != nil {
			return nil
		}
		o := &OutcomeError{Result: r}
		reason, what := o.explain()
		if r.Outcome == txn.OutcomeCommitted {
			return nil
		}
		if r.Outcome == txn.OutcomeRolledBack && s.Code() == codes.Aborted {
			// A newer server may know causes that this client does not: the code is enough.
			return o
		}
		if what.Code == s.Code() && reason == info.GetReason() {
			return o
		}
		return nil
	}
	return nil
}

func refusalOf(s *status.Status, info *errdetails.ErrorInfo) *txn.Refusal {
	reason := txn.Reason(info.GetReason())
	what, ok := explainRefusal(reason)
	if !ok || what.Code != s.Code() {
		return nil
	}
	meta := info.GetMetadata()
	r := &txn.Refusal{
		Reason:  reason,
		Field:   meta[keyField],
		Message: meta[keyMessage],
		Effect:  meta[keyEffect],
	}
	if r.Message == "" {
		r.Message = what.What
	}
	if r.Effect == "" && what.Data != unchanged {
		r.Effect = what.Data
	}
	return r
}

// infoOf is gavel's ErrorInfo in a status, or nil.
func infoOf(err error) *errdetails.ErrorInfo {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info
		}
	}
	return nil
}

// Hopeless says that repeating a call whose error is err cannot help, although it is not known
// what became of it: the server does not have the method, does not accept the caller, or a
// message is too large.
func Hopeless(err error) bool {
	if infoOf(err) != nil {
		return false
	}
	return slices.Contains([]codes.Code{
		codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied,
		codes.InvalidArgument, codes.ResourceExhausted,
	}, status.Code(err))
}
