package mysql

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-sql-driver/mysql"

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
	// DSN is an address in the form of the driver, USER:PASSWORD@tcp(HOST:PORT)/DATABASE, with a
	// database. The caller has resolved references.
	DSN string
	// Experimental allows a server that is no MariaDB.
	Experimental bool
	// MaxConns bounds the connections that finish and list branches, from 1 to 64. One more is held
	// per log. Defaults to 16.
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
		faults = append(faults, fmt.Errorf("mysql: "+format, args...))
	}
	if c.Name == "" || len(c.Name) > txn.MaxResourceNameLen {
		fault("Name: %d bytes, must be 1 to %d", len(c.Name), txn.MaxResourceNameLen)
	}
	// The driver's error may hold the password, and is not shown.
	if my, err := mysql.ParseDSN(c.DSN); err != nil {
		fault("DSN: cannot be read; it has the form USER:PASSWORD@tcp(HOST:PORT)/DATABASE")
	} else if my.DBName == "" {
		fault("DSN: names no database")
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
	my, err := mysql.ParseDSN(c.DSN)
	if err != nil {
		return fmt.Sprintf("mysql %s (unreadable DSN)", c.Name)
	}
	return fmt.Sprintf("mysql %s (%s@%s/%s)", c.Name, my.User, my.Addr, my.DBName)
}

// GoString keeps the secrets out of %#v too.
func (c Config) GoString() string { return c.String() }

// LogValue keeps the secrets out of structured logs.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
