package crash_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// refused is the exit code of what gavel will not do.
const refused = 4

// TestRealSecondCoordinator starts a second coordinator on the directory of one that runs, and one
// on a copy of it. Both are refused, in the middle of the first one's work, and touch nothing.
func TestRealSecondCoordinator(t *testing.T) {
	rng := dice(t, 22)
	w := newWorld(t, sample(rng, modes(rng), 1)[0], rng)
	w.plant()
	w.begun = "a second coordinator"
	// Nobody but a second coordinator could finish these branches now.
	_, h := w.catchDecided()
	w.refuseSecond(w.logDir())
	shared.faults.Add(crash.SecondOnLog)
	copied := filepath.Join(w.dir, "copy")
	out, err := exec.CommandContext(t.Context(), "cp", "-a", w.logDir(), copied).CombinedOutput()
	if err != nil {
		t.Fatalf("copy the log: %v: %s", err, out)
	}
	before := w.prepared(t.Context())
	if len(before) != 2 {
		w.fatal(fmt.Sprintf("prepared: %v, want two branches", before))
	}
	w.refuseSecond(copied)
	w.planOnCopy(copied)
	if after := w.prepared(t.Context()); strings.Join(after, " ") != strings.Join(before, " ") {
		w.fatal(fmt.Sprintf("prepared before a copy was used: %v, after it: %v", before, after))
	}
	shared.faults.Add(crash.SecondOnCopy)
	h.release()
	w.gate()
	w.open()
	w.gate()
	w.checkDecoys()
	t.Log(w.mode, "a second coordinator on the log, and one on a copy, exit", refused)
}

// coordinatorArgs are for another coordinator of the same resources.
func (w *world) coordinatorArgs(dir string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, shared.gavel, "coordinator", "--data", dir,
		"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json")
	w.nameResources(cmd)
	return cmd
}

// nameResources adds the flags of both databases, reached directly.
func (w *world) nameResources(cmd *exec.Cmd) {
	cmd.Env = os.Environ()
	for _, s := range w.sides {
		cmd.Args = append(cmd.Args, "--resource", s.name+"=env:CRASH_"+s.name)
		cmd.Env = append(cmd.Env, "CRASH_"+s.name+"="+s.dsn())
	}
}

// refuseSecond starts another coordinator on a directory, which must end at once, with the right
// exit code.
func (w *world) refuseSecond(dir string) {
	w.t.Helper()
	out, err := w.coordinatorArgs(dir).CombinedOutput()
	if exitCode(err) != refused {
		w.fatal(fmt.Sprintf("a second coordinator on %s: %v: %s", dir, err, out))
	}
}

// planOnCopy looks at a copy, which may be done, and asks to act upon it, which must not.
func (w *world) planOnCopy(dir string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), shared.gavel, "recover", "--log", dir, "--apply")
	w.nameResources(cmd)
	if out, err := cmd.CombinedOutput(); exitCode(err) != refused {
		w.fatal(fmt.Sprintf("recover --apply on a copy: %v: %s", err, out))
	}
}

// exitCode is that of a command, or -1 for one that did not end by itself.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}
