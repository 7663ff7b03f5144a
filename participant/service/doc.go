// Package service makes a resource manager of a service of one's own: seats, vouchers, a warehouse,
// whatever its storage is. The service has three methods; a [Resource] over them, with a journal,
// keeps the promises of a participant.
//
//	journal, err := boltjournal.In(db)                 // in the service's own bbolt file
//	r, err := service.Open(service.Config{Service: seats, Journal: journal})
//	err = remote.Register(grpcServer, "seats", r)      // or hand r to coordinator.Open
//
// # How the work comes in
//
// Not through here. An application calls the service's own API and sends the prepared name of its
// branch along; the service does what it is asked for within [Resource.Work], under that name:
//
//	func (s *Seats) Reserve(ctx context.Context, name txn.Name, call uint64, seat string) error {
//		return s.resource.Work(ctx, name, call, func(context.Context) error {
//			return s.hold(name, seat)      // in memory, until Prepare
//		})
//	}
//
// Later the coordinator asks for the vote of that name, and for its end.
//
//	        Work 1, 2, 3 …                Prepare              Commit
//	unknown ─────────────▶ working ─────────────▶ prepared ─────────────▶ committed
//	   │                      │  restart, idle too   └──────────┐ Rollback
//	   │ Rollback             │  long, newer epoch, failed      ▼
//	   └──▶ refused           └───────────────────────────▶ rolled back
//
// The states on the right of working are in the journal. Whatever has ended, and what was refused
// because its Rollback came first, stays ended: work that comes late is turned away, and a Prepare
// that comes late is a No. Work of a process that is no more is never prepared, and calls of Work
// are numbered, so that no branch is prepared with a part of its work.
//
// # What the service owes
//
//   - Work and its answer may live in memory. Whatever of it a service writes to its disk before
//     Prepare, it must throw away when it starts.
//   - After a Yes to Prepare, Commit of that branch succeeds, whatever crashes in between: other
//     branches cannot take away what it needs.
//   - Rollback is welcome in every state, also for a branch that it does not know.
//   - One process speaks for it: the work of a branch and its Prepare meet in the same Resource.
//   - Its methods do not call the Resource, and where the journal joins they start no transaction
//     of their own in that database.
//
// # Beside the journal, or in it
//
// A journal in a file of its own is written before and after what the service does. The service's
// methods are then repeated after a crash, and must be idempotent:
//
//	a crash                               is found as  and then
//	before "preparing" is durable         unknown      the work is lost; nobody votes Yes
//	before, in or after Service.Prepare   preparing    in doubt; swept, since nobody voted Yes
//	after "prepared" is durable           prepared     in doubt; Yes when asked again
//	before, in or after Service.Commit    prepared     in doubt; Service.Commit is called again
//	before, in or after Service.Rollback  prepared     in doubt; Service.Rollback, likewise
//	after the end is durable              ended        the same answer; no method is called
//
// A journal in the service's own database ([Journal.Joins]) has its entry in the transaction in
// which the method works; the journal's package hands that out (boltjournal.Tx, pgjournal.Tx).
// Every change of a branch is then made exactly once, or not at all: a crash finds the branch as it
// was before the call, or as it is after. What a method changes in memory must hold in either case.
//
// # Fencing and evidence
//
// The journal remembers the newest epoch and position of each log durably before it acts for them,
// and refuses an older epoch, or a log that went backwards. Every prepare and end has a number, of
// which the next one is higher; it is the evidence of a vote, with the journal's identity, drawn
// when it was made. A journal that was replaced, or restored from a backup, answers Held. A store
// beside a journal that was restored without it is not noticed: back them up together.
//
// How branches ended is remembered (100,000 of them unless configured). Of one that is older
// nothing is proven, and no new branch with a number as low is begun.
//
// # What is in the journal
//
// Integers are big endian; names are the text of prepared names.
//
//	m                 format = 1 · system (8) · counter (8) · branches (4) · ends (4) · logs (4)
//	l  log id (8)     epoch (4) · LSN (8) · highest sequence whose end was dropped (8)
//	b  name           'i' preparing or 'y' prepared · number (8) · epoch (4) · unix ns (8)
//	e  name           how it ended · number of its prepare or 0 (8) · counter at its end (8) ·
//	                  length (1) and SQLSTATE · reason
//	o  counter (8)    name: ends, the oldest first
//
// Rollback before Prepare, and a Prepare that comes behind it, are known as empty compensation and
// suspension where services promise by try, confirm and cancel.
package service
