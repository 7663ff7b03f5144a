package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// ours selects the names with our prefix. Collation "C" makes it a range of bytes: in other
// collations the dot weighs little or nothing, and a range would miss names or include others.
// The slash is the byte after the dot.
const ours = `gid COLLATE "C" >= 'gavel1.' AND gid COLLATE "C" < 'gavel1/'`

// countSQL comes before the list, and asks for the recovery state first of all: a standby's list is
// empty, and a server never goes back into recovery while a connection lives, so that a list that
// comes after this answer is a primary's. The next transaction number completes the listed ones,
// which have only their low 32 bits.
const countSQL = `SELECT pg_is_in_recovery()::text,
		pg_snapshot_xmax(pg_current_snapshot())::text,
		current_setting('max_prepared_transactions');
	SELECT count(*)::text, (count(*) FILTER (
		WHERE database = current_database() AND NOT (` + ours + `)))::text
	FROM pg_prepared_xacts`

// listSQL lists branches of this database that meet a condition. Whether a role may be taken is
// asked for the connecting role, since that is what SET ROLE goes by; from version 16 on a
// membership may come without the option to do so.
func listSQL(condition string) string {
	return fmt.Sprintf(`SELECT gid, transaction::text, coalesce(owner, ''),
		coalesce(pg_has_role(session_user, owner, CASE
			WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET'
			ELSE 'MEMBER' END), false)::text,
		(extract(epoch FROM clock_timestamp() - prepared) * 1000)::bigint::text
		FROM pg_prepared_xacts WHERE database = current_database() AND %s
		ORDER BY gid COLLATE "C" LIMIT %d`, condition, participant.MaxListed+1)
}

// listing is one look at the list, with what is needed to use it.
type listing struct {
	place       pgbranch.Place
	branches    []participant.Listed
	unknown     int
	used, limit int
	truncated   bool
}

// list asks one session for its place, its list, and its place again, in this order.
func (r *Resource) list(ctx context.Context, s *session, condition string) (listing, error) {
	_, before := r.past.known()
	place, err := r.look(ctx, s, before)
	if err != nil {
		return listing{}, err
	}
	answers, err := queryAll(ctx, s.PgConn, countSQL+"; "+listSQL(condition))
	if err != nil {
		return listing{}, fmt.Errorf("postgres: list %s: %w", r.config.Name, err)
	}
	if answers[0][0][0] != "false" {
		return listing{}, fmt.Errorf("%w: %s", ErrStandby, r.config.Name)
	}
	// The position is read after the list, so that it lies behind every PREPARE that is listed:
	// evidence with a lower one could place a lost branch before a fork that it came after.
	after, err := r.look(ctx, s, place.Position)
	if err != nil {
		return listing{}, err
	}
	l := listing{place: after}
	if err := l.read(answers); err != nil {
		return listing{}, fmt.Errorf("postgres: list %s: %w", r.config.Name, err)
	}
	return l, nil
}

// look asks a session's server where it is, and holds it to the past: before is the highest
// position that was known by now.
func (r *Resource) look(
	ctx context.Context, s *session, before txn.Position,
) (pgbranch.Place, error) {
	place, err := pgbranch.Look(ctx, s.PgConn)
	if err != nil {
		return place, fmt.Errorf("postgres: look at %s: %w", r.config.Name, err)
	}
	return place, r.past.admit(place, before)
}

func (l *listing) read(answers [][][]string) error {
	next, err1 := strconv.ParseUint(answers[0][0][1], 10, 64)
	limit, err2 := strconv.Atoi(answers[0][0][2])
	used, err3 := strconv.Atoi(answers[1][0][0])
	unknown, err4 := strconv.Atoi(answers[1][0][1])
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return err
		}
	}
	l.limit, l.used, l.unknown = limit, used, unknown
	for _, row := range answers[2] {
		if len(l.branches) == participant.MaxListed {
			l.truncated = true
			break
		}
		name, err := txn.ParseName(row[0])
		if err != nil {
			l.unknown++ // it has our prefix and is not ours all the same
			continue
		}
		b, err := l.branch(name, row, next)
		if err != nil {
			return err
		}
		l.branches = append(l.branches, b)
	}
	return nil
}

func (l *listing) branch(name txn.Name, row []string, next uint64) (participant.Listed, error) {
	xid, err1 := strconv.ParseUint(row[1], 10, 32)
	age, err2 := strconv.ParseInt(row[4], 10, 64)
	if err1 != nil || err2 != nil {
		return participant.Listed{}, fmt.Errorf("row %q: transaction %w, age %w", row, err1, err2)
	}
	return participant.Listed{
		Name:  name,
		Owner: row[2],
		Ours:  row[3] == "true",
		Age:   time.Duration(age) * time.Millisecond,
		Evidence: txn.Evidence{Identity: l.place.Identity, Position: l.place.Position,
			XID: fullXID(uint32(xid), next)},
	}, nil
}

// fullXID completes the low 32 bits of a transaction number: numbers that are in use at the same
// time are less than 2^31 apart, so that the nearest to next is the one.
func fullXID(low uint32, next uint64) uint64 {
	return next + uint64(int64(int32(low-uint32(next))))
}

// find looks for some names only.
func (r *Resource) find(
	ctx context.Context, s *session, names []txn.Name,
) (map[txn.Name]participant.Listed, error) {
	var condition strings.Builder
	condition.WriteString("gid IN (''")
	for _, name := range names {
		condition.WriteString(", '" + name.String() + "'")
	}
	condition.WriteString(")")
	l, err := r.list(ctx, s, condition.String())
	if err != nil {
		return nil, err
	}
	found := make(map[txn.Name]participant.Listed, len(l.branches))
	for _, b := range l.branches {
		found[b.Name] = b
	}
	return found, nil
}
