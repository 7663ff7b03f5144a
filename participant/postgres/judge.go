package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// judge tells how a branch ended that this session has just not found in the list.
//
// A branch that committed may have done so a moment ago, by another session that still waits for
// the synchronous standby. Committed means durably committed, so that a barrier goes first.
func (r *Resource) judge(
	ctx context.Context, s *session, ev txn.Evidence,
) (participant.Finding, error) {
	if ev.IsZero() {
		return participant.Finding{Standing: txn.StandingGone,
			Reason: "it is not prepared, and there is no evidence of how it ended"}, nil
	}
	_, seen := r.past.known()
	a, err := pgbranch.Standing(ctx, s.PgConn, pgbranch.Inquiry{Evidence: ev, Seen: seen,
		History: func(ctx context.Context, timeline uint32) ([]pgbranch.Fork, error) {
			return r.history(ctx, s, timeline)
		}})
	if err != nil {
		return participant.Finding{}, fmt.Errorf(
			"postgres: inquire at %s: %w",
			r.config.Name,
			err,
		)
	}
	if a.Standing == txn.StandingCommitted {
		err := pgbranch.Barrier(ctx, s.PgConn)
		if errors.Is(err, pgbranch.ErrNotReplicated) {
			return participant.Finding{Reason: err.Error()}, nil
		}
		if err != nil {
			return participant.Finding{}, err
		}
	}
	// A branch has a transaction number in its evidence only if it was prepared.
	return participant.Finding{Standing: a.Standing, Reason: a.Reason, Evidence: txn.Evidence{
		Identity: a.Place.Identity, Position: a.Place.Position, XID: ev.XID}}, nil
}

// maxTimelines bounds the histories that are kept; a database that fails over more often than that
// within one life of this process asks again.
const maxTimelines = 64

// timelines keeps histories: that of a timeline never changes.
type timelines struct {
	mu    sync.Mutex
	known map[uint32][]pgbranch.Fork
}

func (t *timelines) get(timeline uint32) ([]pgbranch.Fork, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	forks, ok := t.known[timeline]
	return forks, ok
}

func (t *timelines) put(timeline uint32, forks []pgbranch.Fork) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTimelines {
		clear(t.known)
	}
	t.known[timeline] = forks
}

// history tells the past of a timeline. Two ways lead to it, and roles that have neither are
// common: by a file of the server, for superusers and pg_read_server_files, and by a replication
// connection, for roles with REPLICATION.
func (r *Resource) history(
	ctx context.Context, s *session, timeline uint32,
) ([]pgbranch.Fork, error) {
	if forks, ok := r.timelines.get(timeline); ok {
		return forks, nil
	}
	text, err := ask(ctx, s.PgConn,
		fmt.Sprintf("SELECT pg_read_file('pg_wal/%08X.history')", timeline))
	if pgbranch.Classify(err) == pgbranch.ClassFinal {
		text, err = r.replicatedHistory(ctx, timeline)
	}
	if err != nil {
		return nil, err
	}
	forks, err := pgbranch.ParseHistory([]byte(text))
	if err != nil {
		return nil, err
	}
	r.timelines.put(timeline, forks)
	return forks, nil
}

// replicatedHistory asks over a connection of its own. That the role may not replicate comes as
// the FATAL end of the attempt to connect, which is nobody's lost work: it is final here.
func (r *Resource) replicatedHistory(ctx context.Context, timeline uint32) (string, error) {
	config := r.connector.config.Copy()
	config.RuntimeParams = map[string]string{"replication": "true"}
	ctx, cancel := context.WithTimeout(ctx, r.config.ConnectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		refused.Severity, refused.SeverityUnlocalized = "ERROR", "ERROR"
		return "", refused
	}
	if err != nil {
		return "", fmt.Errorf("postgres: connect to %s: %w", r.config.Name, err)
	}
	defer func() {
		closeConn(conn)
		<-conn.CleanupDone()
	}()
	rows, err := query(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", timeline))
	if err != nil || len(rows) != 1 || len(rows[0]) != 2 {
		return "", fmt.Errorf("postgres: history of timeline %d: %w", timeline, err)
	}
	return rows[0][1], nil
}
