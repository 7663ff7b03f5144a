package pgbranch

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// result is what one statement answered. The texts are ours: they do not alias the connection's
// buffer.
type result struct {
	tag string
	// rows hold NULL as "": no statement of this package tells the two apart.
	rows [][]string
	// warning is the last notice of severity WARNING that came before the statement was complete.
	warning string
}

// reply is what one message answered: its statements up to the first that failed, and that
// error.
type reply struct {
	results []result
	err     *pgconn.PgError
	// open is the statement that had begun to answer when the reply ended, if any.
	open result
}

// cells are the values of the only row of a reply with one statement.
func (r reply) cells(columns int) ([]string, error) {
	if r.err != nil {
		return nil, r.err
	}
	if len(r.results) != 1 || len(r.results[0].rows) != 1 ||
		len(r.results[0].rows[0]) != columns {
		return nil, fmt.Errorf("%w: not one row of %d columns", ErrProtocol, columns)
	}
	return r.results[0].rows[0], nil
}

// exchange sends Query messages in one packet and reads all their answers: one round trip, each
// message with its own transaction and its own error, as if a Sync stood behind it. The replies
// that arrived are returned also with an error, which is always a [TransportError].
//
// pgconn's own readers are not used, for two reasons. They hand notices to a handler that was
// chosen when the connection was made, by the application; and at the end of a context they send a
// cancel request, which makes a PREPARE or COMMIT PREPARED that waits for its synchronous standby
// report success.
func exchange(ctx context.Context, conn *pgconn.PgConn, queries ...string) ([]reply, error) {
	messages := make([]message, len(queries))
	for i, q := range queries {
		messages[i] = func(f *pgproto3.Frontend) { f.SendQuery(&pgproto3.Query{String: q}) }
	}
	return send(ctx, conn, messages...)
}

// message writes what is answered by one reply: a Query, or statements with a Sync behind them.
type message func(*pgproto3.Frontend)

// statement is one of several that are sent with one Sync: the text of an utility command, or the
// name of a prepared statement and its parameters, those of this package as text.
type statement struct {
	sql, prepared string
	// fresh has it prepared, under its name, in the same message.
	fresh      bool
	parameters []string
	// encoded and formats are what else there is to bind, where the caller has encoded it.
	encoded [][]byte
	formats []int16
}

// together makes one message of statements, each of them bound and executed. They share the fate of
// one Query with all of them: the first that fails ends it.
func together(statements ...statement) message {
	return func(f *pgproto3.Frontend) {
		for _, s := range statements {
			if s.fresh {
				// The name may be taken by an attempt of which nobody knows how far it came. To
				// close one that does not exist is no error.
				f.SendClose(&pgproto3.Close{ObjectType: 'S', Name: s.prepared})
			}
			if s.fresh || s.prepared == "" {
				f.SendParse(&pgproto3.Parse{Name: s.prepared, Query: s.sql})
			}
			bind := pgproto3.Bind{PreparedStatement: s.prepared, Parameters: s.encoded,
				ParameterFormatCodes: s.formats}
			for _, p := range s.parameters {
				bind.Parameters = append(bind.Parameters, []byte(p))
			}
			f.SendBind(&bind)
			f.SendExecute(&pgproto3.Execute{})
		}
		f.SendSync(&pgproto3.Sync{})
	}
}

// send is exchange for any kind of message.
func send(ctx context.Context, conn *pgconn.PgConn, messages ...message) ([]reply, error) {
	switch {
	case conn.IsClosed():
		return nil, &TransportError{Err: errClosed}
	case conn.IsBusy():
		return nil, &TransportError{Err: ErrBusy}
	case ctx.Err() != nil:
		return nil, &TransportError{Err: context.Cause(ctx)}
	}
	guard := watch(ctx, conn)
	replies, err := roundTrip(conn, messages)
	guard.release()
	if err != nil {
		// Close without a context: one that has ended would make pgconn send the cancel request
		// after all.
		_ = conn.Close(context.Background())
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return replies, &TransportError{Sent: true, Err: err}
	}
	return replies, nil
}

func roundTrip(conn *pgconn.PgConn, messages []message) ([]reply, error) {
	for _, write := range messages {
		write(conn.Frontend())
	}
	if err := conn.Frontend().Flush(); err != nil {
		return nil, err
	}
	replies := make([]reply, 0, len(messages))
	for range messages {
		r, err := receive(conn)
		replies = append(replies, r)
		if err != nil {
			return replies, err
		}
	}
	return replies, nil
}

// receive reads one reply, up to its ReadyForQuery. A reply that breaks off is returned as far as
// it came, because a command tag that has arrived stays true.
func receive(conn *pgconn.PgConn) (reply, error) {
	var r reply
	for {
		msg, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return r, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			r.open.rows = append(r.open.rows, texts(m.Values))
		case *pgproto3.NoticeResponse:
			if m.SeverityUnlocalized == "WARNING" {
				r.open.warning = fmt.Sprintf("%s (SQLSTATE %s)", m.Message, m.Code)
			}
		case *pgproto3.CommandComplete:
			r.open.tag = string(m.CommandTag)
			r.results, r.open = append(r.results, r.open), result{}
		case *pgproto3.ErrorResponse:
			// FATAL means that the connection ends now; no ReadyForQuery will come.
			if r.err = pgconn.ErrorResponseToPgError(m); fatal(r.err) {
				return r, r.err
			}
		case *pgproto3.ReadyForQuery:
			return r, nil
		}
	}
}

func texts(values [][]byte) []string {
	row := make([]string, len(values))
	for i, v := range values {
		row[i] = string(v)
	}
	return row
}

// watcher ends a read when a context does, by a deadline in the past: unlike closing the socket
// under pgconn, that is an error which pgconn takes without sending a cancel request.
type watcher struct {
	conn *pgconn.PgConn
	stop func() bool
	done chan struct{}
}

func watch(ctx context.Context, conn *pgconn.PgConn) *watcher {
	w := &watcher{conn: conn, done: make(chan struct{})}
	w.stop = context.AfterFunc(ctx, func() {
		defer close(w.done)
		// It fails only on a closed socket, and then the read ends too.
		_ = conn.Conn().SetDeadline(time.Unix(1, 0))
	})
	return w
}

// release waits for a deadline that is just being set, and takes it off again: a context may end in
// the moment in which the last byte arrives, and the connection is good then.
func (w *watcher) release() {
	if w.stop() {
		return
	}
	<-w.done
	_ = w.conn.Conn().SetDeadline(time.Time{})
}
