package xabranch

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// Prepared is the answer of XA RECOVER: all that is prepared at the server, in whatever database.
type Prepared struct {
	Names map[txn.Name]struct{}
	// Unknown counts XIDs that are not ours: other formats, or names that do not parse.
	Unknown int
}

// Recover lists what is prepared. MySQL wants the privilege XA_RECOVER_ADMIN for it.
func Recover(ctx context.Context, conn *sql.Conn) (Prepared, error) {
	p := Prepared{Names: map[txn.Name]struct{}{}}
	rows, err := conn.QueryContext(ctx, "XA RECOVER")
	if err != nil {
		return p, fmt.Errorf("xabranch: XA RECOVER: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var format int64
		var gtrid, bqual int
		var data []byte
		if err := rows.Scan(&format, &gtrid, &bqual, &data); err != nil {
			return p, fmt.Errorf("xabranch: XA RECOVER: %w", err)
		}
		if name, ours := ParseXID(format, gtrid, bqual, data); ours {
			p.Names[name] = struct{}{}
		} else {
			p.Unknown++
		}
	}
	return p, rows.Err()
}

// Row is what a branch has written about itself.
type Row struct {
	Number     uint64
	Database   string
	Connection uint64
	User       string
	Age        time.Duration
	// holder is the session that holds the branch's user lock, or 0. It is the one that runs the
	// branch, or prepared it and has not ended.
	holder uint64
	// synced says that the server syncs what commits.
	synced bool
}

// Rows reads rows of branches, in one query; a name without one is left out. If early is true those
// of branches that have not committed are read as well.
func Rows(
	ctx context.Context, conn *sql.Conn, names []txn.Name, early bool,
) (map[txn.Name]Row, error) {
	found := make(map[txn.Name]Row, len(names))
	if len(names) == 0 {
		return found, nil
	}
	level := "READ COMMITTED"
	if early {
		level = "READ UNCOMMITTED"
	}
	// Without SESSION it is for the next statement alone, which is the query.
	if err := exec(ctx, conn, "SET TRANSACTION ISOLATION LEVEL "+level); err != nil {
		return nil, err
	}
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = quoted(name)
	}
	rows, err := conn.QueryContext(ctx, `SELECT name, number, db, connection, user,
		GREATEST(TIMESTAMPDIFF(MICROSECOND, made, NOW(6)), 0), COALESCE(IS_USED_LOCK(name), 0),
		@@innodb_flush_log_at_trx_commit = 1
		FROM gavel.branch WHERE name IN (`+strings.Join(list, ", ")+`)`)
	if err != nil {
		return nil, setupError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		var micros int64
		var r Row
		err := rows.Scan(&text, &r.Number, &r.Database, &r.Connection, &r.User, &micros, &r.holder,
			&r.synced)
		if err != nil {
			return nil, err
		}
		name, err := txn.ParseName(text)
		if err != nil {
			return nil, fmt.Errorf("%w: row %q: %w", ErrProtocol, text, err)
		}
		r.Age = time.Duration(micros) * time.Microsecond
		found[name] = r
	}
	return found, rows.Err()
}
