package txn

import (
	"strings"
	"testing"
)

// FuzzParseID: an id that is read is one that a coordinator can have made, and its text is what was
// read, but for the case of its letters; a log id is exactly its text.
func FuzzParseID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil {
			again, err := ParseID(id.String())
			if err != nil || again != id || !id.Valid() || !strings.EqualFold(id.String(), s) ||
				NewID(id.Log(), id.Seq()) != id {
				t.Errorf("%q is read as %v, of log %v and sequence %d (%v)", s, id, id.Log(),
					id.Seq(), err)
			}
		}
		if log, err := ParseLogID(s); err == nil && log.String() != s {
			t.Errorf("%q is read as the log %v", s, log)
		}
	})
}
