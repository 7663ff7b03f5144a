package txlog

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// bench is a log whose tail a test lays out byte by byte: one durable append, then space.
type bench struct {
	t    *testing.T
	mem  *vfs.Mem
	file string
	// off is the tail and lsn its LSN; prevSum and prevLen name the frame before it.
	off              int64
	lsn              uint64
	prevSum, prevLen uint32
}

func newBench(t *testing.T) *bench {
	mem := newFS(t, InitOptions{})
	r := open(t, mem)
	r.put(1, 100)
	mem2 := mem.KillClone()
	r.close()
	b := &bench{t: t, mem: mem2, file: filepath.Join(testDir, segmentName(0))}
	_, err := Dump(mem2, testDir, Visitor{Frame: func(f FrameInfo) error {
		b.off, b.lsn = f.Offset+int64(f.Bytes), f.LSN+uint64(f.Bytes)
		b.prevLen = uint32(f.Bytes)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	raw := readFile(t, mem2, b.file)[b.off-int64(b.prevLen):]
	h, err := parseFrameHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	b.prevSum = h.sum
	return b
}

// frame is a frame with records that fill the given number of sectors, as it would be written at
// the tail; edit may change its header.
func (b *bench) frame(sectors int, edit func(*frameHeader)) []byte {
	h := frameHeader{id: testID, lsn: b.lsn, prevSum: b.prevSum, prevLen: b.prevLen, synced: b.lsn,
		epoch: 1}
	if edit != nil {
		edit(&h)
	}
	size := max(0, payloadRoom(sectors*sectorSize)-20)
	data := payload(2, 0, size)
	raw := sealed([]Record{{Type: recAppend, Data: data}}, h)
	if len(raw) != sectors*sectorSize {
		b.t.Fatalf("the frame has %d bytes", len(raw))
	}
	return raw
}

// put writes bytes so many sectors behind the tail.
func (b *bench) put(sector int64, raw []byte) {
	b.mem.Damage(b.file, func(data []byte) { copy(data[b.off+sector*sectorSize:], raw) })
}

// verdict opens the log: it says how many appends are there, or the fault.
func (b *bench) verdict() (appends uint64, fault error) {
	b.t.Helper()
	_, verr := Verify(b.mem, testDir, nil)
	r, err := tryOpen(b.t, b.mem)
	if err == nil {
		if verr != nil {
			b.t.Errorf("opened, and verify says %v", verr)
		}
		defer r.close()
		return r.state.n, nil
	}
	if !isCorruption(err) {
		b.t.Errorf("refused with %v", err)
	}
	return 0, err
}

// judgement is one row of judge's table: what lies at the tail, and the verdict.
type judgement struct {
	label, what string
	lay         func(b *bench)
	// appends is how many are replayed, or 0 where the log is refused with fault.
	appends uint64
	fault   error
}

// judgeLater are the rows for what lies behind the tail.
func judgeLater() []judgement {
	return []judgement{
		{"", "a whole frame, never acknowledged", func(b *bench) {
			b.put(0, b.frame(3, nil))
		}, 2, nil},
		{"@1", "a frame of another place", func(b *bench) {
			b.put(1, b.frame(1, func(h *frameHeader) { h.lsn += 4 * sectorSize }))
		}, 0, errMisplaced},
		{"@1", "at the tail itself", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.lsn += sectorSize }))
		}, 0, errMisplaced},
		{"@2", "a frame that says the tail was durable", func(b *bench) {
			b.put(1, b.frame(1, func(h *frameHeader) { h.lsn += sectorSize; h.synced = h.lsn }))
		}, 0, errPromise},
		{"@3", "a frame head behind more than one empty frame", func(b *bench) {
			b.put(2, b.frame(1, func(h *frameHeader) { h.lsn += 2 * sectorSize }))
		}, 0, errStray},
		{"@4", "anything in a later segment", func(b *bench) {
			b.file = filepath.Join(testDir, segmentName(1))
			b.off = headerSize + 50*sectorSize
			b.put(0, []byte{stamp})
		}, 0, errStray},
		{"@5", "bytes that are neither head nor stamped", func(b *bench) {
			b.put(3, []byte("bytes"))
		}, 0, errStray},
		{"@5", "a stamped sector at the tail", func(b *bench) {
			b.put(0, b.frame(2, nil)[sectorSize:])
		}, 0, errFrameHead},
	}
}

