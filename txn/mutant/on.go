//go:build mutants

package mutant

import (
	"fmt"
	"os"
	"sync"
)

// Enabled says whether this build has mutants.
const Enabled = true

// count is the number of IDs.
const count = PreparedWhileRunning + 1

// names are the words for the mutants in the environment, in their order.
var names = [count]string{
	"", "NO_LOG", "ACK_BEFORE_LOG", "PHASE2_BEFORE_COMMIT_DURABLE", "COMMIT_ON_MISSING_VOTE",
	"VOTE_IDENTITY_UNCHECKED", "SOFT_NO_IS_DEFINITIVE", "ABORT_WHILE_APPENDING",
	"ABORT_ON_LOG_ERROR", "HEURISTIC", "FORGET_EARLY", "NOTFOUND_IS_OK", "RECOVER_COMMIT",
	"RESUME_VOTING", "NO_SWEEP", "SWEEP_INFLIGHT", "OLD_LOG_IN_BLOCK", "HOLE_UNNOTICED", "NO_LEAP",
	"FOREIGN_IS_OURS",
	"ID_ABOVE_HIGHWATER", "KEY_NOT_LOGGED", "UNLOGGED_ABORT", "IMPLICIT_ACK_WITHOUT_INTENT",
	"IMPLICIT_ACK_WITH_READER", "IMPLICIT_ACK_WITHOUT_CONFIRM", "GONE_IS_NEVER_PREPARED",
	"ONE_PHASE_UNLOGGED", "ONE_PHASE_DENIED", "ONE_PHASE_TOLD_EARLY", "FENCE_IGNORED",
	"NO_DEADLINE", "NO_LIMIT", "ROOM_IGNORED",
	"DOWN_FOR_ALL", "READY_UNREAD", "GIVES_UP", "SNAPSHOT_OF_THE_TAIL", "STALL_UNNOTICED",
	"EMPTY_LOG_IS_FRESH", "FSYNC_RETRY", "TRUNCATE_ON_ANY_CRC_ERROR", "PAGE_CACHE_TRUST",
	"TAIL_NOT_ZEROED", "UNKNOWN_RECORD_SKIPPED", "VOTE_BEFORE_DURABLE",
	"ROWS_UNCHECKED", "UNCOUNTED_IS_UNKNOWN", "ROLLBACK_TAG",
	"WARNING_IS_FINE", "DUP_GID_IGNORED", "XID_NULL_IS_READONLY", "TIMEOUT_MEANS_ABORTED",
	"CLIENT_ROLLS_BACK_AFTER_COMMIT_SENT",
	"UNHEARD_COMMITS", "PARTS_SHARE", "PARTS_LATE", "PARTS_ANNOUNCED",
	"FAILED_CALL_FORGOTTEN", "CALL_UNDER_WAY", "NO_TRAILER_IS_YES",
	"DELEGATE_UNWRITTEN", "DELEGATE_PRESUMED", "DELEGATE_DECIDES_FIRST", "DELEGATE_ASYNCHRONOUS",
	"DELEGATE_ANYWHEN", "MARKER_ONLY_READ", "MARKER_LOSS_UNNOTICED", "MARKER_REMOVED_EARLY",
	"LATE_PREPARE_TAKEN", "FENCE_NOT_KEPT", "END_BEFORE_EFFECT",
	"PREPARE_UNANNOUNCED", "OWNER_IGNORED", "SEEN_ONCE",
	"BROKEN_STREAM_KEPT", "SESSION_OUTLIVES_EPOCH", "PREPARED_WHILE_RUNNING",
}

func (id ID) String() string { return names[id] }

// All lists every mutant.
func All() []ID {
	all := make([]ID, 0, count-1)
	for id := None + 1; id < count; id++ {
		all = append(all, id)
	}
	return all
}

// chosen is the mutant that the environment names. A name that nobody knows would make every test
// pass, so it ends the process.
var chosen = sync.OnceValue(func() ID {
	name := os.Getenv("GAVEL_MUTANT")
	for id, known := range names {
		if name == known {
			return ID(id)
		}
	}
	panic(fmt.Sprintf("mutant: GAVEL_MUTANT names %q, which is no mutant", name))
})

// On says whether this is the mutant that was chosen.
func On(id ID) bool { return chosen() == id }
