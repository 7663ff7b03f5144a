// Package point names the steps in the life of a transaction at which a crash is worth trying.
//
// A release build knows none of it: [Hit] is an empty function, and the names do not reach the
// binary. Built with the tag failpoints, a process whose environment names a socket in GAVEL_POINTS
// tells it of every step and waits there for a word to go on; so a test can kill a process, or its
// neighbour, exactly between two steps. No step is ever reached by waiting for a time.
//
//	afterBegin            the transaction is in memory, and its client is about to hear so
//	beforePrepareSend     the client has run its SQL, and nothing is prepared
//	beforeIntent          the intent, or who decides, is not in the log, and somebody prepares
//	afterIntent           that is durable, and the decision is open
//	afterVote             a branch is prepared, or the delegate committed, and nobody else knows
//	beforeForce           every branch has voted Yes, and the decision is not in the log
//	afterForceBeforeSend  the decision is durable, and nobody knows
//	beforeSend            a COMMIT PREPARED is about to leave
//	afterSend             a branch is committed, and the coordinator does not know
//	beforeAckClient       the client is about to hear
//	afterAck              a branch is acknowledged
//	beforeEnd             every branch is acknowledged, and END is not in the log
//	duringCheckpoint      a snapshot is about to be written
//	duringRoll            a segment of the log is about to get its name
//	duringRecovery        the log is read and the new epoch durable, and nothing is done about it
package point
