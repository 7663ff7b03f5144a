package txlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// input takes numbers off fuzzed bytes; behind their end everything is zero.
type input struct{ b []byte }

func (in *input) byte() byte { return in.take(1)[0] }

func (in *input) short() int { return int(binary.LittleEndian.Uint16(in.take(2))) }

func (in *input) take(n int) []byte {
	out := make([]byte, n)
	in.b = in.b[copy(out, in.b):]
	return out
}

// allocated is how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// vandal edits the files of a log as its input says.
type vandal struct {
	in    input
	mem   *vfs.Mem
	names []string
	// forged says that a checksum was made to fit: then anything may be believed.
	forged bool
}

// maxEdits bounds one input's work.
const maxEdits = 16

func (v *vandal) run() {
	for i := 0; i < maxEdits && len(v.in.b) > 0; i++ {
		v.edit()
	}
}

// file is the path of one of the files that the log had at first.
func (v *vandal) file() string {
	return filepath.Join(testDir, v.names[int(v.in.byte())%len(v.names)])
}

// edit is one edit. Those of files that are gone have no effect.
func (v *vandal) edit() {
	kind, name := v.in.byte()%9, v.file()
	switch kind {
	case 0:
		at, b := v.in.short(), v.in.take(int(v.in.byte()))
		v.mem.Damage(name, func(data []byte) { copy(data[min(at, len(data)):], b) })
	case 1:
		at, bit := v.in.short(), v.in.byte()%8
		v.mem.Damage(name, func(data []byte) {
			if at < len(data) {
				data[at] ^= 1 << bit
			}
		})
	case 2:
		from, to := int(v.in.byte())*sectorSize, int(v.in.byte())*sectorSize
		v.mem.Damage(name, func(data []byte) {
			clear(data[min(from, to, len(data)):min(to, len(data))])
		})
	case 3:
		v.copy(name)
	case 4:
		v.resize(name, int64(v.in.short())*64)
	case 5:
		_ = v.mem.Remove(name)
	case 6:
		_ = v.mem.Rename(name, v.file())
	case 7:
		_ = v.mem.Rename(name, filepath.Join(testDir, segmentName(uint64(v.in.byte()))))
	case 8:
		v.forged = true
		at := int(v.in.byte()) * sectorSize
		v.mem.Damage(name, func(data []byte) { forge(data, at) })
	}
}

// copy copies sectors of one file over those of another.
func (v *vandal) copy(to string) {
	from, src, dst := v.file(), int(v.in.byte())*sectorSize, int(v.in.byte())*sectorSize
	n := int(v.in.byte()) * sectorSize
	var b []byte
	v.mem.Damage(from, func(data []byte) {
		b = bytes.Clone(data[min(src, len(data)):min(src+n, len(data))])
	})
	v.mem.Damage(to, func(data []byte) { copy(data[min(dst, len(data)):], b) })
}

func (v *vandal) resize(name string, size int64) {
	if f, err := v.mem.Open(name, vfs.ReadWrite); err == nil {
		_ = errors.Join(f.Truncate(size), f.Close())
	}
}

// forge makes the checksums of what begins at an offset fit, be it a file's header, a frame, or the
// meta file.
func forge(data []byte, at int) {
	le := binary.LittleEndian
	switch {
	case len(data) == metaSize:
		le.PutUint32(data[metaSize-4:], checksum(data[:metaSize-4]))
	case at == 0 && len(data) >= headerSize:
		le.PutUint32(data[headerSize-4:], checksum(data[:headerSize-4]))
	case at == 0 && len(data) >= snapHeaderSize:
		le.PutUint32(data[snapHeaderSize-4:], checksum(data[:snapHeaderSize-4]))
	case at+sectorSize <= len(data):
		frame := data[at:]
		if n := frameLen(int(le.Uint32(frame[24:]))); n <= len(frame) {
			le.PutUint32(frame[28:], checksum(frame[frameHeaderSize:n]))
		}
		le.PutUint32(frame[4:], checksum(frame[8:frameHeaderSize]))
	}
}

