package crash_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// farAhead is a sequence number that no log reaches while a test runs, and farther than a log that
// was set back is believed to have come.
const farAhead = 1 << 40

// plant prepares branches at both sides that look like those of gavel's, more or less, and that
// are nobody's to finish:
//
//	a name with another prefix                           somebody else's
//	a name of another log                                another coordinator's
//	a name of this log, in another database              not in this resource
//	a name of this log, far beyond what it handed out    forged, or a log that was set back
func (w *world) plant() {
	w.t.Helper()
	state, _, err := coordinator.ReadState(vfs.OS(), w.logDir())
	w.must(err)
	for i, s := range w.sides {
		branch := txn.BranchNo(40 + i)
		other := txn.Name{Log: state.Log ^ 1, Seq: 1, Branch: branch}
		elsewhere := txn.Name{Log: state.Log, Seq: 1, Branch: branch}
		ahead := txn.Name{Log: state.Log, Seq: farAhead, Branch: branch}
		foreign := fmt.Sprintf("order.%s.%d", s.database, i)
		for _, gid := range []string{foreign, other.String(), ahead.String()} {
			w.prepare(s, s.database, gid)
		}
		w.prepare(s, "postgres", elsewhere.String())
	}
}

// prepare leaves a prepared transaction with nothing in it, until the world ends.
func (w *world) prepare(s *side, database, gid string) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(s.server.Exec(ctx, database,
		"BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '"+gid+"'"))
	s.decoys = append(s.decoys, gid)
	w.t.Cleanup(func() { w.discard(s, database, gid) })
}

// discard takes a decoy away: the shared servers have other worlds to serve.
func (w *world) discard(s *side, database, gid string) {
	ctx, cancel := backgroundContext()
	defer cancel()
	if err := s.server.Exec(ctx, database, "ROLLBACK PREPARED '"+gid+"'"); err != nil {
		w.t.Errorf("decoy %s: %v", gid, err)
	}
}

func (w *world) isDecoy(gid string) bool {
	return gid != "" && slices.ContainsFunc(w.sides[:], func(s *side) bool {
		return slices.Contains(s.decoys, gid)
	})
}

// checkDecoys counts them.
func (w *world) checkDecoys() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	for _, s := range w.sides {
		const find = "SELECT gid FROM pg_prepared_xacts WHERE gid = ANY ($1)"
		found, err := s.list(ctx, find, s.decoys)
		w.must(err)
		if len(found) != len(s.decoys) || len(found) == 0 {
			w.fatal(fmt.Sprintf("of the decoys\n%s\nare left\n%s", strings.Join(s.decoys, "\n"),
				strings.Join(found, "\n")))
		}
	}
	shared.faults.Add(crash.DecoysUntouched)
}
