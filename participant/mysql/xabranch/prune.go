package xabranch

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// MaxPruned bounds the rows that one Prune removes.
const MaxPruned = 500

// Prune removes rows of branches that have committed in the current database, of one log and below
// the sequence low, about which that log will never ask again; the oldest first, at most MaxPruned.
// It returns how many these were. In the same transaction it notes how far rows may be missing from
// then on, so that a missing row below that proves nothing any more.
//
// A branch that is prepared keeps its row, and nobody waits for it here: what is removed was found
// committed.
func Prune(
	ctx context.Context, conn *sql.Conn, log txn.LogID, low txn.Seq,
) (removed int, err error) {
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return 0, fmt.Errorf("xabranch: remove rows: %w", err)
	}
	if removed, err = prune(ctx, tx, log, low); err == nil {
		err = tx.Commit()
	}
	// Rolling back what is committed is no error that matters.
	_ = tx.Rollback()
	if err != nil {
		return 0, fmt.Errorf("xabranch: remove rows: %w", setupError(err))
	}
	return removed, nil
}

func prune(ctx context.Context, tx *sql.Tx, log txn.LogID, low txn.Seq) (int, error) {
	var database string
	err := tx.QueryRowContext(ctx, "SELECT COALESCE(DATABASE(), '')").Scan(&database)
	if err != nil {
		return 0, err
	}
	numbers, err := committedBelow(ctx, tx, log, low, database)
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO gavel.horizon (log, db, low)
		VALUES (%d, %d, %d) ON DUPLICATE KEY UPDATE low = GREATEST(low, VALUES(low))`,
		log, numberOf(database), low))
	if err != nil {
		return 0, err
	}
	// A scan of the table, which the server prefers for a list of numbers, would wait for rows of
	// prepared branches. This order leaves it nothing but to look them up, one by one.
	_, err = tx.ExecContext(ctx, "DELETE b FROM (SELECT "+
		strings.Join(numbers, " AS number UNION ALL SELECT ")+" AS number) AS found STRAIGHT_JOIN "+
		"gavel.branch AS b FORCE INDEX (PRIMARY) ON b.number = found.number")
	return len(numbers), err
}

// committedBelow are the numbers of rows, as text. The names of a log are in the order of their
// sequences.
func committedBelow(
	ctx context.Context, tx *sql.Tx, log txn.LogID, low txn.Seq, database string,
) ([]string, error) {
	bound := txn.Name{Log: log, Seq: low, Branch: 1}.String()[:gtridLen]
	rows, err := tx.QueryContext(ctx, fmt.Sprintf(`SELECT number FROM gavel.branch
		WHERE name > '%s' AND name < '%s' AND db = ? ORDER BY name LIMIT %d`,
		bound[:gtridLen-seqLen], bound, MaxPruned), database)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var numbers []string
	for rows.Next() {
		var number string
		if err := rows.Scan(&number); err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	return numbers, rows.Err()
}

// horizons are the sequences of each log below which rows of a place's database may have been
// removed. Where their table is missing, as in a set-up from before there was one, there are none:
// [Prune] removes nothing that it cannot note there.
func horizons(
	ctx context.Context, conn *sql.Conn, place Place,
) (map[txn.LogID]txn.Seq, error) {
	rows, err := conn.QueryContext(ctx, fmt.Sprintf("SELECT log, low FROM gavel.horizon "+
		"WHERE db = %d", place.Identity.Database))
	if Number(err) == numNoTable {
		return nil, nil
	}
	if err != nil {
		return nil, setupError(err)
	}
	defer rows.Close()
	low := map[txn.LogID]txn.Seq{}
	for rows.Next() {
		var log, seq uint64
		if err := rows.Scan(&log, &seq); err != nil {
			return nil, err
		}
		low[txn.LogID(log)] = txn.Seq(seq)
	}
	return low, rows.Err()
}
