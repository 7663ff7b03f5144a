package execcmd

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/txn"
)

// TestExplainUnknown: a key that was made up is told, since whoever repeats without it may do it
// twice.
func TestExplainUnknown(t *testing.T) {
	o := &options{}
	e := exit.Of(o.explain(txn.ErrUnknown, "gavel exec 1"))
	if e.Code != exit.Unknown || !strings.Contains(e.Do, "--key 'gavel exec 1'") {
		t.Errorf("%v %q", e.Code, e.Do)
	}
}
