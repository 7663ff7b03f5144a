package txlog

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// drawRecord favours sizes around the places where a payload meets a sector's end, and zeros.
func drawRecord(t *rapid.T) Record {
	size := rapid.OneOf(
		rapid.IntRange(0, 20), rapid.IntRange(430, 530), rapid.IntRange(0, 3000),
	).Draw(t, "size")
	data := make([]byte, size)
	if rapid.Bool().Draw(t, "filled") {
		data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "data")
	}
	return Record{
		Type: rapid.Byte().Draw(t, "type"), Flags: rapid.Byte().Draw(t, "flags"), Data: data,
	}
}

func same(a, b Record) bool {
	return a.Type == b.Type && a.Flags == b.Flags && bytes.Equal(a.Data, b.Data)
}

// sealed is a frame of these records.
func sealed(recs []Record, h frameHeader) []byte {
	b := newBatch(MaxFrame)
	for i := range b.buf {
		b.buf[i] = 0xEE
	}
	b.reset()
	for _, r := range recs {
		b.add(r)
	}
	raw, _ := b.seal(h)
	return slices.Clone(raw)
}

// TestFrameRoundTrip: what is put into a frame comes out; no sector of it is zero; only its first
// sector could be taken for a head; dirt of the buffer's last use does not show.
func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		recs := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 12).Draw(t, "recs")
		in := frameHeader{
			id: txn.LogID(rapid.Uint64().Draw(t, "id")), lsn: rapid.Uint64().Draw(t, "lsn"),
			prevSum: rapid.Uint32().Draw(t, "prevSum"), prevLen: rapid.Uint32().Draw(t, "prevLen"),
			synced: rapid.Uint64().Draw(t, "synced"),
			kind:   Kind(rapid.IntRange(0, 4).Draw(t, "kind")),
			epoch:  txn.Epoch(rapid.Uint32().Draw(t, "epoch")),
			clock:  rapid.Int64().Draw(t, "clock"),
		}
		raw := sealed(recs, in)
		h, err := parseFrameHeader(raw)
		if err != nil || h.len() != len(raw) || h.payloadSum != checksum(raw[frameHeaderSize:]) {
			t.Fatalf("header %+v, %v", h, err)
		}
		in.sum, in.payload, in.payloadSum, in.count = h.sum, h.payload, h.payloadSum, len(recs)
		if h != in {
			t.Fatalf("wrote %+v, read %+v", in, h)
		}
		for off := 0; off < len(raw); off += sectorSize {
			if _, err := parseFrameHeader(raw[off:]); (err == nil) != (off == 0) {
				t.Fatalf("sector at %d: %v", off, err)
			}
		}
		payload := unstamp(nil, raw, h.payload)
		if err := checkRecords(payload, h.count); err != nil {
			t.Fatal(err)
		}
		i := 0
		if err := deliver(payload, func(r Record) error {
			if !same(r, recs[i]) {
				t.Fatalf("record %d differs", i)
			}
			i++
			return nil
		}); err != nil || i != len(recs) {
			t.Fatalf("%d records of %d, %v", i, len(recs), err)
		}
	})
}

// TestFrameFlips: any one bit of a frame is covered by one of its checksums or its magic.
func TestFrameFlips(t *testing.T) {
	raw := sealed([]Record{{Type: 1, Data: make([]byte, 900)}}, frameHeader{id: 1, lsn: 4096})
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		h, err := parseFrameHeader(raw)
		if err == nil && h.payloadSum == checksum(raw[frameHeaderSize:]) {
			t.Errorf("bit %d of byte %d is not covered", bit%8, bit/8)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

// TestForgedHeadInAPayload writes records full of frame heads: none stands where a head could be.
func TestForgedHeadInAPayload(t *testing.T) {
	head := sealed(nil, frameHeader{id: testID, lsn: 8192, synced: math.MaxUint64})
	forged := bytes.Repeat(head[:frameHeaderSize], 1000)
	raw := sealed([]Record{{Data: forged}}, frameHeader{id: testID, lsn: 4096})
	for off := sectorSize; off < len(raw); off += sectorSize {
		if _, err := parseFrameHeader(raw[off:]); err == nil {
			t.Errorf("a forged head at %d", off)
		}
	}
}

func TestFrameSizes(t *testing.T) {
	for payload := range 3000 {
		n := frameLen(payload)
		tight := n == sectorSize || payloadRoom(n-sectorSize) < payload
		if n%sectorSize != 0 || payloadRoom(n) < payload || !tight {
			t.Fatalf("payload %d takes %d bytes with room for %d", payload, n, payloadRoom(n))
		}
	}
	if payloadRoom(MaxFrame) > maxCount*recordOverhead {
		t.Error("the records of a frame could overflow their count")
	}
	for _, size := range []int{0, 127, 128, 16383, 16384, MaxRecord} {
		b := newBatch(MaxFrame)
		r := Record{Data: make([]byte, size)}
		b.add(r)
		if b.payload != recordSize(r) || recordSize(r) > size+recordOverhead {
			t.Errorf("a record of %d bytes takes %d, computed %d", size, b.payload, recordSize(r))
		}
	}
}

// TestAssertionOfStamps: a frame that recovery could not judge is never written.
func TestAssertionOfStamps(t *testing.T) {
	for _, at := range []int{0, sectorSize} {
		raw := sealed([]Record{{Data: make([]byte, 900)}}, frameHeader{})
		raw[at] = 0
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("byte %d is zero and nobody minds", at)
				}
			}()
			assertStamped(raw)
		}()
	}
}

