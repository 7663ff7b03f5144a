package xabranch

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// State says whether a branch can be finished from another session than its own.
type State uint8

const (
	// StateAbsent: it is not prepared, as far as the server shows.
	StateAbsent State = iota
	// StateFree: it is prepared, and its session has ended; see [Settle].
	StateFree
	// StateAttached: it is prepared, and its session lives. XA COMMIT would say "unknown XID".
	StateAttached
	// StateEnding: it is prepared, and its session is just ending. XA COMMIT would lose it until
	// the server is restarted.
	StateEnding
	// StateHidden: it is not listed, and its row is there, and not committed. It is being run, or
	// the server has lost sight of it until it is restarted.
	StateHidden
)

// String is the word for the state in messages.
func (s State) String() string {
	return [...]string{"absent", "free", "attached", "ending", "hidden"}[s]
}

// Settle is how long to wait before a branch is finished that [Sight] has found free, and as long
// again as Sight took: a server that is slow to answer is as slow to end a session. MariaDB takes
// a session off the process list a moment before it lets go of its branch, and nothing shows that
// second moment. A server with more to do than it has processors may make it a long one: of 48,000
// branches two were lost that were finished at once, one of 96,000 after ten milliseconds, and none
// of 48,000 with both waits at a server with much more to do. None is lost for good: see
// [FinishHidden].
const Settle = 10 * time.Millisecond

// Seen is one branch in a Sight.
type Seen struct {
	State State
	// Row is what the branch wrote about itself, and zero if there is none. HasRow says which.
	Row    Row
	HasRow bool
	// Session is the id of the connection that StateAttached is about.
	Session uint64
}

// Sight tells where branches are, in this order:
//
//	XA RECOVER            what is prepared
//	rows and user locks   whose session still lives
//	process list          which sessions are just ending
//
// A session holds its user lock until it is about to end, and by then the process list calls it
// killed, until it has ended; or busy, if others look at it in the same moment. So whose lock was
// free, and who is not in the list by one of these words after that, has no session any more. The
// order is the proof: asked the other way round, a session could begin to end in between and be in
// neither answer.
func Sight(ctx context.Context, conn *sql.Conn, names []txn.Name) (map[txn.Name]Seen, error) {
	prepared, err := Recover(ctx, conn)
	if err != nil {
		return nil, err
	}
	rows, err := Rows(ctx, conn, names, true)
	if err != nil {
		return nil, err
	}
	ending, err := endingSessions(ctx, conn, rows)
	if err != nil {
		return nil, err
	}
	seen := make(map[txn.Name]Seen, len(names))
	for _, name := range names {
		var s Seen
		s.Row, s.HasRow = rows[name]
		_, listed := prepared.Names[name]
		s.Session = s.Row.holder
		switch {
		case !listed && s.HasRow:
			s.State = StateHidden
		case !listed:
			s.State = StateAbsent
		case s.Row.holder != 0:
			s.State = StateAttached
		case s.HasRow && ending[s.Row.Connection]:
			s.State = StateEnding
		default:
			s.State = StateFree
		}
		seen[name] = s
	}
	return seen, nil
}

// endingSessions are those of the rows' sessions that may be just ending.
func endingSessions(
	ctx context.Context, conn *sql.Conn, rows map[txn.Name]Row,
) (map[uint64]bool, error) {
	ending := map[uint64]bool{}
	if len(rows) == 0 {
		return ending, nil
	}
	ids := make([]string, 0, len(rows))
	for _, r := range rows {
		ids = append(ids, fmt.Sprint(r.Connection))
	}
	found, err := conn.QueryContext(ctx, `SELECT id FROM information_schema.processlist
		WHERE command IN ('Killed', 'Busy') AND id IN (`+strings.Join(ids, ", ")+`)`)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var id uint64
		if err := found.Scan(&id); err != nil {
			return nil, err
		}
		ending[id] = true
	}
	return ending, found.Err()
}

// Detach ends a session, so that the branch that it has prepared can be finished by others. Only
// one that [Sight] found attached may be given: nothing but its end is left for it to do. A session
// that has ended by itself is no error.
func Detach(ctx context.Context, conn *sql.Conn, session uint64) error {
	err := exec(ctx, conn, fmt.Sprintf("KILL CONNECTION %d", session))
	if Number(err) == numNoThread {
		return nil
	}
	return err
}
