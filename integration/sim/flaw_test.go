package sim

import (
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/integration/explore"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// flaw is a deliberate mistake of the world, for a checker that has to find it.
type flaw uint8

const (
	noFlaw flaw = iota
	// votesEarly: a database acknowledges PREPARE before it is durable.
	votesEarly
	// knowsBetter: a database says Committed of a name that it does not know.
	knowsBetter
	// obeysAll: a database does not look at fences.
	obeysAll
	// diskLies: a sync says that it is done, and is not.
	diskLies
	// tellsEarly: the log reports records before they are durable.
	tellsEarly
	// takesForeign: an adapter lists the branches of others as its own.
	takesForeign
	// givesUp: the driver does not repeat what is decided.
	givesUp
	// silent: a database that a person has meddled with says that all is well.
	silent
	// unilateral: a database rolls branches back that have been prepared for long.
	unilateral
	// denies: a database that is asked for a prepared branch says that there is none.
	denies
	// misdates: a database that is asked for what it does not have says that it has failed over.
	misdates
	// renames: the driver garbles which heuristic outcome it is, once one was told.
	renames
	// sweepsBlind: the driver rolls back all that a database lists as prepared.
	sweepsBlind
	// acksEarly: a database acknowledges a commit that it has not done.
	acksEarly
	// failsAppends: the driver takes an append that it has no answer to for one that failed.
	failsAppends
	// guesses: a client that waits no longer is told that its transaction was rolled back.
	guesses
	// repeats: a database takes a PREPARE that arrives twice for two.
	repeats
	// healsRot: what was damaged on the disk is read as it was before.
	healsRot
	// roomUnseen: the driver does not see that the disk is full.
	roomUnseen
	// runsBack: the driver reads an earlier time from its clock.
	runsBack
	// ticksLate: the driver takes what has come before it looks at the clock.
	ticksLate
	// looksOnly: a database that is asked for a marker that is not there leaves it at that.
	looksOnly
	// decidesFirst: a client commits the delegate's branch before the others are prepared.
	decidesFirst
	// saysLess: a client that has called others does not say that its votes are complete.
	saysLess
	flaws
)

func (f flaw) String() string {
	return [flaws]string{"none", "votes early", "knows better", "obeys all", "disk lies",
		"tells early", "takes foreign", "gives up", "silent", "unilateral",
		"denies", "misdates", "renames", "sweeps blind", "acks early", "fails appends", "guesses",
		"repeats", "heals rot", "room unseen", "runs back", "ticks late", "looks only",
		"decides first", "says less"}[f]
}

// maxFlawed bounds the worlds in which a flaw must be found.
const maxFlawed = 2000

// TestFlaws: a mistake of the world is found by the checker that is there for it, the first of
// those named. On the way to it no checker complains that has nothing to do with it. Every checker
// is the first one of some mistake, and so can complain.
func TestFlaws(t *testing.T) {
	disk, found := blank(), map[explore.Checker]bool{}
	for _, c := range []struct {
		flaw
		onlyFull bool
		finds    []explore.Checker
	}{
		{votesEarly, false, []explore.Checker{commitValidity, maskedHeuristic}},
		{knowsBetter, false, []explore.Checker{maskedHeuristic}},
		{obeysAll, false, []explore.Checker{fencing}},
		// What was handed out is lost too, and an epoch later it was never begun.
		{diskLies, true, []explore.Checker{acknowledged, corruptionDetected, fencing, exactlyOnce,
			clientTruth}},
		{tellsEarly, false, []explore.Checker{logBeforeSend, unknownAppend, forget, clientTruth,
			corruptionDetected,
			exactlyOnce}},
		{takesForeign, false, []explore.Checker{containment}},
		{givesUp, false, []explore.Checker{liveness}},
		{silent, false, []explore.Checker{maskedHeuristic}},
		{unilateral, false, []explore.Checker{atomicity, maskedHeuristic, logBeforeSend, oneTruth}},
		{denies, false, []explore.Checker{abortValidity, maskedHeuristic}},
		{misdates, false, []explore.Checker{maskedHeuristic}},
		{renames, false, []explore.Checker{oneTruth}},
		{sweepsBlind, false, []explore.Checker{presumedAbort, unknownAppend}},
		{acksEarly, false, []explore.Checker{forget, maskedHeuristic}},
		{failsAppends, false, []explore.Checker{unknownAppend}},
		{guesses, false, []explore.Checker{clientTruth, unknownAppend}},
		{repeats, false, []explore.Checker{exactlyOnce}},
		{healsRot, true, []explore.Checker{corruptionDetected}},
		{roomUnseen, true, []explore.Checker{diskFullGrace}},
		{runsBack, false, []explore.Checker{assertion}},
		{ticksLate, false, []explore.Checker{deadline}},
		{looksOnly, false, []explore.Checker{clientTruth}},
		// A marker without votes also vouches for less than there is: what it leaves out is rolled
		// back beside the commit.
		{decidesFirst, false, []explore.Checker{atomicity, commitValidity, maskedHeuristic,
			unknownAppend}},
		{saysLess, false, []explore.Checker{commitValidity}},
	} {
		for _, full := range []bool{true, false} {
			if full || !c.onlyFull {
				c.flaw.mustBeFound(t, full, disk, c.finds)
			}
		}
		found[c.finds[0]] = true
	}
	for _, c := range checkers() {
		if !found[c] {
			t.Errorf("no flaw is there for %q", c)
		}
	}
}

func (f flaw) mustBeFound(t *testing.T, full bool, disk *vfs.Mem, finds []explore.Checker) {
	t.Helper()
	for seed := range uint64(maxFlawed) {
		r := play(1+seed, full, f, disk, nil)
		switch {
		case r.broken == nil:
		case r.broken.Checker == finds[0]:
			t.Logf("%s, %s world %d: %q is broken: %s", f, r.world(), r.seed, r.broken.Checker,
				r.broken.What)
			return
		case !slices.Contains(finds, r.broken.Checker):
			t.Errorf("%s is taken for something else: %s", f, r)
			return
		}
	}
	t.Errorf("%s: %q finds nothing in %d worlds", f, finds[0], maxFlawed)
}
