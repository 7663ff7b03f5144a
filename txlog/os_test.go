package txlog

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestOnRealFiles is one life of a log on the operating system's files, with a copy made by cp.
func TestOnRealFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := Init(vfs.OS(), dir, testID, InitOptions{SegmentSize: testSegment}); err != nil {
		t.Fatal(err)
	}
	here := func(o *Options) { o.Dir, o.FS = dir, nil }
	r := open(t, vfs.OS(), here)
	_, err := tryOpen(t, vfs.OS(), here)
	if held, ok := errors.AsType[*LockedError](err); !ok || held.PID != os.Getpid() {
		t.Errorf("a second open: %v", err)
	}
	for i := range 40 {
		r.put(2, 5000)
		if i%10 == 9 {
			if err := r.snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.close()
	rep, err := Verify(vfs.OS(), dir, nil)
	if err != nil || len(rep.Faults) > 0 || rep.Copy || !rep.Clean {
		t.Errorf("%+v, %v", rep, err)
	}
	again := open(t, vfs.OS(), here)
	if err := again.state.check(40, 40); err != nil {
		t.Error(err)
	}
	again.close()
	twin := dir + ".copy"
	if out, err := exec.Command("cp", "-a", dir, twin).CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	var h history
	info, err := Read(vfs.OS(), twin, h.apply)
	if err != nil || !info.Copy || h.check(40, 40) != nil {
		t.Errorf("copy: %+v, %v", info, err)
	}
	_, err = Open(Options{Dir: twin})
	if _, ok := errors.AsType[*CopyError](err); !ok {
		t.Errorf("open a copy: %v", err)
	}
}

// BenchmarkAppend measures durable appends of 120 bytes, each waited for, on the operating system's
// files in the directory for temporary files.
func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(appenders), func(b *testing.B) { benchmarkAppend(b, appenders) })
	}
}

func benchmarkAppend(b *testing.B, appenders int) {
	dir := filepath.Join(b.TempDir(), "log")
	if err := Init(vfs.OS(), dir, testID, InitOptions{}); err != nil {
		b.Fatal(err)
	}
	w := newWaiters()
	l, err := Open(Options{Dir: dir, OnPersisted: w.persisted})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for range appenders {
		group.Go(func() {
			recs := []Record{{Type: 1, Data: make([]byte, 120)}}
			for left.Add(-1) >= 0 {
				index, err := l.Append(recs, true)
				if err != nil {
					b.Error(err)
					return
				}
				w.wait(index)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	b.ReportMetric(float64(b.N)/float64(l.Stats().Groups), "appends/group")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// waiters lets many wait for their index: one generation of waiters for each of the two groups that
// can be under way.
type waiters struct {
	mu   sync.Mutex
	cond *sync.Cond
	done uint64
}

func newWaiters() *waiters {
	w := &waiters{}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *waiters) persisted(p Persisted) {
	w.mu.Lock()
	w.done = p.Index
	w.mu.Unlock()
	w.cond.Broadcast()
}

func (w *waiters) wait(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.done < index {
		w.cond.Wait()
	}
}

// BenchmarkOpen measures a restart with a million records in the log.
func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "log")
	if err := Init(vfs.OS(), dir, testID, InitOptions{}); err != nil {
		b.Fatal(err)
	}
	w := newWaiters()
	l, err := Open(Options{Dir: dir, OnPersisted: w.persisted})
	if err != nil {
		b.Fatal(err)
	}
	recs := make([]Record, 1000)
	for i := range recs {
		recs[i] = Record{Type: 1, Data: make([]byte, 70)}
	}
	for range 1000 {
		index, err := l.Append(recs, true)
		if err != nil {
			b.Fatal(err)
		}
		w.wait(index)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		l, err := Open(Options{Dir: dir, Replay: func(Entry) error { n++; return nil }})
		if err != nil || n != 1_000_000 {
			b.Fatal(n, err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
