package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// ErrMarkers is returned for a call with more than participant.MaxMarkers ids. Nothing was done.
var ErrMarkers = fmt.Errorf("postgres: more than %d markers in one call", participant.MaxMarkers)

// Decide tells how transactions ended whose decision was left to this database, and ends those that
// have none:
//
//	(foreign)  of another log: Foreign
//	(held)     not the database of the branch's evidence, or with a history behind it: Held
//	(busy)     the marker is just being written by its client: Unknown
//	(waiting)  found, but not vouched for by the synchronous standby: Unknown
//	(garbled)  found, and its decision cannot be read, perhaps of a newer version: Held
//	(committed), (never)  found, by the marker: Committed or RolledBack
//
// A marker is vouched for by a synchronous write of ours behind the look at it, whoever wrote it:
// it can be seen before it is durable where somebody has cancelled its wait for the standby.
//
// Where there is no table for markers any more, or no right to it, the error is
// participant.ErrNoMarkers. It needs the right to finish branches of the log, so that what a
// deposed process had begun does not go on behind its successor's back.
func (r *Resource) Decide(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	findings := make([]participant.Finding, len(b))
	if len(b) == 0 {
		return findings, nil
	}
	err := r.acting(ctx, f, func(s *session) error { return r.decide(ctx, s, f, b, findings) })
	if held, ok := errors.AsType[*HeldError](err); ok {
		for i := range findings {
			findings[i] = participant.Finding{Standing: txn.StandingHeld, Reason: held.Error(),
				Evidence: txn.Evidence{Identity: held.Found.Identity,
					Position: held.Found.Position}}
		}
		return findings, nil
	}
	if err != nil {
		return nil, err
	}
	return findings, nil
}

// acting runs what only the holder of a log's right may do, on a session of its crew, and once more
// on a fresh one if the connection broke: what is done here may be done twice.
func (r *Resource) acting(
	ctx context.Context, f txn.Fence, act func(*session) error,
) error {
	return r.rightly(ctx, f, func(t *right) error {
		return r.reading(ctx, func(s *session) error {
			if err := t.join(ctx, s); err != nil {
				return err
			}
			return act(s)
		})
	})
}

func (r *Resource) decide(
	ctx context.Context, s *session, f txn.Fence, b []participant.Branch,
	findings []participant.Finding,
) error {
	_, before := r.past.known()
	place, err := r.look(ctx, s, before)
	if err != nil {
		return err
	}
	var ids []txn.ID
	for i := range b {
		if findings[i] = elsewhere(place, f, b[i]); !settled(findings[i]) {
			ids = append(ids, b[i].Name.ID())
		}
	}
	if len(ids) > 0 {
		if place, err = r.readDecisions(ctx, s, place, ids, b, findings); err != nil {
			return err
		}
	}
	for i := range findings {
		if settled(findings[i]) {
			findings[i].Evidence = txn.Evidence{Identity: place.Identity, Position: place.Position}
		}
	}
	return nil
}

// elsewhere is the finding about a branch whose marker is not here: (foreign) or (held).
func elsewhere(place pgbranch.Place, f txn.Fence, b participant.Branch) participant.Finding {
	if b.Name.Log != f.Log || f.Log == 0 {
		return participant.Finding{Standing: txn.StandingForeign,
			Reason: "the branch belongs to another log"}
	}
	if reason := place.NotThatOf(b.Evidence); !b.Evidence.IsZero() && reason != "" {
		return participant.Finding{Standing: txn.StandingHeld, Reason: reason}
	}
	return participant.Finding{}
}

// readDecisions completes the findings that are open, and returns a place whose position lies
// behind the markers.
func (r *Resource) readDecisions(
	ctx context.Context, s *session, before pgbranch.Place, ids []txn.ID,
	b []participant.Branch, findings []participant.Finding,
) (pgbranch.Place, error) {
	markers, err := pgbranch.EnsureMarkers(ctx, s.PgConn, ids)
	if err = keepsMarkers(err); err != nil {
		return before, fmt.Errorf("postgres: decide at %s: %w", r.config.Name, err)
	}
	barrier := pgbranch.Barrier(ctx, s.PgConn)
	if barrier != nil && !errors.Is(barrier, pgbranch.ErrNotReplicated) {
		return before, fmt.Errorf("postgres: vouch for the markers of %s: %w", r.config.Name,
			barrier)
	}
	after, err := r.look(ctx, s, before.Position)
	if err != nil {
		return before, err
	}
	for i := range b {
		if !settled(findings[i]) {
			marker, there := markers[b[i].Name.ID()]
			findings[i] = decided(marker, there, barrier)
		}
	}
	return after, nil
}

