package txlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// specimen is a log worth damaging: several segments, two snapshots with log behind each, and
// either closed or killed in an idle moment. It holds appends 1 to n.
func specimen(t *testing.T, closed bool) (mem *vfs.Mem, n uint64) {
	mem = newFS(t, InitOptions{})
	r := open(t, mem)
	for i := range 30 {
		r.put(1+i%3, 100+i*300)
		if i == 14 || i == 26 {
			if err := r.snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(2 * lazyDelay)
	synctest.Wait()
	if !closed {
		defer r.close()
		return mem.KillClone(), 30
	}
	r.close()
	return mem, 30
}

// place is one byte of a log's files.
type place struct {
	file string
	off  int64
}

// surface lists the files of a log and how far each is written. last is where its last, empty
// frames begin, for which no other frame vouches.
func surface(t *testing.T, mem *vfs.Mem) (written, size map[string]int64, last place) {
	written, size = make(map[string]int64), make(map[string]int64)
	names, err := mem.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := mem.Stat(filepath.Join(testDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if isLogFile(name) {
			written[name], size[name] = info.Size, info.Size
		}
		if _, seg := parseSegmentName(name); seg {
			written[name] = headerSize
		}
	}
	info, err := Dump(mem, testDir, Visitor{Frame: func(f FrameInfo) error {
		written[f.Segment] = f.Offset + int64(f.Bytes)
		last = place{f.Segment, f.Offset + int64(f.Bytes)}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	last.off -= int64(info.Tail - info.Durable)
	return written, size, last
}

// pick draws a byte of a file, each file as likely as any other half of the time, so that small
// ones count.
func pick(rng *rand.Rand, extent map[string]int64, names []string) place {
	total := int64(0)
	for _, name := range names {
		total += extent[name]
	}
	if rng.IntN(2) == 0 {
		name := names[rng.IntN(len(names))]
		return place{name, rng.Int64N(extent[name])}
	}
	at := rng.Int64N(total)
	for _, name := range names {
		if at < extent[name] {
			return place{name, at}
		}
		at -= extent[name]
	}
	panic("unreachable")
}

func namesOf(extent map[string]int64, mem *vfs.Mem) []string {
	names, _ := mem.List(testDir)
	var out []string
	for _, name := range names {
		if extent[name] > 0 {
			out = append(out, name)
		}
	}
	return out
}

// mustBeSeen checks a damaged log: Verify finds it, and Open refuses or replays the very same.
func mustBeSeen(
	t *testing.T, what string, mem *vfs.Mem, n uint64, edit ...func(*Options),
) (opened bool) {
	t.Helper()
	rep, err := Source{FS: mem, Dir: testDir, Still: true}.Verify(nil)
	if err != nil || len(rep.Faults) == 0 {
		t.Errorf("%s: verify finds nothing (%v)", what, err)
	}
	return refusesOrRecovers(t, what, mem, n, edit...)
}

// refusesOrRecovers checks that the damage does not change what is replayed.
func refusesOrRecovers(
	t *testing.T, what string, mem *vfs.Mem, n uint64, edit ...func(*Options),
) (opened bool) {
	t.Helper()
	r, err := tryOpen(t, mem, edit...)
	if err != nil {
		if !isCorruption(err) {
			t.Errorf("%s: refused with %v", what, err)
		}
		return false
	}
	if err := r.state.check(n, n); err != nil {
		t.Errorf("%s: opened, and %v", what, err)
	}
	r.close()
	return true
}

// TestBitFlips flips bits, one at a time, in everything that was ever written: each is found.
func TestBitFlips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{true, false} {
			mem, n := specimen(t, closed)
			written, _, _ := surface(t, mem)
			names, rng := namesOf(written, mem), rand.New(rand.NewPCG(1, 1))
			opened := 0
			for range 600 {
				p, bit := pick(rng, written, names), uint(rng.IntN(8))
				hurt := mem.KillClone()
				hurt.FlipBit(filepath.Join(testDir, p.file), p.off, bit)
				if mustBeSeen(t, fmt.Sprintf("bit %d of %+v", bit, p), hurt, n) {
					opened++
				}
			}
			if opened == 0 || opened == 600 {
				t.Errorf("%d of 600 flips still opened: the specimen is one-sided", opened)
			}
		}
	})
}

// TestFlipsWhereNothingIsWritten never change what is replayed.
func TestFlipsWhereNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, false)
		written, size, _ := surface(t, mem)
		names, rng := namesOf(written, mem), rand.New(rand.NewPCG(2, 2))
		for range 300 {
			p := pick(rng, size, names)
			if p.off < written[p.file] {
				continue
			}
			hurt := mem.KillClone()
			hurt.FlipBit(filepath.Join(testDir, p.file), p.off, uint(rng.IntN(8)))
			mustBeSeen(t, fmt.Sprintf("unwritten %+v", p), hurt, n)
		}
	})
}

