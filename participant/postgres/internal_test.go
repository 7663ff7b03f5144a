package postgres

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestPureFullXID(t *testing.T) {
	for _, c := range []struct {
		low  uint32
		next uint64
		want uint64
	}{
		{1000, 1001, 1000},
		{1002, 1001, 1002}, // prepared between the two questions
		{math.MaxUint32, 1<<32 + 5, math.MaxUint32},
		{3, 1<<32 + 5, 1<<32 + 3},
		{2, 7<<32 - 1, 7<<32 + 2},
		{1 << 31, 3<<32 + 1<<31 + 1, 3<<32 + 1<<31},
	} {
		if got := fullXID(c.low, c.next); got != c.want {
			t.Errorf("fullXID(%d, %d) = %d, want %d", c.low, c.next, got, c.want)
		}
	}
}

func TestPureEpochOf(t *testing.T) {
	const log txn.LogID = 5
	name := applicationName(log, 17, "ABCD2345")
	if e, ok := epochOf(name, log); !ok || e != 17 {
		t.Errorf("epochOf(%q) = %d, %v", name, e, ok)
	}
	if len(name) > 63 {
		t.Errorf("PostgreSQL cuts names of sessions at 63 bytes: %q", name)
	}
	for _, other := range []string{"", "psql", applicationName(6, 17, "A"), "gavel/" + log.String(),
		"gavel/" + log.String() + "/x/A", "gavel/" + log.String() + "/99999999999/A"} {
		if e, ok := epochOf(other, log); ok {
			t.Errorf("epochOf(%q) = %d", other, e)
		}
	}
}

func TestPureSplit(t *testing.T) {
	for _, c := range []struct {
		todo, n int
		want    []int
	}{
		{1, 4, []int{1}}, {2, 4, []int{2}}, {5, 4, []int{2, 2, 1}}, {16, 4, []int{4, 4, 4, 4}},
		{17, 4, []int{5, 5, 5, 2}}, {256, 1, []int{256}}, {9, 64, []int{2, 2, 2, 2, 1}},
	} {
		todo := make([]int, c.todo)
		for i := range todo {
			todo[i] = i
		}
		var sizes, all []int
		for _, chunk := range split(todo, c.n) {
			sizes, all = append(sizes, len(chunk)), append(all, chunk...)
		}
		if !slices.Equal(sizes, c.want) || !slices.Equal(all, todo) {
			t.Errorf("split(%d, %d) has sizes %v, want %v", c.todo, c.n, sizes, c.want)
		}
	}
}

// A call of an old epoch may have passed the fences just before a newer epoch's call took the
// right. It must not give that right up and take it for itself.
func TestPureOldEpochDoesNotTakeTheRightBack(t *testing.T) {
	const log txn.LogID = 5
	r := &rights{held: map[txn.LogID]*right{log: {log: log, epoch: 3}},
		taking: map[txn.LogID]chan struct{}{}}
	_, err := r.get(t.Context(), txn.Fence{Log: log, Epoch: 2})
	if !errors.Is(err, participant.ErrFenced) || r.held[log] == nil {
		t.Errorf("%v, held %v", err, r.held[log])
	}
}

// Answers of concurrent connections overtake each other; only who was asked after a position was
// known may be held to it.
func TestPurePast(t *testing.T) {
	id, other := txn.Identity{System: 1, Database: 1}, txn.Identity{System: 2, Database: 1}
	at := func(timeline uint32, lsn uint64) txn.Position {
		return txn.Position{Timeline: timeline, LSN: lsn}
	}
	place := func(id txn.Identity, p txn.Position) pgbranch.Place {
		return pgbranch.Place{Identity: id, Position: p}
	}
	p := &past{resource: "r"}
	for _, step := range []struct {
		what   string
		place  pgbranch.Place
		before txn.Position
		held   bool
	}{
		{"the first is the right one", place(id, at(1, 10)), at(0, 0), false},
		{"it moved on", place(id, at(1, 30)), at(1, 10), false},
		{"an answer that was overtaken", place(id, at(1, 20)), at(1, 10), false},
		{"a backup", place(id, at(1, 20)), at(1, 30), true},
		{"a stranger", place(other, at(1, 40)), at(1, 30), true},
		{"a failover, to a lower position", place(id, at(2, 5)), at(1, 30), false},
		{
			"the old primary, asked before the failover was seen", place(id, at(1, 50)),
			at(1, 30), true,
		},
		{"the new primary", place(id, at(2, 6)), at(2, 5), false},
	} {
		err := p.admit(step.place, step.before)
		if _, held := errors.AsType[*HeldError](err); held != step.held {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	if got, seen := p.known(); got != id || seen != at(2, 6) {
		t.Errorf("known: %v, %v", got, seen)
	}
	if err := p.admit(pgbranch.Place{Standby: true, Identity: id}, at(2, 6)); !errors.Is(err,
		ErrStandby) {
		t.Errorf("a standby: %v", err)
	}
}

// Each fault that a set-up can have is found, with a command to paste.
func TestPureChecks(t *testing.T) {
	good := facts{role: "gavel", owner: "gavel_owner", limit: 200, connections: 100, fsync: true,
		fullPageWrites: true, ownerExists: true, ownerTakable: true}
	for _, c := range good.checks() {
		if c.Level != participant.LevelOK || c.Fix != "" {
			t.Errorf("a good set-up: %+v", c)
		}
	}
	for what, c := range map[string]struct {
		fault func(*facts)
		level participant.Level
		fix   string
	}{
		"no slots": {
			func(f *facts) { f.limit = 0 }, participant.LevelFail,
			"max_prepared_transactions = 100",
		},
		"few slots": {
			func(f *facts) { f.limit = 99 }, participant.LevelWarn,
			"max_prepared_transactions = 198",
		},
		"used slots": {
			func(f *facts) { f.used = 160 }, participant.LevelWarn,
			"max_prepared_transactions = 400",
		},
		"fsync": {
			func(f *facts) { f.fsync = false }, participant.LevelFail, "RESET fsync",
		},
		"full pages": {
			func(f *facts) { f.fullPageWrites = false }, participant.LevelFail,
			"RESET full_page_writes",
		},
		"no owner": {func(f *facts) { f.owner = "" }, participant.LevelWarn, "CREATE ROLE"},
		"owner missing": {
			func(f *facts) { f.ownerExists = false }, participant.LevelFail,
			`CREATE ROLE "gavel_owner" NOLOGIN`,
		},
		"owner not taken": {
			func(f *facts) { f.ownerTakable = false }, participant.LevelFail,
			`GRANT "gavel_owner" TO "gavel"`,
		},
		"a reaper": {
			func(f *facts) { f.reaper = "prepared_x_timeout" }, participant.LevelFail,
			"RESET prepared_x_timeout",
		},
		"strangers": {
			func(f *facts) { f.strangers, f.oldest = 1, "theirs" }, participant.LevelWarn,
			"PREPARED 'theirs'",
		},
	} {
		f := good
		c.fault(&f)
		var found []participant.Check
		for _, check := range f.checks() {
			if check.Level != participant.LevelOK {
				found = append(found, check)
			}
		}
		if len(found) != 1 || found[0].Level != c.level ||
			!strings.Contains(found[0].Fix, c.fix) {
			t.Errorf("%s: %+v, want one %v with %q", what, found, c.level, c.fix)
		}
	}
}
