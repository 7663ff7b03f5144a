package sim

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// decay damages the log while nobody runs it, and puts the good disk back.
func (w *world) decay() {
	if !w.plan(rot) {
		return
	}
	var frames []txlog.FrameInfo
	src := txlog.Source{FS: w.disk.mem, Dir: logDir, Still: true}
	info, err := src.Dump(txlog.Visitor{Frame: func(f txlog.FrameInfo) error {
		frames = append(frames, f)
		return nil
	}})
	if err != nil {
		w.fail(corruptionDetected, "a log that was not damaged cannot be read: %v", err)
		return
	}
	if info.Snapshot != 0 && w.some(500) {
		w.rotSnapshot()
		return
	}
	w.rotFrame(slices.DeleteFunc(frames, func(f txlog.FrameInfo) bool {
		return f.LSN < info.Snapshot
	}))
}

// rotFrame damages a frame of what would be replayed: the log must be refused. Only of the last
// frame it may be that nothing depends on it.
func (w *world) rotFrame(frames []txlog.FrameInfo) {
	if len(frames) == 0 {
		return
	}
	at := w.rng.IntN(len(frames))
	f := frames[at]
	hurt := w.disk.mem.KillClone()
	off := f.Offset + int64(w.rng.IntN(min(f.Bytes, 64+f.Payload)))
	if w.opt.flaw != healsRot {
		hurt.FlipBit(filepath.Join(logDir, f.Segment), off, uint(w.rng.IntN(8)))
	}
	good, _ := stateOf(w.disk.mem)
	left, err := stateOf(hurt)
	if err == nil && (at < len(frames)-1 || left != good) {
		w.fail(corruptionDetected, "byte %d of %s is damaged, and the log is read", off, f.Segment)
		return
	}
	if err == nil {
		w.say("the last frame is damaged, and says nothing", "", uint64(off))
		return
	}
	w.count[rot]++
	w.say("a damaged log is refused", "", uint64(off))
}

// rotSnapshot damages the newest snapshot: the one before it, or the log from its beginning, says
// the same.
func (w *world) rotSnapshot() {
	names, err := w.disk.mem.List(logDir)
	names = slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasPrefix(n, "snap-") || !strings.HasSuffix(n, ".gvl")
	})
	if err != nil || len(names) == 0 {
		w.fail(corruptionDetected, "the snapshot that was read cannot be found: %v", err)
		return
	}
	hurt := w.disk.mem.KillClone()
	newest := filepath.Join(logDir, names[len(names)-1])
	hurt.Damage(newest, func(data []byte) { data[w.rng.IntN(len(data))] ^= 1 << w.rng.IntN(8) })
	good, err1 := stateOf(w.disk.mem)
	left, err2 := stateOf(hurt)
	if err1 != nil || err2 != nil || good != left {
		w.fail(corruptionDetected, "%s is damaged, and the log without it says otherwise (%v, %v)",
			newest, err1, err2)
		return
	}
	w.count[rotSurvived]++
	w.say("a damaged snapshot is made up for", "")
}

// stateOf is what a log says, in one string.
func stateOf(mem *vfs.Mem) (string, error) {
	state := protocol.NewState(0)
	src := txlog.Source{FS: mem, Dir: logDir, Still: true}
	_, err := src.Read(func(e txlog.Entry) error {
		state.Log = e.Log
		r, err := record.Decode(e.Record)
		if err != nil {
			return err
		}
		return state.Apply(r)
	})
	if err != nil {
		return "", err
	}
	// A state that comes from a snapshot has already dropped what is of no use any more.
	again := protocol.NewState(state.Log)
	for r := range state.Records() {
		err = errors.Join(err, again.Apply(r))
	}
	var b strings.Builder
	for r := range again.Records() {
		fmt.Fprintf(&b, "%+v\n", r)
	}
	return b.String(), err
}
