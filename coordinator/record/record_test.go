package record

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

func drawID(t *rapid.T) txn.ID {
	return txn.NewID(txn.LogID(rapid.Uint64Range(1, uint64(txn.MaxLogID)).Draw(t, "log")),
		txn.Seq(rapid.Uint64Range(1, uint64(txn.MaxSeq)).Draw(t, "seq")))
}

func drawEvidence(t *rapid.T) txn.Evidence {
	return txn.Evidence{
		Identity: txn.Identity{
			System:   rapid.Uint64().Draw(t, "system"),
			Database: rapid.Uint32().Draw(t, "db"),
		},
		Position: txn.Position{
			Timeline: rapid.Uint32().Draw(t, "tli"),
			LSN:      rapid.Uint64().Draw(t, "lsn"),
		},
		XID: rapid.Uint64().Draw(t, "xid"),
	}
}

func drawKey(t *rapid.T) protocol.Key {
	var k protocol.Key
	copy(k.Hash[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "hash"))
	copy(k.Body[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "body"))
	return k
}

func drawNo(t *rapid.T) txn.BranchNo {
	return txn.BranchNo(rapid.IntRange(1, txn.MaxBranches).Draw(t, "no"))
}

func drawRM(t *rapid.T) protocol.RM { return protocol.RM(rapid.Uint16().Draw(t, "rm")) }

func drawBranches(t *rapid.T) (all []protocol.CommitBranch) {
	for range rapid.IntRange(0, txn.MaxBranches).Draw(t, "n") {
		all = append(all, protocol.CommitBranch{Branch: drawNo(t), RM: drawRM(t),
			Evidence: drawEvidence(t)})
	}
	return all
}

func drawRecord(t *rapid.T) protocol.Record {
	no := func() txn.BranchNo { return drawNo(t) }
	rm := func() protocol.RM { return drawRM(t) }
	seq := func() txn.Seq { return txn.Seq(rapid.Uint64Range(0, uint64(txn.MaxSeq)).Draw(t, "q")) }
	switch rapid.IntRange(0, 12).Draw(t, "type") {
	case 12:
		return protocol.DelegateRecord{ID: drawID(t), Label: rapid.String().Draw(t, "label"),
			Key: drawKey(t), Branches: drawBranches(t)}
	case 11:
		return protocol.IntentRecord{ID: drawID(t), Label: rapid.String().Draw(t, "label"),
			Key: drawKey(t), Branches: drawBranches(t)}
	case 0:
		return protocol.OpenRecord{
			Epoch:   txn.Epoch(rapid.Uint32().Draw(t, "epoch")),
			Host:    rapid.String().Draw(t, "host"),
			PID:     rapid.IntRange(0, 1<<22).Draw(t, "pid"),
			Version: rapid.String().Draw(t, "v"),
			Wall:    rapid.Int64Min(0).Draw(t, "wall"),
		}
	case 1:
		return protocol.RangeRecord{Low: seq(), High: seq()}
	case 2:
		e := drawEvidence(t)
		return protocol.ResourceRecord{
			RM:       rm(),
			Name:     rapid.String().Draw(t, "name"),
			Kind:     rapid.String().Draw(t, "kind"),
			Identity: e.Identity,
			Position: e.Position,
		}
	case 3:
		c := protocol.CommitRecord{
			ID:    drawID(t),
			Plan:  txn.Plan(rapid.IntRange(0, 5).Draw(t, "plan")),
			Label: rapid.String().Draw(t, "label"),
			Key:   drawKey(t),
		}
		for range rapid.IntRange(0, txn.MaxBranches).Draw(t, "n") {
			c.Branches = append(
				c.Branches,
				protocol.CommitBranch{Branch: no(), RM: rm(), Evidence: drawEvidence(t)},
			)
		}
		return c
	case 4:
		var e protocol.EndRecord
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			e.IDs = append(e.IDs, drawID(t))
		}
		return e
	case 5:
		return protocol.HeuristicRecord{ID: drawID(t), Branch: no(), RM: rm(),
			What: txn.BranchState(
				rapid.IntRange(0, 8).Draw(t, "what"),
			), Wrote: rapid.Uint64().Draw(t, "wrote"), Reason: rapid.String().Draw(t, "reason")}
	case 6:
		return protocol.OutcomesRecord{
			First: seq(),
			Bits:  rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "bits"),
		}
	}
	return drawRare(t, no, rm, seq)
}

// drawRare draws a record of the kinds that a log has few of.
func drawRare(
	t *rapid.T, no func() txn.BranchNo, rm func() protocol.RM, seq func() txn.Seq,
) protocol.Record {
	switch rapid.IntRange(0, 5).Draw(t, "rare type") {
	case 0:
		b := protocol.CommitBranch{Branch: no(), RM: rm(), Evidence: drawEvidence(t)}
		return protocol.OnePhaseRecord{ID: drawID(t), Label: rapid.String().Draw(t, "label"),
			Key: drawKey(t), Branch: b}
	case 1:
		return protocol.AbortRecord{ID: drawID(t)}
	case 2:
		up := protocol.Instant(rapid.Int64Min(0).Draw(t, "up"))
		return protocol.MarkRecord{Uptime: up, Next: seq()}
	case 3:
		return protocol.HoleRecord{From: seq(), To: seq()}
	case 4:
		return protocol.AdoptedRecord{Log: drawID(t).Log(),
			Epoch: txn.Epoch(rapid.Uint32().Draw(t, "epoch")), LSN: rapid.Uint64().Draw(t, "lsn")}
	}
	return protocol.KeyRecord{Key: drawKey(t), ID: drawID(t)}
}

// TestRoundTrip: what is written is read back, and every shorter or longer body is refused.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		rec := Encode(nil, want)
		got, err := Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		cut := rapid.IntRange(0, len(rec.Data)-1).Draw(t, "cut")
		if r, err := Decode(txlog.Record{Type: rec.Type, Data: rec.Data[:cut]}); err == nil {
			t.Fatalf("%d of %d bytes read as %+v", cut, len(rec.Data), r)
		}
		if _, err := Decode(txlog.Record{Type: rec.Type, Data: append(rec.Data, 0)}); !errors.Is(
			err,
			ErrMalformed,
		) {
			t.Fatalf("a byte too many: %v", err)
		}
	})
}

// TestUnknownType: a number from the future is refused, and says so.
func TestUnknownType(t *testing.T) {
	for _, n := range []uint8{0, 8, 10, 13, 21, 32, 255} {
		if _, err := Decode(txlog.Record{Type: n}); !errors.Is(err, ErrUnknownType) {
			t.Errorf("type %d: %v", n, err)
		}
	}
}

// TestNames: every number that is written has a word.
func TestNames(t *testing.T) {
	for n, want := range map[uint8]string{TypeCommit: "COMMIT", TypeEnd: "END", 200: "TYPE_200"} {
		if got := Name(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}

// FuzzDecode: no bytes crash the reader, and what it accepts is written back the same.
func FuzzDecode(f *testing.F) {
	for n := range uint8(20) {
		f.Add(n, []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, typ uint8, data []byte) {
		r, err := Decode(txlog.Record{Type: typ, Data: data})
		if err != nil {
			return
		}
		if again := Encode(nil, r); string(again.Data) != string(data) {
			t.Errorf("%x is written back as %x", data, again.Data)
		}
	})
}
