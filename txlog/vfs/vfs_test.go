package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// check fails the test at an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a file with this content, nothing of it durable.
func create(t testing.TB, fsys FS, name, content string) File {
	t.Helper()
	f, err := fsys.Open(name, Create)
	check(t, err)
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// content is a file's bytes, or "-" if there is no such file.
func content(t testing.TB, fsys FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name, ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	check(t, err)
	info, err := f.Stat()
	check(t, err)
	b := make([]byte, info.Size)
	if n, err := f.ReadAt(b, 0); n != len(b) && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	check(t, f.Close())
	return string(b)
}

// TestContract holds both file systems to the same rules.
func TestContract(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) (FS, string){
		"os":     func(t *testing.T) (FS, string) { return OS(), t.TempDir() },
		"memory": func(*testing.T) (FS, string) { return NewMem(), "/" },
		"hooked": func(t *testing.T) (FS, string) {
			return Hooked(OS(), new(Counter).Hook), t.TempDir()
		},
	} {
		t.Run(name, func(t *testing.T) {
			fsys, dir := make(t)
			at := func(name string) string { return filepath.Join(dir, name) }
			t.Run("files", func(t *testing.T) { contractFiles(t, fsys, at) })
			t.Run("names", func(t *testing.T) { contractNames(t, fsys, at) })
			t.Run("lock", func(t *testing.T) { contractLock(t, fsys, at) })
		})
	}
}

func contractFiles(t *testing.T, fsys FS, at func(string) string) {
	f := create(t, fsys, at("a"), "hello")
	check(t, f.Allocate(10))
	check(t, f.Datasync())
	check(t, f.Sync())
	if _, err := f.WriteAt([]byte("!"), 12); err != nil {
		t.Error(err)
	}
	if got := content(t, fsys, at("a")); got != "hello"+string(make([]byte, 7))+"!" {
		t.Errorf("content %q", got)
	}
	check(t, f.Truncate(3))
	check(t, f.Truncate(4))
	b := make([]byte, 9)
	if n, err := f.ReadAt(b, 1); n != 3 || !errors.Is(err, io.EOF) || string(b[:3]) != "el\x00" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if n, err := f.ReadAt(b, 100); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes behind the end, %v", n, err)
	}
	check(t, f.Close())
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := f.WriteAt(b, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("written when closed: %v", err)
	}
	r, err := fsys.Open(at("a"), ReadOnly)
	check(t, err)
	if _, err := r.WriteAt(b, 0); err == nil {
		t.Error("written although read-only")
	}
	if err := r.Truncate(0); err == nil {
		t.Error("truncated although read-only")
	}
	check(t, r.Close())
}

func contractNames(t *testing.T, fsys FS, at func(string) string) {
	if _, err := fsys.Open(at("none"), ReadWrite); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	if _, err := fsys.Stat(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	if err := fsys.Rename(at("none"), at("b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename: %v", err)
	}
	if err := fsys.Remove(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove: %v", err)
	}
	for _, err := range []error{fsys.SyncDir(at("none")), listError(fsys, at("none"))} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing directory: %v", err)
		}
	}
	check(t, fsys.Mkdir(at("dir")))
	if err := fsys.Mkdir(at("dir")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir: %v", err)
	}
	old := create(t, fsys, at("dir/old"), "old")
	check(t, create(t, fsys, at("dir/new"), "new").Close())
	if _, err := fsys.Open(at("dir/new"), Create); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create: %v", err)
	}
	before, err := fsys.Stat(at("dir/new"))
	check(t, err)
	check(t, fsys.Rename(at("dir/new"), at("dir/old")))
	after, err := fsys.Stat(at("dir/old"))
	check(t, err)
	if before != after || after.Size != 3 || after.Dir {
		t.Errorf("renamed %+v to %+v", before, after)
	}
	own, err := old.Stat()
	check(t, err)
	if own.Inode == after.Inode {
		t.Errorf("two files have one inode: %+v, %+v", own, after)
	}
	b := make([]byte, 3)
	if _, err := old.ReadAt(b, 0); err != nil || string(b) != "old" {
		t.Errorf("an open file that lost its name: %q, %v", b, err)
	}
	check(t, old.Close())
	if err := fsys.Remove(at("dir")); err == nil {
		t.Error("removed a full directory")
	}
	names, err := fsys.List(at("dir"))
	if err != nil || len(names) != 1 || names[0] != "old" {
		t.Errorf("list: %v, %v", names, err)
	}
	check(t, fsys.SyncDir(at("dir")))
	check(t, fsys.Remove(at("dir/old")))
	check(t, fsys.Remove(at("dir")))
}

