package logcmd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestInit: a log is made once, parents and all, and never over another one.
func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "lib", "gavel")
	clitest.Run(t, "log", "init", dir).Want(t, exit.OK, "made log ", dir)
	before := stat(t, dir)
	clitest.Run(t, "log", "init", dir).Want(t, exit.Refused, "Nothing was changed.")
	clitest.Run(t, "log", "init", "--if-missing", dir).Want(t, exit.OK, "is in "+dir+" already")
	if after := stat(t, dir); after["log_id"] != before["log_id"] {
		t.Errorf("the log is another one: %v, %v", before, after)
	}
	r := clitest.Run(t, "log", "init", "--if-missing", "-o", "json", dir).Want(t, exit.OK)
	var made struct {
		Log  string `json:"log_id"`
		Made bool   `json:"made"`
	}
	if err := json.Unmarshal([]byte(r.Out), &made); err != nil || made.Made ||
		made.Log != before["log_id"] {
		t.Errorf("%+v, %v", made, err)
	}
}

func stat(t *testing.T, dir string) map[string]any {
	t.Helper()
	r := clitest.Run(t, "log", "stat", "-o", "json", dir).Want(t, exit.OK)
	var m map[string]any
	if err := json.Unmarshal([]byte(r.Out), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestInitLeavesWhatItDoesNotKnow: a directory with half of a log is not "missing" one.
func TestInitLeavesWhatItDoesNotKnow(t *testing.T) {
	dir := clitest.Log(t)
	if err := os.Remove(filepath.Join(dir, "meta")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"log", "init", dir}, {"log", "init", "--if-missing", dir}} {
		clitest.Run(t, args...).Want(t, exit.Refused)
	}
}

// TestNoLog: every reading command says how a log is made, and why not by itself.
func TestNoLog(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		for _, verb := range []string{"verify", "stat", "dump", "adopt"} {
			clitest.Run(t, "log", verb, dir).Want(t, exit.Refused, "gavel log init "+dir,
				"A lost log must not become a new one silently")
		}
	}
}

// TestStat describes an epoch that ended by a crash, or in order.
func TestStat(t *testing.T) {
	c := clitest.MakeCrash(t)
	clitest.Run(t, "log", "stat", c.Log).Want(t, exit.OK, "epoch     1", "closed in order",
		"2 segments")
	if m := stat(t, c.Log); m["epoch"] != 1.0 || m["closed_in_order"] != true ||
		m["copy"] != false {
		t.Errorf("%v", m)
	}
	if m := stat(t, clitest.Copy(t, c.Log)); m["copy"] != true {
		t.Errorf("a copy says %v", m)
	}
	clitest.Run(t, "log", "stat", clitest.Copy(t, c.Log)).Want(t, exit.OK, "COPY")
	clitest.Run(t, "log", "stat", clitest.Log(t)).Want(t, exit.OK, "still open")
}

