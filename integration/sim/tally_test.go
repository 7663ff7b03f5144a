package sim

import (
	"fmt"
	"strings"
)

// kind is a kind of fault, or of something else that a run must have seen.
type kind uint8

// The kinds. Those of the disk belong to full worlds.
const (
	// Of the coordinator and its machine.
	powerCut kind = iota
	killed
	orderly
	pause
	clockJump
	tornWrite
	cutInRecovery
	fullDisk
	refusedFull
	ioError
	slowDisk
	rot
	rotSurvived
	snapshot

	// Of the network.
	lost
	duplicated
	delayed
	reordered
	partition
	timeout

	// Of the databases.
	databaseCrash
	cutBatch
	asyncFailover
	syncFailover
	restore
	oldPrimary
	stranger
	strayPrepare
	humanCommit
	humanRollback
	zombie
	fenced
	slotsFull
	notResolver
	decoy

	// Of the clients.
	clientDeath
	voteNo
	regret
	uncounted
	voteReadOnly
	selfPrepared
	twin
	keyAgain
	goneAway
	rollbackAsked

	// Of intents: those that were durable, commits told ahead of their record, and aborts that were
	// recorded; and what the inquiries of later epochs came to.
	intents
	implied
	abortsRecorded
	foundPrepared
	foundNever
	foundGone

	// Of decisions that were left to a database: those that were, markers of commits, those that
	// came too late, those that a failover has lost, those that were asked for and found, those
	// that say never, and those that were removed.
	left
	marked
	markedLate
	markerLost
	markerFound
	decidedNever
	markerRemoved

	// Of calls of other processes: those that were made, runs of them beside the first, those that
	// were given up, parts that were refused, branches of parts that were committed, and those that
	// were prepared, and rolled back, and of which no client had heard.
	called
	calledAgain
	givenUp
	partRefused
	callCommitted
	unheardOf

	// How transactions ended.
	committed
	onePhase
	rolledBack
	heuristic
	forgotten

	kinds
)

func (k kind) String() string {
	return [kinds]string{
		"power cuts", "kills", "orderly ends", "pauses", "clock jumps", "torn writes",
		"cuts in recovery",
		"full disks", "begins refused for space", "i/o errors", "slow disks", "rotten logs refused",
		"rotten snapshots made up for", "snapshots",
		"lost", "duplicated", "delayed", "reordered", "partitions", "timeouts",
		"database crashes", "cut batches", "failovers with loss", "failovers without loss",
		"restores", "old primaries", "strangers", "prepared astray", "human commits",
		"human rollbacks", "late PREPAREs", "fenced", "slots full", "not the resolver", "decoys",
		"dead clients", "votes no", "regrets", "uncounted",
		"votes read-only", "self-prepared", "twin commits",
		"keys used again", "callers gone away", "rollbacks asked for",
		"intents", "implied commits", "aborts recorded", "inquiries: all prepared",
		"inquiries: never prepared", "inquiries: gone",
		"left to a delegate", "marked", "late markers refused", "markers lost", "markers found",
		"decided by never", "markers removed",
		"calls", "calls run again", "calls given up", "parts refused",
		"branches of calls committed", "branches unheard of rolled back",
		"committed", "committed in one phase", "rolled back", "heuristic", "forgotten",
	}[k]
}

// ofFull says whether only full worlds can know the kind.
func (k kind) ofFull() bool { return k >= tornWrite && k <= snapshot || k == cutBatch }

// tally counts what has happened, by kind.
type tally [kinds]int

func (t *tally) add(o *tally) {
	for k := range t {
		t[k] += o[k]
	}
}

// missing are the kinds that have never happened and should have.
func (t *tally) missing(full bool) []string {
	var names []string
	for k, n := range t {
		if n == 0 && (full || !kind(k).ofFull()) {
			names = append(names, kind(k).String())
		}
	}
	return names
}

func (t *tally) String() string {
	var parts []string
	for k, n := range t {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", kind(k), n))
		}
	}
	return strings.Join(parts, ", ")
}