// TestDecodersStandAnything feeds arbitrary bytes to every decoder.
func TestDecodersStandAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "bytes")
		if err := checkRecords(b, rapid.IntRange(0, 50).Draw(t, "count")); err == nil {
			n := 0
			if err := deliver(b, func(Record) error { n++; return nil }); err != nil {
				t.Fatalf("checked, and then: %v", err)
			}
		}
		if _, err := decodeMeta(b); err == nil {
			t.Fatal("arbitrary bytes are a meta")
		}
		padded := append(b, make([]byte, headerSize)...)
		if _, _, err := decodeSegmentHeader(padded[:headerSize]); err == nil {
			t.Fatal("arbitrary bytes are a segment header")
		}
		if _, err := decodeSnapHeader(padded[:snapHeaderSize]); err == nil {
			t.Fatal("arbitrary bytes are a snapshot header")
		}
	})
}

func TestMetaRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := meta{
			id:      txn.LogID(rapid.Uint64Range(1, uint64(txn.MaxLogID)).Draw(t, "id")),
			created: time.Unix(0, rapid.Int64Range(0, 1<<62).Draw(t, "created")).UTC(),
			inode:   rapid.Uint64().Draw(t, "inode"),
			born:    rapid.Bool().Draw(t, "born"),
		}
		if rapid.Bool().Draw(t, "hasBirth") {
			in.birth = time.Unix(rapid.Int64Range(1, 1<<33).Draw(t, "birth"), 5).UTC()
		}
		out, err := decodeMeta(in.encode())
		if err != nil || out != in {
			t.Fatalf("wrote %+v, read %+v, %v", in, out, err)
		}
		if out.isCopy(vfs.Info{Inode: in.inode, Birth: in.birth}) ||
			!out.isCopy(vfs.Info{Inode: in.inode + 1, Birth: in.birth}) ||
			!out.isCopy(vfs.Info{Inode: in.inode, Birth: in.birth.Add(1)}) {
			t.Fatal("a copy is told wrongly")
		}
	})
}

func TestSegmentHeaderRoundTrip(t *testing.T) {
	in := segmentHeader{
		id: testID, num: 7, base: 1 << 40, size: MaxSegmentSize, created: time.Unix(5, 6).UTC(),
	}
	b := in.encode()
	out, sum, err := decodeSegmentHeader(b)
	if err != nil || out != in || sum == 0 {
		t.Errorf("wrote %+v, read %+v, %v", in, out, err)
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := decodeSegmentHeader(b); err == nil {
			t.Errorf("bit %d of byte %d is not covered", bit%8, bit/8)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// TestSnapshotRoundTrip writes and reads snapshots of any records, and refuses each with one bit
// flipped, one byte more or one byte less.
func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		recs := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 10).Draw(rt, "recs")
		mem := vfs.NewMem()
		f, err := mem.Open("/s", vfs.Create)
		if err != nil {
			rt.Fatal(err)
		}
		h := snapHeader{id: testID, lsn: 8192, epoch: 9, created: time.Unix(1, 2).UTC()}
		size, err := writeSnapshot(f, h, slices.Values(recs), func() error { return nil })
		if err != nil {
			rt.Fatal(err)
		}
		read := func() ([]Record, error) {
			var out []Record
			s := snapshotFile{lsn: 8192, name: "s", file: f}
			got, err := readSnapshot(s, testID, nil, func(r Record) error {
				out = append(out, Record{r.Type, r.Flags, slices.Clone(r.Data)})
				return nil
			})
			if err == nil && got != h {
				rt.Fatalf("wrote %+v, read %+v", h, got)
			}
			return out, err
		}
		out, err := read()
		if err != nil || !slices.EqualFunc(out, recs, same) {
			rt.Fatalf("%d records in, %d out, %v", len(recs), len(out), err)
		}
		at, bit := rapid.Int64Range(0, size-1).Draw(rt, "at"), rapid.UintRange(0, 7).Draw(rt, "bit")
		mem.FlipBit("/s", at, bit)
		if _, err := read(); !isCorruption(err) {
			rt.Fatalf("bit %d of byte %d of %d flipped: %v", bit, at, size, err)
		}
		mem.FlipBit("/s", at, bit)
		for _, n := range []int64{size + 1, size - 1} {
			if err := f.Truncate(n); err != nil {
				rt.Fatal(err)
			}
			if _, err := read(); !isCorruption(err) {
				rt.Fatalf("%d bytes instead of %d: %v", n, size, err)
			}
		}
	})
}

func TestErrorsExplainThemselves(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		want string
	}{
		{&CorruptionError{File: "f", Offset: 3, LSN: 4, Err: cause},
			"txlog: f is damaged at byte 3 (LSN 4): cause"},
		{&CorruptionError{File: "f", Offset: 3, Err: cause},
			"txlog: f is damaged at byte 3: cause"},
		{&LockedError{Dir: "d", Host: "h", PID: 7}, "txlog: d is in use by process 7 on host h"},
		{lockedBy("d", "garbage"), "txlog: d is in use by another process"},
		{&VersionError{Found: 9},
			"txlog: the log has format version 9; this program knows version 1"},
	} {
		if c.err.Error() != c.want {
			t.Errorf("%q, not %q", c.err, c.want)
		}
	}
	if !errors.Is(&CorruptionError{Err: cause}, cause) {
		t.Error("the cause is lost")
	}
	for k := range kindEnd + 1 {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}
