package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("mysql: the resource is closed")

// session is one connection whose server was admitted. It belongs to one goroutine at a time.
type session struct {
	*sql.Conn
	// id is the server's number of the connection.
	id uint64
	// crew is the right in whose name this connection may finish branches; see right.join.
	crew *right
	// place is the lock that it holds in its crew, as a literal.
	place      string
	generation int
	// database is the current one, by the server's own name for it, and number that of its
	// identity.
	database string
	number   uint32
	// broken says that the connection was lost, or left in a state that nobody knows.
	broken bool
}

// note remembers whether an error leaves the session unusable, and returns it.
func (s *session) note(err error) error {
	if xabranch.Broken(err) {
		s.broken = true
	}
	return err
}

// pool is a bounded set of sessions. It is our own because what matters here is which server a
// connection leads to and in whose name it acts, and the pool of database/sql hides both.
type pool struct {
	connect func(ctx context.Context) (*session, error)
	slots   chan struct{}

	mu         sync.Mutex
	idle       []*session
	generation int
	closed     bool
}

func newPool(size int, connect func(context.Context) (*session, error)) *pool {
	return &pool{connect: connect, slots: make(chan struct{}, size)}
}

// acquire waits for a free slot, and takes an idle session or connects a new one.
func (p *pool) acquire(ctx context.Context) (*session, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("mysql: wait for a connection: %w", context.Cause(ctx))
	}
	s, generation, err := p.takeIdle()
	if s == nil && err == nil {
		if s, err = p.connect(ctx); err == nil {
			s.generation = generation
		}
	}
	if err != nil {
		<-p.slots
		return nil, err
	}
	return s, nil
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
	case s.broken:
		xabranch.Discard(s.Conn)
		p.dropIdle()
	case s.generation != p.generation || p.closed:
		xabranch.Discard(s.Conn)
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
		xabranch.Discard(s.Conn)
	}
	p.idle = nil
}

// close ends all sessions. It waits for those in use.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.dropIdle()
	p.mu.Unlock()
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	for range cap(p.slots) {
		<-p.slots
	}
}

// connector makes connections that lead to the right server.
type connector struct {
	db   *sql.DB
	c    Config
	past *past
}

func newConnector(c Config, p *past) (*connector, error) {
	my, err := mysql.ParseDSN(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("mysql: the DSN of %s cannot be read", c.Name)
	}
	my.MultiStatements, my.Timeout = false, c.ConnectTimeout
	my.Logger = &mysql.NopLogger{} // each loss is an error to us, and reported as that
	k, err := mysql.NewConnector(my)
	if err != nil {
		return nil, fmt.Errorf("mysql: the DSN of %s cannot be used", c.Name)
	}
	return &connector{db: sql.OpenDB(k), c: c, past: p}, nil
}

// settings keep what servers and accounts set for applications from ending, hiding or holding up
// the work of this adapter. The lock timeouts, in seconds, bound the wait for somebody who copies
// the server or changes a table; what runs into one is asked again.
const settings = `SET SESSION autocommit = 1, sql_mode = '', innodb_lock_wait_timeout = 5,
	lock_wait_timeout = 5, wait_timeout = 28800, sql_select_limit = 18446744073709551615,
	sql_safe_updates = 0, completion_type = 0, transaction_isolation = 'READ-COMMITTED'`

// settingsMaria is settings for versions that know the isolation level by its older name alone.
const settingsMaria = `SET SESSION autocommit = 1, sql_mode = '', innodb_lock_wait_timeout = 5,
	lock_wait_timeout = 5, wait_timeout = 28800, sql_select_limit = 18446744073709551615,
	sql_safe_updates = 0, completion_type = 0, max_statement_time = 0,
	tx_isolation = 'READ-COMMITTED'`

// numUnknownVariable is the server's error for a setting that it does not have.
const numUnknownVariable = 1193

// numNoTable is the server's error for a table that is not there.
const numNoTable = 1146

// dial connects without asking where to.
func (k *connector) dial(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, k.c.ConnectTimeout)
	defer cancel()
	conn, err := k.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("mysql: connect to %s: %w", k.c.Name, err)
	}
	s := &session{Conn: conn}
	_, err = conn.ExecContext(ctx, settings)
	if xabranch.Number(err) == numUnknownVariable {
		_, err = conn.ExecContext(ctx, settingsMaria)
	}
	if err == nil {
		err = conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&s.id)
	}
	if err != nil {
		xabranch.Discard(conn)
		return nil, fmt.Errorf("mysql: connect to %s: %w", k.c.Name, err)
	}
	return s, nil
}

// connect dials, asks the server who it is, and holds it to the past.
func (k *connector) connect(ctx context.Context) (*session, error) {
	s, err := k.dial(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, k.c.ConnectTimeout)
	defer cancel()
	place, err := k.look(ctx, s)
	if err != nil {
		xabranch.Discard(s.Conn)
		return nil, err
	}
	s.database, s.number = place.Database, place.Identity.Database
	return s, nil
}

// look asks a session's server where it is, and holds it to the past.
func (k *connector) look(ctx context.Context, s *session) (xabranch.Place, error) {
	_, before := k.past.known()
	place, err := xabranch.Look(ctx, s.Conn)
	if err != nil {
		return place, fmt.Errorf("mysql: look at %s: %w", k.c.Name, s.note(err))
	}
	return place, k.past.admit(place, before)
}
