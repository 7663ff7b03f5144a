package mysql

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// ErrBatch is returned for a call with more than participant.MaxBatch branches. Nothing was done.
var ErrBatch = fmt.Errorf("mysql: more than %d branches in one call", participant.MaxBatch)

// Resource is one MariaDB database. It implements participant.Resource, Describer and Closer, and
// is safe for concurrent use.
type Resource struct {
	config    Config
	past      *past
	connector *connector
	pool      *pool
	rights    *rights

	mu     sync.Mutex
	fences map[txn.LogID]txn.Fence
	// pruned is how far no row is left to be removed, as far as is known.
	pruned map[txn.LogID]txn.Seq
}

var (
	_ participant.Resource  = (*Resource)(nil)
	_ participant.Describer = (*Resource)(nil)
	_ participant.Closer    = (*Resource)(nil)
)

// Open connects once, to fail early on a wrong address, and returns the resource. The error is a
// [HeldError], xabranch.ErrNoSetup, ErrReadOnly or ErrMySQL, or of the configuration or connection.
func Open(ctx context.Context, c Config) (*Resource, error) {
	r, err := New(c)
	if err != nil {
		return nil, err
	}
	s, err := r.pool.acquire(ctx)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.pool.release(s)
	return r, nil
}

// New is Open without connecting: for a coordinator that starts while a database is down.
func New(c Config) (*Resource, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	p := &past{resource: c.Name, experimental: c.Experimental, expect: c.Expect, seen: c.Seen}
	k, err := newConnector(c, p)
	if err != nil {
		return nil, err
	}
	return &Resource{
		config:    c,
		past:      p,
		connector: k,
		pool:      newPool(c.MaxConns, k.connect),
		rights: &rights{instance: rand.Text()[:8], connect: k.connect,
			held: map[txn.LogID]*right{}, taking: map[txn.LogID]chan struct{}{}},
		fences: map[txn.LogID]txn.Fence{},
		pruned: map[txn.LogID]txn.Seq{},
	}, nil
}

// Expect makes identity the registered one and position the highest ever seen, from now on: at
// registration, or when an operator accepts what the address leads to now. All connections are made
// anew and held to it.
func (r *Resource) Expect(identity txn.Identity, position txn.Position) {
	r.past.reset(identity, position)
	r.pool.retire()
	r.rights.dropAll()
}

// Seen is the identity that connections are held to and the highest position seen so far.
func (r *Resource) Seen() (txn.Identity, txn.Position) { return r.past.known() }

// String names the resource without secrets.
func (r *Resource) String() string { return r.config.String() }

// Close gives up all rights, closes all connections and waits for those in use.
func (r *Resource) Close() error {
	r.rights.close()
	r.pool.close()
	return r.connector.db.Close()
}

