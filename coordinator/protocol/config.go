package protocol

import "github.com/gavel-tx/gavel/txn"

const second = Instant(1e9)

// Config holds the limits and times of a Machine.
type Config struct {
	// DefaultTimeout and MaxTimeout bound the undecided life of a transaction. Default to 30 s and
	// 1 h.
	DefaultTimeout, MaxTimeout Instant
	// VoteTimeout bounds the time from Commit to the last vote. Defaults to 5 s.
	VoteTimeout Instant
	// VoteRetry is the pause before a resource is asked again for a vote that it could not tell.
	// Defaults to 100 ms.
	VoteRetry Instant
	// MaxActive bounds the transactions in memory, and those waiting for a sequence. Defaults to
	// 100,000.
	MaxActive int
	// MaxPending bounds the branches of one resource that wait for phase two: a dead resource
	// refuses new transactions at this point and harms nobody else. Defaults to 10,000.
	MaxPending int
	// MaxWaiters bounds the callers that wait for one transaction. Defaults to 64.
	MaxWaiters int
	// MaxKeys bounds the retained idempotency keys. Defaults to 1,000,000.
	MaxKeys int
	// Block is the smallest number of sequences reserved at once. Defaults to 1,024.
	Block txn.Seq
	// Leap is how many sequences this epoch leaves out before its first. Whoever runs the machine
	// chooses it at random from [MinLeap, 2*MinLeap): a log that was set back does not know what
	// its lost epochs have handed out, and this way does not come to hand out the same. Zero means
	// none.
	Leap txn.Seq
	// Grace is how far apart two sightings of a prepared branch must be before a sweep acts on it:
	// politeness towards branches on their way, never safety. Defaults to 2 s.
	Grace Instant
	// Classic rules the parallel plan out.
	Classic bool
	// Retention is how long an outcome stays answerable at least. Defaults to 24 h.
	Retention Instant
}

// MinLeap is the least Leap of an epoch: more sequences than an epoch hands out in months, and so
// few that there is room for millions of epochs.
const MinLeap txn.Seq = 1 << 36

// maxHoles bounds the holes of a log, which are some bytes each. Beyond it epochs begin without a
// leap, and say so, until the oldest holes have been forgotten with the outcomes before them.
const maxHoles = 1 << 16

// lastHole bounds where holes end: they must never use up the sequences.
const lastHole = txn.MaxSeq / 2

// WithDefaults has every zero field replaced by its default.
func (c Config) WithDefaults() Config {
	def(&c.DefaultTimeout, 30*second)
	def(&c.MaxTimeout, 3600*second)
	def(&c.VoteTimeout, 5*second)
	def(&c.VoteRetry, second/10)
	def(&c.MaxActive, 100_000)
	def(&c.MaxPending, 10_000)
	def(&c.MaxWaiters, 64)
	def(&c.MaxKeys, 1_000_000)
	def(&c.Block, 1024)
	def(&c.Grace, 2*second)
	def(&c.Retention, 24*3600*second)
	return c
}

func def[T Instant | int | txn.Seq](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
