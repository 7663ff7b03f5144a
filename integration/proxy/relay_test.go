package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/integration/proxy"
)

// target is a server that answers each line with the same line and its own name before it.
type target struct {
	net.Listener
	name string
	join sync.WaitGroup
	// heard has every line that arrived.
	heard chan string
}

func newTarget(t *testing.T, name string) *target {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &target{Listener: l, name: name, heard: make(chan string, 100)}
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

func (s *target) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		s.heard <- lines.Text()
		fmt.Fprintf(conn, "%s %s\n", s.name, lines.Text())
	}
}

// caller is a client of a relay.
type caller struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func call(t *testing.T, r *proxy.Relay) caller {
	t.Helper()
	conn, err := net.Dial("tcp4", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return caller{conn, t, bufio.NewReader(conn)}
}

func (c caller) say(text string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c caller) hear(want string) {
	c.t.Helper()
	if got, err := c.in.ReadString('\n'); got != want+"\n" {
		c.t.Fatalf("heard %q (%v), want %q", got, err, want)
	}
}

// silent says that nothing has arrived, for as long as somebody is ready to listen to nothing.
func (c caller) silent() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	if got, err := c.in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("heard %q, %v", got, err)
	}
}

// over says that the connection has ended.
func (c caller) over() {
	c.t.Helper()
	if got, err := c.in.ReadString('\n'); err == nil {
		c.t.Fatalf("heard %q", got)
	}
}

func relay(t *testing.T, to string) *proxy.Relay {
	t.Helper()
	r, err := proxy.Listen(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestRelayCarries(t *testing.T) {
	s := newTarget(t, "a")
	r := relay(t, s.Addr().String())
	one, two := call(t, r), call(t, r)
	one.say("x")
	two.say("y")
	one.hear("a x")
	two.hear("a y")
	// The end of one direction is handed on, and the other goes on until it ends too.
	one.say("last")
	one.Conn.(*net.TCPConn).CloseWrite()
	one.hear("a last")
	if _, err := one.in.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestRelayIsSilentInOneDirection(t *testing.T) {
	s := newTarget(t, "a")
	r := relay(t, s.Addr().String())
	c := call(t, r)
	r.Silence(proxy.ToTarget)
	c.say("x")
	c.silent()
	if len(s.heard) != 0 {
		t.Error("the target heard a request that was cut off")
	}
	r.Resume(proxy.ToTarget)
	c.hear("a x")
	<-s.heard

	r.Silence(proxy.ToClient)
	r.Silence(proxy.ToClient)
	c.say("y")
	if got := <-s.heard; got != "y" {
		t.Errorf("the target heard %q", got)
	}
	c.silent()
	later := call(t, r)
	later.say("z")
	<-s.heard
	later.silent()
	r.Resume(proxy.ToClient)
	c.hear("a y")
	later.hear("a z")
}

func TestRelayLeadsElsewhere(t *testing.T) {
	a, b := newTarget(t, "a"), newTarget(t, "b")
	r := relay(t, a.Addr().String())
	c := call(t, r)
	c.say("x")
	c.hear("a x")
	r.SetTarget(b.Addr().String())
	c.over()
	c = call(t, r)
	c.say("x")
	c.hear("b x")
	r.Cut()
	c.over()
	// Nobody listens there any more.
	b.Close()
	call(t, r).over()
}

// Close ends what is carried and what is held, and joins everybody: goleak looks.
func TestRelayCloses(t *testing.T) {
	r := relay(t, newTarget(t, "a").Addr().String())
	c := call(t, r)
	r.Silence(proxy.ToTarget)
	c.say("x")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	c.over()
	if _, err := net.Dial("tcp4", r.Addr()); err == nil {
		t.Error("a closed relay listens")
	}
}
