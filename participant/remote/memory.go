package remote

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/txn"
)

// MaxLogs bounds the logs that a participant remembers fences of.
const MaxLogs = 1024

// saveEvery bounds how old the durable LSN gets while calls come in.
const saveEvery = 10 * time.Second

// memory is the durable memory of fences: a small file, replaced whole.
//
//	gavel fences 1
//	<log id> <epoch> <LSN>        one line per log, in their order
//	crc32c <8 hex digits>         over all bytes above
//
// An epoch that is new to a log is in the file before the call that brought it acts: otherwise a
// participant that crashed could let the deposed coordinator in again. A higher LSN within an
// epoch is written along with the next epoch, else every saveEvery, and at close, because an
// fsync per call would cost more than the call. What a crash can lose is thus at most saveEvery
// of LSN: a log that was restored to a point within these seconds would not be recognised here as
// having gone backwards. It still has to get past the other participants and past the
// coordinator's own check of names that its sequence numbers have not reached.
type memory struct {
	path   string
	now    func() time.Time
	report func(error)

	mu    sync.Mutex
	seen  map[txn.LogID]txn.Fence
	saved time.Time
	dirty bool
}

const memoryTitle = "gavel fences 1\n"

// openMemory reads the file. One that does not exist is an empty memory; a damaged one is an
// error, since forgetting fences silently would disarm them.
func openMemory(path string, now func() time.Time, report func(error)) (*memory, error) {
	m := &memory{path: path, now: now, report: report, saved: now()}
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		m.seen = map[txn.LogID]txn.Fence{}
		return m, nil
	}
	if err == nil {
		m.seen, err = parseMemory(body)
	}
	if err != nil {
		return nil, fmt.Errorf("participant/remote: read fences: %w", err)
	}
	return m, nil
}

// admit decides about a call and remembers it. An error that is neither ErrFenced nor
// ErrRegression is about the file; nothing may be done then either.
func (m *memory) admit(f txn.Fence, hello bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.seen[f.Log]
	next, err := fence.Judge(before, f, hello)
	if err != nil {
		return err
	}
	if !known && len(m.seen) >= MaxLogs {
		return txn.Refusef(txn.ReasonOverloaded, "fence.log_id",
			"%d logs are remembered already, and no more are allowed", MaxLogs)
	}
	m.seen[f.Log] = next
	if next.Epoch != before.Epoch {
		if err := m.save(); err != nil {
			m.restore(f.Log, before, known)
			return err
		}
		return nil
	}
	m.dirty = m.dirty || next.LSN != before.LSN
	m.saveLazily()
	return nil
}

// epoch is the newest epoch of a log that was seen, or 0.
func (m *memory) epoch(log txn.LogID) txn.Epoch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[log].Epoch
}

// restore takes back what could not be made durable, so that the next call tries again.
func (m *memory) restore(log txn.LogID, before txn.Fence, known bool) {
	if known {
		m.seen[log] = before
	} else {
		delete(m.seen, log)
	}
}

// saveLazily writes grown LSNs now and then. A failure is reported and tried again later: the
// call that meets it has done nothing wrong, and keeping commits from going on would not make the
// file whole.
func (m *memory) saveLazily() {
	if !m.dirty || m.now().Sub(m.saved) < saveEvery {
		return
	}
	if err := m.save(); err != nil {
		m.saved = m.now()
		m.report(err)
	}
}

// close writes what is not durable yet.
func (m *memory) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty {
		return nil
	}
	return m.save()
}

// save replaces the file: a reader, also after a crash at any point, finds the old or the new
// one, whole. A new file is made each time, because pages of one whose fsync failed cannot be
// trusted any more.
func (m *memory) save() error {
	if err := replaceFile(m.path, formatMemory(m.seen)); err != nil {
		return fmt.Errorf("participant/remote: save fences: %w", err)
	}
	m.saved, m.dirty = m.now(), false
	return nil
}

func formatMemory(seen map[txn.LogID]txn.Fence) []byte {
	var b bytes.Buffer
	b.WriteString(memoryTitle)
	for _, log := range slices.SortedFunc(maps.Keys(seen), cmp.Compare[txn.LogID]) {
		fmt.Fprintf(&b, "%s %d %d\n", log, seen[log].Epoch, seen[log].LSN)
	}
	fmt.Fprintf(&b, "crc32c %08x\n", checksum(b.Bytes()))
	return b.Bytes()
}

// parseMemory accepts exactly what formatMemory writes.
func parseMemory(body []byte) (map[txn.LogID]txn.Fence, error) {
	seen := map[txn.LogID]txn.Fence{}
	lines := bytes.Split(body, []byte("\n"))
	for _, line := range lines[min(1, len(lines)):] {
		var text string
		var f txn.Fence
		n, _ := fmt.Sscanf(string(line), "%s %d %d", &text, &f.Epoch, &f.LSN)
		if n != 3 {
			break
		}
		log, err := txn.ParseLogID(text)
		if err != nil {
			return nil, err
		}
		f.Log = log
		seen[log] = f
	}
	if !bytes.Equal(formatMemory(seen), body) {
		return nil, errors.New("the file is damaged, or of another version")
	}
	return seen, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// replaceFile puts body into path durably: temporary file, fsync, rename, fsync of the directory.
func replaceFile(path string, body []byte) (err error) {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(body)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
