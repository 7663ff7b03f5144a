package pgsession

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// conn is one session with a branch open in it.
type conn struct {
	pg      *pgconn.PgConn
	name    txn.Name
	prepare pgbranch.PrepareOptions
	// wrote: something other than SELECT and SHOW was seen.
	wrote bool
	// release gives the connection back.
	release func()
}

var _ session.Conn = (*conn)(nil)

// ErrEnded is behind the error of a statement that has ended the branch's transaction, although its
// first words did not say so: what the branch did before stays or is gone, as that SQL decided. The
// session is closed, and the branch votes No.
var ErrEnded = errors.New("pgsession: SQL has ended the transaction from within")

// Identity implements session.Conn.
func (c *conn) Identity() txn.Identity { return c.prepare.Expect }

// Run implements session.Conn.
func (c *conn) Run(
	ctx context.Context, s session.Statement, sink session.Sink,
) (session.Result, error) {
	if err := refused(s.SQL); err != nil {
		return session.Result{}, err
	}
	values, formats, err := encode(s.Args)
	if err != nil {
		return session.Result{}, err
	}
	rows := c.pg.ExecParams(ctx, s.SQL, values, nil, formats, nil)
	sunk := deliver(rows, sink)
	if sunk != nil {
		// What is left of the rows is not read: the session has come to its end anyway.
		_ = c.pg.Conn().Close()
	}
	tag, err := rows.Close()
	switch {
	case sunk != nil:
		return session.Result{}, sunk
	case ctx.Err() != nil && err != nil:
		return session.Result{}, &session.Error{Err: err,
			Reason: fmt.Sprintf("was cancelled: %v", context.Cause(ctx))}
	case err != nil:
		reason, state := reasonOf(err)
		return session.Result{}, session.Failed(err, reason, state)
	case c.pg.TxStatus() != 'T' || controls(s.SQL, tag):
		c.close(ctx)
		return session.Result{}, &session.Error{Err: ErrEnded, Reason: fmt.Sprintf("controlled "+
			"the transaction by itself (%s), which is for the coordinator to do: what the branch "+
			"did before stays or is gone, as that statement decided; look at the data, and leave "+
			"it out", tag)}
	}
	read := tag.Select() || tag.String() == "SHOW"
	c.wrote = c.wrote || !read
	return session.Result{Rows: tag.RowsAffected(), Read: read}, nil
}

// controls says whether a statement, by its command tag, began or ended a transaction. With AND
// CHAIN another one is open then, so that the session's state does not show it. ROLLBACK is also
// the tag of ROLLBACK TO, which is the only one that is sent.
func controls(sql string, tag pgconn.CommandTag) bool {
	switch tag.String() {
	case "BEGIN", "START TRANSACTION", "COMMIT", "PREPARE TRANSACTION":
		return true
	case "ROLLBACK":
		first, _ := pgbranch.FirstWord(sql)
		return first != "ROLLBACK" || pgbranch.Controls(sql) != ""
	}
	return false
}

// refused is about a statement that is not sent.
func refused(sql string) error {
	word := pgbranch.Controls(sql)
	if first, _ := pgbranch.FirstWord(sql); first == "COPY" {
		word = first
	}
	switch {
	case strings.ContainsRune(sql, 0):
		return &session.Error{Reason: "was not run: it holds a NUL"}
	case word == "COPY":
		return &session.Error{Reason: "was not run: COPY needs a connection of one's own"}
	case word != "":
		return &session.Error{Reason: fmt.Sprintf("was not run: %s is for the coordinator to "+
			"decide; leave out what begins or ends a transaction", word)}
	}
	return nil
}