// admit judges the fence of a call. What it remembers lasts as long as this Resource; the epoch in
// gavel.resolver is the memory that processes share, and a sidecar keeps a durable one.
func (r *Resource) admit(f txn.Fence, branches int) error {
	if branches > participant.MaxBatch {
		return ErrBatch
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, known := r.fences[f.Log]
	if !known && len(r.fences) >= maxRights {
		return ErrTooManyLogs
	}
	remember, err := fence.Judge(seen, f, false)
	if err != nil {
		return fmt.Errorf("mysql: %w", err)
	}
	r.fences[f.Log] = remember
	return nil
}

// reading runs questions that change nothing, or as much when asked twice, on one session, and once
// more on a fresh one if the connection broke: an idle one may have been dead since the server's
// last restart.
func (r *Resource) reading(ctx context.Context, questions func(*session) error) error {
	for again := range 2 {
		s, err := r.pool.acquire(ctx)
		if err != nil {
			return err
		}
		err = s.note(questions(s))
		broken := s.broken
		r.pool.release(s)
		if err == nil || !broken || again == 1 || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// listChunk bounds the names of one query for rows.
const listChunk = 1000

// List names every prepared branch with our prefix at the server; those of other databases are not
// ours. It fails with a [HeldError] or xabranch.ErrReadOnly rather than return less. On the way it
// removes some of the rows that nobody needs any more, by xabranch.Prune.
func (r *Resource) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	if err := r.admit(f, 0); err != nil {
		return participant.Listing{}, err
	}
	var l participant.Listing
	err := r.reading(ctx, func(s *session) (err error) {
		if l, err = r.list(ctx, s); err == nil {
			r.prune(ctx, s, f)
		}
		return err
	})
	if err != nil {
		return participant.Listing{}, err
	}
	return l, nil
}

// maxPrunes bounds the rows that go with one listing, to so many times xabranch.MaxPruned.
const maxPrunes = 8

// prune removes some of the rows about which the log of a fence will not ask any more. What fails
// is tried again with a later listing: that a row stays for longer harms nobody.
func (r *Resource) prune(ctx context.Context, s *session, f txn.Fence) {
	r.mu.Lock()
	done := f.Low <= r.pruned[f.Log]
	r.mu.Unlock()
	if done {
		return
	}
	for range maxPrunes {
		removed, err := xabranch.Prune(ctx, s.Conn, f.Log, f.Low)
		if s.note(err) != nil {
			return
		}
		if removed < xabranch.MaxPruned {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.pruned[f.Log] = max(r.pruned[f.Log], f.Low)
			return
		}
	}
}

func (r *Resource) list(ctx context.Context, s *session) (participant.Listing, error) {
	prepared, err := xabranch.Recover(ctx, s.Conn)
	if err != nil {
		return participant.Listing{}, err
	}
	l := participant.Listing{Unknown: prepared.Unknown,
		Used: len(prepared.Names) + prepared.Unknown}
	names := make([]txn.Name, 0, len(prepared.Names))
	for name := range prepared.Names {
		if len(names) == participant.MaxListed {
			l.Truncated = true
			break
		}
		names = append(names, name)
	}
	rows := make(map[txn.Name]xabranch.Row, len(names))
	for rest := names; len(rest) > 0; {
		n := min(len(rest), listChunk)
		some, err := xabranch.Rows(ctx, s.Conn, rest[:n], true)
		if err != nil {
			return participant.Listing{}, err
		}
		for name, row := range some {
			rows[name] = row
		}
		rest = rest[n:]
	}
	place, err := r.raise(ctx, s, rows)
	if err != nil {
		return participant.Listing{}, err
	}
	l.Identity, l.Position = place.Identity, place.Position
	for _, name := range names {
		l.Branches = append(l.Branches, listed(s, place, name, rows))
	}
	return l, nil
}

// raise writes down the highest number that was seen, if it is the highest ever, and returns where
// the server is after that, durably.
func (r *Resource) raise(
	ctx context.Context, s *session, rows map[txn.Name]xabranch.Row,
) (xabranch.Place, error) {
	place, err := r.connector.look(ctx, s)
	if err != nil {
		return place, err
	}
	var high uint64
	for _, row := range rows {
		high = max(high, row.Number)
	}
	place.Position, err = r.settle(ctx, s, place.Position, high)
	return place, err
}

// settle makes a position durable that was only read, and at least number.
func (r *Resource) settle(
	ctx context.Context, s *session, read txn.Position, number uint64,
) (txn.Position, error) {
	if _, seen := r.past.known(); max(number, read.LSN) <= seen.LSN {
		read.LSN = max(number, read.LSN)
		return read, nil
	}
	return r.vouch(ctx, s, max(number, read.LSN))
}

// vouch is xabranch.Vouch, of which the past learns.
func (r *Resource) vouch(
	ctx context.Context, s *session, number uint64,
) (txn.Position, error) {
	at, err := xabranch.Vouch(ctx, s.Conn, number)
	if err == nil {
		r.past.learn(at)
	}
	return at, err
}

func listed(
	s *session, place xabranch.Place, name txn.Name, rows map[txn.Name]xabranch.Row,
) participant.Listed {
	row, ok := rows[name]
	return participant.Listed{Name: name, Ours: !ok || row.Database == s.database,
		Owner: row.User, Age: row.Age, Evidence: evidence(place, row)}
}

// evidence of a branch that is prepared.
func evidence(place xabranch.Place, row xabranch.Row) txn.Evidence {
	return txn.Evidence{Identity: place.Identity, Position: place.Position, XID: row.Number}
}

// Inquire tells where branches stand and changes nothing but the mark of how far the server's
// history has come. A branch that is not listed is judged by its row, and is Gone without evidence.
func (r *Resource) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return []participant.Finding{}, nil
	}
	findings := make([]participant.Finding, len(b))
	err := r.reading(ctx, func(s *session) error { return r.inquire(ctx, s, b, findings) })
	return heldFindings(findings, err)
}

func (r *Resource) inquire(
	ctx context.Context, s *session, b []participant.Branch, findings []participant.Finding,
) error {
	seen, place, err := r.sight(ctx, s, namesOf(b))
	if err != nil {
		return err
	}
	var gone []int
	for i := range b {
		switch at := seen[b[i].Name]; {
		case at.State == xabranch.StateAbsent || at.State == xabranch.StateHidden:
			gone = append(gone, i)
		case !at.HasRow:
			findings[i] = participant.Finding{Reason: withoutRow}
		case at.Row.Database != s.database:
			findings[i] = foreign(at.Row.Database)
		default:
			findings[i] = participant.Finding{Standing: txn.StandingPrepared,
				Evidence: evidence(place, at.Row)}
		}
	}
	return r.judge(ctx, s, b, gone, findings)
}

