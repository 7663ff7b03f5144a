// Package clitest runs command lines of gavel inside a test's process, and makes the directories
// and the states of databases that they are tried on.
package clitest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// patience bounds every wait of a test; it only passes when something hangs.
const patience = time.Minute

// Result is what a command line came to.
type Result struct {
	Code     exit.Code
	Out, Err string
}

// Run runs a command line to its end.
func Run(t *testing.T, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs buffer
	code := cli.Run(ctx, streams(&out, &errs), args)
	return Result{code, out.String(), errs.String()}
}

// Want fails the test unless the command line ended with this code and said all of this.
func (r Result) Want(t *testing.T, code exit.Code, said ...string) Result {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit code %d, want %d\nout: %s\nerr: %s", r.Code, code, r.Out, r.Err)
	}
	for _, s := range said {
		if !strings.Contains(r.Out+r.Err, s) {
			t.Errorf("it does not say %q\nout: %s\nerr: %s", s, r.Out, r.Err)
		}
	}
	return r
}

func streams(out, errs io.Writer) ui.IO {
	return ui.IO{Out: out, Err: errs, Getenv: os.Getenv, Now: time.Now}
}

// Server is a serving command that runs.
type Server struct {
	// GRPC and HTTP are its addresses.
	GRPC, HTTP string

	stop context.CancelFunc
	done chan Result
	end  *Result
}

// Start runs a serving command on free ports, and returns when it has told its addresses. It is
// stopped with the test, if not before.
func Start(t *testing.T, args ...string) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{stop: cancel, done: make(chan Result, 1)}
	told := make(chan struct{})
	out, errs := &buffer{}, &buffer{}
	out.seen = func(text string) bool {
		s.GRPC, s.HTTP = wordAfter(text, "gRPC"), wordAfter(text, "HTTP")
		if s.HTTP == "" {
			return false
		}
		close(told)
		return true
	}
	args = append(args, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	go func() {
		code := cli.Run(ctx, streams(out, errs), args)
		s.done <- Result{code, out.String(), errs.String()}
	}()
	t.Cleanup(func() { s.Stop(t) })
	select {
	case <-told:
	case r := <-s.done:
		s.end = &r
		t.Fatalf("%v ended with %d: %s%s", args, r.Code, r.Out, r.Err)
	case <-time.After(patience):
		t.Fatalf("%v does not tell its addresses: %s%s", args, out, errs)
	}
	return s
}

func wordAfter(text, title string) string {
	_, rest, ok := strings.Cut(text, "  "+title)
	if !ok || !strings.Contains(rest, "\n") {
		return ""
	}
	return strings.TrimPrefix(strings.Fields(rest)[0], "http://")
}

// Stop is what a SIGTERM does, and waits for the end.
func (s *Server) Stop(t *testing.T) Result {
	t.Helper()
	s.stop()
	return s.Wait(t)
}

// Wait waits until the command ends by itself.
func (s *Server) Wait(t *testing.T) Result {
	t.Helper()
	if s.end != nil {
		return *s.end
	}
	select {
	case r := <-s.done:
		s.end = &r
		return r
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
	return Result{}
}

// Eventually asks until the answer is yes.
func Eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

// buffer is a bytes.Buffer for two goroutines. seen is shown all of it after each write, until it
// has seen enough.
type buffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	seen func(string) bool
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.b.Write(p)
	if b.seen != nil && b.seen(b.b.String()) {
		b.seen = nil
	}
	return n, err
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// SegmentSize is that of the logs that tests make: small, so that making one is quick.
const SegmentSize = 1 << 20

// Log makes an empty log.
func Log(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	id, err := txn.NewLogID()
	if err == nil {
		err = txlog.Init(vfs.OS(), dir, id, txlog.InitOptions{SegmentSize: SegmentSize})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Copy is a copy of a directory, as cp makes it.
func Copy(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// Damage flips one bit at this offset of the first segment of a log, and returns the name of the
// file.
func Damage(t *testing.T, dir string, off int64) string {
	t.Helper()
	name := firstSegment(t, dir)
	path := filepath.Join(dir, name)
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body[off] ^= 4
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func firstSegment(t *testing.T, dir string) string {
	t.Helper()
	var first string
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || first != "" {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() == SegmentSize {
			first = p
		}
		return err
	})
	if err != nil || first == "" {
		t.Fatalf("no segment in %s: %v", dir, err)
	}
	return first
}
