// Package xabranch knows the rules of MariaDB, and of MySQL, for a branch of a global transaction:
// how it begins, when its XA PREPARE is a vote, how it is finished, and what "unknown XID" may
// mean. It works on one connection at a time, owns none, and is the only place where these rules
// are written down.
//
//	b, err := xabranch.Begin(ctx, conn, name, xabranch.BeginOptions{})
//	… the application's SQL by b.Exec and b.Query …
//	v := b.Prepare(ctx, xabranch.PrepareOptions{})
//	… v.Vote and v.Evidence go to the coordinator; after its decision, on any connection …
//	xabranch.Finish(ctx, other, true, []txn.Name{name})
//
// # What MariaDB does to the unwary (measured at 10.11.19)
//
//   - A statement that fails leaves the transaction as it is, and XA PREPARE succeeds. So a
//     [Branch] remembers that one failed, and does not prepare.
//   - A prepared branch belongs to its session until that ends. XA COMMIT from elsewhere says
//     "unknown XID" (1397) while XA RECOVER lists it.
//   - While that session is just ending, XA COMMIT from elsewhere answers OK, commits nothing, and
//     takes the branch off the list; its locks stay until the server is restarted, which brings it
//     back. So an OK is believed only with the branch's row, and nobody finishes a branch whose
//     session may be ending ([Sight], [Settle]).
//   - "Unknown XID" may mean committed, rolled back, never prepared, or still attached.
//   - XA RECOVER lists the whole server, and knows neither database nor owner nor age.
//   - Whoever can connect may commit or roll back any XID that is on the list.
//
// # The row
//
// Before XA END, each branch writes a row of its own into gavel.branch. The row commits with the
// branch, and so is the proof that it did, for as long as it is kept. Whoever reads without
// waiting for commits (READ UNCOMMITTED) sees it earlier, and learns by it what XA RECOVER does not
// tell: the database, the user, the session and the age of a branch.
//
//	number      of the branch, from AUTO_INCREMENT: the XID of its evidence
//	name        unique, so that a name is prepared once
//	db          the database that was current when it was prepared
//	connection  the id of its session
//
// Each session that runs a branch also holds a user lock of the branch's name, from before XA START
// until it ends. That tells a branch that is attached from one that is not, even after a restart,
// when connection ids begin anew.
//
// # The right server
//
// MariaDB has no identity of its own. [Schema] draws one, of 60 random bits, and keeps it in
// gavel.identity. The server_id goes into it as well, so that a replica that was promoted is
// another server until an operator accepts it: nothing tells whether it has lost branches. Beside
// the identity stands the highest number of a branch that was ever listed. One that is lower than
// before is that of a restored backup. What cannot be noticed: a restored backup in which no branch
// is missing that was listed, and a copy of the data directory that runs with the same server_id.
//
// The rules are those of presumed abort in Mohan, Lindsay and Obermarck (TODS 1986), section 3.
package xabranch