func listError(fsys FS, dir string) error {
	_, err := fsys.List(dir)
	return err
}

func contractLock(t *testing.T, fsys FS, at func(string) string) {
	first, err := fsys.Lock(at("LOCK"), "7 here")
	check(t, err)
	_, err = fsys.Lock(at("LOCK"), "8 there")
	held, ok := errors.AsType[*HeldError](err)
	if !ok || held.Owner != "7 here" || held.Error() == "" {
		t.Errorf("second lock: %v", err)
	}
	check(t, first.Close())
	if err := first.Close(); err == nil {
		t.Error("unlocked twice")
	}
	again, err := fsys.Lock(at("LOCK"), "9")
	check(t, err)
	check(t, again.Close())
	if _, err := fsys.Lock(at("none/LOCK"), "9"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock in a missing directory: %v", err)
	}
}

// outcomes collects what a file looks like after many power cuts.
func outcomes(t *testing.T, m *Mem, name string) map[string]int {
	rng, seen := rand.New(rand.NewPCG(1, 2)), make(map[string]int)
	for range 300 {
		seen[content(t, m.CrashClone(rng), name)]++
	}
	return seen
}

// TestCrashKeepsWhatWasSynced and drops or keeps each sector of the rest.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := NewMem()
	old, fresh := bytes.Repeat([]byte{'o'}, 3*SectorSize), bytes.Repeat([]byte{'n'}, 3*SectorSize)
	f := create(t, m, "/f", string(old))
	check(t, f.Sync())
	if seen := outcomes(t, m, "/f"); seen["-"] == 0 || seen[string(old)] == 0 || len(seen) != 2 {
		t.Errorf("without a directory sync: %d outcomes", len(seen))
	}
	check(t, m.SyncDir("/"))
	if seen := outcomes(t, m, "/f"); seen[string(old)] != 300 {
		t.Errorf("synced: %d outcomes", len(seen))
	}
	if _, err := f.WriteAt(fresh, 0); err != nil {
		t.Fatal(err)
	}
	if seen := outcomes(t, m, "/f"); len(seen) != 8 {
		t.Errorf("three unsynced sectors: %d outcomes, not 8", len(seen))
	}
	check(t, f.Datasync())
	if seen := outcomes(t, m, "/f"); seen[string(fresh)] != 300 {
		t.Errorf("synced again: %d outcomes", len(seen))
	}
	check(t, f.Truncate(10))
	seen := outcomes(t, m, "/f")
	if len(seen) != 2 || seen[string(fresh)] == 0 || seen[string(fresh[:10])] == 0 {
		t.Errorf("truncated: %d outcomes", len(seen))
	}
	check(t, f.Close())
}

// TestCrashOfNames drops directory operations one by one, and never loses a file in the middle of a
// rename.
func TestCrashOfNames(t *testing.T) {
	m := NewMem()
	for _, name := range []string{"/a", "/b"} {
		f := create(t, m, name, name)
		check(t, f.Sync())
		check(t, f.Close())
	}
	check(t, m.Mkdir("/d"))
	check(t, m.SyncDir("/"))
	check(t, m.Rename("/a", "/b"))
	check(t, m.Rename("/b", "/d/c"))
	rng, seen := rand.New(rand.NewPCG(3, 4)), make(map[string]int)
	for range 300 {
		c := m.CrashClone(rng)
		seen[fmt.Sprint(content(t, c, "/a"), content(t, c, "/b"), content(t, c, "/d/c"))]++
	}
	// The second rename depends on the first: without it, it does not happen.
	if len(seen) != 3 || seen["/a/b-"] == 0 || seen["-/a-"] == 0 || seen["--/a"] == 0 {
		t.Errorf("outcomes: %v", seen)
	}
	check(t, m.SyncDir("/d"))
	check(t, m.Remove("/d/c"))
	if seen := outcomes(t, m, "/d/c"); seen["-"] == 0 || seen["/a"] == 0 {
		t.Errorf("removed: %v", seen)
	}
	check(t, m.SyncDir("/d"))
	if seen := outcomes(t, m, "/d/c"); seen["-"] != 300 {
		t.Errorf("removed and synced: %v", seen)
	}
}

