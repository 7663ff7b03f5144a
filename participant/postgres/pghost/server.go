package pghost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrStranger is returned when the server that answers at the address is not the one that was
// started.
var ErrStranger = errors.New("pghost: another PostgreSQL server answers at this address")

// ErrStopped is returned by calls on a server that was stopped for good.
var ErrStopped = errors.New("pghost: the server was stopped")

const (
	superuser    = "postgres"
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
	pollInterval = 10 * time.Millisecond
	// startTries bounds the ports that Start tries: a free port can be taken by somebody else
	// between the moment it is found and the moment the server binds it.
	startTries = 5
)

// Config says how to run a server. The zero Config is a good one.
type Config struct {
	// Name appears in messages and in the server's process title. Defaults to "postgres".
	Name string
	// Dir holds everything of the server. If it has a cluster already, that one is started.
	// Defaults to a private temporary directory.
	Dir string
	// Settings are put into the server's configuration, e.g. "max_connections": "300". They win
	// over the defaults: max_prepared_transactions 200, fsync on.
	Settings map[string]string
	// KeepDir keeps the temporary directory at Stop. A Dir that the caller named is always kept.
	KeepDir bool
	// StandbyOf makes the new server a streaming hot standby of that one. It starts as a copy of
	// it, and becomes a primary by [Server.Promote].
	StandbyOf *Server
}

// Server is a PostgreSQL server that this process started. Its methods may be called concurrently;
// those that start and end it wait for each other.
type Server struct {
	inst    Installation
	conf    Config
	user    owner
	ownsDir bool
	// lock marks a temporary directory as in use; see sweep.
	lock *os.File

	mu       sync.Mutex
	stopped  bool
	proc     *process
	port     int
	systemID uint64
	password string
}

// Start makes a cluster if there is none, starts it, and returns when it answers queries. A server
// that does not come up leaves nothing behind, and the error ends with the last lines of its log.
func (i Installation) Start(ctx context.Context, conf Config) (*Server, error) {
	if conf.Name == "" {
		conf.Name = "postgres"
	}
	user, err := serverUser()
	if err != nil {
		return nil, err
	}
	s := &Server{inst: i, conf: conf, user: user}
	if err := s.open(ctx); err != nil {
		err = fmt.Errorf("pghost: start %s: %w", conf.Name, err)
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Start is [Ensure] without installing, followed by [Installation.Start].
func Start(ctx context.Context, conf Config) (*Server, error) {
	inst, err := Find()
	if err != nil {
		return nil, err
	}
	return inst.Start(ctx, conf)
}

func (s *Server) open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeDir(); err != nil {
		return err
	}
	if err := s.makeCluster(ctx); err != nil {
		return err
	}
	var err error
	if s.systemID, err = s.readSystemID(ctx); err != nil {
		return err
	}
	for range startTries {
		if s.port, err = freePort(); err != nil {
			return err
		}
		// Only a stranger on the port is worth another try; everything else fails the same way
		// again.
		if err = s.launch(ctx); !errors.Is(err, ErrStranger) {
			return err
		}
	}
	return err
}

func (s *Server) makeDir() error {
	if s.conf.Dir == "" {
		if err := s.makeTempDir(); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
	}
	dir, err := filepath.Abs(s.conf.Dir)
	if err != nil {
		return err
	}
	s.conf.Dir = dir
	for _, d := range []string{dir, s.socketDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
		if err := s.user.give(d); err != nil {
			return err
		}
	}
	return s.user.canEnter(filepath.Dir(dir))
}

// makeTempDir also takes the occasion to remove what killed processes have left.
func (s *Server) makeTempDir() error {
	parent := shortTempDir()
	sweep(parent)
	dir, err := os.MkdirTemp(parent, tempPrefix)
	if err != nil {
		return err
	}
	s.conf.Dir, s.ownsDir = dir, true
	if !s.conf.KeepDir {
		s.lock, err = lockDir(dir)
	}
	return err
}

// shortTempDir avoids temporary directories with names so long that a socket in them could not be
// bound: the address of a Unix socket has room for about a hundred bytes.
func shortTempDir() string {
	if dir := os.TempDir(); len(dir) < 50 {
		return dir
	}
	return "/tmp"
}

func (s *Server) dataDir() string   { return filepath.Join(s.conf.Dir, "data") }
func (s *Server) socketDir() string { return filepath.Join(s.conf.Dir, "s") }

// LogFile is where the server writes its messages.
func (s *Server) LogFile() string { return filepath.Join(s.conf.Dir, "server.log") }

// Name is the Config's.
func (s *Server) Name() string { return s.conf.Name }

// DataDir is the cluster's data directory.
func (s *Server) DataDir() string { return s.dataDir() }

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// launch starts the processes and waits until the right server answers.
func (s *Server) launch(ctx context.Context) error {
	if err := s.configure(); err != nil {
		return err
	}
	proc, err := startProcess(
		s.inst.program("postgres"),
		[]string{"-D", s.dataDir()},
		s.LogFile(),
		s.user,
	)
	if err != nil {
		return err
	}
	s.proc = proc
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.awaitReady(ctx); err != nil {
		s.proc.kill()
		return fmt.Errorf("%w\n%s", err, logTail(s.LogFile()))
	}
	return nil
}

func (s *Server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := s.checkBoth(ctx)
		if err == nil || errors.Is(err, ErrStranger) {
			return err
		}
		select {
		case <-s.proc.done:
			if busy(s.port) {
				return fmt.Errorf("%w: port %d", ErrStranger, s.port)
			}
			return fmt.Errorf("%w: %v", errEnded, s.proc.err)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w; last answer: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// busy says whether somebody listens on a port of ours although our server has ended.
func busy(port int) bool {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// checkBoth compares the identity over both ways in, for the trap is a stranger behind one of them.
func (s *Server) checkBoth(ctx context.Context) error {
	for _, dsn := range []string{s.dsn("postgres"), s.tcpDSN("postgres")} {
		if err := s.check(ctx, dsn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) check(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "28P01" {
		// Our password is random: who does not know it is not our server.
		return fmt.Errorf("%w: it refuses our password", ErrStranger)
	}
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var id string
	const ask = "SELECT system_identifier::text FROM pg_control_system()"
	if err := conn.QueryRow(ctx, ask).Scan(&id); err != nil {
		return err
	}
	if id != strconv.FormatUint(s.systemID, 10) {
		return fmt.Errorf("%w: its system identifier is %s, not %d", ErrStranger, id, s.systemID)
	}
	return nil
}

// DSN is the address of a database over the Unix socket, as superuser, without a password.
func (s *Server) DSN(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dsn(database)
}

func (s *Server) dsn(database string) string {
	q := url.Values{"host": {s.socketDir()}, "port": {strconv.Itoa(s.port)}}
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database,
		RawQuery: q.Encode()}
	return u.String()
}

// TCPDSN is the address of a database over 127.0.0.1, as superuser, with its password in it.
func (s *Server) TCPDSN(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcpDSN(database)
}

func (s *Server) tcpDSN(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, s.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/" + database,
		RawQuery: "sslmode=disable"}
	return u.String()
}

// Port is the TCP port on 127.0.0.1. It stays the same over restarts.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// SystemID is the cluster's system identifier. A standby has its primary's.
func (s *Server) SystemID() uint64 { return s.systemID }

// PID is the process id of the postmaster, or 0 when it does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.ended() {
		return 0
	}
	return s.proc.pid()
}

// CreateDatabase makes an empty database.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	return s.Exec(ctx, "postgres", "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
}

// Exec runs SQL text, one or several statements, as superuser in a database.
func (s *Server) Exec(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		return fmt.Errorf("pghost: connect to %s: %w", s.conf.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("pghost: run SQL at %s: %w", s.conf.Name, err)
	}
	return nil
}

// Kill ends the postmaster and all its children at once by SIGKILL, as a crash of the machine
// would, except that what the operating system has buffered stays. It returns when they are gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
	}
}