// deliver hands the rows to the sink, in batches, each of them before more is read.
func deliver(rows *pgconn.ResultReader, sink session.Sink) error {
	if sink == nil {
		sink = func([]string, [][]any) error { return nil }
	}
	var batch [][]any
	var columns []string
	size, told := 0, false
	flush := func() error {
		if told && len(batch) == 0 {
			return nil
		}
		var first []string
		if !told {
			first, told = columns, true
		}
		out := batch
		batch, size = nil, 0
		return sink(first, out)
	}
	for rows.NextRow() {
		if columns == nil {
			columns = names(rows.FieldDescriptions())
		}
		row, n, err := decode(rows.FieldDescriptions(), rows.Values())
		if err != nil {
			return err
		}
		batch, size = append(batch, row), size+n
		if len(batch) >= session.BatchRows || size >= session.BatchLen {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if columns == nil {
		columns = names(rows.FieldDescriptions())
	}
	if len(columns) == 0 && len(batch) == 0 {
		return nil
	}
	return flush()
}

func names(fields []pgconn.FieldDescription) []string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = f.Name
	}
	return all
}

// ownSQL has the client's deferred triggers run, and then no function, operator or table of its own
// in what follows. It is made of utility commands alone, which look nothing up. It is not LOCAL,
// since one query follows PREPARE; DISCARD ALL takes it back.
const ownSQL = "SET CONSTRAINTS ALL IMMEDIATE; SET search_path = pg_catalog, pg_temp; " +
	"SHOW transaction_isolation"

// Prepare implements session.Conn. A branch that has only read is not prepared; whether it has is
// asked before, since the answer decides what is sent.
//
// Such a reader is rolled back: a COMMIT would deliver what it notified, before the decision. A
// serializable one must have it checked that what it read holds together, and PREPARE does so.
func (c *conn) Prepare(ctx context.Context) participant.Vote {
	defer c.release()
	results, err := c.pg.Exec(ctx, ownSQL).ReadAll()
	if err != nil {
		return c.unprepared(ctx, err)
	}
	serializable := string(results[len(results)-1].Rows[0][0]) == "serializable"
	if !c.wrote && !serializable {
		reader, err := pgbranch.Reader(ctx, c.pg)
		if err != nil {
			return c.unprepared(ctx, err)
		}
		if reader {
			c.rollBack(ctx)
			return participant.Vote{Vote: txn.VoteReadOnly}
		}
	}
	return c.voted(ctx, pgbranch.Prepare(ctx, c.pg, c.name, c.prepare))
}

// unprepared is the vote where an error came before PREPARE was sent.
func (c *conn) unprepared(ctx context.Context, err error) participant.Vote {
	c.rollBack(ctx)
	v := participant.Vote{Vote: txn.VoteNo,
		Reason: "the session was lost before it prepared, so the server rolls it back"}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		v.Reason, v.SQLState = pg.Message, pg.Code
	}
	return v
}

// voted makes a vote of a verdict.
func (c *conn) voted(ctx context.Context, v pgbranch.Verdict) participant.Vote {
	unsent, ok := errors.AsType[*pgbranch.TransportError](v.Err)
	if v.Vote == txn.VoteUnknown && ok && !unsent.Sent {
		// Nothing was sent, so that nothing is prepared, and ends here without effect.
		c.close(ctx)
		v.Vote = txn.VoteNo
	}
	return participant.Vote{Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason,
		SQLState: v.SQLState}
}

// Rollback implements session.Conn.
func (c *conn) Rollback(ctx context.Context) {
	defer c.release()
	c.rollBack(ctx)
}

// rollBack ends the branch without effect. A connection that cannot be used for a ROLLBACK is
// closed, and its server does the same on its own.
func (c *conn) rollBack(ctx context.Context) {
	if c.pg.IsClosed() {
		c.close(ctx)
		return
	}
	if _, err := c.pg.Exec(ctx, "ROLLBACK").ReadAll(); err != nil || c.pg.TxStatus() != 'I' {
		c.close(ctx)
	}
}

// close ends the connection. It waits, for as long as ctx lasts, until the server has been told.
func (c *conn) close(ctx context.Context) {
	_ = c.pg.Close(ctx)
	select {
	case <-c.pg.CleanupDone():
	case <-ctx.Done():
	}
}