// imageLimit is what reading a log may allocate, beside a few times its own size, in bytes.
const imageLimit = 1 << 20

// FuzzImage vandalises a log in any way: nothing panics, nothing takes much more memory than the
// files, the reading functions and Open agree, and no record is ever told that was not appended,
// unless somebody made the checksums fit.
func FuzzImage(f *testing.F) {
	whole, n := smallSpecimen(f)
	names, err := whole.List(testDir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		mem := whole.KillClone()
		v := &vandal{in: input{edits}, mem: mem, names: names}
		v.run()
		source := Source{FS: mem, Dir: testDir, Still: true}
		var h history
		var info Info
		var rep Report
		var readErr, verifyErr error
		took := allocated(func() {
			info, readErr = source.Read(h.apply)
			rep, verifyErr = source.Verify(nil)
		})
		if limit := uint64(16*mem.Used() + imageLimit); took > limit {
			t.Errorf("%d bytes of files were read with %d bytes of memory", mem.Used(), took)
		}
		if !v.forged && (h.err != nil || h.n > n) {
			t.Errorf("told are %+v, of %d appends (%v)", h, n, readErr)
		}
		r, openErr := tryOpen(t, mem, driven)
		_, isCopy := errors.AsType[*CopyError](openErr)
		switch {
		case isCopy != (info.Copy && readErr == nil) && !v.forged:
			t.Errorf("read: %+v, %v; open: %v", info, readErr, openErr)
		case isCopy:
		case (openErr == nil) != (readErr == nil) && !v.forged:
			t.Errorf("read: %v; open: %v", readErr, openErr)
		case openErr == nil && readErr == nil && h.n != r.state.n:
			t.Errorf("read: %+v; open: %+v", h, r.state)
		case isCorruption(openErr) && verifyErr == nil && len(rep.Faults) == 0:
			t.Errorf("verify has found nothing; open: %v", openErr)
		}
		if openErr == nil {
			if err := r.log.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzFrame puts a frame behind an intact log, whose checksums fit and of which everything else is
// fuzzed, and zeroes some of its sectors. It is taken whole, or cut off, or refused.
func FuzzFrame(f *testing.F) {
	mem := newDrivenFS(f)
	r := open(f, mem, driven)
	r.put(1, 100)
	at := int64(r.log.LSN())
	h := frameHeader{id: testID, lsn: uint64(at), prevSum: r.log.w.prevSum,
		prevLen: r.log.w.prevLen, synced: uint64(at), epoch: 1}
	f.Fuzz(func(t *testing.T, payload []byte, header []byte, zeroed uint16) {
		payload = payload[:min(len(payload), 6_000)]
		raw := fuzzedFrame(h, payload, &input{header})
		cut := false
		for s := range len(raw) / sectorSize {
			if zeroed>>(s%16)&1 != 0 {
				clear(raw[s*sectorSize : (s+1)*sectorSize])
				cut = true
			}
		}
		hurt := mem.KillClone()
		hurt.Damage(filepath.Join(testDir, segmentName(0)), func(b []byte) { copy(b[at:], raw) })
		var told []Record
		l, err := Open(Options{FS: hurt, Dir: testDir, SegmentSize: MinSegmentSize, Driven: true,
			Now: ticking(), Replay: func(e Entry) error {
				told = append(told, Record{e.Type, e.Flags, bytes.Clone(e.Data)})
				return nil
			}})
		if err != nil {
			if !isCorruption(err) {
				t.Error(err)
			}
			return
		}
		size := 0
		for _, r := range told[min(1, len(told)):] {
			size += recordSize(r)
			if !bytes.Contains(payload, r.Data) {
				t.Errorf("%x was never written", r.Data)
			}
		}
		if len(told) == 0 || size > 0 && (cut || size > len(payload)) {
			t.Errorf("%d records of %d bytes, of a frame of %d; cut: %v", len(told), size,
				len(payload), cut)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// fuzzedFrame is a frame with this payload and a header near h.
func fuzzedFrame(h frameHeader, payload []byte, in *input) []byte {
	h.lsn += uint64(in.byte()) * sectorSize
	h.prevSum += uint32(in.byte())
	h.prevLen += uint32(in.byte())
	h.synced += uint64(in.byte()) * sectorSize
	h.kind = Kind(in.byte())
	h.epoch += txn.Epoch(in.byte())
	h.clock = int64(in.short())
	b := newBatch(frameLen(len(payload)))
	b.write(payload)
	b.count = in.short()
	raw, _ := b.seal(h)
	return raw
}

// snapshotLimit is what reading a snapshot may allocate, beside twice its own size, in bytes.
const snapshotLimit = 256 << 10

// FuzzSnapshot reads anything as a snapshot. With fit, its checksums are made to fit first, so that
// what is behind them is fuzzed, too. What is accepted is written again and reads the same.
func FuzzSnapshot(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, fit bool) {
		if fit {
			b = fitSnapshot(bytes.Clone(b))
		}
		var lsn uint64
		if len(b) >= snapHeaderSize {
			lsn = binary.LittleEndian.Uint64(b[16:])
		}
		var told []Record
		var err error
		took := allocated(func() { told, err = recordsIn(t, b, lsn) })
		if limit := uint64(16*len(b) + snapshotLimit); took > limit {
			t.Errorf("%d bytes were read with %d bytes of memory", len(b), took)
		}
		if err != nil {
			if !isCorruption(err) {
				t.Error(err)
			}
			return
		}
		again, err := recordsIn(t, snapshotOf(t, lsn, told), lsn)
		if err != nil || len(again) != len(told) {
			t.Fatalf("%d records are written as %d: %v", len(told), len(again), err)
		}
		for i := range told {
			if !same(told[i], again[i]) {
				t.Errorf("record %d is %+v, then %+v", i, told[i], again[i])
			}
		}
	})
}

// recordsIn reads a snapshot of the test's log.
func recordsIn(t *testing.T, b []byte, lsn uint64) (recs []Record, err error) {
	mem := vfs.NewMem()
	writeFile(t, mem, "/s", b)
	file, err := mem.Open("/s", vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	_, err = readSnapshot(snapshotFile{lsn, "s", file}, testID, nil, func(r Record) error {
		recs = append(recs, Record{r.Type, r.Flags, bytes.Clone(r.Data)})
		return nil
	})
	return recs, errors.Join(err, file.Close())
}

// snapshotOf writes a snapshot of the test's log.
func snapshotOf(t testing.TB, lsn uint64, recs []Record) []byte {
	t.Helper()
	mem := vfs.NewMem()
	file, err := mem.Open("/s", vfs.Create)
	if err != nil {
		t.Fatal(err)
	}
	alive := func() error { return nil }
	size, err := writeSnapshot(file, snapHeader{id: testID, lsn: lsn, created: ticking()()},
		func(yield func(Record) bool) {
			for _, r := range recs {
				if !yield(r) {
					return
				}
			}
		}, alive)
	b := make([]byte, size)
	if err := errors.Join(err, readFull(file, b, 0), file.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// fitSnapshot makes the log id, the checksums, the numbers of chunks and the totals fit.
func fitSnapshot(b []byte) []byte {
	if len(b) < snapshotOverhead {
		return b
	}
	le, end := binary.LittleEndian, len(b)-snapTrailerSize
	copy(b, snapMagic)
	le.PutUint64(b[8:], uint64(testID))
	le.PutUint32(b[snapHeaderSize-4:], checksum(b[:snapHeaderSize-4]))
	var totals snapTotals
	for at := snapHeaderSize; at+chunkHeaderSize <= end; {
		c := b[at:end]
		size := int(le.Uint32(c[12:]))
		if size > len(c)-chunkHeaderSize {
			return b
		}
		copy(c, chunkMagic)
		le.PutUint32(c[8:], uint32(totals.chunks))
		sum := checksum(c[8 : chunkHeaderSize+size])
		le.PutUint32(c[4:], sum)
		totals.count(sum, int(le.Uint32(c[16:])), size)
		at += chunkHeaderSize + size
	}
	copy(b[end:], totals.encode())
	return b
}
