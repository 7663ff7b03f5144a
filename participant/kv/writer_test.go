package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/txn"
)

// gate stands before the commits of a store: each waits until the test lets it through.
type gate struct {
	entered chan int
	proceed chan error
}

// gated replaces the store's writer by one behind a gate. It counts the changes of each group by
// what the test announces.
func gated(t *testing.T, s *Store) *gate {
	t.Helper()
	g := &gate{entered: make(chan int, 100), proceed: make(chan error)}
	s.writer.close()
	groups := 0
	s.writer = newWriter(func(f func(*bbolt.Tx) error) error {
		groups++
		g.entered <- groups
		if err := <-g.proceed; err != nil {
			_ = s.db.Update(func(tx *bbolt.Tx) error { _ = f(tx); return errors.New("taken back") })
			return err
		}
		return s.db.Update(f)
	})
	return g
}

// TestGroups: changes that arrive while an fsync runs share the next one.
func TestGroups(t *testing.T) { synctest.Test(t, testGroups) }

func testGroups(t *testing.T) {
	const n = 20
	s := open(t, Config{})
	for i := range n {
		apply(t, s, name(txnSeq(i+1)), 1, put(fmt.Sprint(i), "v"))
	}
	g := gated(t, s)
	var wg sync.WaitGroup
	ask := func(i int) {
		wg.Go(func() {
			votes, err := s.Prepare(t.Context(), first, branchOf(name(txnSeq(i+1)), txn.Evidence{}))
			if err != nil || votes[0].Vote != txn.VoteYes {
				t.Errorf("%d: %+v, %v", i, votes, err)
			}
		})
	}
	ask(0)
	<-g.entered
	for i := range n - 1 {
		ask(i + 1)
	}
	synctest.Wait()
	g.proceed <- nil
	if group := <-g.entered; group != 2 {
		t.Fatalf("group %d", group)
	}
	g.proceed <- nil
	wg.Wait()
	if len(g.entered) != 0 {
		t.Error("a third group was needed")
	}
}

// TestFailedCommit: when nobody can say what is on disk, nothing is answered from memory any more.
func TestFailedCommit(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("k", "old"))
	apply(t, s, name(1), 1, put("k", "new"))
	g := gated(t, s)
	broken := errors.New("fdatasync: input/output error")
	result := make(chan error, 1)
	go func() {
		_, err := s.Prepare(t.Context(), first, branchOf(name(1), txn.Evidence{}))
		result <- err
	}()
	<-g.entered
	g.proceed <- broken
	if err := <-result; !errors.Is(err, ErrFailed) || !errors.Is(err, broken) {
		t.Fatalf("the failed call: %v", err)
	}
	ctx := t.Context()
	_, get := s.Get(ctx, [][]byte{[]byte("k")})
	_, app := s.Apply(ctx, name(2), 1, []Op{put("l", "v")})
	_, list := s.List(ctx, first)
	_, com := s.Commit(ctx, first, branchOf(name(1), txn.Evidence{}))
	for i, err := range []error{get, app, list, com} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(g.entered) != 0 {
		t.Error("the failed store wrote again")
	}
	again := crash(t, s)
	if got := value(t, again, "k"); got != "old" {
		t.Errorf("opened again: %s", got)
	}
}

// TestDamageFailsAlone: a damaged record fails the call that needs it, not those that share its
// group.
func TestDamageFailsAlone(t *testing.T) { synctest.Test(t, testDamageFailsAlone) }

func testDamageFailsAlone(t *testing.T) {
	s := open(t, Config{})
	prepared(t, s, name(1), put("a", "1"))
	e := prepared(t, s, name(2), put("b", "1"))
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return viewOf(tx).bucket("prepared").Put([]byte(name(1).String()), []byte("damaged"))
	})
	if err != nil {
		t.Fatal(err)
	}
	g := gated(t, s)
	ctx := t.Context()
	var blocked, bad, good error
	var wg sync.WaitGroup
	wg.Go(func() { blocked = s.Hello(ctx, first) })
	<-g.entered
	wg.Go(func() { _, bad = s.Commit(ctx, first, branchOf(name(1), txn.Evidence{})) })
	wg.Go(func() { _, good = s.Commit(ctx, first, branchOf(name(2), e)) })
	synctest.Wait()
	go func() {
		for range 4 { // the Hello, the group of two, and each of these alone
			g.proceed <- nil
		}
	}()
	wg.Wait()
	if blocked != nil || good != nil || !errors.Is(bad, errDamaged) || errors.Is(bad, ErrFailed) {
		t.Errorf("hello %v, good %v, bad %v", blocked, good, bad)
	}
	if got := value(t, s, "b"); got != "1" {
		t.Errorf("the good branch left %s", got)
	}
	if _, err := s.List(ctx, first); !errors.Is(err, errDamaged) {
		t.Errorf("a listing with a damaged record: %v", err)
	}
}

