package pgsession

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestPureCommandTags: the tag tells what the first words of a statement did not.
func TestPureCommandTags(t *testing.T) {
	for _, c := range []struct {
		sql, tag string
		want     bool
	}{
		{"?", "BEGIN", true}, {"?", "START TRANSACTION", true}, {"?", "COMMIT", true},
		{"?", "PREPARE TRANSACTION", true}, {"?", "ROLLBACK", true},
		{"ROLLBACK AND CHAIN", "ROLLBACK", true},
		{"ROLLBACK TO a", "ROLLBACK", false}, {"/**/rollback work to a", "ROLLBACK", false},
		{"?", "PREPARE", false}, {"?", "SAVEPOINT", false}, {"?", "SELECT 1", false},
	} {
		if got := controls(c.sql, pgconn.NewCommandTag(c.tag)); got != c.want {
			t.Errorf("%s, answered by %s: %v", c.sql, c.tag, got)
		}
	}
}
