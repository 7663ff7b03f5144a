package pgbranch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func (s *session) ensure(ids ...txn.ID) map[txn.ID]pgbranch.Marker {
	s.t.Helper()
	found, err := pgbranch.EnsureMarkers(s.t.Context(), s.PgConn, ids)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.TxStatus() != 'I' {
		s.t.Errorf("transaction status %c", s.TxStatus())
	}
	return found
}

// Whoever writes the marker first decides, and hears so from then on.
func TestTheFirstMarkerDecides(t *testing.T) {
	app, resolver := open(t, srv, "app"), open(t, srv, "resolver")
	committed, never := newID(), newID()
	app.write()
	app.wants(app.decide(committed), txn.VoteCommitted)
	for range 2 {
		found := resolver.ensure(never, committed)
		if m := found[committed]; len(found) != 2 || m.Never || !bytes.Equal(m.Decision, decision) {
			t.Errorf("committed: %+v of %d", m, len(found))
		}
		if m := found[never]; !m.Never || len(m.Decision) != 0 {
			t.Errorf("never: %+v", m)
		}
	}
	app.write()
	v := app.decide(never)
	app.wants(v, txn.VoteNo)
	if !errors.Is(v.Err, pgbranch.ErrDecided) {
		t.Errorf("%v", v.Err)
	}
	if found := resolver.ensure(never); !found[never].Never {
		t.Errorf("%+v", found)
	}
}

// Roles and databases may prescribe another level, or that nothing is written. At a higher level
// the conflict with a marker that is newer than the snapshot is an error.
func TestMarkersDoNotDependOnDefaults(t *testing.T) {
	s, app := open(t, srv, "postgres"), open(t, srv, "app")
	s.run(`SET default_transaction_isolation = 'serializable';
		SET default_transaction_read_only = on; SET synchronous_commit = off`)
	id, late := newID(), newID()
	app.begin()
	app.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s', '\\x01')", late))
	found := make(chan map[txn.ID]pgbranch.Marker, 1)
	go func() {
		// It waits for app, and goes on when that commits.
		m, err := pgbranch.EnsureMarkers(context.Background(), s.PgConn, []txn.ID{id, late})
		if err != nil {
			t.Error(err)
		}
		found <- m
	}()
	app.run("COMMIT")
	// The wait may have been over before: then it asks again.
	m := <-found
	if _, there := m[late]; !there {
		m = s.ensure(id, late)
	}
	if !m[id].Never || m[late].Never || len(m[late].Decision) != 1 {
		t.Errorf("%+v", m)
	}
	if err := pgbranch.RemoveMarkers(t.Context(), s.PgConn, []txn.ID{late}); err != nil {
		t.Error(err)
	}
	if got := app.try("SELECT 1"); got != nil || open(t, srv, "postgres").marker(late) != "none" {
		t.Errorf("%v; the marker was not removed", got)
	}
}

// One client that is slow to commit holds up no other transaction.
func TestAMarkerThatIsBeingWrittenIsLeftOut(t *testing.T) {
	app, resolver := open(t, srv, "app"), open(t, srv, "resolver")
	var ids []txn.ID
	for range 5 {
		ids = append(ids, newID())
	}
	slices.Reverse(ids)
	app.begin()
	app.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s', '\\x01')", ids[2]))
	if found := resolver.ensure(ids[2]); len(found) != 0 {
		t.Errorf("alone: %+v", found)
	}
	found := resolver.ensure(ids...)
	if _, there := found[ids[2]]; there || len(found) != 4 {
		t.Errorf("with others: %+v", found)
	}
	app.run("ROLLBACK")
	if found := resolver.ensure(ids...); len(found) != 5 || !found[ids[2]].Never {
		t.Errorf("after its end: %+v", found)
	}
}

// The ids of a log lie side by side, between those of its neighbours.
func TestListMarkersKeepsToItsLog(t *testing.T) {
	s := open(t, srv, "resolver")
	const log txn.LogID = 0x123_4567_89ab_fff
	var mine []txn.ID
	for _, seq := range []txn.Seq{1, 2, 1 << 40, txn.MaxSeq} {
		mine = append(mine, txn.NewID(log, seq))
	}
	all := append(slices.Clone(mine), txn.NewID(log-1, txn.MaxSeq), txn.NewID(log+1, 1))
	slices.Reverse(all)
	for _, id := range all {
		s.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s', '\\x01')", id))
	}
	s.ensure(txn.NewID(log, 7)) // says never, and is not listed
	for limit, want := range map[int][]txn.ID{10: mine, 4: mine, 3: mine[:3], 0: {}} {
		got, err := pgbranch.ListMarkers(t.Context(), s.PgConn, log, 1, limit)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("limit %d: %v, %v, want %v", limit, got, err, want)
		}
	}
	behind, err := pgbranch.ListMarkers(t.Context(), s.PgConn, log, 3, 1)
	if err != nil || !slices.Equal(behind, mine[2:3]) {
		t.Errorf("from 3 on: %v, %v", behind, err)
	}
	if err := pgbranch.RemoveMarkers(t.Context(), s.PgConn,
		append(all, txn.NewID(log, 7))); err != nil {
		t.Fatal(err)
	}
	for _, l := range []txn.LogID{log - 1, log, log + 1} {
		if got, err := pgbranch.ListMarkers(t.Context(), s.PgConn, l, 1, 10); len(got) != 0 ||
			err != nil {
			t.Errorf("log %s after the removal: %v, %v", l, got, err)
		}
	}
	if found := s.ensure(txn.NewID(log, 7)); !found[txn.NewID(log, 7)].Never {
		t.Errorf("the marker that says never: %+v", found)
	}
	if err := pgbranch.RemoveMarkers(t.Context(), s.PgConn, nil); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}