// TestAbandonedCall: a caller whose context ends does not know, and the change is made all the
// same, on slices of its own.
func TestAbandonedCall(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("k", "v"))
	g := gated(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	in := branchOf(name(1), txn.Evidence{})
	result := make(chan error, 1)
	go func() {
		_, err := s.Prepare(ctx, first, in)
		result <- err
	}()
	<-g.entered
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	in[0].Name = name(99)
	g.proceed <- nil
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := standing(t, again.Inquire, name(1), txn.Evidence{}); got != txn.StandingPrepared {
		t.Errorf("the abandoned prepare left %v", got)
	}
}

// TestCloseAnswersWaiters: the group under way ends, and what waits behind it is not begun.
func TestCloseAnswersWaiters(t *testing.T) { synctest.Test(t, testCloseAnswersWaiters) }

func testCloseAnswersWaiters(t *testing.T) {
	s := open(t, Config{})
	g := gated(t, s)
	running, waiting := make(chan error, 1), make(chan error, 1)
	go func() { running <- s.Hello(t.Context(), first) }()
	<-g.entered
	go func() { waiting <- s.Hello(t.Context(), fenceAt(2, 2)) }()
	synctest.Wait()
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.writer.quit
	g.proceed <- nil
	if err := <-running; err != nil {
		t.Errorf("the running call: %v", err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("the waiting call: %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestRecordRoundTrip(t *testing.T) {
	in := record{
		xid: 77, at: time.Unix(0, 1234567890), reads: []string{"a", "b\x00c"},
		writes: []write{
			{key: "k", value: []byte("value")}, {key: "gone", deleted: true}, {key: "empty"},
		},
	}
	body := encodeRecord(in)
	out, err := decodeRecord(body)
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b write) bool {
		return a.key == b.key && bytes.Equal(a.value, b.value) && a.deleted == b.deleted
	})
	if diff := cmp.Diff(in, out, same, cmp.AllowUnexported(record{})); diff != "" {
		t.Error(diff)
	}
	for i := range 8 * len(body) {
		bad := bytes.Clone(body)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decodeRecord(bad); !errors.Is(err, errDamaged) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	for i := range body {
		if _, err := decodeRecord(body[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

// TestForgedLengths: a checksum that fits does not excuse lengths that do not.
func TestForgedLengths(t *testing.T) {
	body := encodeRecord(record{xid: 1, reads: []string{"a"}})
	for i := range len(body) - 4 {
		for _, b := range []byte{0x00, 0x01, 0x7f, 0xff} {
			forged := bytes.Clone(body[:len(body)-4])
			forged[i] = b
			sum := checksum(forged)
			forged = append(forged, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
			if r, err := decodeRecord(forged); err == nil && len(r.reads)+len(r.writes) > 2 {
				t.Errorf("byte %d as %#x made %d keys", i, b, len(r.reads)+len(r.writes))
			}
		}
	}
}

func TestEndedRoundTrip(t *testing.T) {
	for _, how := range []end{endCommitted, endRolledBack, endRefused} {
		in := ended{end: how, xid: 5, at: 9, by: time.Unix(0, 42)}
		out, err := decodeEnded(in.encode())
		if err != nil || out != in {
			t.Errorf("%+v became %+v, %v", in, out, err)
		}
	}
	for _, bad := range [][]byte{nil, {}, make([]byte, endedLen), make([]byte, endedLen+1)} {
		if _, err := decodeEnded(bad); !errors.Is(err, errDamaged) {
			t.Errorf("%d zero bytes: %v", len(bad), err)
		}
	}
}
