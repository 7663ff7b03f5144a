package pghost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// Install installs the distribution's PostgreSQL by apt. It needs root, and writes apt's output to
// out.
//
// Debian's packages make a cluster and start it on port 5432 when they are installed. A tool that
// only wanted the programs must not leave a database server running on its user's machine, so that
// this is turned off while the server package is installed, and the user's setting is restored
// after it.
//
// The error wraps [ErrNoPostgres] where the host has no apt or the caller is not root.
func Install(ctx context.Context, out io.Writer) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf(
			"%w, and no apt-get to install it with: install PostgreSQL %d or newer and put "+
				"its bin directory on the PATH",
			ErrNoPostgres,
			MinVersion,
		)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf(
			"%w, and installing it needs root: run 'sudo apt-get install postgresql', or "+
				"put the bin directory of PostgreSQL %d or newer on the PATH",
			ErrNoPostgres,
			MinVersion,
		)
	}
	in := installer{conf: "/etc/postgresql-common/createcluster.conf", run: runApt(out)}
	return in.install(ctx)
}

// installer is Install with its effects named, so that a test can stand in for apt.
type installer struct {
	conf string
	run  func(ctx context.Context, args ...string) error
}

// install goes in two steps, because the file that forbids the automatic cluster belongs to a
// package that the server package depends upon: only after postgresql-common has written its own
// file can it be edited without a question from dpkg about whose version to keep.
func (in installer) install(ctx context.Context) (err error) {
	if err := in.run(ctx, "update"); err != nil {
		return err
	}
	err = in.run(ctx, "install", "-y", "--no-install-recommends", "postgresql-common")
	if err != nil {
		return err
	}
	restore, err := in.forbidCluster()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	return in.run(ctx, "install", "-y", "--no-install-recommends", "postgresql")
}

// forbidCluster makes new server packages come without a cluster, and returns what undoes that.
func (in installer) forbidCluster() (restore func() error, err error) {
	before, err := os.ReadFile(in.conf)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, fmt.Errorf("pghost: read %s: %w", in.conf, err)
	}
	if err := os.MkdirAll(filepath.Dir(in.conf), 0o755); err != nil {
		return nil, fmt.Errorf("pghost: make the directory of %s: %w", in.conf, err)
	}
	after := append(bytes.Clone(before), "\ncreate_main_cluster = false\n"...)
	if err := os.WriteFile(in.conf, after, 0o644); err != nil {
		return nil, fmt.Errorf("pghost: forbid a cluster in %s: %w", in.conf, err)
	}
	return func() error {
		if missing {
			return os.Remove(in.conf)
		}
		return os.WriteFile(in.conf, before, 0o644)
	}, nil
}

func runApt(out io.Writer) func(context.Context, ...string) error {
	return func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("pghost: apt-get %s: %w", args[0], err)
		}
		return nil
	}
}
