// Package txlog is the coordinator's memory: a log of opaque records that survives every crash of
// process and machine, and says so when the disk has lost or changed something that it had
// promised.
//
// # The problem
//
// A commit is decided when its record is durable, and from then on nothing may forget it: the
// branches of a forgotten commit would be rolled back, on the presumption that no record means
// abort. So this log has two duties that most logs can do without. A record that was reported
// persisted is there after any crash. And a log that is damaged is never taken for a log that is
// shorter: what a crash cannot explain is refused, with the place, and nothing is presumed.
//
// # How it works
//
//	Append ──▶ frame being filled ──▶ flusher ──▶ write, fdatasync ──▶ OnPersisted(index, LSN)
//	           (the next group)       one frame in flight
//
//	segment   │header│frame│frame│frame│ … │seal│   zeros        one of many, 64 MiB each
//	frame     │64-byte head│records … ┆stamp records … ┆stamp … padding│   multiple of 512 bytes
//	snapshot  │header│chunk│chunk│ … │trailer│                   replaces the log below its LSN
//
// A frame is one group commit, and it is written, made durable and replayed as a whole. While its
// sync runs, the records of the next one gather: the disk itself sets the size of the groups, and a
// record that somebody waits for never waits for a timer. Segments are filled with zeros before
// use, so that a sync in the steady state is one write of data and nothing else, and so that a
// frame which a crash has cut off can be told, by its zero sectors, from a frame that was damaged
// later. DESIGN.md beside this code draws every byte and argues every crash.
//
// # The caller's duties
//
//   - Act on a record only after OnPersisted has named its index.
//   - After [ErrFailed], treat what was not reported as neither written nor absent; exit, and open
//     the log again. A failed sync must never be tried again (Rebello et al., "Can Applications
//     Recover from fsync Failures?", USENIX ATC 2020).
//   - Take on no new work while [Log.Room] is false.
//   - Make a [Log.Snapshot] now and then: it bounds the time to open and frees segments.
//
// # Usage
//
//	log, err := txlog.Open(txlog.Options{
//		Dir:         dir,
//		Replay:      func(e txlog.Entry) error { return state.Apply(e) },
//		OnPersisted: func(p txlog.Persisted) { loop.Persisted(p) },
//		OnFailed:    func(err error) { loop.Stop(err) },
//	})
//	index, err := log.Append(records, true)
//
// # Simulation
//
// With Options.Driven the log starts no goroutine and reads no clock but Options.Now: its owner
// calls [Log.Step] and [Log.Tend], which are what the goroutines would do. On files in memory, a
// run is then determined by its seed, byte by byte. [Source] with Still reads such a log without
// waiting for a write that might be going on.
//
// # Owners
//
// One process at a time has a log open: it holds a lock on it for its life, and each opening has an
// epoch, one higher than the one before, which is durable before Open returns. [Read], [Verify],
// [Stat] and [Dump] take no lock and change nothing; they run beside a live log. A copy of a log's
// directory knows that it is one and is only read.
//
// The rule that tells a torn write from damage is that of Alagappan et al., "Protocol-Aware
// Recovery for Consensus-Based Storage" (FAST 2018), sharpened by zeroed space;
// presumed abort, which makes it matter, is section 3 of Mohan, Lindsay and Obermarck, "Transaction
// Management in the R* Distributed Database Management System" (TODS 1986).
package txlog
