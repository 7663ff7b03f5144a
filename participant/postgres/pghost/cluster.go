package pghost

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// confFile is the part of a cluster's configuration that belongs to this package. postgresql.conf
// includes it, so that it can be rewritten as a whole before every start.
const confFile = "gavel.conf"

// maxLogTail bounds how much of a server's log goes into an error, in bytes.
const maxLogTail = 2048

// makeCluster makes the data directory, unless it is there: by initdb, or as a copy of a primary. A
// directory that another major version made cannot be read, and saying so beats a log excerpt.
func (s *Server) makeCluster(ctx context.Context) error {
	if err := s.loadPassword(); err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(s.dataDir(), "PG_VERSION"))
	if err == nil {
		if had := strings.TrimSpace(string(version)); had != strconv.Itoa(s.inst.Major) {
			return fmt.Errorf("%s was made by PostgreSQL %s, the programs in %s are version %d",
				s.dataDir(), had, s.inst.BinDir, s.inst.Major)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.conf.StandbyOf != nil {
		return s.copyPrimary(ctx)
	}
	return s.initCluster(ctx)
}

// loadPassword reads the superuser's password for the TCP port, or draws one. A standby answers to
// its primary's, because it has a copy of its roles.
func (s *Server) loadPassword() error {
	file := filepath.Join(s.conf.Dir, "password")
	kept, err := os.ReadFile(file)
	switch {
	case err == nil:
		s.password = strings.TrimSpace(string(kept))
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case s.conf.StandbyOf != nil:
		s.password = s.conf.StandbyOf.password
	default:
		s.password = rand.Text()
	}
	if err := os.WriteFile(file, []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	return s.user.give(file)
}

// initCluster runs initdb. It does not sync (-N), since a cluster whose making was cut short by a
// power failure is made again; the server itself syncs.
func (s *Server) initCluster(ctx context.Context) error {
	err := s.tool(ctx, "initdb", "-D", s.dataDir(), "-N", "-U", superuser,
		"--auth-local=trust", "--auth-host=scram-sha-256",
		"--pwfile="+filepath.Join(s.conf.Dir, "password"), "--encoding=UTF8", "--no-locale")
	if err != nil {
		return err
	}
	return s.include()
}

// copyPrimary makes a standby by pg_basebackup, over the primary's socket.
func (s *Server) copyPrimary(ctx context.Context) error {
	err := s.tool(
		ctx,
		"pg_basebackup",
		"-D",
		s.dataDir(),
		"-R",
		"-X",
		"stream",
		"-c",
		"fast",
		"-N",
		"-d",
		s.conf.StandbyOf.DSN("postgres"),
	)
	if err != nil {
		return err
	}
	return s.setOwner(filepath.Join(s.dataDir(), confFile), nil)
}

// setOwner writes a file of the cluster and gives it to the server's user.
func (s *Server) setOwner(file string, content []byte) error {
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return err
	}
	return s.user.give(file)
}

func (s *Server) include() error {
	name := filepath.Join(s.dataDir(), "postgresql.conf")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\ninclude '%s'\n", confFile)
	return errors.Join(err, f.Close())
}

// configure writes our part of the configuration.
func (s *Server) configure() error {
	all := map[string]string{
		"cluster_name":              s.conf.Name,
		"fsync":                     "on",
		"max_prepared_transactions": "200",
	}
	maps.Copy(all, s.conf.Settings)
	all["listen_addresses"] = "127.0.0.1"
	all["port"] = strconv.Itoa(s.port)
	all["unix_socket_directories"] = s.socketDir()
	text, err := confText(all)
	if err != nil {
		return err
	}
	return s.setOwner(filepath.Join(s.dataDir(), confFile), text)
}

// confText renders settings in the syntax of postgresql.conf.
func confText(settings map[string]string) ([]byte, error) {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		bad := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz_.0123456789")
		if name == "" || bad != "" || strings.ContainsAny(value, "\n\r\x00") {
			return nil, fmt.Errorf("pghost: setting %q = %q cannot be written", name, value)
		}
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value)
		fmt.Fprintf(&b, "%s = '%s'\n", name, quoted)
	}
	return b.Bytes(), nil
}

func (s *Server) reload(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return fmt.Errorf("pghost: connect to %s: %w", s.conf.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return fmt.Errorf("pghost: reload %s: %w", s.conf.Name, err)
	}
	return nil
}

// Promote makes a standby a primary, on a new timeline, and returns when it accepts writes.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("pghost: connect to %s: %w", s.conf.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var promoted bool
	err = conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&promoted)
	if err != nil || !promoted {
		return fmt.Errorf("pghost: promote %s (done: %v): %w", s.conf.Name, promoted, err)
	}
	return nil
}

// readSystemID asks the data directory itself, not a server, who it is.
func (s *Server) readSystemID(ctx context.Context) (uint64, error) {
	out, err := s.command(ctx, "pg_controldata", "-D", s.dataDir()).Output()
	if err != nil {
		return 0, fmt.Errorf("pg_controldata: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if value, ok := strings.CutPrefix(line, "Database system identifier:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("pg_controldata of %s names no system identifier", s.dataDir())
}

// tool runs one of PostgreSQL's programs to its end. Its output is the error's text.
func (s *Server) tool(ctx context.Context, name string, args ...string) error {
	out, err := s.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, tail(out))
	}
	return nil
}

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.inst.program(name), args...)
	cmd.Env = environment()
	cmd.Dir = s.conf.Dir
	cmd.SysProcAttr = s.user.attributes()
	return cmd
}

// environment leaves out all PG… variables: they are meant for the user's own clusters and would
// redirect the programs to them.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

func tail(text []byte) string {
	text = bytes.TrimSpace(text)
	if len(text) > maxLogTail {
		text = text[len(text)-maxLogTail:]
	}
	return string(text)
}

func logTail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "no log: " + err.Error()
	}
	return tail(text)
}