// judgeHere are the rows for what lies at the tail.
func judgeHere() []judgement {
	zero := make([]byte, sectorSize)
	return []judgement{
		{"@6", "nothing", func(*bench) {}, 1, nil},
		{"@6", "a frame without its head", func(b *bench) {
			b.put(0, b.frame(5, nil))
			b.put(0, zero)
		}, 1, nil},
		{"@6", "a whole frame behind a lost empty one", func(b *bench) {
			b.put(1, b.frame(3, func(h *frameHeader) { h.lsn += sectorSize }))
		}, 1, nil},
		{"@7", "a frame without a sector in its middle", func(b *bench) {
			b.put(0, b.frame(5, nil))
			b.put(2, zero)
		}, 1, nil},
		{"@7", "a frame without its last sector", func(b *bench) {
			b.put(0, b.frame(5, nil)[:4*sectorSize])
		}, 1, nil},
		{"@7", "torn, and of the wrong epoch", func(b *bench) {
			b.put(0, b.frame(5, func(h *frameHeader) { h.epoch = 7 })[:4*sectorSize])
		}, 0, errEpoch},
		{"@8", "a complete frame with one bit flipped", func(b *bench) {
			raw := b.frame(5, nil)
			raw[3*sectorSize+77] ^= 4
			b.put(0, raw)
		}, 0, errFrameBody},
		{"@8", "a complete frame of another log", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.id++ }))
		}, 0, errForeign},
		{"@8", "one that does not follow", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.prevSum++ }))
		}, 0, errChain},
		{"@8", "one of a kind from the future", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.kind = kindEnd }))
		}, 0, errKind},
		{"@8", "an epoch that nobody began", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.epoch = 2 }))
		}, 0, errEpoch},
		{"@8", "an epoch begun twice", func(b *bench) {
			b.put(0, b.frame(1, func(h *frameHeader) { h.kind = KindOpen }))
		}, 0, errEpoch},
		{"@8", "records that do not fill it", func(b *bench) {
			raw := b.frame(1, nil)
			raw[frameHeaderSize+2]++
			h, _ := parseFrameHeader(raw)
			h.payloadSum = checksum(raw[frameHeaderSize:])
			h.put(raw)
			b.put(0, raw)
		}, 0, errRecords},
	}
}

// TestJudge is the table of judge, row by row.
func TestJudge(t *testing.T) {
	for _, c := range append(judgeLater(), judgeHere()...) {
		t.Run(c.label+" "+c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				c.lay(b)
				appends, fault := b.verdict()
				switch {
				case c.fault == nil && (fault != nil || appends != c.appends):
					t.Errorf("%d appends, %v; want %d", appends, fault, c.appends)
				case c.fault != nil && !errors.Is(fault, c.fault):
					t.Errorf("%d appends, %v; want %v", appends, fault, c.fault)
				}
			})
		})
	}
}

// TestReach is the end of @4: one empty frame and one frame of the largest size may have been in
// flight, and not a sector more.
func TestReach(t *testing.T) {
	for _, c := range []struct {
		sector int64
		ok     bool
	}{{unsyncedReach/sectorSize - 1, true}, {unsyncedReach / sectorSize, false}} {
		t.Run(fmt.Sprint(c.sector), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := newFS(t, InitOptions{SegmentSize: 4 << 20})
				file := filepath.Join(testDir, segmentName(0))
				mem.Damage(file, func(data []byte) { data[headerSize+c.sector*sectorSize] = stamp })
				r, err := tryOpen(t, mem)
				if err == nil {
					r.close()
				}
				if (err == nil) != c.ok || err != nil && !isCorruption(err) {
					t.Errorf("a stamp %d sectors behind the tail: %v", c.sector, err)
				}
			})
		})
	}
}

// TestSegmentWithoutASeal fills a segment to its end: there, the log can neither end nor go on.
func TestSegmentWithoutASeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for b.off < testSegment {
			raw := b.frame(1, nil)
			b.put(0, raw)
			h, err := parseFrameHeader(raw)
			if err != nil {
				t.Fatal(err)
			}
			b.prevSum, b.prevLen = h.sum, sectorSize
			b.off, b.lsn = b.off+sectorSize, b.lsn+sectorSize
		}
		if _, fault := b.verdict(); !errors.Is(fault, errNoSeal) {
			t.Errorf("%v", fault)
		}
	})
}

// TestSealWithoutANextSegment removes what was durable before the seal was written.
func TestSealWithoutANextSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.put(0, sealed(nil, frameHeader{id: testID, lsn: b.lsn, prevSum: b.prevSum,
			prevLen: b.prevLen, synced: b.lsn, epoch: 1, kind: KindSeal}))
		sealed := b.mem.KillClone()
		if n, fault := b.verdict(); n != 1 || fault != nil {
			t.Errorf("sealed: %d, %v", n, fault)
		}
		b.mem = sealed
		if err := b.mem.Remove(filepath.Join(testDir, segmentName(1))); err != nil {
			t.Fatal(err)
		}
		if _, fault := b.verdict(); !errors.Is(fault, errMissing) {
			t.Errorf("without the next segment: %v", fault)
		}
		if _, err := Stat(b.mem, testDir); !errors.Is(err, errMissing) {
			t.Errorf("read without the next segment: %v", err)
		}
	})
}
