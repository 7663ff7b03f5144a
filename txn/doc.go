// Package txn holds the words that every part of gavel shares: which global transaction is meant,
// what a branch of it is called inside a database, how a participant voted, where a branch stands,
// and how the whole ended.
//
// # Names
//
// A log (the coordinator's memory) has a random 60-bit [LogID], made once. Each transaction of that
// log has a 62-bit sequence number, [Seq]. Both together are the transaction's [ID], a UUIDv8:
//
//	 48 bits           4   12 bits        2   62 bits
//	┌─────────────────┬───┬──────────────┬───┬──────────────────────────────────┐
//	│ log id, high 48 │ 8 │ log id, low  │10 │ sequence                         │
//	└─────────────────┴───┴──────────────┴───┴──────────────────────────────────┘
//
// so that ids of one log sort by age, and a forgotten transaction costs its log one bit. The part
// of a transaction at one database is a branch, and the database knows it by its prepared name
// ([Name]).
//
// # Three-valued truth
//
// Nothing in this package is a bool that could mean "I do not know". [VoteUnknown],
// [StandingUnknown] and [OutcomeUnknown] are answers of their own and are never rounded to yes or
// no.
//
// Presumed abort and its record-keeping follow Mohan, Lindsay and Obermarck, "Transaction
// Management in the R* Distributed Database Management System" (TODS 1986), section 3; bounded
// presumption by dense ids follows Lampson and Lomet, "A New Presumed Commit Optimization for Two
// Phase Commit" (VLDB 1993).
package txn
