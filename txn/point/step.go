package point

// Step is one of the named steps. It is a number, so that a build without failpoints holds no
// names.
type Step uint8

// The steps, in the order of a transaction's life; the package comment says what each means.
const (
	AfterBegin Step = iota
	BeforePrepareSend
	BeforeIntent
	AfterIntent
	AfterVote
	BeforeForce
	AfterForceBeforeSend
	BeforeSend
	AfterSend
	BeforeAckClient
	AfterAck
	BeforeEnd
	DuringCheckpoint
	DuringRoll
	DuringRecovery
)
