package bench

import (
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

const (
	decisionSize  = 64
	decisionsFile = 64 << 20
)

// decisions is the least that a log of decisions can be: records of 64 bytes in a file of zeros,
// forced before anybody goes on. Those who come while the disk is busy share the next sync (group
// commit). It begins again at the front when the file is full, for nobody will read it.
type decisions struct {
	file vfs.File
	buf  [decisionSize]byte

	mu              sync.Mutex
	turn            sync.Cond
	syncing         bool
	written, synced int64
	err             error
}

// newDecisions makes the file and fills it, so that a sync later writes data and no metadata.
func newDecisions(fs vfs.FS, name string) (*decisions, error) {
	file, err := fs.Open(name, vfs.Create)
	if err != nil {
		return nil, fmt.Errorf("bench: make a file for decisions: %w", err)
	}
	d := &decisions{file: file}
	d.turn.L = &d.mu
	for i := range d.buf {
		d.buf[i] = byte(i)
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < decisionsFile && err == nil; off += int64(len(zeros)) {
		_, err = file.WriteAt(zeros, off)
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("bench: fill the file for decisions: %w", err)
	}
	return d, nil
}

// force writes one decision, and returns when it is durable.
func (d *decisions) force() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.file.WriteAt(d.buf[:], d.written*decisionSize%decisionsFile); err != nil {
		return err
	}
	d.written++
	for mine := d.written; d.synced < mine && d.err == nil; {
		if d.syncing {
			d.turn.Wait()
			continue
		}
		d.sync()
	}
	return d.err
}

// sync makes durable what is written. The caller holds the lock and has it again afterwards.
func (d *decisions) sync() {
	upTo := d.written
	d.syncing = true
	d.mu.Unlock()
	err := d.file.Datasync()
	d.mu.Lock()
	d.syncing = false
	if err != nil {
		d.err = err
	} else {
		d.synced = upTo
	}
	d.turn.Broadcast()
}

func (d *decisions) close() error { return d.file.Close() }
