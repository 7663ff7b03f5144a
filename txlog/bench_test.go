package txlog

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// benchRecord is the size of a record in bytes: about that of a decision over two branches.
const benchRecord = 128

// spread lets so many goroutines do b.N things, and reports how long one of them took.
func spread(b *testing.B, goroutines int, do func() error) {
	b.Helper()
	var next atomic.Int64
	took := make([][]time.Duration, goroutines)
	var join sync.WaitGroup
	b.ResetTimer()
	for i := range goroutines {
		join.Go(func() {
			for next.Add(1) <= int64(b.N) {
				start := time.Now()
				if err := do(); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	join.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))]) / float64(time.Microsecond)
	}
	b.ReportMetric(at(0.5), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkForce is how long one forced append takes, from the call until it is durable, beside
// more and more others who share group commits with it.
func BenchmarkForce(b *testing.B) {
	for _, appenders := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "log")
			if err := Init(vfs.OS(), dir, testID, InitOptions{}); err != nil {
				b.Fatal(err)
			}
			w := newWaiters()
			log, err := Open(Options{Dir: dir, OnPersisted: w.persisted})
			if err != nil {
				b.Fatal(err)
			}
			recs := []Record{{Type: 1, Data: make([]byte, benchRecord)}}
			spread(b, appenders, func() error {
				index, err := log.Append(recs, true)
				if err == nil {
					w.wait(index)
				}
				return err
			})
			if err := log.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkWriteSync is the floor: one writer, one sector of a file that is full of zeros, one
// fdatasync.
func BenchmarkWriteSync(b *testing.B) {
	const size = 16 << 20
	file, err := vfs.OS().Open(filepath.Join(b.TempDir(), "file"), vfs.Create)
	if err == nil {
		_, err = file.WriteAt(make([]byte, size), 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		b.Fatal(err)
	}
	sector := make([]byte, vfs.SectorSize)
	for i := range sector {
		sector[i] = 1
	}
	off := int64(0)
	spread(b, 1, func() error {
		_, err := file.WriteAt(sector, off%size)
		off += vfs.SectorSize
		if err == nil {
			err = file.Datasync()
		}
		return err
	})
	if err := file.Close(); err != nil {
		b.Error(err)
	}
}
