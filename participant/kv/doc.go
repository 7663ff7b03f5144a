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
// # What is on disk
//
// One bbolt file, kv.db, with these buckets; integers are big endian.
//
//	meta       "format" = 1, "system" = 8 random bytes; its sequence is the history counter
//	fences     log id (8)            → epoch (4), LSN (8)
//	data       key                   → version (8), value
//	prepared   prepared name         → what to commit, see record.go; its sequence counts them
//	locks      len (2), key, name    → 's' or 'x'
//	finished   prepared name         → how it ended, see memory.go; its sequence counts them
//	refused    prepared name         → rolled back before it was prepared; likewise
//	…-order    history counter (8)   → name, to drop the oldest
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
package kv
