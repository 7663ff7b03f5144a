package mariahost

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
)

// ErrStopped is returned by calls on a server that was stopped for good.
var ErrStopped = errors.New("mariahost: the server was stopped")

const (
	startTimeout = 60 * time.Second
	pollInterval = 10 * time.Millisecond
	// maxLogTail bounds how much of a server's log goes into an error, in bytes.
	maxLogTail = 2048
)

// Config says how to run a server. The zero Config is a good one.
type Config struct {
	// Name appears in messages. Defaults to "mariadb".
	Name string
	// Settings are options of the server without their dashes, e.g. "server_id=7". They win over
	// the defaults.
	Settings []string
}

// Server is a MariaDB server that this process started. Its methods may be called concurrently;
// those that start and end it wait for each other.
type Server struct {
	inst Installation
	conf Config
	user owner
	dir  string

	mu      sync.Mutex
	stopped bool
	proc    *process
}

// Start makes a data directory, starts a server on it, and returns when it answers queries. A
// server that does not come up leaves nothing behind, and the error ends with the last lines of its
// log. The account root needs no password.
func (i Installation) Start(ctx context.Context, conf Config) (*Server, error) {
	if conf.Name == "" {
		conf.Name = "mariadb"
	}
	user, err := serverUser()
	if err != nil {
		return nil, err
	}
	s := &Server{inst: i, conf: conf, user: user}
	if err := s.open(ctx); err != nil {
		err = fmt.Errorf("mariahost: start %s: %w", conf.Name, err)
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.dir, err = os.MkdirTemp(shortTempDir(), "gavel-maria-"); err != nil {
		return err
	}
	if err := os.Mkdir(s.tempDir(), 0o700); err != nil {
		return err
	}
	if err := errors.Join(s.user.give(s.dir), s.user.give(s.tempDir())); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.inst.Install, "--no-defaults", "--datadir="+s.dataDir(),
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	cmd.Env, cmd.Dir, cmd.SysProcAttr = environment(), s.dir, s.user.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", s.inst.Install, err, tail(out))
	}
	return s.launch(ctx)
}

// shortTempDir avoids temporary directories with names so long that a socket in them could not be
// bound: the address of a Unix socket has room for about a hundred bytes.
func shortTempDir() string {
	if dir := os.TempDir(); len(dir) < 50 {
		return dir
	}
	return "/tmp"
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }
func (s *Server) tempDir() string { return filepath.Join(s.dir, "tmp") }
func (s *Server) socket() string  { return filepath.Join(s.dir, "s") }

// LogFile is where the server writes its messages.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

// launch starts the process and waits until it answers. The caller holds mu.
func (s *Server) launch(ctx context.Context) error {
	args := []string{"--no-defaults", "--datadir=" + s.dataDir(), "--socket=" + s.socket(),
		"--tmpdir=" + s.tempDir(), "--pid-file=" + filepath.Join(s.dir, "pid"),
		"--skip-networking", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=1",
		"--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--max-connections=400"}
	for _, setting := range s.conf.Settings {
		args = append(args, "--"+setting)
	}
	proc, err := startProcess(s.inst.Server, args, s.LogFile(), s.user)
	if err != nil {
		return err
	}
	s.proc = proc
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.awaitReady(ctx); err != nil {
		s.proc.kill()
		return fmt.Errorf("%w\n%s", err, s.logTail())
	}
	return nil
}

func (s *Server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := s.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("the server ended: %v", s.proc.err)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w; last answer: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// check asks whoever listens at our socket for its data directory, which is ours alone.
func (s *Server) check(ctx context.Context) error {
	var dir string
	err := s.withRoot(ctx, func(db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT @@datadir").Scan(&dir)
	})
	if err == nil && filepath.Clean(dir) != s.dataDir() {
		return fmt.Errorf("another server answers, with its data in %s", dir)
	}
	return err
}

// withRoot lends a pool that ends with the call.
func (s *Server) withRoot(ctx context.Context, do func(*sql.DB) error) error {
	db, err := sql.Open("mysql", s.DSN("root", ""))
	if err != nil {
		return err
	}
	defer db.Close()
	return do(db)
}

// DSN is the address of a database, or of none, for an account without a password.
func (s *Server) DSN(account, database string) string {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.DBName = account, "unix", s.socket(), database
	c.Logger = &mysql.NopLogger{}
	return c.FormatDSN()
}

// PID is the process id of the server, or 0 when it does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.ended() {
		return 0
	}
	return s.proc.pid()
}

// Exec runs statements as root, one after the other.
func (s *Server) Exec(ctx context.Context, statements ...string) error {
	return s.withRoot(ctx, func(db *sql.DB) error {
		for _, statement := range statements {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("mariahost: run %q at %s: %w", statement, s.conf.Name, err)
			}
		}
		return nil
	})
}

// Kill ends the server at once by SIGKILL, as a crash of the machine would, except that what the
// operating system has buffered stays. It returns when it is gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
	}
}

// Restart starts the server again, at the same address, after a Kill; a server that runs is stopped
// cleanly first. The settings, if any are given, take the place of the Config's. It returns when
// queries are answered, that is after crash recovery.
func (s *Server) Restart(ctx context.Context, settings ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrStopped
	}
	if settings != nil {
		s.conf.Settings = slices.Clone(settings)
	}
	s.proc.stop(ctx)
	if err := s.launch(ctx); err != nil {
		return fmt.Errorf("mariahost: restart %s: %w", s.conf.Name, err)
	}
	return nil
}

// Stop ends the server for good and removes its directory. It waits until it is gone, first
// politely, then by SIGKILL. A second Stop does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	if s.proc != nil {
		s.proc.stop(ctx)
	}
	if err := os.RemoveAll(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mariahost: remove the directory of %s: %w", s.conf.Name, err)
	}
	return nil
}

func tail(text []byte) string {
	text = bytes.TrimSpace(text)
	if len(text) > maxLogTail {
		text = text[len(text)-maxLogTail:]
	}
	return string(text)
}

func (s *Server) logTail() string {
	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		return "no log: " + err.Error()
	}
	return tail(text)
}
