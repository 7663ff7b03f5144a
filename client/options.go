package client

import (
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// MaxRetries bounds [Retry].
const MaxRetries = 100

// Option refines transactions: one, or as a default all of a [Client].
type Option func(*settings)

// settings are what the options of one transaction come to.
type settings struct {
	label    string
	key      string
	body     []byte
	timeout  time.Duration
	ack      txn.AckLevel
	plan     txn.Plan
	delegate string
	wait     time.Duration
	askFor   time.Duration
	retries  int
	level    Level
	readOnly bool
	report   *txn.Result
}

// Level is an isolation level. The empty one is the session's default.
type Level string

// The isolation levels. Each branch has it at its own database: two databases are not isolated from
// each other, so that between two branches' commits another session may see one of them.
const (
	ReadCommitted  Level = "READ COMMITTED"
	RepeatableRead Level = "REPEATABLE READ"
	Serializable   Level = "SERIALIZABLE"
)

// Name labels the transaction for people: at most txn.MaxLabelLen bytes of printable text.
func Name(label string) Option { return func(s *settings) { s.label = label } }

// IdempotencyKey makes the transaction happen once, also over restarts, for the coordinator's
// retention (24 h): if a transaction with this key has committed, InTx returns nil and does not
// call the function. Body is what the key stands for; the same key with another body is refused.
// Such a transaction always goes through the coordinator. A key belongs to one transaction, not to
// the defaults of a Client.
func IdempotencyKey(key string, body []byte) Option {
	return func(s *settings) { s.key, s.body = key, body }
}

// Timeout is how long the transaction may stay undecided; afterwards it can only roll back. The
// function's context ends with it. Defaults to txn.DefaultTimeout at the coordinator, and then the
// function's context has no deadline of its own.
func Timeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// Ack chooses when InTx returns: txn.AckApplied, the default, once every branch is committed, or
// txn.AckDecided, as soon as the decision is durable.
func Ack(level txn.AckLevel) Option { return func(s *settings) { s.ack = level } }

// Plan set to txn.PlanClassic rules out [Delegate], and the parallel plan, which is otherwise used
// where Ack is txn.AckDecided: the coordinator then writes nothing down while the branches are
// being prepared, so that a transaction never waits, after a crash of the coordinator, for a
// database that is away.
func Plan(p txn.Plan) Option { return func(s *settings) { s.plan = p } }

// Delegate leaves the decision to this resource: its branch is not prepared but commits as it is,
// once all others are prepared, together with a row that says so, its marker.
//
// It saves one PREPARE and one COMMIT PREPARED, and the coordinator writes down beside phase two
// what is decided already. The price: while this one database is away after a crash, of the
// application or of the coordinator, all other branches wait for it, prepared; so choose the one
// that is away least, and keep it the same for all transactions if you can. It should fail over to
// a synchronous standby: of a commit there that a failover loses, nobody would hear.
//
// It needs the marker schema at the database, which `gavel markers` makes, and a branch that can
// commit with a marker, as that of a pgxtx.DB. The transaction is decided as without it if the
// resource is not among the first two that take part; with an IdempotencyKey, or after an IDFrom
// or a call of another process that came before them; with ReadOnly; and wherever the coordinator
// does not agree, for example because the schema is missing. Branches that other processes enlist,
// and those whose work is kept by their resource, as that of a kvtx.DB, have no place in such a
// transaction: once it is agreed upon, a call that takes it along fails. Defaults to none; at most
// txn.MaxResourceNameLen bytes.
func Delegate(resource string) Option { return func(s *settings) { s.delegate = resource } }

// Wait bounds how long, after the decision, a commit with txn.AckApplied waits for its branches.
// InTx then returns nil, because the decision stands, and [Report] shows which are pending.
// Defaults to txn.DefaultWait.
func Wait(d time.Duration) Option { return func(s *settings) { s.wait = d } }

// AskFor bounds how long InTx asks for an outcome whose answer was lost, before it is [ErrInDoubt].
// The end of the context ends it sooner. Defaults to 30 s.
func AskFor(d time.Duration) Option { return func(s *settings) { s.askFor = d } }

// Retry repeats the function up to n times, with growing pauses, while it ends in an [AbortedError]
// that is Retryable. The function must bear being repeated: what it did outside of the transaction
// is not undone. Defaults to 0, at most MaxRetries.
func Retry(n int) Option { return func(s *settings) { s.retries = n } }

// Isolation is the isolation level of every branch. Defaults to that of the session.
func Isolation(level Level) Option { return func(s *settings) { s.level = level } }

// ReadOnly makes the databases refuse writes.
func ReadOnly() Option { return func(s *settings) { s.readOnly = true } }

// Report fills r when the transaction has ended, as far as the outcome is known: with the branches
// that are still pending, or the earlier transaction of an idempotency key. It is written before
// InTx returns.
func Report(r *txn.Result) Option { return func(s *settings) { s.report = r } }

// with adds options. The receiver is a copy.
func (s settings) with(opts []Option) settings {
	for _, o := range opts {
		o(&s)
	}
	return s
}

// validate refuses what the coordinator would refuse too late, after work was done.
func (s settings) validate() error {
	switch {
	case len(s.label) > txn.MaxLabelLen:
		return fmt.Errorf("%w: Name has %d bytes, and %d is the limit", ErrOption,
			len(s.label), txn.MaxLabelLen)
	case len(s.key) > txn.MaxKeyLen:
		return fmt.Errorf("%w: IdempotencyKey has %d bytes, and %d is the limit", ErrOption,
			len(s.key), txn.MaxKeyLen)
	case len(s.delegate) > txn.MaxResourceNameLen:
		return fmt.Errorf("%w: Delegate has %d bytes, and %d is the limit", ErrOption,
			len(s.delegate), txn.MaxResourceNameLen)
	case s.key == "" && len(s.body) > 0:
		return fmt.Errorf("%w: IdempotencyKey has a body and no key", ErrOption)
	case s.timeout < 0 || s.wait < 0 || s.askFor < 0:
		return fmt.Errorf("%w: Timeout, Wait and AskFor must not be negative", ErrOption)
	case s.retries < 0 || s.retries > MaxRetries:
		return fmt.Errorf("%w: Retry(%d) is not within 0 and %d", ErrOption, s.retries, MaxRetries)
	}
	if s.plan != txn.PlanUnset && s.plan != txn.PlanClassic {
		return fmt.Errorf("%w: Plan(%s) cannot be asked for", ErrOption, s.plan)
	}
	switch s.level {
	case "", ReadCommitted, RepeatableRead, Serializable:
		return nil
	}
	return fmt.Errorf("%w: isolation level %q", ErrOption, string(s.level))
}

// decides is the resource that the coordinator is asked to leave the decision to. One that must not
// write cannot keep a marker.
func (s settings) decides() string {
	if s.readOnly || s.plan == txn.PlanClassic {
		return ""
	}
	return s.delegate
}

// undecided is the life of the transaction until somebody decides.
func (s settings) undecided() time.Duration {
	if s.timeout == 0 {
		return txn.DefaultTimeout
	}
	return s.timeout
}

func (s settings) asking() time.Duration {
	if s.askFor == 0 {
		return defaultAskFor
	}
	return s.askFor
}