// TestClonesAreRepeatableAndApart: one seed makes one clone, and no clone touches its origin.
func TestClonesAreRepeatableAndApart(t *testing.T) {
	m := NewMem()
	f := create(t, m, "/f", "synced")
	check(t, f.Sync())
	check(t, m.SyncDir("/"))
	if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 20*SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		a := m.CrashClone(rand.New(rand.NewPCG(seed, 0)))
		b := m.CrashClone(rand.New(rand.NewPCG(seed, 0)))
		if content(t, a, "/f") != content(t, b, "/f") {
			t.Errorf("seed %d makes two clones", seed)
		}
	}
	k := m.KillClone()
	kf, err := k.Open("/f", ReadWrite)
	check(t, err)
	check(t, kf.Truncate(0))
	check(t, kf.Close())
	if len(content(t, m, "/f")) != 20*SectorSize || m.Used() != 20*SectorSize || k.Used() != 0 {
		t.Errorf("the origin changed with its clone: %d, %d bytes used", m.Used(), k.Used())
	}
	check(t, f.Close())
}

// TestKillLosesNothing, and makes nothing durable.
func TestKillLosesNothing(t *testing.T) {
	m := NewMem()
	lock, err := m.Lock("/LOCK", "1")
	check(t, err)
	f := create(t, m, "/f", "unsynced")
	k := m.KillClone()
	if got := content(t, k, "/f"); got != "unsynced" {
		t.Errorf("after kill: %q", got)
	}
	again, err := k.Lock("/LOCK", "2")
	check(t, err)
	check(t, again.Close())
	if seen := outcomes(t, k, "/f"); seen["-"] == 0 || seen["unsynced"] == 0 {
		t.Errorf("kill, then power cut: %v", seen)
	}
	kf, err := k.Open("/f", ReadWrite)
	check(t, err)
	check(t, errors.Join(kf.Sync(), k.SyncDir("/"), kf.Close()))
	if seen := outcomes(t, k, "/f"); seen["unsynced"] != 300 {
		t.Errorf("kill, sync by the next process, power cut: %v", seen)
	}
	check(t, errors.Join(f.Close(), lock.Close()))
}

// TestFailedSyncLies: afterwards the page cache shows what the disk will never have, whatever is
// synced; only writing it again helps.
func TestFailedSyncLies(t *testing.T) {
	m := NewMem()
	disk := errors.New("disk")
	fsys := Hooked(m, FailNth(2, false, disk, OpSync, OpDatasync))
	f := create(t, fsys, "/f", "old")
	check(t, errors.Join(f.Sync(), fsys.SyncDir("/")))
	rewrite := func() {
		if _, err := f.WriteAt([]byte("new"), 0); err != nil {
			t.Fatal(err)
		}
	}
	rewrite()
	if err := f.Datasync(); !errors.Is(err, disk) {
		t.Fatal(err)
	}
	check(t, f.Datasync())
	if got, seen := content(t, m, "/f"), outcomes(t, m, "/f"); got != "new" || seen["old"] != 300 {
		t.Errorf("seen %q, after a power cut %v", got, seen)
	}
	rewrite()
	check(t, f.Datasync())
	if seen := outcomes(t, m, "/f"); seen["new"] != 300 {
		t.Errorf("written again: %v", seen)
	}
	check(t, f.Close())
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(1000)
	f := create(t, m, "/f", "12345")
	if err := f.Allocate(1001); !NoSpace(err) || m.Used() != 5 {
		t.Errorf("allocate: %v, %d used", err, m.Used())
	}
	n, err := f.WriteAt(make([]byte, 2000), 0)
	if n != 1000 || !errors.Is(err, syscall.ENOSPC) || m.Used() != 1000 {
		t.Errorf("wrote %d, %v, %d used", n, err, m.Used())
	}
	if _, err := f.WriteAt(make([]byte, 1000), 0); err != nil {
		t.Errorf("in place: %v", err)
	}
	check(t, f.Truncate(100))
	g := create(t, m, "/g", "123")
	check(t, m.Rename("/g", "/f"))
	if m.Used() != 3 {
		t.Errorf("%d used after a file was replaced", m.Used())
	}
	check(t, m.Remove("/f"))
	if m.Used() != 0 {
		t.Errorf("%d used when nothing is left", m.Used())
	}
	check(t, errors.Join(f.Close(), g.Close()))
	if NoSpace(nil) || NoSpace(io.EOF) || !NoSpace(syscall.EDQUOT) {
		t.Error("NoSpace")
	}
}

