package proxy_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/gavel-tx/gavel/integration/proxy"
)

// server speaks enough of PostgreSQL's protocol to be asked for tags. A text with "fail" in it
// fails.
type server struct {
	net.Listener
	join sync.WaitGroup
	// ran has every statement that arrived.
	ran chan string
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, ran: make(chan string, 100)}
	s.join.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.join.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.join.Wait()
	})
	return s
}

// serve answers one client until it goes.
func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	b.Send(ready)
	parsed := ""
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *pgproto3.Query:
			s.run(b, m.String)
			b.Send(ready)
		case *pgproto3.Parse:
			parsed = m.Query
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{})
			b.Send(&pgproto3.NoData{})
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			s.run(b, parsed)
		case *pgproto3.Close:
			b.Send(&pgproto3.CloseComplete{})
		case *pgproto3.Sync:
			b.Send(ready)
		case *pgproto3.Terminate:
			return
		}
	}
}

func (s *server) run(b *pgproto3.Backend, sql string) {
	for text := range strings.SplitSeq(sql, ";") {
		text = strings.TrimSpace(text)
		s.ran <- text
		if strings.Contains(text, "fail") {
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42704", Message: "no"})
			return
		}
		tag, _, _ := strings.Cut(text, " '")
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
	}
}

// next is the next statement that the server has run.
func (s *server) next(t *testing.T, want string) {
	t.Helper()
	if got := <-s.ran; got != want {
		t.Errorf("the server ran %q, want %q", got, want)
	}
}

func postgres(t *testing.T, s *server) *proxy.Postgres {
	t.Helper()
	p, err := proxy.ListenPostgres(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// connect connects with a request for encryption first, as most clients do.
func connect(t *testing.T, p *proxy.Postgres) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), "postgres://u@"+p.Addr()+"/d?sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close(context.Background())
		<-conn.PgConn().CleanupDone()
	})
	return conn
}

func exec(conn *pgx.Conn, sql string) (pgconn.CommandTag, error) {
	results, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return results[len(results)-1].CommandTag, nil
}

const (
	prepare  = "PREPARE TRANSACTION 'x'"
	commit   = "COMMIT PREPARED 'x'"
	rollback = "rollback prepared 'x'"
)

func TestStatementsPass(t *testing.T) {
	s := newServer(t)
	conn := connect(t, postgres(t, s))
	for _, sql := range []string{prepare, commit, rollback, "SELECT"} {
		if tag, err := exec(conn, sql); err != nil || tag.String() == "" {
			t.Errorf("%s: %q, %v", sql, tag, err)
		}
		s.next(t, sql)
	}
	if tag, err := conn.Exec(t.Context(), commit); err != nil || tag.String() != "COMMIT PREPARED" {
		t.Errorf("extended: %q, %v", tag, err)
	}
}

// A lost request never arrives; a lost reply is that of a statement which has been run. In both
// protocols, for each statement, and for no other one.
func TestMessagesAreLost(t *testing.T) {
	texts := map[proxy.Statement]string{proxy.Prepare: prepare, proxy.CommitPrepared: commit,
		proxy.RollbackPrepared: "ROLLBACK PREPARED 'x'"}
	for statement, sql := range texts {
		for _, act := range []proxy.Act{proxy.LoseRequest, proxy.LoseReply} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol,
				pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
				s := newServer(t)
				p := postgres(t, s)
				conn := connect(t, p)
				trap := p.Arm(proxy.Fault{Statement: statement, Act: act})
				for other := range texts {
					if other != statement {
						if _, err := conn.Exec(t.Context(), texts[other], mode); err != nil {
							t.Fatal(err)
						}
						s.next(t, texts[other])
					}
				}
				_, err := conn.Exec(t.Context(), sql, mode)
				<-trap.Caught()
				if err == nil || !conn.IsClosed() {
					t.Errorf("%s of %s: answered, %v", act, statement, err)
				}
				if ran := len(s.ran) == 1; ran != (act == proxy.LoseReply) {
					t.Errorf("%s of %s: it was run: %v", act, statement, ran)
				}
				if _, err := exec(connect(t, p), sql); err != nil {
					t.Errorf("the fault struck twice: %v", err)
				}
			}
		}
	}
}