// sight looks at branches, and makes what is prepared durable, and its number part of the history.
func (r *Resource) sight(
	ctx context.Context, s *session, names []txn.Name,
) (map[txn.Name]xabranch.Seen, xabranch.Place, error) {
	seen, err := xabranch.Sight(ctx, s.Conn, names)
	if err != nil {
		return nil, xabranch.Place{}, err
	}
	var prepared bool
	var high uint64
	for _, at := range seen {
		if at.HasRow && at.State != xabranch.StateHidden {
			prepared, high = true, max(high, at.Row.Number)
		}
	}
	var at txn.Position
	if prepared {
		if at, err = r.vouch(ctx, s, high); err != nil {
			return nil, xabranch.Place{}, err
		}
	}
	place, err := r.connector.look(ctx, s)
	if prepared {
		place.Position = at
	}
	return seen, place, err
}

// judge tells how branches ended that this session has just not found in the list.
func (r *Resource) judge(
	ctx context.Context, s *session, b []participant.Branch, gone []int,
	findings []participant.Finding,
) error {
	if len(gone) == 0 {
		return nil
	}
	place, err := r.connector.look(ctx, s)
	if err != nil {
		return err
	}
	inquiries := make([]xabranch.Inquiry, len(gone))
	for n, i := range gone {
		inquiries[n] = xabranch.Inquiry{Name: b[i].Name, Evidence: b[i].Evidence}
	}
	answers, err := xabranch.Standing(ctx, s.Conn, place, inquiries)
	if err != nil {
		return err
	}
	// An end is seen before it is synced, and a rollback is not synced by itself. A durable write
	// of ours comes after it.
	unsynced := place.Flush != 1
	if slices.ContainsFunc(answers, ended) && !unsynced {
		if _, err := xabranch.Vouch(ctx, s.Conn, 0); err != nil {
			return err
		}
	}
	for n, i := range gone {
		a := answers[n]
		if ended(a) && unsynced {
			findings[i] = participant.Finding{Reason: xabranch.ErrUnsynced.Error()}
			continue
		}
		findings[i] = participant.Finding{Standing: a.Standing, Reason: a.Reason,
			Evidence: txn.Evidence{Identity: place.Identity, Position: place.Position,
				XID: a.Number}}
	}
	return nil
}

func ended(a xabranch.Answer) bool {
	return a.Standing == txn.StandingCommitted || a.Standing == txn.StandingRolledBack
}

// Prepare votes for branches that their applications have prepared by themselves, by what is
// listed:
//
//	(yes)      listed, with a row of this database, and a durable write of ours came after that
//	(rowless)  listed without a row: Unknown. Nobody could say later how it ended
//	(foreign)  of another database or log: Unknown
//	(unsynced) the server does not sync: Unknown
//	(absent)   not listed: Unknown. It may be prepared the next moment; only the session that runs
//	           the branch can say No
func (r *Resource) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	votes := make([]participant.Vote, len(b))
	if len(b) == 0 {
		return votes, nil
	}
	err := r.reading(ctx, func(s *session) error {
		seen, place, err := r.sight(ctx, s, namesOf(b))
		if err != nil {
			return err
		}
		for i := range b {
			votes[i] = listedVote(f, s, place, b[i].Name, seen[b[i].Name])
		}
		return nil
	})
	if held, ok := errors.AsType[*HeldError](err); ok {
		for i := range votes {
			votes[i] = participant.Vote{Reason: held.Error()}
		}
		return votes, nil
	}
	if err != nil {
		return nil, err
	}
	return votes, nil
}

const withoutRow = "it was prepared without a row in gavel.branch, so that nobody could say " +
	"later how it ended: prepare it by the rules of gavel"

func listedVote(
	f txn.Fence, s *session, place xabranch.Place, name txn.Name, at xabranch.Seen,
) participant.Vote {
	switch {
	case name.Log != f.Log:
		return participant.Vote{Reason: "the branch belongs to another log"} // (foreign)
	case at.State == xabranch.StateAbsent || at.State == xabranch.StateHidden:
		return participant.Vote{Reason: "it is not listed as prepared"} // (absent)
	case !at.HasRow:
		return participant.Vote{Reason: withoutRow} // (rowless)
	case at.Row.Database != s.database:
		return participant.Vote{Reason: foreign(at.Row.Database).Reason} // (foreign)
	case place.Flush != 1:
		return participant.Vote{Reason: "innodb_flush_log_at_trx_commit is not 1, so that it " +
			"may be lost"} // (unsynced)
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: evidence(place, at.Row)} // (yes)
}

// heldFindings turns the error of a database that is not the right one into the finding that it is.
func heldFindings(
	findings []participant.Finding, err error,
) ([]participant.Finding, error) {
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		if err != nil {
			return nil, err
		}
		return findings, nil
	}
	for i := range findings {
		if findings[i].Standing == txn.StandingUnknown {
			findings[i] = participant.Finding{Standing: txn.StandingHeld, Reason: held.Error()}
		}
	}
	return findings, nil
}

func foreign(database string) participant.Finding {
	return participant.Finding{Standing: txn.StandingForeign,
		Reason: fmt.Sprintf("the branch belongs to database %q of this server", database)}
}

func namesOf(b []participant.Branch) []txn.Name {
	names := make([]txn.Name, len(b))
	for i := range b {
		names[i] = b[i].Name
	}
	return names
}

// pause waits for d. It is false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
