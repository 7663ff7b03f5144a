package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// child is a gavel process that the demo started: what an operator would start, by the same
// command line.
type child struct {
	binary string
	args   []string
	env    []string
	// journal takes its standard error.
	journal string

	grpc, http string
	cmd        *exec.Cmd
	ended      chan struct{}
}

// start runs the process and returns when it has told its addresses. The first start takes free
// ports, and every later one the same.
func (c *child) start(ctx context.Context) error {
	if c.grpc == "" {
		c.grpc, c.http = "127.0.0.1:0", "127.0.0.1:0"
	}
	journal, err := os.OpenFile(c.journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out, in := io.Pipe()
	c.cmd = exec.Command(c.binary, append(c.args, "--grpc", c.grpc, "--http", c.http)...)
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = append(os.Environ(), c.env...), in, journal
	c.cmd.SysProcAttr = attributes()
	c.ended = make(chan struct{})
	started := make(chan error, 1)
	go c.live(started, func() { _ = in.Close(); _ = journal.Close() })
	if err := <-started; err != nil {
		return errors.Join(err, out.Close())
	}
	return c.readAddresses(ctx, out)
}

// live keeps one thread for the life of the process: where the kernel ends a child with its parent,
// it ends it with the thread that started it.
func (c *child) live(started chan<- error, release func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.ended)
	defer release()
	err := c.cmd.Start()
	started <- err
	if err == nil {
		// How it ended is judged by who ended it.
		_ = c.cmd.Wait()
	}
}

// readAddresses reads the lines that a process prints once it serves.
func (c *child) readAddresses(ctx context.Context, out *io.PipeReader) error {
	stop := context.AfterFunc(ctx, func() { _ = out.CloseWithError(context.Cause(ctx)) })
	defer stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "gRPC":
			c.grpc = words[1]
		case "HTTP":
			c.http = strings.TrimPrefix(words[1], "http://")
			// Whatever else it prints is taken and dropped, or it would block.
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return nil
		}
	}
	// It ended, or it says nothing and ctx is over.
	c.kill()
	err := errors.Join(context.Cause(ctx), lines.Err(), errors.New(c.cmd.ProcessState.String()))
	return fmt.Errorf("gavel %s did not start: %w\n%s", c.args[0], err, c.tail())
}

// tailLines is how much of a journal goes into an error.
const tailLines = 6

func (c *child) tail() string {
	body, err := os.ReadFile(c.journal)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// readyEvery is the time between two looks at readiness.
const readyEvery = 2 * time.Millisecond

// ready waits until the process says that it is.
func (c *child) ready(ctx context.Context) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		if c.isReady(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.ended:
			return fmt.Errorf("gavel %s ended: %s\n%s", c.args[0], c.cmd.ProcessState, c.tail())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *child) isReady(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.http+"/readyz", nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// kill is kill -9, and returns when the process is gone.
func (c *child) kill() {
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	<-c.ended
}

// stop ends it in order, and reports an exit code that is not 0.
func (c *child) stop(ctx context.Context) error {
	if c.cmd == nil || c.cmd.Process == nil {
		return nil
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.kill()
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("gavel %s ended with code %d\n%s", c.args[0], code, c.tail())
	}
	return nil
}
