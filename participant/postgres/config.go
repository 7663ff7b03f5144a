package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

const (
	defaultMaxConns       = 16
	maxMaxConns           = 64
	defaultConnectTimeout = 5 * time.Second
)

// Config says how to reach one database. It has secrets in it, and prints without them.
type Config struct {
	// Name is the resource's registered name. It appears in messages.
	Name string
	// DSN is a connection string or URL, as pgx takes them. The caller has resolved references.
	DSN string
	// OwnerRole is the role that owns the applications' branches, taken by SET ROLE to finish them.
	// Empty, the connecting role itself is tried first. Branches of other owners are found by the
	// list, and finished where the connecting role is a member.
	OwnerRole string
	// MaxConns bounds the connections that finish and list branches, from 1 to 64. One more is held
	// per log. Each COMMIT PREPARED waits for the disk by itself, and those of several connections
	// share the wait. Defaults to 16.
	MaxConns int
	// ConnectTimeout bounds one attempt to connect. Defaults to 5 s.
	ConnectTimeout time.Duration
	// Expect is the identity that was registered. Defaults to the one met first.
	Expect txn.Identity
	// Seen is the highest position that the database has ever shown. Defaults to none.
	Seen txn.Position
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("postgres: "+format, args...))
	}
	if c.Name == "" || len(c.Name) > txn.MaxResourceNameLen {
		fault("Name: %d bytes, must be 1 to %d", len(c.Name), txn.MaxResourceNameLen)
	}
	if _, err := pgconn.ParseConfig(c.DSN); err != nil {
		fault("DSN: %w", err) // pgconn leaves the password out
	}
	if c.MaxConns < 0 || c.MaxConns > maxMaxConns {
		fault("MaxConns: %d, must be 1 to %d", c.MaxConns, maxMaxConns)
	}
	if c.ConnectTimeout < 0 {
		fault("ConnectTimeout: %v, must not be negative", c.ConnectTimeout)
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = defaultConnectTimeout
	}
	return c
}

// String is the configuration without its secrets: who, where, and no parameter of the DSN.
func (c Config) String() string {
	pg, err := pgconn.ParseConfig(c.DSN)
	if err != nil {
		return fmt.Sprintf("postgres %s (unreadable DSN)", c.Name)
	}
	return fmt.Sprintf(
		"postgres %s (%s@%s:%d/%s)",
		c.Name,
		pg.User,
		pg.Host,
		pg.Port,
		pg.Database,
	)
}

// GoString keeps the secrets out of %#v too.
func (c Config) GoString() string { return c.String() }

// LogValue keeps the secrets out of structured logs.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
