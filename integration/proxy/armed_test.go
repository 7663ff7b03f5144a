package proxy_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/gavel-tx/gavel/integration/proxy"
)

// Of two faults that want the same message the older strikes, and the other waits for the next.
func TestOlderFaultsStrikeFirst(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	first := p.Arm(proxy.Fault{Statement: proxy.CommitPrepared, Act: proxy.LoseRequest})
	second := p.Arm(proxy.Fault{Statement: proxy.CommitPrepared, Act: proxy.LoseReply})
	if _, err := exec(connect(t, p), commit); err == nil {
		t.Error("the first request arrived")
	}
	<-first.Caught()
	if len(s.ran) != 0 {
		t.Error("the first request was run")
	}
	select {
	case <-second.Caught():
		t.Error("both struck at once")
	default:
	}
	if _, err := exec(connect(t, p), commit); err == nil {
		t.Error("the second reply arrived")
	}
	<-second.Caught()
	s.next(t, commit)
}

// A fault at one connection leaves the others alone.
func TestOthersGoOn(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	held, free := connect(t, p), connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.Prepare, Act: proxy.HoldRequest})
	done := make(chan error, 1)
	go func() {
		_, err := exec(held, prepare)
		done <- err
	}()
	<-trap.Caught()
	for range 3 {
		if _, err := exec(free, prepare); err != nil {
			t.Fatal(err)
		}
		s.next(t, prepare)
	}
	trap.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A test that arms without end has lost its way.
func TestFaultsAreLimited(t *testing.T) {
	p := postgres(t, newServer(t))
	defer func() {
		if recover() == nil {
			t.Error("faults without a limit")
		}
	}()
	for range 100 {
		p.Arm(proxy.Fault{})
	}
}

// send sends messages of the extended protocol and reads until the server is ready.
func send(t *testing.T, conn *pgx.Conn, all ...pgproto3.FrontendMessage) error {
	t.Helper()
	front := conn.PgConn().Frontend()
	for _, m := range append(all, &pgproto3.Sync{}) {
		front.Send(m)
	}
	if err := front.Flush(); err != nil {
		return err
	}
	for {
		m, err := conn.PgConn().ReceiveMessage(t.Context())
		if err != nil {
			return err
		}
		if _, ready := m.(*pgproto3.ReadyForQuery); ready {
			return nil
		}
	}
}

// A statement is known by its name from the moment it is parsed until it is closed, over as many
// messages as the client likes; so is a portal.
func TestNamesAreFollowed(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	trap := p.Arm(proxy.Fault{Statement: proxy.CommitPrepared, Act: proxy.LoseRequest})
	for _, step := range [][]pgproto3.FrontendMessage{
		{&pgproto3.Parse{Name: "c", Query: commit}},
		{&pgproto3.Parse{Name: "p", Query: prepare}},
		{&pgproto3.Bind{DestinationPortal: "x", PreparedStatement: "c"}},
		{&pgproto3.Close{ObjectType: 'P', Name: "x"}},
		// Nothing is bound to it any more: what the server makes of that is its own affair.
		{&pgproto3.Execute{Portal: "x"}},
		{&pgproto3.Bind{DestinationPortal: "y", PreparedStatement: "p"},
			&pgproto3.Execute{Portal: "y"}},
		{&pgproto3.Bind{DestinationPortal: "z", PreparedStatement: "c"}},
		{&pgproto3.Close{ObjectType: 'S', Name: "p"}},
	} {
		if err := send(t, conn, step...); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
	}
	if err := send(t, conn, &pgproto3.Execute{Portal: "z"}); err == nil {
		t.Error("a statement that was bound before passed")
	}
	<-trap.Caught()
}

// Silence holds messages of PostgreSQL's as it holds bytes.
func TestSilenceHoldsStatements(t *testing.T) {
	s := newServer(t)
	p := postgres(t, s)
	conn := connect(t, p)
	p.Silence(proxy.ToTarget)
	done := make(chan error, 1)
	go func() {
		_, err := exec(conn, prepare)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("an answer over a cut line: %v", err)
	default:
	}
	if len(s.ran) != 0 {
		t.Error("a request passed a cut line")
	}
	p.Resume(proxy.ToTarget)
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.next(t, prepare)
}