// Without a table, or a right to it, nothing is known about any transaction.
func TestMarkersThatAreNotThere(t *testing.T) {
	for what, s := range map[string]*session{
		"no table": openDatabase(t, srv, newDatabase(t), "postgres"),
		"no right": open(t, srv, "other"),
	} {
		_, ensure := pgbranch.EnsureMarkers(t.Context(), s.PgConn, []txn.ID{newID()})
		_, list := pgbranch.ListMarkers(t.Context(), s.PgConn, testLog, 1, 1)
		remove := pgbranch.RemoveMarkers(t.Context(), s.PgConn, []txn.ID{newID()})
		for call, err := range map[string]error{"ensure": ensure, "list": list, "remove": remove} {
			if !errors.Is(err, pgbranch.ErrNoMarkers) || pgbranch.SQLState(err) == "" {
				t.Errorf("%s: %s: %v", what, call, err)
			}
		}
		if s.TxStatus() != 'I' {
			t.Errorf("%s: transaction status %c", what, s.TxStatus())
		}
	}
	s := open(t, srv, "resolver")
	s.Close(t.Context())
	_, err := pgbranch.EnsureMarkers(t.Context(), s.PgConn, []txn.ID{newID()})
	if _, ok := errors.AsType[*pgbranch.TransportError](err); !ok {
		t.Errorf("a closed connection: %v", err)
	}
}

// TestMarkerSchema: it can be run again, and gives an application no more than it needs.
func TestMarkerSchema(t *testing.T) {
	database := newDatabase(t)
	admin := openDatabase(t, srv, database, "postgres")
	look := func(s *session) pgbranch.MarkerSetup {
		t.Helper()
		setup, err := pgbranch.LookMarkers(t.Context(), s.PgConn)
		if err != nil {
			t.Fatal(err)
		}
		return setup
	}
	resolver := openDatabase(t, srv, database, "resolver")
	if setup := look(resolver); setup.There || setup.Usable() {
		t.Errorf("before: %+v", setup)
	}
	for range 2 {
		admin.run(strings.Join(pgbranch.MarkerSchema("resolver", "app"), ";"))
		if setup := look(resolver); !setup.Usable() {
			t.Errorf("after: %+v", setup)
		}
	}
	app := openDatabase(t, srv, database, "app")
	if setup := look(app); setup.Usable() || !strings.Contains(setup.Fault, "may not") {
		t.Errorf("an application: %+v", setup)
	}
	for _, sql := range []string{"SELECT * FROM gavel.marker", "DELETE FROM gavel.marker",
		"UPDATE gavel.marker SET decision = NULL", "CREATE TABLE gavel.x ()",
		"TRUNCATE gavel.marker"} {
		if code := pgbranch.SQLState(app.try(sql)); code != "42501" {
			t.Errorf("%s: SQLSTATE %q", sql, code)
		}
	}
	app.begin()
	app.wants(app.decide(newID()), txn.VoteCommitted)
}

// A table that may lose a marker, or take two for one transaction, is none.
func TestLookMarkersFindsFaults(t *testing.T) {
	s := openDatabase(t, srv, newDatabase(t), "postgres")
	s.run("CREATE SCHEMA gavel")
	const plain = "CREATE TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea)"
	for table, fault := range map[string]string{
		plain: "",
		"CREATE TABLE gavel.marker (txid uuid UNIQUE, decision bytea, more text)":       "",
		"CREATE UNLOGGED TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea)":    "survives",
		"CREATE VIEW gavel.marker AS SELECT NULL::uuid AS txid":                         "survives",
		"CREATE TABLE gavel.marker (txid uuid, decision bytea)":                         "unique",
		"CREATE TABLE gavel.marker (txid text PRIMARY KEY, decision bytea)":             "uuid",
		"CREATE TABLE gavel.marker (txid uuid PRIMARY KEY DEFERRABLE, decision bytea)":  "unique",
		"CREATE TABLE gavel.marker (txid uuid, decision bytea, UNIQUE(txid, decision))": "unique",
		"CREATE TABLE gavel.marker (txid uuid, decision bytea); " +
			"CREATE UNIQUE INDEX ON gavel.marker (txid) WHERE decision IS NULL": "unique",
		"CREATE TABLE gavel.marker (txid uuid PRIMARY KEY)":                          "decision",
		"CREATE TABLE gavel.marker (txid uuid PRIMARY KEY, decision text)":           "decision",
		"CREATE TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea NOT NULL)": "decision",
		"CREATE TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea DEFAULT '\\x01')": "" +
			"decision",
		plain + "; ALTER TABLE gavel.marker ENABLE ROW LEVEL SECURITY":            "security",
		plain + "; CREATE RULE r AS ON INSERT TO gavel.marker DO INSTEAD NOTHING": "rules",
		plain + "; CREATE TRIGGER t BEFORE INSERT ON gavel.marker FOR EACH ROW " +
			"EXECUTE FUNCTION suppress_redundant_updates_trigger()": "triggers",
	} {
		s.run("BEGIN; " + table)
		setup, err := pgbranch.LookMarkers(t.Context(), s.PgConn)
		s.run("ROLLBACK")
		if err != nil || !setup.There || setup.Usable() != (fault == "") ||
			!strings.Contains(setup.Fault, fault) {
			t.Errorf("%s: %+v, %v, want %q", table, setup, err, fault)
		}
	}
}