// Restart starts the server again, at the same addresses, after a Kill; a server that runs is
// stopped cleanly first. It returns when queries are answered, that is after crash recovery.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrStopped
	}
	s.proc.stop(ctx)
	// The sessions of a server that was killed go on for a moment, and as long as one of them holds
	// on to its memory no other server starts on the same data.
	limit := time.Now().Add(startTimeout)
	for {
		err := s.launch(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errEnded) || time.Now().After(limit) || !pause(ctx) {
			return fmt.Errorf("pghost: restart %s: %w", s.conf.Name, err)
		}
	}
}

// errEnded is a server that ended before it was ready.
var errEnded = errors.New("the server ended")

// pause waits a moment. It is false if ctx ended meanwhile.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Configure changes settings and makes the running server read them. Settings that only a restart
// changes take effect at the next one.
func (s *Server) Configure(ctx context.Context, settings map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrStopped
	}
	s.conf.Settings = maps.Clone(s.conf.Settings)
	if s.conf.Settings == nil {
		s.conf.Settings = map[string]string{}
	}
	maps.Copy(s.conf.Settings, settings)
	if err := s.configure(); err != nil {
		return fmt.Errorf("pghost: configure %s: %w", s.conf.Name, err)
	}
	return s.reload(ctx)
}

// Stop ends the server for good and removes its directory, unless that is to be kept. It waits
// until no process of it is left: first politely for ten seconds or until ctx ends, then by
// SIGKILL. A second Stop does nothing.
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
	if !s.ownsDir || s.conf.KeepDir {
		return nil
	}
	if s.lock != nil {
		defer s.lock.Close()
	}
	if err := os.RemoveAll(s.conf.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pghost: remove the directory of %s: %w", s.conf.Name, err)
	}
	return nil
}
