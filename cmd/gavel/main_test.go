package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
)

// playGavel makes the test's binary play the program.
const playGavel = "GAVEL_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playGavel) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func gavel(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), playGavel+"=1")
	return cmd
}

// code is how a process ended.
func code(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	ended, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return ended.ExitCode()
}

// TestExitCodes reach the shell.
func TestExitCodes(t *testing.T) {
	for line, want := range map[string]int{"version": 0, "lgo": 2, "log stat /nope": 4,
		"tx ls --coordinator 127.0.0.1:1 --timeout 20ms": 3} {
		out, err := gavel(t, strings.Fields(line)...).CombinedOutput()
		if got := code(t, err); got != want {
			t.Errorf("%s: %d, want %d: %s", line, got, want, out)
		}
	}
}

// serving starts a coordinator with a transaction under way that keeps its drain waiting, and
// returns when it has told its addresses.
func serving(t *testing.T, more ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"coordinator", "--data", clitest.MakeCrash(t).Log, "--grpc",
		"127.0.0.1:0", "--http", "127.0.0.1:0"}, more...)
	cmd := gavel(t, args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "HTTP") {
		continue
	}
	return cmd
}

// TestSigterm: the first signal ends in order, whichever it is.
func TestSigterm(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		cmd := serving(t, "--drain", "10ms")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if got := code(t, cmd.Wait()); got != 0 {
			t.Errorf("%v: exit code %d", sig, got)
		}
	}
}

// TestSecondSignal: a coordinator whose drain takes its time is gone at once with the second one,
// as by a crash.
func TestSecondSignal(t *testing.T) {
	cmd := serving(t, "--drain", "10m")
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	// Signals that come before the first one is noticed are one signal, so they are repeated.
	clitest.Eventually(t, "the process ends", func() bool {
		select {
		case err := <-done:
			status, ok := errors.AsType[*exec.ExitError](err)
			if !ok || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("it ended with %v", err)
			}
			return true
		default:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			return false
		}
	})
}
