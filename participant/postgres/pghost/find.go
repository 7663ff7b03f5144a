package pghost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// MinVersion is the oldest major version of PostgreSQL that gavel supports.
const MinVersion = 14

// ErrNoPostgres says that this host has no PostgreSQL server programs of a supported version, and
// that they could not be installed either. The error that wraps it names the places that were
// searched.
var ErrNoPostgres = errors.New("pghost: no PostgreSQL server found on this host")

// Installation is a set of PostgreSQL server programs.
type Installation struct {
	// BinDir holds postgres, initdb and pg_controldata.
	BinDir string
	// Version is the text of the server, e.g. "15.18 (Debian 15.18-0+deb12u1)"; Major is its first
	// number.
	Version string
	Major   int
}

// binGlobs are the places where distributions keep the server programs off the PATH: Debian, Red
// Hat, source builds, Homebrew, Postgres.app.
var binGlobs = [...]string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find looks for PostgreSQL's server programs: on the PATH first, since that is the user's choice,
// else the newest in the places that distributions use. The error wraps [ErrNoPostgres].
func Find() (Installation, error) { return find(os.Getenv("PATH"), binGlobs[:]) }

func find(path string, globs []string) (Installation, error) {
	for _, dir := range filepath.SplitList(path) {
		if inst, err := inspect(dir); err == nil {
			return inst, nil
		}
	}
	var best Installation
	for _, glob := range globs {
		dirs, err := filepath.Glob(glob)
		if err != nil {
			return Installation{}, fmt.Errorf("pghost: pattern %q: %w", glob, err)
		}
		for _, dir := range dirs {
			if inst, err := inspect(dir); err == nil && inst.Major > best.Major {
				best = inst
			}
		}
	}
	if best.Major == 0 {
		return best, fmt.Errorf("%w (version %d or newer; searched PATH and %s)",
			ErrNoPostgres, MinVersion, strings.Join(globs, ", "))
	}
	return best, nil
}

// inspect tells what is installed in dir. A PATH often holds only links to some of the programs, so
// that the link of postgres is followed to the directory that has all of them.
func inspect(dir string) (Installation, error) {
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Installation{}, err
	}
	inst := Installation{BinDir: filepath.Dir(server)}
	for _, program := range []string{"initdb", "pg_controldata"} {
		if _, err := exec.LookPath(inst.program(program)); err != nil {
			return Installation{}, err
		}
	}
	out, err := exec.Command(server, "--version").Output()
	if err != nil {
		return Installation{}, fmt.Errorf("pghost: %s --version: %w", server, err)
	}
	inst.Version = strings.TrimPrefix(strings.TrimSpace(string(out)), "postgres (PostgreSQL) ")
	if inst.Major = majorOf(inst.Version); inst.Major < MinVersion {
		return Installation{}, fmt.Errorf(
			"%w: %s is version %q",
			ErrNoPostgres,
			server,
			inst.Version,
		)
	}
	return inst, nil
}

// majorOf reads the leading number of a version such as "15.18 (Debian …)" or "19devel"; 0 if there
// is none.
func majorOf(version string) int {
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	major, err := strconv.Atoi(version[:digits])
	if err != nil {
		return 0
	}
	return major
}

func (i Installation) program(name string) string { return filepath.Join(i.BinDir, name) }

// Ensure finds PostgreSQL, or installs it where it may (see [Install]); what it does goes to out.
// The error wraps [ErrNoPostgres] and says what to do.
func Ensure(ctx context.Context, out io.Writer) (Installation, error) {
	inst, err := Find()
	if err == nil {
		return inst, nil
	}
	if err := Install(ctx, out); err != nil {
		return Installation{}, err
	}
	return Find()
}
