package mysql

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// maxRights bounds the logs that one adapter finishes branches for, each with a connection.
	maxRights = 16
	// endTimeout bounds the wait for the holder of the right to end, and for its crew.
	endTimeout = 5 * time.Second
	// crewPlaces are the places of a crew. No process has more connections.
	crewPlaces = maxMaxConns
)

// ErrTooManyLogs is returned when branches of more logs than an adapter serves are to be finished.
var ErrTooManyLogs = errors.New("mysql: too many logs finish their branches through this adapter")

// errRightLost says that this process has lost the right that it had: its control connection
// ended, and perhaps another process has it now.
var errRightLost = errors.New("mysql: the right to finish branches was lost")

// right is the sole right to finish the branches of one log in this database, as long as its
// control connection lives.
type right struct {
	log     txn.LogID
	epoch   txn.Epoch
	control *session
	// own is a user lock of the control connection whose name nobody else knows.
	own string
}

// rights are the rights that this process holds.
type rights struct {
	// instance tells this process from a twin of the same epoch. A process whose connection broke
	// may find its own former session, which the server has not missed yet, holding the lock.
	instance string
	connect  func(ctx context.Context) (*session, error)

	mu     sync.Mutex
	closed bool
	held   map[txn.LogID]*right
	// taking serialises taking over, log by log: two callers of one process are one process.
	taking map[txn.LogID]chan struct{}
}

// lock and place name the user locks, which are the server's: other databases have their own.
func (t *right) lock() string {
	return fmt.Sprintf("'gavel.right.%s.%08x'", t.log, t.control.number)
}

func (t *right) place(n int) string {
	return fmt.Sprintf("'gavel.crew.%s.%08x.%d'", t.log, t.control.number, n)
}

// row selects the right's row in gavel.resolver.
func (t *right) row() string {
	return fmt.Sprintf("log = %d AND db = %d", t.log, t.control.number)
}

// get returns the right of the fence's log, and takes it first if this process does not have it at
// this epoch. The error is participant.ErrFenced, participant.ErrNotResolver, or of the connection.
func (r *rights) get(ctx context.Context, f txn.Fence) (*right, error) {
	turn, err := r.turn(ctx, f.Log)
	if err != nil {
		return nil, err
	}
	defer func() { <-turn }()
	r.mu.Lock()
	have, closed := r.held[f.Log], r.closed
	r.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case have != nil && have.epoch > f.Epoch:
		return nil, fmt.Errorf("mysql: epoch %d after %d: %w", f.Epoch, have.epoch,
			participant.ErrFenced)
	case have != nil && have.epoch == f.Epoch:
		return have, nil
	case have != nil:
		r.drop(have)
	}
	control, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	fresh := &right{log: f.Log, epoch: f.Epoch, control: control,
		own: "'gavel.own." + rand.Text() + "'"}
	if err := fresh.take(ctx, r.instance); err != nil {
		xabranch.Discard(control.Conn)
		return nil, err
	}
	return fresh, r.keep(fresh)
}

// keep makes a right that was just taken ours, unless the resource was closed meanwhile.
func (r *rights) keep(fresh *right) error {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.held[fresh.log] = fresh
	}
	r.mu.Unlock()
	if closed {
		xabranch.Discard(fresh.control.Conn)
		return ErrClosed
	}
	return nil
}

// close gives all rights up for good.
func (r *rights) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.dropAll()
}

// turn waits for the caller's turn at a log's right.
func (r *rights) turn(ctx context.Context, log txn.LogID) (chan struct{}, error) {
	r.mu.Lock()
	turn, ok := r.taking[log]
	if !ok && len(r.taking) >= maxRights {
		r.mu.Unlock()
		return nil, ErrTooManyLogs
	}
	if !ok {
		turn = make(chan struct{}, 1)
		r.taking[log] = turn
	}
	r.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return turn, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("mysql: wait for the right: %w", context.Cause(ctx))
	}
}

// drop gives a right up. Ending its control connection frees the lock.
func (r *rights) drop(lost *right) {
	r.mu.Lock()
	if r.held[lost.log] == lost {
		delete(r.held, lost.log)
	}
	r.mu.Unlock()
	xabranch.Discard(lost.control.Conn)
}

func (r *rights) dropAll() {
	r.mu.Lock()
	all := r.held
	r.held = map[txn.LogID]*right{}
	r.mu.Unlock()
	for _, have := range all {
		xabranch.Discard(have.control.Conn)
	}
}

// take takes the right over, from whoever has a lower epoch. The row of the log is locked all that
// time, so that one process takes at a time, and says who it is only once the old crew has ended.
func (t *right) take(ctx context.Context, instance string) error {
	tx, err := t.control.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("mysql: take the right: %w", err)
	}
	err = t.takeIn(ctx, tx, instance)
	if err == nil {
		err = tx.Commit()
	}
	// Rolling back what is committed is no error that matters.
	_ = tx.Rollback()
	if err != nil {
		return fmt.Errorf("mysql: take the right: %w", err)
	}
	return nil
}

