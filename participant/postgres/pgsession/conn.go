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
	case c.pg.TxStatus() != 'T':
		return session.Result{}, &session.Error{Err: pgbranch.ErrNoTransaction,
			Reason: "has ended the transaction by itself, and only the coordinator ends it"}
	}
	read := tag.Select() || tag.String() == "SHOW"
	c.wrote = c.wrote || !read
	return session.Result{Rows: tag.RowsAffected(), Read: read}, nil
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

// Prepare implements session.Conn. A branch that has only read is not prepared; whether it has is
// asked before, since the answer decides what is sent.
func (c *conn) Prepare(ctx context.Context) participant.Vote {
	defer c.release()
	if !c.wrote {
		reader, err := pgbranch.Reader(ctx, c.pg)
		if err != nil {
			c.close(ctx)
			return participant.Vote{Vote: txn.VoteNo, SQLState: pgbranch.SQLState(err),
				Reason: "the session was lost before it prepared, so the server rolls it back"}
		}
		if reader {
			return c.voted(ctx, pgbranch.CommitReader(ctx, c.pg))
		}
	}
	return c.voted(ctx, pgbranch.Prepare(ctx, c.pg, c.name, c.prepare))
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

// Rollback implements session.Conn. A connection that cannot be used for a ROLLBACK is closed, and
// its server does the same on its own.
func (c *conn) Rollback(ctx context.Context) {
	defer c.release()
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
