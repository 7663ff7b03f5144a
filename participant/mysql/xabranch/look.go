package xabranch

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// Place is where a connection leads.
type Place struct {
	// Identity is that of the server's data and of the current database; see the package comment.
	Identity txn.Identity
	// Position has the highest number that was ever listed. The timeline is always 1.
	Position txn.Position
	// Version is the server's own text, such as "10.11.19-MariaDB-0+deb12u1".
	Version string
	// Database is the current one, or empty.
	Database string
	// ReadOnly says that the server takes no writes. It is a replica then, or in maintenance.
	ReadOnly bool
	// Flush is innodb_flush_log_at_trx_commit. Only at 1 is what was prepared durable.
	Flush int
	// BinaryLog says that the server writes one, and BinaryLogSynced that it syncs it with each
	// commit.
	BinaryLog, BinaryLogSynced bool
	// server is the server_id, and system the number that was drawn.
	server, system uint64
	// session is the server's number of the connection.
	session uint64
}

// MariaDB says whether the server is one. It goes by the version, as every client does.
func (p Place) MariaDB() bool { return strings.Contains(p.Version, "MariaDB") }

// timeline is that of every position: the server has no such thing.
const timeline = 1

const (
	aboutColumns = `@@version, COALESCE(DATABASE(), ''), @@read_only,
		@@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog = 1,
		@@server_id, CONNECTION_ID()`
	lookSQL = `SELECT ` + aboutColumns + `, system, high FROM gavel.identity`
)

// Look asks a server who it is and how far its history has come. It changes nothing. Without the
// tables of [Schema] the error is [ErrNoSetup].
func Look(ctx context.Context, conn *sql.Conn) (Place, error) {
	var p Place
	var readOnly string
	err := conn.QueryRowContext(ctx, lookSQL).Scan(&p.Version, &p.Database, &readOnly, &p.Flush,
		&p.BinaryLog, &p.BinaryLogSynced, &p.server, &p.session, &p.system, &p.Position.LSN)
	if err != nil {
		return Place{}, setupError(err)
	}
	p.ReadOnly = isOn(readOnly)
	p.Position.Timeline = timeline
	p.Identity = identityOf(p.system, p.server, p.Database)
	return p, nil
}

// About is Look without the tables of [Schema]: the place has no identity and no position.
func About(ctx context.Context, conn *sql.Conn) (Place, error) {
	var p Place
	var readOnly string
	err := conn.QueryRowContext(ctx, "SELECT "+aboutColumns).Scan(&p.Version, &p.Database,
		&readOnly, &p.Flush, &p.BinaryLog, &p.BinaryLogSynced, &p.server, &p.session)
	p.ReadOnly = isOn(readOnly)
	return p, err
}

// isOn reads a setting that is a number at some versions of the server and a word at others, which
// may be of more than two, as read_only of MariaDB 12 is: everything that is not off is on.
func isOn(text string) bool {
	switch strings.ToUpper(text) {
	case "", "0", "OFF":
		return false
	}
	return true
}

// identityOf mixes the server's id into the number that was drawn, by an odd constant so that no
// two ids give the same. A database goes by its name: there is no number of it that would last.
func identityOf(system, server uint64, database string) txn.Identity {
	return txn.Identity{System: system ^ server*0x9E37_79B9_7F4A_7C15,
		Database: numberOf(database)}
}

// numberOf is the number of a database, by its name.
func numberOf(database string) uint32 { return max(crc32.ChecksumIEEE([]byte(database)), 1) }

// NotThatOf says why this server cannot be asked about a branch of this evidence. It is empty if it
// can.
func (p Place) NotThatOf(ev txn.Evidence) string {
	switch {
	case p.Identity != ev.Identity:
		return fmt.Sprintf("this is database %s, and the branch is of %s", p.Identity, ev.Identity)
	case p.Position.Before(ev.Position):
		return fmt.Sprintf("the history went backwards, from %d to %d: a restored backup",
			ev.LSN, p.Position.LSN)
	}
	return ""
}

// Vouch makes a durable write of its own, and with it all that the server has shown so far, and
// raises the position to number. It returns the position that it has written. A position that was
// only read may be lost in a crash: InnoDB shows what commits before it is synced.
func Vouch(ctx context.Context, conn *sql.Conn, number uint64) (txn.Position, error) {
	r, err := conn.ExecContext(ctx, fmt.Sprintf("UPDATE gavel.identity SET "+
		"high = LAST_INSERT_ID(GREATEST(high, %d)), writes = writes + 1 WHERE one = 1", number))
	if Number(err) == numOption {
		return txn.Position{}, fmt.Errorf("%w (%w)", ErrReadOnly, err)
	}
	if err != nil {
		return txn.Position{}, setupError(err)
	}
	// Read by a statement of its own it could be higher, by a write that is not durable yet.
	high, err := r.LastInsertId()
	return txn.Position{Timeline: timeline, LSN: uint64(high)}, err
}