func TestDamage(t *testing.T) {
	m := NewMem()
	data := append(bytes.Repeat([]byte{1}, SectorSize), bytes.Repeat([]byte{2}, SectorSize)...)
	f := create(t, m, "/f", string(data))
	check(t, m.SyncDir("/"))
	m.SwapSectors("/f", 0, 1)
	m.FlipBit("/f", 0, 3)
	m.ZeroSector("/f", 1)
	want := append(bytes.Repeat([]byte{2}, SectorSize), make([]byte, SectorSize)...)
	want[0] = 2 ^ 8
	if seen := outcomes(t, m, "/f"); seen[string(want)] != 300 {
		t.Errorf("damage is not on disk: %d outcomes", len(seen))
	}
	if m.FlipBit("/none", 0, 0) || m.Damage("/", func([]byte) {}) {
		t.Error("damaged what is not there")
	}
	check(t, f.Close())
}

// TestHooksSeeEveryKindOfCall, count it, and can fail it.
func TestHooksSeeEveryKindOfCall(t *testing.T) {
	every := func(fsys FS) []error {
		var errs []error
		note := func(err error) { errs = append(errs, err) }
		note(fsys.Mkdir("/d"))
		f, err := fsys.Open("/d/f", Create)
		if err != nil {
			return append(errs, err)
		}
		_, err = f.WriteAt([]byte("x"), 0)
		note(err)
		note(f.Allocate(5))
		note(f.Sync())
		note(f.Datasync())
		_, err = f.ReadAt(make([]byte, 1), 0)
		note(err)
		_, err = f.Stat()
		note(err)
		note(f.Truncate(1))
		note(f.Close())
		f, err = fsys.Open("/d/f", ReadOnly)
		note(err)
		if err == nil {
			note(f.Close())
		}
		_, err = fsys.Stat("/d/f")
		note(err)
		_, err = fsys.List("/d")
		note(err)
		note(fsys.SyncDir("/d"))
		note(fsys.Rename("/d/f", "/d/g"))
		lock, err := fsys.Lock("/d/l", "")
		note(err)
		if err == nil {
			note(lock.Close())
		}
		note(fsys.Remove("/d/l"))
		return errs
	}
	var count Counter
	check(t, errors.Join(every(Hooked(NewMem(), count.Hook))...))
	bad := errors.New("bad")
	for _, op := range Ops() {
		if count.Count(op) == 0 {
			t.Errorf("%v is not counted", op)
		}
		err := errors.Join(every(Hooked(NewMem(), FailNth(1, true, bad, op)))...)
		if !errors.Is(err, bad) {
			t.Errorf("%v does not fail: %v", op, err)
		}
	}
	if all := count.Count(Ops()...); all != 16 || count.Count(OpStat) != 2 {
		t.Errorf("%d calls", all)
	}
	count.Reset()
	if count.Count(Ops()...) != 0 || Op(200).String() != "Op(200)" ||
		OpSyncDir.String() != "SyncDir" {
		t.Error("reset, or names")
	}
}

func TestShortWrites(t *testing.T) {
	m := NewMem()
	disk := errors.New("disk")
	fsys := Hooked(m, FailNth(2, false, &ShortWrite{N: 2, Err: disk}, OpWrite))
	f := create(t, fsys, "/f", "1234")
	n, err := f.WriteAt([]byte("abcd"), 0)
	if n != 2 || !errors.Is(err, disk) || content(t, m, "/f") != "ab34" {
		t.Errorf("wrote %d, %v: %q", n, err, content(t, m, "/f"))
	}
	check(t, f.Close())
	if (&ShortWrite{N: 2, Err: disk}).Error() == "" {
		t.Error("no text")
	}
}

// TestPaths of the file system in memory.
func TestPaths(t *testing.T) {
	m := NewMem()
	check(t, m.Mkdir("d"))
	check(t, create(t, m, "d/f", "x").Close())
	if content(t, m, "/d/./f") != "x" || content(t, m, "//d/../d/f") != "x" {
		t.Error("paths are not cleaned")
	}
	for _, err := range []error{
		m.Mkdir("/"), m.Mkdir("/d/f/g"), m.Rename("/d/f", "/none/x"), listError(m, "/d/f"),
		openError(m, "/d", ReadOnly), openError(m, "/none/f", Create),
	} {
		if err == nil {
			t.Error("a bad path is accepted")
		}
	}
	if names, err := m.List("/"); err != nil || len(names) != 1 {
		t.Errorf("root: %v, %v", names, err)
	}
}

func openError(fsys FS, name string, mode Mode) error {
	_, err := fsys.Open(name, mode)
	return err
}