// TestVerify: an undamaged log is good, beside its coordinator and as a copy too.
func TestVerify(t *testing.T) {
	c := clitest.MakeCrash(t)
	clitest.Run(t, "log", "verify", c.Log).Want(t, exit.OK, "ok: log ")
	clitest.Run(t, "log", "verify", clitest.Copy(t, c.Log)).Want(t, exit.OK, "is a copy")
	r := clitest.Run(t, "log", "verify", "-o", "json", c.Log).Want(t, exit.OK)
	var v struct {
		OK      bool  `json:"ok"`
		Checked int64 `json:"checked_bytes"`
		Faults  []any `json:"faults"`
	}
	if err := json.Unmarshal([]byte(r.Out), &v); err != nil || !v.OK || v.Faults == nil ||
		v.Checked < 2*clitest.SegmentSize {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestVerifyFindsDamage: with the file and the offset, and exit code 1.
func TestVerifyFindsDamage(t *testing.T) {
	c := clitest.MakeCrash(t)
	// The first frame begins behind the header's 4096 bytes; 70 is within its payload.
	name := clitest.Damage(t, c.Log, 4096+70)
	clitest.Run(t, "log", "verify", c.Log).Want(t, exit.No, "FILE", "OFFSET", name, "4096",
		"presumed aborted")
	r := clitest.Run(t, "log", "verify", "-o", "json", c.Log).Want(t, exit.No)
	var v struct {
		OK     bool `json:"ok"`
		Faults []struct {
			File   string `json:"file"`
			Offset int64  `json:"offset"`
			What   string `json:"what"`
		} `json:"faults"`
	}
	if err := json.Unmarshal([]byte(r.Out), &v); err != nil || v.OK || len(v.Faults) == 0 ||
		v.Faults[0].File != name || v.Faults[0].What == "" {
		t.Errorf("%+v, %v", v, err)
	}
	clitest.Run(t, "log", "stat", c.Log).Want(t, exit.Refused, "offset 4096",
		"never presume abort over a hole", "gavel log verify "+c.Log)
}

// TestDump shows decisions with the names that the databases know, and one transaction alone.
func TestDump(t *testing.T) {
	c := clitest.MakeCrash(t)
	clitest.Run(t, "log", "dump", c.Log).Want(t, exit.OK, "LSN", "OPEN", "RANGE", "RESOURCE",
		"COMMIT", txn.NameOf(c.Decided, 2).String()+" at bank_b", `"decided"`)
	r := clitest.Run(t, "log", "dump", "--tx", c.Decided.String(), "-o", "json", c.Log).
		Want(t, exit.OK)
	var line struct {
		Type string   `json:"type"`
		LSN  uint64   `json:"lsn"`
		IDs  []txn.ID `json:"transactions"`
	}
	if n := strings.Count(r.Out, "\n"); n != 1 {
		t.Fatalf("%d lines: %s", n, r.Out)
	}
	if err := json.Unmarshal([]byte(r.Out), &line); err != nil || line.Type != "COMMIT" ||
		line.LSN == 0 || len(line.IDs) != 1 || line.IDs[0] != c.Decided {
		t.Errorf("%+v, %v", line, err)
	}
	r = clitest.Run(t, "log", "dump", "--tx", c.Undecided.String(), c.Log).Want(t, exit.OK)
	if r.Out != "" {
		t.Errorf("an undecided transaction is in the log: %s", r.Out)
	}
	clitest.Run(t, "log", "dump", "--tx", "7", c.Log).Want(t, exit.Usage, "--tx")
}

// TestDumpShowsEveryType: every record has its words, one that cannot be read too.
func TestDumpShowsEveryType(t *testing.T) {
	dir := clitest.Log(t)
	write(t, dir)
	clitest.Run(t, "log", "dump", dir).Want(t, exit.OK, "bank is kv 7/8", "every branch of 1",
		"branch 2 at resource 9 is HEURISTIC_HAZARD: gone", "outcomes of sequences [1, 17)",
		"an idempotency key", "bytes that cannot be read", "TYPE_99")
}

func write(t *testing.T, dir string) {
	t.Helper()
	log, err := txlog.Open(txlog.Options{Dir: dir, FS: vfs.OS(), SegmentSize: clitest.SegmentSize,
		Replay:      func(txlog.Entry) error { return nil },
		OnPersisted: func(txlog.Persisted) {}, OnFailed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	id := txn.NewID(log.ID(), 3)
	var recs []txlog.Record
	for _, r := range []protocol.Record{
		protocol.ResourceRecord{RM: 1, Name: "bank", Kind: "kv",
			Identity: txn.Identity{System: 7, Database: 8}},
		protocol.EndRecord{IDs: []txn.ID{id}},
		protocol.HeuristicRecord{ID: id, Branch: 2, RM: 9, What: txn.BranchHeuristicHazard,
			Reason: "gone"},
		protocol.OutcomesRecord{First: 1, Bits: []byte{1, 2}},
		protocol.KeyRecord{ID: id},
	} {
		recs = append(recs, record.Encode(nil, r))
	}
	recs = append(recs, txlog.Record{Type: 99, Data: []byte("?")})
	if _, err := log.Append(recs, true); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAdopt: a copy becomes a log of its own, with the decisions that it knows; what it does not
// know is left alone by the new log.
func TestAdopt(t *testing.T) {
	c := clitest.MakeCrash(t)
	old := stat(t, c.Log)["log_id"].(string)
	c.Log = clitest.Copy(t, c.Log)
	clitest.Run(t, "log", "adopt", c.Log).
		Want(t, exit.OK, "with 1 unfinished decisions of log "+old, "adopted-")
	if now := stat(t, c.Log); now["log_id"] == old || now["copy"] != false {
		t.Errorf("after the adoption: %v", now)
	}
	args := append([]string{"recover", "--log", c.Log}, c.Resources()...)
	clitest.Run(t, args...).Want(t, exit.No, "the log holds its commit", "not ours")
	clitest.Run(t, "log", "adopt", clitest.Copy(t, c.Log), "-o", "json").
		Want(t, exit.OK, "new_log_id")
}