// TestEveryZeroedSector zeroes every sector that was written, one at a time: only the last frame,
// which holds nothing, may go unseen.
func TestEveryZeroedSector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{true, false} {
			mem, n := specimen(t, closed)
			written, _, last := surface(t, mem)
			for _, name := range namesOf(written, mem) {
				for s := range (written[name] + sectorSize - 1) / sectorSize {
					hurt, file := mem.KillClone(), filepath.Join(testDir, name)
					changed := false
					hurt.Damage(file, func(data []byte) {
						sector := data[s*sectorSize : min((s+1)*sectorSize, int64(len(data)))]
						changed = !bytes.Equal(sector, zeroSector[:len(sector)])
					})
					hurt.ZeroSector(file, s)
					what := fmt.Sprintf("zeroed sector %d of %s", s, name)
					switch {
					case !changed:
					case name == last.file && s*sectorSize >= last.off:
						refusesOrRecovers(t, what, hurt, n)
					default:
						mustBeSeen(t, what, hurt, n)
					}
				}
			}
		}
	})
}

// TestSwappedSectors exchanges sectors, written and unwritten ones, within a file.
func TestSwappedSectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, false)
		written, size, _ := surface(t, mem)
		names, rng := namesOf(written, mem), rand.New(rand.NewPCG(3, 3))
		swapped := 0
		for swapped < 400 {
			p := pick(rng, written, names)
			a, b := p.off/sectorSize, rng.Int64N((size[p.file]+sectorSize-1)/sectorSize)
			file, hurt := filepath.Join(testDir, p.file), mem.KillClone()
			if size[p.file]%sectorSize != 0 && max(a, b) == size[p.file]/sectorSize {
				continue
			}
			same := false
			hurt.Damage(file, func(data []byte) {
				x, y := data[a*sectorSize:(a+1)*sectorSize], data[b*sectorSize:(b+1)*sectorSize]
				same = bytes.Equal(x, y)
			})
			if same {
				continue
			}
			swapped++
			hurt.SwapSectors(file, a, b)
			mustBeSeen(t, fmt.Sprintf("swapped sectors %d and %d of %s", a, b, p.file), hurt, n)
		}
	})
}

// TestMissingFiles removes, shortens and renames files.
func TestMissingFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, true)
		written, _, last := surface(t, mem)
		num, _ := parseSegmentName(last.file)
		for _, name := range namesOf(written, mem) {
			file := filepath.Join(testDir, name)
			gone := mem.KillClone()
			if err := gone.Remove(file); err != nil {
				t.Fatal(err)
			}
			_, isSnap := parseSnapshotName(name)
			opened := refusesOrRecovers(t, "without "+name, gone, n)
			if unused := name == segmentName(num+1); unused && !opened {
				t.Error("the absence of an unused segment is not damage, and harmless")
			} else if !unused && !isSnap && opened && name >= segmentName(num-1) {
				t.Errorf("opened without %s", name)
			}
			short := mem.KillClone()
			truncate(t, short, file)
			mustBeSeen(t, "shortened "+name, short, n)
		}
		moved := mem.KillClone()
		if err := moved.Rename(filepath.Join(testDir, last.file),
			filepath.Join(testDir, segmentName(num+7))); err != nil {
			t.Fatal(err)
		}
		mustBeSeen(t, "a segment under another name", moved, n)
	})
}

func truncate(t *testing.T, fsys vfs.FS, name string) {
	t.Helper()
	f, err := fsys.Open(name, vfs.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Truncate(info.Size-sectorSize/2), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedSnapshotsFallBack follows a log whose newest snapshot is damaged: the older one and
// the log say the same, Verify reports it, the next snapshot replaces it and nothing is freed on
// its word.
func TestDamagedSnapshotsFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, true)
		names, err := mem.List(testDir)
		if err != nil {
			t.Fatal(err)
		}
		newest := ""
		for _, name := range names {
			if _, ok := parseSnapshotName(name); ok {
				newest = name
			}
		}
		mem.FlipBit(filepath.Join(testDir, newest), 100, 3)
		info, h := readBack(t, mem)
		if len(info.Damaged) != 1 || h.check(n, n) != nil {
			t.Errorf("read: %+v, %+v", info, h)
		}
		r := open(t, mem)
		if rec := r.log.Recovery(); len(rec.Damaged) != 1 || snapshotName(rec.Snapshot) >= newest {
			t.Errorf("recovery: %+v", rec)
		}
		r.put(1, 100)
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.Stat(filepath.Join(testDir, newest)); err == nil {
			t.Error("the damaged snapshot is still there")
		}
		r.close()
		if rep := verify(t, mem); rep.Snapshots != 2 {
			t.Errorf("%+v", rep.Info)
		}
	})
}

