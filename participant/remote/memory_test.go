package remote

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

const testLog txn.LogID = 0x123456789abcdef

func at(epoch txn.Epoch, lsn uint64) txn.Fence {
	return txn.Fence{Log: testLog, Epoch: epoch, LSN: lsn}
}

// clock is moved by hand.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// reopen reads the file as a participant that was killed this instant would find it.
func reopen(t *testing.T, path string) *memory {
	t.Helper()
	m, err := openMemory(path, time.Now, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newMemory(t *testing.T, c *clock) (*memory, string, *[]error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fences")
	var reports []error
	m, err := openMemory(path, c.Now, func(err error) { reports = append(reports, err) })
	if err != nil {
		t.Fatal(err)
	}
	return m, path, &reports
}

func admit(t *testing.T, m *memory, f txn.Fence, hello bool) {
	t.Helper()
	if err := m.admit(f, hello); err != nil {
		t.Fatal(err)
	}
}

// TestEpochIsDurableAtOnce: a participant that is killed right after it admitted a new epoch still
// refuses the older one.
func TestEpochIsDurableAtOnce(t *testing.T) {
	m, path, _ := newMemory(t, &clock{})
	admit(t, m, at(1, 5), false)
	admit(t, m, at(2, 9), true)
	again := reopen(t, path)
	if err := again.admit(at(1, 99), false); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the older epoch after a crash: %v", err)
	}
	if err := again.admit(at(3, 8), false); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("a shorter log after a crash: %v", err)
	}
	admit(t, again, at(2, 3), false)
}

// TestLSNIsDurableNowAndThen: no call of a running epoch costs an fsync, and yet a crash loses
// only seconds of LSN.
func TestLSNIsDurableNowAndThen(t *testing.T) {
	c := &clock{}
	m, path, _ := newMemory(t, c)
	admit(t, m, at(1, 5), false)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for lsn := range uint64(100) {
		c.now = c.now.Add(saveEvery / 200)
		admit(t, m, at(1, lsn), false)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Fatalf("the file was written within an epoch: %v", err)
	}
	c.now = c.now.Add(saveEvery)
	admit(t, m, at(1, 7), false) // a lower LSN, but what grew before is due
	if got := reopen(t, path).seen[testLog].LSN; got != 99 {
		t.Errorf("durable LSN %d, want 99", got)
	}
	admit(t, m, at(1, 200), false)
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if got := reopen(t, path).seen[testLog].LSN; got != 200 {
		t.Errorf("durable LSN after close %d, want 200", got)
	}
}

// TestUnsavedEpochIsNotAdmitted: where the new epoch cannot be made durable, the call must not
// act, and the next one tries again.
func TestUnsavedEpochIsNotAdmitted(t *testing.T) {
	c := &clock{}
	m, path, reports := newMemory(t, c)
	admit(t, m, at(1, 5), false)
	dir := filepath.Dir(path)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	other := txn.Fence{Log: 1, Epoch: 1}
	for range 2 {
		if m.admit(at(2, 5), true) == nil || m.admit(other, false) == nil {
			t.Fatal("an epoch was admitted that is not durable")
		}
	}
	// The epoch that is durable goes on, and its LSN is reported, not refused.
	c.now = c.now.Add(2 * saveEvery)
	admit(t, m, at(1, 6), false)
	if len(*reports) != 1 || m.close() == nil {
		t.Errorf("reports %v", *reports)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	admit(t, m, at(2, 6), true)
	if got := reopen(t, path).seen; len(got) != 1 || got[testLog] != at(2, 6) {
		t.Errorf("durable are %v", got)
	}
}

func TestLeftOverTemporaryFile(t *testing.T) {
	m, path, _ := newMemory(t, &clock{})
	if err := os.WriteFile(path+".tmp", []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	admit(t, m, at(1, 5), false)
	if got := reopen(t, path).seen[testLog]; got != at(1, 5) {
		t.Errorf("durable is %v", got)
	}
}

func TestManyLogs(t *testing.T) {
	m, path, _ := newMemory(t, &clock{})
	for log := range txn.LogID(MaxLogs) {
		m.seen[log+1] = txn.Fence{Log: log + 1, Epoch: 3, LSN: uint64(log)}
	}
	admit(t, m, txn.Fence{Log: 5, Epoch: 4, LSN: 100}, true)
	if diff := cmp.Diff(m.seen, reopen(t, path).seen); diff != "" {
		t.Error(diff)
	}
	err := m.admit(txn.Fence{Log: MaxLogs + 1, Epoch: 1}, true)
	if txn.ReasonOf(err) != txn.ReasonOverloaded {
		t.Errorf("one more log: %v", err)
	}
}

// TestDamageIsFound: any change of any byte, and any missing or added tail, keeps the participant
// from starting with fences that are not those it saw.
func TestDamageIsFound(t *testing.T) {
	good := formatMemory(map[txn.LogID]txn.Fence{
		testLog: at(3, 12345), 77: {Log: 77, Epoch: 1, LSN: 9},
	})
	if _, err := parseMemory(good); err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "title only": memoryTitle, "longer": string(good) + "\n",
		"version 2": strings.Replace(string(good), "fences 1", "fences 2", 1),
	}
	for i := range good {
		flipped := []byte(string(good))
		flipped[i] ^= 1
		bad[fmt.Sprintf("flipped %d", i)] = string(flipped)
		bad[fmt.Sprintf("cut at %d", i)] = string(good[:i])
	}
	path := filepath.Join(t.TempDir(), "fences")
	for name, body := range bad {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openMemory(path, time.Now, nil); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
