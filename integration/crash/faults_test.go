package crash_test

import (
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

func TestFaultsAreCounted(t *testing.T) {
	var f crash.Faults
	if f.String() != "" || len(f.Missing()) != len(crash.AllFaults()) {
		t.Errorf("nothing happened: %q, missing %v", f.String(), f.Missing())
	}
	var join sync.WaitGroup
	for _, k := range []crash.Fault{crash.KillCoordinator, crash.KillCoordinator,
		crash.KillClient, crash.StopSidecar, crash.RequestLost, crash.ReplyLost} {
		join.Go(func() { f.Add(k) })
	}
	join.Wait()
	want := "kills coordinator=2 client=1; stops sidecar=1; request lost=1; reply lost=1"
	if got := f.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, k := range f.Missing() {
		f.Add(k)
	}
	if missing := f.Missing(); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
}

// A kind that is not in the list would be counted by nobody.
func TestFaultsHaveDifferentNames(t *testing.T) {
	seen := map[crash.Fault]bool{}
	for _, k := range crash.AllFaults() {
		if seen[k] || k == "" {
			t.Errorf("%q is there twice", k)
		}
		seen[k] = true
	}
}
