package pgbranch

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
)

// Mark identifies a transaction that will be committed in one phase, so that a lost reply to its
// COMMIT can be asked for. Unlike an acknowledged PREPARE, an unanswered COMMIT may have left no
// trace on disk, and then a crash of the server gives its number to another transaction. So a mark
// holds only within one life of the server's shared memory.
type Mark struct {
	Identity txn.Identity
	XID      uint64
	// Life tells one life of the server's memory from the next.
	Life string
}

// MarkTransaction reads the mark of the open transaction. It must return before COMMIT is sent, and
// is worth a round trip only if the transaction has written. Ready is that of [PrepareOptions].
func MarkTransaction(ctx context.Context, conn *pgconn.PgConn, ready bool) (Mark, error) {
	mark := statement{sql: markSQL, prepared: markName, parameters: known(conn).parameters("")}
	replies, err := send(ctx, conn, all(ready, mark))
	if err != nil {
		return Mark{}, err
	}
	row, err := replies[0].cells(2)
	if err != nil {
		return Mark{}, fmt.Errorf("pgbranch: mark the transaction: %w", err)
	}
	return readMark(conn, row[0], row[1])
}

// ReadMark is [MarkTransaction] for the first row of [BeginSteps], whose values are of PostgreSQL's
// type text. It is the zero Mark at a standby.
func ReadMark(conn *pgconn.PgConn, row [][]byte) (Mark, error) {
	if len(row) < 2 {
		return Mark{}, fmt.Errorf("%w: a mark of %d columns", ErrProtocol, len(row))
	}
	if row[0] == nil {
		return Mark{}, nil
	}
	return readMark(conn, string(row[0]), string(row[1]))
}

func readMark(conn *pgconn.PgConn, xid, who string) (m Mark, err error) {
	if m.XID, err = strconv.ParseUint(xid, 10, 64); err != nil {
		return Mark{}, fmt.Errorf("%w: transaction number %q", ErrProtocol, xid)
	}
	b, err := learn(conn, who)
	m.Identity, m.Life = b.identity, b.life
	return m, err
}

// OneFinished tells, on another connection, how a marked transaction ended whose COMMIT was not
// answered. Committed and RolledBack are proofs. Unknown with the text "still running" is worth
// asking again; any other Unknown is final: the server has restarted, or is another one.
func OneFinished(ctx context.Context, conn *pgconn.PgConn, m Mark) (Answer, error) {
	// The number is asked for before the life: were the server to restart between the two, the
	// connection would be lost, so that both are of one life anyway.
	replies, err := exchange(ctx, conn, statusSQL(m.XID),
		`SELECT `+identityColumns+`, `+lifeColumn+` FROM `+identityTables)
	if err != nil {
		return Answer{}, err
	}
	now, err := replies[1].cells(3)
	if err != nil {
		return Answer{}, fmt.Errorf("pgbranch: ask how a transaction ended: %w", err)
	}
	identity, err := parseIdentity(now[0], now[1])
	if err != nil {
		return Answer{}, err
	}
	if identity != m.Identity || now[2] != m.Life {
		return Answer{Reason: "the server has restarted since, or is another one"}, nil
	}
	return oneStatus(replies[0])
}

func oneStatus(r reply) (Answer, error) {
	row, err := r.cells(1)
	if err != nil {
		return Answer{}, fmt.Errorf("pgbranch: ask how a transaction ended: %w", err)
	}
	switch row[0] {
	case "committed":
		return Answer{Standing: txn.StandingCommitted}, nil
	case "aborted":
		return Answer{Standing: txn.StandingRolledBack}, nil
	case "in progress":
		return Answer{Reason: "still running"}, nil
	}
	return Answer{Reason: "PostgreSQL no longer knows"}, nil
}