// keepsMarkers says, in the words of every adapter, that there is no table for markers.
func keepsMarkers(err error) error {
	if errors.Is(err, pgbranch.ErrNoMarkers) {
		return fmt.Errorf("%w: %w", participant.ErrNoMarkers, err)
	}
	return err
}

func decided(m pgbranch.Marker, there bool, barrier error) participant.Finding {
	switch {
	case !there:
		return participant.Finding{
			Reason: "its client is just committing it, or was when this was asked"} // (busy)
	case barrier != nil:
		return participant.Finding{Reason: barrier.Error()} // (waiting)
	case m.Never:
		return participant.Finding{Standing: txn.StandingRolledBack,
			Reason: "its marker says that it never commits"} // (never)
	}
	votes, err := txn.ParseDecision(m.Decision)
	if err != nil {
		return participant.Finding{Standing: txn.StandingHeld,
			Reason: "its marker cannot be read: " + err.Error()} // (garbled)
	}
	return participant.Finding{Standing: txn.StandingCommitted, Votes: votes} // (committed)
}

// RemoveMarkers removes markers of commits. What is of another log, and what says never, stays.
func (r *Resource) RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error {
	if len(ids) > participant.MaxMarkers {
		return ErrMarkers
	}
	if err := r.admit(f, 0); err != nil {
		return err
	}
	var own []txn.ID
	for _, id := range ids {
		if id.Log() == f.Log {
			own = append(own, id)
		}
	}
	return r.acting(ctx, f, func(s *session) error {
		_, before := r.past.known()
		if _, err := r.look(ctx, s, before); err != nil {
			return err
		}
		if err := keepsMarkers(pgbranch.RemoveMarkers(ctx, s.PgConn, own)); err != nil {
			return fmt.Errorf("postgres: remove markers of %s: %w", r.config.Name, err)
		}
		return nil
	})
}

// markers lists those of commits, where markers are set up. That they are is asked once for each
// session; that they are not, each time, because they may be set up at any time.
func (r *Resource) markers(ctx context.Context, s *session, log txn.LogID) ([]txn.ID, error) {
	if log == 0 {
		return nil, nil
	}
	if !s.marked {
		setup, err := pgbranch.LookMarkers(ctx, s.PgConn)
		if err != nil {
			return nil, err
		}
		if s.marked = setup.Usable(); !s.marked {
			return nil, nil
		}
	}
	ids, err := pgbranch.ListMarkers(ctx, s.PgConn, log, r.nextMarker(log),
		participant.MaxMarkers)
	if errors.Is(err, pgbranch.ErrNoMarkers) {
		s.marked = false // they were taken away since
		return nil, nil
	}
	r.listedMarkers(ids)
	return ids, err
}

// nextMarker is where a listing begins: behind a full one before it.
func (r *Resource) nextMarker(log txn.LogID) txn.Seq {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.behind.Log() != log || r.behind.Seq() >= txn.MaxSeq {
		return 1
	}
	return r.behind.Seq() + 1
}

func (r *Resource) listedMarkers(ids []txn.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behind = txn.ID{}
	if len(ids) == participant.MaxMarkers {
		r.behind = ids[len(ids)-1]
	}
}

// checkMarkers says whether decisions can be left to this database. That none can is no fault, as
// long as nobody has begun to set that up.
func checkMarkers(setup pgbranch.MarkerSetup) []participant.Check {
	switch {
	case !setup.There:
		return nil
	case setup.Fault != "":
		return []participant.Check{warn("gavel markers --resource NAME=URL --apply",
			"decisions cannot be left to this database: %s", setup.Fault)}
	}
	return []participant.Check{ok("decisions can be left to this database, in gavel.marker")}
}
