package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("postgres: the resource is closed")

// session is one connection whose server was admitted. It belongs to one goroutine at a time.
type session struct {
	*pgconn.PgConn
	// crew is the right in whose name this connection may finish branches; see right.join.
	crew       *right
	generation int
	// marked says that markers were found to be set up in its database.
	marked bool
}

// pool is a bounded set of sessions. It is small and our own because what matters here is which
// server a connection leads to and in whose name it acts, and a general pool hides both.
type pool struct {
	connect func(ctx context.Context, application string) (*pgconn.PgConn, error)
	slots   chan struct{}

	mu         sync.Mutex
	idle       []*session
	dying      []<-chan struct{}
	generation int
	closed     bool
}

func newPool(size int, connect func(context.Context, string) (*pgconn.PgConn, error)) *pool {
	return &pool{connect: connect, slots: make(chan struct{}, size)}
}

// acquire waits for a free slot, and takes an idle session or connects a new one.
func (p *pool) acquire(ctx context.Context) (*session, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("postgres: wait for a connection: %w", context.Cause(ctx))
	}
	s, generation, err := p.takeIdle()
	if s != nil || err != nil {
		if err != nil {
			<-p.slots
		}
		return s, err
	}
	conn, err := p.connect(ctx, "gavel")
	if err != nil {
		<-p.slots
		return nil, err
	}
	return &session{PgConn: conn, generation: generation}, nil
}

// takeIdle takes the session that was used last: the others may then rest until they are needed.
func (p *pool) takeIdle() (*session, int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, 0, ErrClosed
	}
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return s, p.generation, nil
	}
	return nil, p.generation, nil
}

// release takes a session back. One that was lost takes all idle ones with it: what ended it, a
// restart or a failover, has most likely ended them too, and the next caller should not find out
// one by one.
func (p *pool) release(s *session) {
	defer func() { <-p.slots }()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.IsClosed():
		p.bury(s.PgConn)
		p.dropIdle()
	case s.generation != p.generation || p.closed || s.TxStatus() != 'I':
		p.bury(s.PgConn)
	default:
		p.idle = append(p.idle, s)
	}
}

// retire closes all sessions: the idle ones now, those in use when they come back.
func (p *pool) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	p.dropIdle()
}

func (p *pool) dropIdle() {
	for _, s := range p.idle {
		p.bury(s.PgConn)
	}
	p.idle = nil
}

// bury closes a connection and remembers those that pgconn is still closing in the background, so
// that close can wait for them. The caller holds mu.
func (p *pool) bury(conn *pgconn.PgConn) {
	closeConn(conn)
	p.dying = append(p.dying, conn.CleanupDone())
	alive := p.dying[:0]
	for _, done := range p.dying {
		select {
		case <-done:
		default:
			alive = append(alive, done)
		}
	}
	p.dying = alive
}

// closeConn says goodbye to the server, which makes it end the session and free its locks. It does
// not wait for a network that is gone.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), defaultConnectTimeout)
	defer cancel()
	// A connection that cannot say goodbye is closed all the same.
	_ = conn.Close(ctx)
}

// discard closes a connection that never became a session.
func (p *pool) discard(conn *pgconn.PgConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bury(conn)
}

// close ends all sessions. It waits for those in use and for what pgconn does in the background.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.dropIdle()
	p.mu.Unlock()
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	p.mu.Lock()
	dying := p.dying
	p.mu.Unlock()
	for _, done := range dying {
		<-done
	}
	for range cap(p.slots) {
		<-p.slots
	}
}

// connector makes connections that lead to the right server.
type connector struct {
	config *pgconn.Config
	c      Config
	past   *past
}

func newConnector(c Config, p *past) (*connector, error) {
	config, err := pgconn.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("postgres: DSN of %s: %w", c.Name, err)
	}
	for setting, value := range map[string]string{
		// What roles and databases set for applications must not end or hide the work of this
		// adapter, nor put other functions in front of PostgreSQL's own.
		"client_min_messages":                 "warning",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"search_path":                         "pg_catalog",
		"idle_in_transaction_session_timeout": "0",
		"idle_session_timeout":                "0",
	} {
		config.RuntimeParams[setting] = value
	}
	return &connector{config: config, c: c, past: p}, nil
}

// dial connects without asking where to.
func (k *connector) dial(ctx context.Context, application string) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, k.c.ConnectTimeout)
	defer cancel()
	config := k.config.Copy()
	config.RuntimeParams["application_name"] = application
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("postgres: connect to %s: %w", k.c.Name, err)
	}
	return conn, nil
}

// connect dials, asks the server who it is, and holds it to the past.
func (k *connector) connect(ctx context.Context, application string) (*pgconn.PgConn, error) {
	conn, err := k.dial(ctx, application)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, k.c.ConnectTimeout)
	defer cancel()
	_, before := k.past.known()
	place, err := pgbranch.Look(ctx, conn)
	if err == nil {
		err = k.past.admit(place, before)
	}
	if err != nil {
		closeConn(conn)
		<-conn.CleanupDone()
		return nil, err
	}
	return conn, nil
}
