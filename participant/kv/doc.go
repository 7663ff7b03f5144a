// Package kv is an embedded resource manager: a key-value store in one bbolt file that can
// promise to commit. It takes part in transactions where no database is at hand, inside a
// coordinator's process or behind a participant server.
//
//	store, err := kv.Open(kv.Config{Dir: dir})
//	store.Apply(ctx, name, 1, []kv.Op{{Kind: kv.OpAdd, Key: []byte("alice"), Delta: -30}})
//	… the coordinator prepares and commits the branch under that name …
//
// # A branch
//
//	Apply 1, 2, 3 … ──▶ in memory ── Prepare ──▶ prepared, durable ── Commit ──▶ data
//	                        │                          └─────────── Rollback ──▶ dropped
//	                        └── restart, idle too long, newer epoch: lost, and never votes yes
//
// A branch that is alone in its transaction may go from memory to data in one step,
// CommitOnePhase; the store's own commit is the decision then.
//
// Operations of a branch are seen by nobody else. Calls of Apply are numbered from 1: a store
// that lost earlier work of a branch finds a gap and refuses, so that a branch can never be
// prepared with a part of its work. The coordinator prepares the branch; the client sends no vote
// for it.
//
// # Isolation
//
// A branch reads committed values and remembers their versions. Prepare checks that none has
// changed, and locks what the branch read (shared) and wrote (exclusive) until it is finished;
// another branch that wants such a key votes no, with SQLSTATE 40001, and can be run again. So
// the transactions of one store are serializable, and across stores as well, because all locks
// are held when the last branch has prepared. Get, outside of branches, reads what is committed,
// in-doubt keys included.
//
// # What is bounded
//
// Everything: a key, a value, a call and a branch (the constants), and the branches, the memory and
// the file ([Config]). A file that holds Config.MaxBytes is full: branches that would make it
// larger vote no, and all others go on, since a commit cannot be refused any more. docs/KV.md has
// the table, and what to do about a file that is mostly empty, about backups and restored copies.
//
// # What is on disk
//
// One bbolt file, kv.db, with these buckets; integers are big endian.
//
//	meta       "format" = 2, "system" = 8 random bytes; its sequence is the history counter
//	fences     log id (8)            → epoch (4), LSN (8)
//	data       key                   → version (8), value
//	prepared   prepared name         → what to commit, see record.go; its sequence counts them
//	locks      len (2), key, name    → 's' or 'x'
//	finished   prepared name         → how it ended, see memory.go; its sequence counts them
//	refused    prepared name         → rolled back before it was prepared; likewise
//	…-order    history counter (8)   → name, to drop the oldest
//	horizon    log id (8)            → highest sequence whose finished end was dropped for want of
//	                                   room (8), or forgotten on request (8); log 0: every log
//
// A file of format 1, which has no horizon, is read on as one whose ends may all have been dropped.
//
// A compaction ([Compact]) writes the same anew, without free pages, as kv.db.compact, and renames
// it. Opening the store syncs the directory before anything else is done, so that the new file does
// not give way to the old one after somebody has written to it.
//
// Every change of a branch is one bbolt transaction, durable when the call returns; changes that
// arrive together share one, and its fsync. If that fails the store is failed for good and
// answers nothing more, since nobody can say what is on disk; opening it again can.
//
// # Evidence
//
// The history counter rises with every prepare, commit and rollback. It is the xid of a branch
// and the position of the store. The store remembers how branches ended (100,000 of them unless
// configured), and so proves Committed and RolledBack for these; of an older one it says Gone. A
// store that shows another identity or a lower position than the evidence was replaced or
// restored: Held.
//
// Of a branch that was to be committed in one phase, and whose work was lost, the absence of an end
// is a proof as well: every commit is remembered in the transaction that makes it, so that no end
// means no commit. That holds above the horizon, which rises, in one transaction with it, whenever
// an end is dropped. CommitOnePhase and Inquire say RolledBack there, and remember that they did;
// at and below the horizon they say Gone. New branches begin above it only: a late copy of a
// client's calls cannot bring one back to life whose end is not remembered any more.
package kv
