package kv

import (
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// MaxLogs bounds the coordinators' logs whose fences the store remembers. None is ever dropped: a
// fence that is forgotten would let a deposed coordinator in.
const MaxLogs = 1024

// fullState is the SQLSTATE of a vote that is no because the store is full, as PostgreSQL has it
// for a full disk.
const fullState = "53100"

// Above roomyFile bytes a file of which more than half is free is worth compacting.
const roomyFile = 64 << 20

// used is how many bytes of the file hold something, by the last commit: its pages without the free
// ones, those in them included that readers still look at.
func (v view) used() int64 {
	s := v.tx.DB().Stats()
	return v.tx.Size() - int64(s.FreePageN+s.PendingPageN)*int64(v.tx.DB().Info().PageSize)
}

// growth is by how many bytes the writes of a branch would make the data larger, or smaller.
func (v view) growth(b *branch) int64 {
	var sum int64
	for key, w := range b.writes {
		if old := v.bucket("data").Get([]byte(key)); old != nil {
			sum -= int64(len(key) + len(old))
		}
		if !w.deleted {
			sum += int64(len(key) + versionLen + len(w.value))
		}
	}
	return sum
}

// crowded says why the store has no room for the work of a branch, or "". What makes it smaller, or
// leaves it as large as it is, is welcome in a full one too: otherwise nobody could mend it. A
// commit is never refused, whatever the file's size is; so this is asked before a branch votes, and
// counts what the other branches of the same bbolt transaction were promised.
func (s *Store) crowded(v view, b *branch) string {
	grows := v.growth(b)
	if grows <= 0 {
		return ""
	}
	used := v.used() + *v.promised
	if used+grows > s.cfg.MaxBytes {
		return fmt.Sprintf("the store is full: %s in use, %s more wanted, and %s allowed; delete "+
			"keys, or allow more", mib(used), mib(grows), mib(s.cfg.MaxBytes))
	}
	*v.promised += grows
	return ""
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// full is the vote of a branch for which there is no room. Running it again may succeed when
// somebody has made some.
func full(why string) participant.Vote {
	return participant.Vote{Vote: txn.VoteNo, Reason: why, SQLState: fullState}
}

// sizeChecks say how full the file is, and how empty.
func (s *Store) sizeChecks(v view) []participant.Check {
	used, file := v.used(), v.tx.Size()
	room := participant.Check{What: fmt.Sprintf("%s of %s are in use", mib(used),
		mib(s.cfg.MaxBytes))}
	if used/4 >= s.cfg.MaxBytes/5 {
		room.Level = participant.LevelWarn
		room.What += "; at the limit only what makes the store smaller is taken"
		room.Fix = "delete keys, or allow more: gavel participant --kv-max-size, kv:DIR?max_size="
	}
	checks := []participant.Check{room}
	if file >= roomyFile && used < file/2 {
		checks = append(checks, participant.Check{Level: participant.LevelWarn,
			What: fmt.Sprintf("the file has %s, of which %s are in use", mib(file), mib(used)),
			Fix:  "stop its process, and then: gavel kv compact " + s.cfg.Dir})
	}
	return checks
}
