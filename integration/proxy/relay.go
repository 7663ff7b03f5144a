package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Direction is a way through a relay.
type Direction uint8

const (
	// ToTarget is the way of requests.
	ToTarget Direction = iota
	// ToClient is the way of replies.
	ToClient
)

// Relay carries TCP connections from an address of its own to a target. Its methods may be called
// concurrently.
type Relay struct {
	listener net.Listener
	carry    func(*link)
	gates    [2]gate
	// quit ends when the relay is closed; whoever waits for something waits for this too.
	quit context.Context
	stop context.CancelFunc
	join sync.WaitGroup

	mu struct {
		sync.Mutex
		target string
		links  map[*link]struct{}
	}
}

// link is one connection of a client with its connection to the target.
type link struct {
	client, server *net.TCPConn
}

// cut ends both connections at once, by a reset: what is still buffered reaches nobody.
func (l *link) cut() {
	for _, c := range []*net.TCPConn{l.client, l.server} {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// Listen makes a relay to a target, on a free port of 127.0.0.1.
func Listen(target string) (*Relay, error) {
	r, err := listen(target)
	if err != nil {
		return nil, err
	}
	r.start(r.copyBoth)
	return r, nil
}

func listen(target string) (*Relay, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: listen: %w", err)
	}
	r := &Relay{listener: listener}
	r.quit, r.stop = context.WithCancel(context.Background())
	r.mu.target, r.mu.links = target, map[*link]struct{}{}
	return r, nil
}

func (r *Relay) start(carry func(*link)) {
	r.carry = carry
	r.join.Go(r.accept)
}

// Addr is where clients connect, as host:port.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// SetTarget leads later connections elsewhere, and cuts those that exist, as the change of an
// address does after a failover.
func (r *Relay) SetTarget(target string) {
	r.mu.Lock()
	r.mu.target = target
	r.mu.Unlock()
	r.Cut()
}

// Cut ends every connection by a reset. Later ones are taken.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.mu.links {
		l.cut()
	}
}

// Silence stops one direction: what is sent that way, also over later connections, waits until
// Resume. Nobody is told, as in a network that drops packets.
func (r *Relay) Silence(d Direction) { r.gates[d].shut() }

// Resume lets a direction go on.
func (r *Relay) Resume(d Direction) { r.gates[d].open() }

// Close ends the listener and all connections.
func (r *Relay) Close() error {
	err := r.listener.Close()
	r.stop()
	r.Cut()
	r.join.Wait()
	return err
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.join.Go(func() { r.connect(client.(*net.TCPConn)) })
	}
}

// connect dials the target. A target that does not answer ends the client's connection, as if the
// client had dialled it.
func (r *Relay) connect(client *net.TCPConn) {
	r.mu.Lock()
	target := r.mu.target
	r.mu.Unlock()
	var d net.Dialer
	server, err := d.DialContext(r.quit, "tcp4", target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server.(*net.TCPConn)}
	if r.admit(l, target) {
		r.carry(l)
	}
	l.cut()
	r.mu.Lock()
	delete(r.mu.links, l)
	r.mu.Unlock()
}

// admit makes a link known, so that it can be cut. One that was dialled before the target changed
// is not wanted any more; one that comes after Close would never be cut.
func (r *Relay) admit(l *link, target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.quit.Err() != nil || r.mu.target != target {
		return false
	}
	r.mu.links[l] = struct{}{}
	return true
}

// both runs the two directions of a link to their ends.
func both(l *link, requests, replies func() error) {
	var join sync.WaitGroup
	run := func(pump func() error, to *net.TCPConn) {
		if pump() != nil {
			// What was under way in the other direction is lost as well.
			l.cut()
			return
		}
		_ = to.CloseWrite()
	}
	join.Go(func() { run(requests, l.server) })
	join.Go(func() { run(replies, l.client) })
	join.Wait()
}

func (r *Relay) copyBoth(l *link) {
	both(l,
		func() error { return r.copy(l.client, l.server, ToTarget) },
		func() error { return r.copy(l.server, l.client, ToClient) })
}

// chunk is what a relay takes at once, in bytes.
const chunk = 32 << 10

func (r *Relay) copy(from, to net.Conn, d Direction) error {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := r.gates[d].pass(r.quit); err != nil {
				return err
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// gate lets by, or makes wait. The zero gate is open.
type gate struct {
	mu   sync.Mutex
	wait chan struct{}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wait == nil {
		g.wait = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wait != nil {
		close(g.wait)
		g.wait = nil
	}
}

// pass returns once the gate is open, or an error when ctx ends.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		wait := g.wait
		g.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
