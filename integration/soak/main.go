// Command soak runs the long form of the tests for a given time and sums up what happened: every
// history of the deep worlds, the log under fire, simulated worlds with seeds that nobody has seen,
// and beside them real processes killed and cut on real databases, over and over.
//
//	go run ./integration/soak -duration 30m
//
// It exits 1 when a test failed, or when there were too few worlds or kills for the time. A fault
// that never happened has proven nothing: the test of the fixed worlds, and each round of the crash
// tests, fails by itself if one of its kinds did not. The summary goes to standard output, and with
// what the tests said to a directory, build/soak unless another is named.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	duration := flag.Duration("duration", 30*time.Minute, "how long to run, at least")
	dir := flag.String("dir", "build/soak", "where the tests' output goes")
	seed := flag.Uint64("seed", uint64(time.Now().Unix()), "the first seed of the crash tests")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *duration, *dir, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run runs both halves beside each other, one for each core.
func run(ctx context.Context, duration time.Duration, dir string, seed uint64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s := &soak{dir: dir, until: time.Now().Add(duration)}
	began := time.Now()
	var join sync.WaitGroup
	errs := make([]error, 2)
	join.Go(func() { errs[0] = s.worlds(ctx) })
	join.Go(func() { errs[1] = s.processes(ctx, seed) })
	join.Wait()
	text := s.sum.report(time.Since(began))
	fmt.Print(text)
	return errors.Join(errs[0], errs[1], s.sum.enough(duration),
		os.WriteFile(filepath.Join(dir, "summary.txt"), []byte(text), 0o644))
}

type soak struct {
	dir   string
	until time.Time

	mu  sync.Mutex
	sum summary
}

// worlds goes through what needs no process: first what has an end, then fresh worlds until the
// time is over.
func (s *soak) worlds(ctx context.Context) error {
	deep := command{name: "explore", pkg: "./integration/explore", run: "^TestScenarios$",
		env: []string{"GAVEL_EXPLORE=deep"}}
	fire := command{name: "log", pkg: "./txlog", run: "^TestUnderFire$", args: []string{"-fire=10"}}
	if err := errors.Join(s.test(ctx, deep), s.test(ctx, fire)); err != nil {
		return err
	}
	return s.test(ctx, command{name: "sim", pkg: "./integration/sim",
		run:  "^(TestFixedWorlds|TestFreshWorlds)$",
		args: []string{fmt.Sprintf("-sim.duration=%s", max(time.Minute, time.Until(s.until)))}})
}

// processes runs every cell of the crash tests, with another seed each time.
func (s *soak) processes(ctx context.Context, seed uint64) error {
	for ; time.Now().Before(s.until) && ctx.Err() == nil; seed++ {
		// Only a run of all tests, without a choice, fails for a fault that never happened.
		err := s.test(ctx, command{name: "crash", pkg: "./integration/crash",
			env: []string{"GAVEL_FULL=1", fmt.Sprintf("GAVEL_SEED=%d", seed)}})
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return ctx.Err()
}

// command is one run of a package's tests: of all, if run is empty.
type command struct {
	name, pkg, run string
	env, args      []string
}

// test runs a command, keeps its output in a file, and adds up what it says.
func (s *soak) test(ctx context.Context, c command) error {
	args := []string{"test", c.pkg, "-count=1", "-v", "-timeout=4h"}
	if c.run != "" {
		args = append(args, "-run", c.run)
	}
	args = append(append(args, "-args"), c.args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), c.env...)
	// An interrupt goes to the tests too, which end what they have started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	file, err := os.OpenFile(filepath.Join(s.dir, c.name+".txt"),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	done := make(chan error, 1)
	go func() {
		err := cmd.Run()
		in.Close()
		done <- err
	}()
	lines := bufio.NewScanner(io.TeeReader(out, file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s.mu.Lock()
		s.sum.take(lines.Text())
		s.mu.Unlock()
	}
	// A line too long ends the reading, and not the test.
	_, _ = io.Copy(file, out)
	if err := <-done; err != nil {
		return fmt.Errorf("%s failed: %w; see %s", c.name, err, file.Name())
	}
	fmt.Printf("%s: done\n", strings.TrimSpace(c.name))
	return nil
}
