package benchcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// process is a coordinator that the benchmark has started: what an operator would start, by the
// same command line.
type process struct {
	cmd     *exec.Cmd
	journal string
	grpc    string
	ended   chan struct{}
}

// stopLimit is how long the process may take to end in order.
const stopLimit = 20 * time.Second

// startCoordinator makes a log in dir and starts a coordinator on it. It returns when the
// coordinator has told its address. The databases' URLs go by the environment, as they should.
func startCoordinator(
	ctx context.Context, binary, dir string, dbs *databases,
) (*process, error) {
	log := filepath.Join(dir, "log")
	if _, err := coordinator.Init(vfs.OS(), log); err != nil {
		return nil, err
	}
	args := []string{"coordinator", "--data", log, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	env := os.Environ()
	for i, r := range dbs.resources {
		name := fmt.Sprintf("GAVEL_BENCH_%d", i)
		args = append(args, "--resource", r.Name+"=env:"+name)
		env = append(env, name+"="+dbs.urls[i])
	}
	p := &process{cmd: exec.Command(binary, args...), ended: make(chan struct{}),
		journal: filepath.Join(dir, "coordinator.journal")}
	p.cmd.Env, p.cmd.SysProcAttr = env, attributes()
	return p, p.start(ctx)
}

func (p *process) start(ctx context.Context) error {
	journal, err := os.Create(p.journal)
	if err != nil {
		return err
	}
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = in, journal
	started := make(chan error, 1)
	go p.live(started, func() { _ = in.Close(); _ = journal.Close() })
	if err := <-started; err != nil {
		return errors.Join(err, out.Close())
	}
	return p.readAddress(ctx, out)
}

// live keeps one thread for the life of the process: where the kernel ends a child with its parent,
// it ends it with the thread that started it.
func (p *process) live(started chan<- error, release func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	defer release()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		// How it ended is judged by who ended it.
		_ = p.cmd.Wait()
	}
}

// readAddress reads the lines that the process prints once it serves, up to the last.
func (p *process) readAddress(ctx context.Context, out *io.PipeReader) error {
	stop := context.AfterFunc(ctx, func() { _ = out.CloseWithError(context.Cause(ctx)) })
	defer stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) >= 2 && words[0] == "gRPC":
			p.grpc = words[1]
		case len(words) >= 2 && words[0] == "HTTP":
			// Whatever else it prints is taken and dropped, or it would block.
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return nil
		}
	}
	// It ended, or it says nothing and ctx is over.
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("bench: the coordinator did not start: %w\n%s",
		errors.Join(context.Cause(ctx), lines.Err(), errors.New(p.cmd.ProcessState.String())),
		p.tail())
}

// tailLines is how much of the journal goes into an error.
const tailLines = 6

func (p *process) tail() string {
	body, err := os.ReadFile(p.journal)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// stop ends it in order, and reports an exit code that is not 0: then it had not survived the run,
// whatever the clients saw.
func (p *process) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("bench: the coordinator ended with code %d\n%s", code, p.tail())
	}
	return nil
}
