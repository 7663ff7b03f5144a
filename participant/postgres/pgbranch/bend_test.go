package pgbranch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// bend is a connection to a real server that changes single messages on their way to the client. It
// returns the message to deliver instead, or io.EOF to cut the line in its place.
type bend func(kind byte, body []byte) ([]byte, error)

type bentConn struct {
	net.Conn
	bend    bend
	pending bytes.Buffer
	err     error
}

func (c *bentConn) Read(p []byte) (int, error) {
	if c.pending.Len() == 0 && c.err == nil {
		c.err = c.next()
	}
	if c.pending.Len() > 0 {
		return c.pending.Read(p)
	}
	return 0, c.err
}

// next reads one message: a kind, a length that counts itself, a body.
func (c *bentConn) next() error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	if _, err := io.ReadFull(c.Conn, body); err != nil {
		return err
	}
	body, err := c.bend(head[0], body)
	if err != nil {
		return err
	}
	c.pending.WriteByte(head[0])
	c.pending.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)))
	c.pending.Write(body)
	return nil
}

const (
	commandComplete = 'C'
	readyForQuery   = 'Z'
)

func openBent(t *testing.T, b bend) *session {
	t.Helper()
	return openWith(t, srv, func(config *pgconn.Config) {
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &bentConn{Conn: conn, bend: b}, err
		}
	})
}

// PostgreSQL 15: PREPARE TRANSACTION of a failed transaction is answered with success and the tag
// ROLLBACK. The tag alone must decide.
func TestTagRollbackIsNo(t *testing.T) {
	s := openBent(t, func(kind byte, body []byte) ([]byte, error) {
		if kind == commandComplete && string(body) == "PREPARE TRANSACTION\x00" {
			return []byte("ROLLBACK\x00"), nil
		}
		return body, nil
	})
	s.write()
	name := newName()
	rollbackLater(t, name)
	if v := s.prepare(name); v.Vote != txn.VoteNo || v.Err != nil {
		t.Errorf("vote %v, %v", v.Vote, v.Err)
	}
}

// A line that is cut at any message of the reply leaves the vote unknown: even behind the tag,
// because without the evidence nobody knows which server has prepared.
func TestALineCutDuringPrepareIsUnknown(t *testing.T) {
	const messages = 9
	for at := range messages + 1 {
		armed, seen := false, 0
		s := openBent(t, func(_ byte, body []byte) ([]byte, error) {
			if armed {
				if seen++; seen > at {
					return nil, io.EOF
				}
			}
			return body, nil
		})
		s.write()
		armed = true
		name := newName()
		rollbackLater(t, name)
		v := s.prepare(name)
		if at == messages {
			if v.Vote != txn.VoteYes {
				t.Errorf("not cut at all: vote %v, %v", v.Vote, v.Err)
			}
			continue
		}
		if v.Vote != txn.VoteUnknown || pgbranch.Classify(v.Err) != pgbranch.ClassUnknown ||
			!s.IsClosed() {
			t.Errorf("cut at message %d: vote %v, %v, closed %v", at, v.Vote, v.Err, s.IsClosed())
		}
	}
}

// The same for COMMIT PREPARED: a tag that arrived before the cut stays true, the rest is unknown.
func TestALineCutDuringFinish(t *testing.T) {
	for kind, second := range map[byte]pgbranch.FinishResult{
		commandComplete: pgbranch.FinishUnknown,
		readyForQuery:   pgbranch.FinishDone,
	} {
		preparer := open(t, srv, "postgres")
		a, _ := preparer.mustPrepare()
		b, _ := preparer.mustPrepare()
		armed, seen := false, 0
		s := openBent(t, func(k byte, body []byte) ([]byte, error) {
			if armed && k == kind {
				if seen++; seen == 3 { // settings, a, b
					return nil, io.EOF
				}
			}
			return body, nil
		})
		armed = true
		got := pgbranch.Finish(t.Context(), s.PgConn, "", true, []txn.Name{a, b})
		if got[0].Result != pgbranch.FinishDone || got[1].Result != second {
			t.Errorf("cut at the third %c: %v (%v), %v (%v)", kind,
				got[0].Result, got[0].Err, got[1].Result, got[1].Err)
		}
		if second == pgbranch.FinishUnknown &&
			pgbranch.Classify(got[1].Err) != pgbranch.ClassUnknown {
			t.Errorf("class %v of %v", pgbranch.Classify(got[1].Err), got[1].Err)
		}
		if preparer.listed(a) {
			t.Error("a branch that was reported done is still prepared")
		}
	}
}