func TestSkippedMessagesPass(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.CommitPrepared, Act: proxy.LoseReply, Skip: 2})
	for range 2 {
		if _, err := exec(conn, commit); err != nil {
			t.Fatal(err)
		}
	}
	// A statement that fails has no reply of the kind that is to be lost.
	if _, err := exec(conn, "COMMIT PREPARED 'fail'"); err == nil || conn.IsClosed() {
		t.Fatalf("the server's own error: %v", err)
	}
	if _, err := exec(conn, commit); err == nil {
		t.Error("the third reply arrived")
	}
	<-trap.Caught()
	p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.LoseRequest})
	p.Disarm()
	if _, err := exec(connect(t, p), prepare); err != nil {
		t.Errorf("a fault that was taken back: %v", err)
	}
}

// The name of a view is no statement, nor is the middle of a text hidden behind others.
func TestStatementsAreFoundInTexts(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.LoseRequest})
	if _, err := exec(conn, "SELECT prepare transaction FROM pg_prepared_xacts"); err != nil {
		t.Fatal(err)
	}
	if _, err := exec(conn, "SET x; "+prepare+"; SELECT"); err == nil {
		t.Error("a statement between others passed")
	}
	<-trap.Caught()
}

// A request that comes late comes although its client has given up.
func TestLateRequests(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.HoldRequest})
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: prepare})
	if err := conn.PgConn().Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	<-trap.Caught()
	conn.PgConn().Conn().Close()
	if len(s.ran) != 0 {
		t.Error("a held request was run")
	}
	trap.Release()
	trap.Release()
	s.next(t, prepare)
}

func TestLateReplies(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.HoldReply})
	done := make(chan error, 1)
	go func() {
		_, err := exec(conn, prepare)
		done <- err
	}()
	<-trap.Caught()
	s.next(t, prepare)
	select {
	case err := <-done:
		t.Fatalf("a held reply arrived: %v", err)
	default:
	}
	trap.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is held at the end goes nowhere.
func TestHeldMessagesEndWithTheProxy(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.HoldRequest})
	done := make(chan error, 1)
	go func() {
		_, err := exec(conn, prepare)
		done <- err
	}()
	<-trap.Caught()
	p.Close()
	if err := <-done; err == nil || len(s.ran) != 0 {
		t.Errorf("after the end: %v, %d statements", err, len(s.ran))
	}
}

// What is no conversation of PostgreSQL's ends the connection, and nothing else.
func TestNonsenseIsCut(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	for _, text := range []string{"\x00\x00\x00\x04\x00\x03\x00\x00",
		"\xff\xff\xff\xff\x00\x03\x00\x00"} {
		c := call(t, p.Relay)
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		c.over()
	}
	conn := connect(t, p)
	if _, err := conn.PgConn().Conn().Write([]byte("Q\x00\x00\x00\x01")); err != nil {
		t.Fatal(err)
	}
	if _, err := exec(conn, prepare); err == nil {
		t.Error("a message shorter than its own length is forwarded")
	}
	if _, err := exec(connect(t, p), prepare); err != nil {
		t.Error(err)
	}
}

func TestWords(t *testing.T) {
	f := proxy.Fault{Statement: proxy.RollbackPrepared, Act: proxy.HoldReply}
	if got := f.String(); got != "reply late of ROLLBACK PREPARED" {
		t.Errorf("a fault is called %q", got)
	}
	if got := proxy.Act(9).String() + proxy.Statement(9).String(); strings.Count(got, "(9)") != 2 {
		t.Errorf("what is none is called %q", got)
	}
}
