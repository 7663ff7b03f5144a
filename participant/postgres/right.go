package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// maxRights bounds the logs that one adapter finishes branches for, each with a connection.
	maxRights = 16
	// takeTries bounds how often a right is tried for in one call, while its holder is being ended.
	takeTries = 3
	// endTimeout bounds the wait for one session to end, in milliseconds, at the server.
	endTimeout = 5000
	// crewBit tells the lock of a log's crew from the lock of its right.
	crewBit = 1 << 60
)

// ErrTooManyLogs is returned when branches of more logs than an adapter serves are to be finished.
var ErrTooManyLogs = errors.New(
	"postgres: too many logs finish their branches through this adapter",
)

// errRightLost says that this process has lost the right that it had: its control connection
// ended, and perhaps another process has it now.
var errRightLost = errors.New("postgres: the right to finish branches was lost")

// right is the sole right to finish the branches of one log in this database, as long as its
// control connection lives.
type right struct {
	log     txn.LogID
	epoch   txn.Epoch
	control *pgconn.PgConn
	// application is the name of all sessions that act by this right.
	application string
}

// rights are the rights that this process holds.
type rights struct {
	// instance tells this process from a twin of the same epoch. A process whose connection broke
	// may find its own former session, which the server has not missed yet, holding the lock.
	instance string
	connect  func(ctx context.Context, application string) (*pgconn.PgConn, error)
	discard  func(*pgconn.PgConn)

	mu     sync.Mutex
	closed bool
	held   map[txn.LogID]*right
	// taking serialises taking over, log by log: two callers of one process are one process.
	taking map[txn.LogID]chan struct{}
}

func applicationName(log txn.LogID, epoch txn.Epoch, instance string) string {
	return fmt.Sprintf("gavel/%s/%d/%s", log, epoch, instance)
}

// epochOf reads the epoch of a holder's name; ok is false if it is no name of this log.
func epochOf(application string, log txn.LogID) (epoch txn.Epoch, ok bool) {
	rest, ok := strings.CutPrefix(application, "gavel/"+log.String()+"/")
	digits, _, _ := strings.Cut(rest, "/")
	v, err := strconv.ParseUint(digits, 10, 32)
	return txn.Epoch(v), ok && err == nil
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
		return nil, fmt.Errorf("postgres: epoch %d after %d: %w", f.Epoch, have.epoch,
			participant.ErrFenced)
	case have != nil && have.epoch == f.Epoch && !have.control.IsClosed():
		return have, nil
	case have != nil:
		r.drop(have)
	}
	fresh, err := r.take(ctx, f)
	if err != nil {
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
		r.discard(fresh.control)
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
		return nil, fmt.Errorf("postgres: wait for the right: %w", context.Cause(ctx))
	}
}

// drop gives a right up. Ending its control connection frees the lock.
func (r *rights) drop(lost *right) {
	r.mu.Lock()
	if r.held[lost.log] == lost {
		delete(r.held, lost.log)
	}
	r.mu.Unlock()
	r.discard(lost.control)
}

func (r *rights) dropAll() {
	r.mu.Lock()
	all := r.held
	r.held = map[txn.LogID]*right{}
	r.mu.Unlock()
	for _, have := range all {
		r.discard(have.control)
	}
}

// take connects and takes the right over, from whoever has a lower epoch.
func (r *rights) take(ctx context.Context, f txn.Fence) (*right, error) {
	application := applicationName(f.Log, f.Epoch, r.instance)
	control, err := r.connect(ctx, application)
	if err != nil {
		return nil, err
	}
	fresh := &right{log: f.Log, epoch: f.Epoch, control: control, application: application}
	if err := fresh.takeOver(ctx); err != nil {
		r.discard(control)
		return nil, err
	}
	return fresh, nil
}

func (t *right) takeOver(ctx context.Context) error {
	for range takeTries {
		got, err := ask(ctx, t.control, fmt.Sprintf("SELECT pg_try_advisory_lock(%d)", t.log))
		if err != nil {
			return err
		}
		if got == "t" {
			// From now on nobody can join the old crew: whoever tries sees that the right is ours.
			// Those who had joined before are on the list, and end here.
			return t.endHolders(ctx, uint64(t.log)|crewBit)
		}
		if err := t.endHolders(ctx, uint64(t.log)); err != nil {
			return err
		}
	}
	return fmt.Errorf("postgres: %w", participant.ErrNotResolver)
}