func (t *right) takeIn(ctx context.Context, tx *sql.Tx, instance string) error {
	// The row is made first: without one there would be nothing to lock.
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO gavel.resolver (log, db, epoch,
		instance) VALUES (%d, %d, 0, '') ON DUPLICATE KEY UPDATE epoch = epoch`, t.log,
		t.control.number))
	if err != nil {
		return err
	}
	var epoch txn.Epoch
	var holder uint64
	var last string
	err = tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT epoch, instance,
		COALESCE(IS_USED_LOCK(%s), 0) FROM gavel.resolver WHERE %s FOR UPDATE`,
		t.lock(), t.row())).Scan(&epoch, &last, &holder)
	switch {
	case err != nil:
		return err
	case epoch > t.epoch:
		return fmt.Errorf("epoch %d holds the right, not %d: %w", epoch, t.epoch,
			participant.ErrFenced)
	case epoch == t.epoch && holder != 0 && last != instance:
		return fmt.Errorf("session %d holds the right: %w", holder, participant.ErrNotResolver)
	}
	if err := endHolder(ctx, tx, t.lock(), holder); err != nil {
		return err
	}
	if err := endHolder(ctx, tx, t.own, 0); err != nil {
		return err
	}
	// From now on nobody can join the old crew: whoever tries sees that the right is ours. Those
	// who had joined before hold their places, and end here.
	if err := t.endCrew(ctx, tx); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("UPDATE gavel.resolver SET epoch = %d, "+
		"instance = '%s' WHERE %s", t.epoch, instance, t.row()))
	return err
}

// endHolder ends the session that holds a lock, if any does, and takes the lock.
func endHolder(ctx context.Context, tx *sql.Tx, lock string, holder uint64) error {
	if err := kill(ctx, tx, holder); err != nil {
		return err
	}
	return inherit(ctx, tx, lock, holder, endTimeout)
}

// kill tells a session to end. Zero is none.
func kill(ctx context.Context, tx *sql.Tx, holder uint64) error {
	if holder == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("KILL CONNECTION %d", holder))
	if err != nil && xabranch.Number(err) != numNoThread {
		return fmt.Errorf("%w: end session %d of an older epoch: %w",
			participant.ErrNotResolver, holder, err)
	}
	return nil
}

// inherit takes the lock of a session that was told to end.
func inherit(
	ctx context.Context, tx *sql.Tx, lock string, holder uint64, wait time.Duration,
) error {
	var got sql.NullBool
	err := tx.QueryRowContext(ctx, fmt.Sprintf("SELECT GET_LOCK(%s, %.3f)", lock,
		wait.Seconds())).Scan(&got)
	if err == nil && !got.Bool {
		err = fmt.Errorf("%w: session %d of an older epoch did not end",
			participant.ErrNotResolver, holder)
	}
	return err
}

// numNoThread is the server's error for a session that is gone.
const numNoThread = 1094

// endCrew ends all sessions that hold a place, and returns when none is left. A session that is
// killed gives its place up when it has ended what it was doing: all of them are told first, so
// that they end at once, and together they are waited for as long as for one.
func (t *right) endCrew(ctx context.Context, tx *sql.Tx) error {
	columns := make([]string, crewPlaces)
	holders := make([]uint64, crewPlaces)
	into := make([]any, crewPlaces)
	for i := range columns {
		columns[i] = "COALESCE(IS_USED_LOCK(" + t.place(i) + "), 0)"
		into[i] = &holders[i]
	}
	err := tx.QueryRowContext(ctx, "SELECT "+strings.Join(columns, ", ")).Scan(into...)
	if err != nil {
		return err
	}
	for _, holder := range holders {
		if err := kill(ctx, tx, holder); err != nil {
			return err
		}
	}
	began := time.Now()
	for i, holder := range holders {
		if holder == 0 {
			continue
		}
		lock := t.place(i)
		rest := max(endTimeout-time.Since(began), 0)
		if err := inherit(ctx, tx, lock, holder, rest); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DO RELEASE_LOCK("+lock+")"); err != nil {
			return err
		}
	}
	return nil
}

// join makes a session a member of the right's crew. The order is the proof: the place first, the
// look at the right second. A takeover that our look does not see takes the right later, and then
// finds our place taken and ends us.
func (t *right) join(ctx context.Context, s *session) error {
	if s.crew == t {
		return nil
	}
	if s.crew != nil {
		if _, err := s.ExecContext(ctx, "DO RELEASE_LOCK("+s.place+")"); err != nil {
			return s.note(err)
		}
		s.crew = nil
	}
	if err := t.takePlace(ctx, s); err != nil {
		return s.note(err)
	}
	// The number of a connection is not enough: they begin anew when the server is restarted, and
	// somebody else's may be ours. The other lock has a name that nobody else knows.
	var holder, own uint64
	err := s.QueryRowContext(ctx, "SELECT COALESCE(IS_USED_LOCK("+t.lock()+"), 0), "+
		"COALESCE(IS_USED_LOCK("+t.own+"), 0)").Scan(&holder, &own)
	if err != nil {
		return s.note(err)
	}
	if holder != t.control.id || own != holder {
		s.broken = true // its place goes with it
		return errRightLost
	}
	s.crew = t
	return nil
}

// takePlace takes a place that is free. Two sessions that try the same one at once try the next.
func (t *right) takePlace(ctx context.Context, s *session) error {
	for i := range crewPlaces {
		var got sql.NullBool
		s.place = t.place((int(s.id) + i) % crewPlaces)
		err := s.QueryRowContext(ctx, "SELECT GET_LOCK("+s.place+", 0)").Scan(&got)
		if err != nil || got.Bool {
			return err
		}
	}
	s.broken = true
	return fmt.Errorf("mysql: all %d places of the crew are taken: %w", crewPlaces,
		participant.ErrNotResolver)
}