// TestBornFromASnapshot checks that a log which began with a snapshot is never read without one.
func TestBornFromASnapshot(t *testing.T) {
	mem := newFS(t, InitOptions{Snapshot: prefix(5)})
	if _, h := readBack(t, mem); h.check(5, 5) != nil {
		t.Errorf("%+v", h)
	}
	if err := mem.Remove(filepath.Join(testDir, snapshotName(headerSize))); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { mustBeSeen(t, "without its first snapshot", mem, 5) })
}

// TestVerifyGoesOnBehindAFault damages three places and wants all of them named.
func TestVerifyGoesOnBehindAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, _ := specimen(t, true)
		var frames []FrameInfo
		_, err := Dump(mem, testDir, Visitor{Frame: func(f FrameInfo) error {
			if f.Records > 0 {
				frames = append(frames, f)
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		hit := []FrameInfo{frames[2], frames[len(frames)/2], frames[len(frames)-1]}
		for _, f := range hit {
			mem.FlipBit(filepath.Join(testDir, f.Segment), f.Offset+70, 0)
		}
		var done, total int64
		rep, err := Verify(mem, testDir, func(d, all int64) {
			if d < done || d > all {
				t.Errorf("progress went from %d to %d of %d", done, d, all)
			}
			done, total = d, all
		})
		if err != nil || len(rep.Faults) != len(hit) || total == 0 || rep.Checked == 0 {
			t.Fatalf("%d faults, %v: %v", len(rep.Faults), err, rep.Faults)
		}
		for i, f := range hit {
			got := rep.Faults[i]
			if got.File != f.Segment || got.Offset != f.Offset || got.LSN != f.LSN {
				t.Errorf("fault %d: %v, damaged was %+v", i, got, f)
			}
		}
	})
}

// TestForeignFiles puts one log's files into another one.
func TestForeignFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, true)
		other := vfs.NewMem()
		opts := InitOptions{SegmentSize: testSegment}
		if err := Init(other, testDir, testID+1, opts); err != nil {
			t.Fatal(err)
		}
		_, _, last := surface(t, mem)
		num, _ := parseSegmentName(last.file)
		content := readFile(t, other, filepath.Join(testDir, segmentName(0)))
		for _, off := range []int{0, headerSize} {
			hurt := mem.KillClone()
			hurt.Damage(filepath.Join(testDir, last.file), func(data []byte) {
				copy(data[off:], content[:600])
			})
			mustBeSeen(t, fmt.Sprintf("another log's bytes at %d", off), hurt, n)
		}
		hurt := mem.KillClone()
		hurt.Damage(filepath.Join(testDir, segmentName(num+1)), func(data []byte) {
			copy(data, content)
		})
		mustBeSeen(t, "another log's segment", hurt, n)
	})
}

func readFile(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if err := errors.Join(readFull(f, b, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOlderSegments puts a snapshot beside segments from before its epoch, which it fits: that log
// lacks what the epoch has done.
func TestOlderSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(1, 100)
		r.close()
		older := mem.KillClone()
		info, err := Stat(mem, testDir)
		if err != nil {
			t.Fatal(err)
		}
		r = open(t, mem)
		if err := r.log.Snapshot(info.Tail, prefix(1)); err != nil {
			t.Fatal(err)
		}
		r.close()
		name := filepath.Join(testDir, snapshotName(info.Tail))
		writeFile(t, older, name, readFile(t, mem, name))
		if _, err := tryOpen(t, older); !isCorruption(err) || !errors.Is(err, errEpoch) {
			t.Errorf("open: %v", err)
		}
		mustBeSeen(t, "older segments", older, 1)
		verify(t, mem)
	})
}

// TestVersionIsNotDamage writes a meta of the future, correctly.
func TestVersionIsNotDamage(t *testing.T) {
	mem := newFS(t, InitOptions{})
	mem.Damage(filepath.Join(testDir, metaName), func(b []byte) {
		b[8] = Version + 1
		sum := checksum(b[:metaSize-4])
		b[508], b[509], b[510], b[511] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	})
	if _, err := tryOpen(t, mem); !errors.Is(err, ErrVersion) || isCorruption(err) {
		t.Errorf("open: %v", err)
	}
	if _, err := Verify(mem, testDir, nil); !errors.Is(err, ErrVersion) {
		t.Errorf("verify: %v", err)
	}
}