// endHolders ends all other sessions that hold the lock, and returns when none is left. A holder of
// a higher epoch, and of our own role, fences us. For the right itself, one of the same epoch is a
// twin, with as much right as we: whoever came first keeps it.
func (t *right) endHolders(ctx context.Context, lock uint64) error {
	for range takeTries {
		holders, err := query(ctx, t.control, holdersSQL(lock)+" AND l.pid <> pg_backend_pid()")
		if err != nil || len(holders) == 0 {
			return err
		}
		for _, h := range holders {
			if err := t.end(ctx, lock, readHolder(h)); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("postgres: sessions of an older epoch did not end: %w",
		participant.ErrNotResolver)
}

// holder is a session that holds one of our locks.
type holder struct {
	pid, application, role string
	// ours says that it is of our own role. Whoever may run SQL can take the lock, and any name:
	// only of our own role is the name believed.
	ours bool
}

// readHolder reads a row of holdersSQL.
func readHolder(row []string) holder {
	return holder{pid: row[0], application: row[1], role: row[2], ours: row[3] == "true"}
}

// end ends one holder, if it may be ended, and waits until it is gone. Whether it is shows the next
// look at the list: a session that ends by itself in this moment is reported like one that stays.
func (t *right) end(ctx context.Context, lock uint64, h holder) error {
	epoch, known := epochOf(h.application, t.log)
	known = known && h.ours
	switch {
	case known && epoch > t.epoch:
		return fmt.Errorf("postgres: epoch %d holds the right, not %d: %w", epoch, t.epoch,
			participant.ErrFenced)
	case known && h.application == t.application: // a former session of this process
	case lock == uint64(t.log) && (!known || epoch == t.epoch):
		return fmt.Errorf("postgres: process %s (%s) of role %s holds the right, so nothing is "+
			"finished here; end it if it is not a resolver: %w", h.pid, h.application, h.role,
			participant.ErrNotResolver)
	}
	_, err := ask(ctx, t.control,
		fmt.Sprintf("SELECT pg_terminate_backend(%s, %d)", h.pid, endTimeout))
	if err != nil {
		return fmt.Errorf("postgres: end session %s of role %s, which is not of this epoch: %w: %w",
			h.pid, h.role, participant.ErrNotResolver, err)
	}
	return nil
}

// holdersSQL lists who holds one of our locks. A lock with one 64-bit key has objsubid 1.
func holdersSQL(lock uint64) string {
	return fmt.Sprintf(`SELECT l.pid::text, coalesce(a.application_name, ''),
		coalesce(a.usename, '')::text, coalesce(a.usename = session_user, false)::text
		FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.classid = %d::oid AND l.objid = %d::oid`, lock>>32, uint32(lock))
}

// join makes a session a member of the right's crew. The order is the proof: the lock first, the
// look at the right second. A takeover that our look does not see takes the right later, and then
// finds our lock and ends us.
func (t *right) join(ctx context.Context, s *session) error {
	if s.crew == t {
		return nil
	}
	s.crew = nil
	got, err := ask(ctx, s.PgConn, fmt.Sprintf(`SELECT pg_advisory_unlock_all();
		SET application_name = '%s'; SELECT pg_try_advisory_lock_shared(%d)`,
		t.application, uint64(t.log)|crewBit))
	if err != nil {
		return err
	}
	holders, err := query(ctx, s.PgConn, holdersSQL(uint64(t.log)))
	if err != nil {
		return err
	}
	want := strconv.FormatUint(uint64(t.control.PID()), 10)
	if got != "t" || len(holders) != 1 || holders[0][0] != want ||
		holders[0][1] != t.application {
		return errRightLost
	}
	s.crew = t
	return nil
}

// ask runs statements and returns the first column of the last one's only row.
func ask(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	rows, err := query(ctx, conn, sql)
	if err != nil {
		return "", err
	}
	if len(rows) != 1 || len(rows[0]) == 0 {
		return "", fmt.Errorf("postgres: %d rows where there is always one", len(rows))
	}
	return rows[0][0], nil
}

// query runs statements and returns the rows of the last one.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := queryAll(ctx, conn, sql)
	if err != nil || len(results) == 0 {
		return nil, err
	}
	return results[len(results)-1], nil
}

// queryAll runs statements, in one message, and returns the rows of each, with NULL as "".
func queryAll(ctx context.Context, conn *pgconn.PgConn, sql string) ([][][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	all := make([][][]string, len(results))
	for i, result := range results {
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for j, v := range values {
				row[j] = string(v)
			}
			all[i] = append(all[i], row)
		}
	}
	return all, nil
}
