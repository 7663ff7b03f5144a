package txlog

import (
	"errors"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// Info describes a log as it was read.
type Info struct {
	ID      txn.LogID
	Created time.Time
	// Epoch is the last that was begun; 0 before the log was first opened.
	Epoch txn.Epoch
	// Copy says that the directory is a copy: what is recorded there is true, and what is not
	// recorded may have happened all the same.
	Copy bool
	// Tail is the end of the log, and Durable how much of it its own frames say was durable. A
	// frame in between was written; whether it was acknowledged cannot be seen.
	Tail, Durable uint64
	// Torn says that behind Tail are TornBytes of a write that a crash cut off, or that is going
	// on.
	Torn      bool
	TornBytes int64
	// Clean says that the log was closed, and not opened since.
	Clean bool
	// Snapshot is the LSN of the snapshot that was read, 0 if there is none; Damaged are newer ones
	// that could not be.
	Snapshot uint64
	Damaged  []error
	// Segments, Snapshots and Bytes are what there is on disk.
	Segments, Snapshots int
	Bytes               int64
	// Frames and Records were read.
	Frames, Records uint64
}

// FrameInfo describes one frame.
type FrameInfo struct {
	// Segment is the name of the file, Offset the place in it.
	Segment string
	Offset  int64
	LSN     uint64
	// Bytes is the frame's length on disk, Payload that of its records.
	Bytes, Payload int
	Records        int
	Kind           Kind
	Epoch          txn.Epoch
	// Time is the writer's wall clock.
	Time time.Time
	// Synced is the LSN below which everything was durable when the frame was written.
	Synced uint64
}

// info is the frame as tools see it.
func (f frame) info() FrameInfo {
	return FrameInfo{
		Segment: f.seg.name, Offset: f.off, LSN: f.lsn, Synced: f.synced,
		Bytes: f.len(), Payload: f.frameHeader.payload, Records: f.count,
		Kind: f.kind, Epoch: f.epoch, Time: time.Unix(0, f.clock).UTC(),
	}
}

// Source is a log that is read without being opened.
type Source struct {
	// FS holds the log in Dir.
	FS  vfs.FS
	Dir string
	// Still says that nobody writes to the log meanwhile, so that its tail is judged at once. Else
	// an unfinished write is taken for one that goes on, and looked at again for about 50 ms.
	// Defaults to false.
	Still bool
}

// Read delivers what Open would replay, and changes nothing. It takes no lock and may run beside a
// live log: it reads up to a tail that was current at some moment of the call. It also reads
// copies, and says so in Info.Copy. Errors are those of Open, without the lock's, and [ErrMoved].
func (s Source) Read(fn func(Entry) error) (Info, error) {
	return s.run(replayer{entry: fn})
}

// Stat is Read without the records.
func (s Source) Stat() (Info, error) { return s.run(replayer{}) }

// Dump is Read for people and tools: it also visits the frames below the snapshot which are still
// there.
func (s Source) Dump(v Visitor) (Info, error) {
	r := replayer{all: true, entry: v.Entry}
	if v.Frame != nil {
		r.frame = func(f frame) error { return v.Frame(f.info()) }
	}
	return s.run(r)
}

// Read is [Source.Read] of a log that may be live.
func Read(fsys vfs.FS, dir string, fn func(Entry) error) (Info, error) {
	return Source{FS: fsys, Dir: dir}.Read(fn)
}

// Stat is [Source.Stat] of a log that may be live.
func Stat(fsys vfs.FS, dir string) (Info, error) { return Source{FS: fsys, Dir: dir}.Stat() }

// Dump is [Source.Dump] of a log that may be live.
func Dump(fsys vfs.FS, dir string, v Visitor) (Info, error) {
	return Source{FS: fsys, Dir: dir}.Dump(v)
}

// Visitor is what Dump calls. Each may be nil.
type Visitor struct {
	// Frame is called for each frame, before its records.
	Frame func(FrameInfo) error
	// Entry is called for each record.
	Entry func(Entry) error
}

// run runs r on the log, patient with a tail in motion unless the log is still. What was found
// before an error is returned with it.
func (s Source) run(r replayer) (info Info, err error) {
	im, err := openImage(s.FS, s.Dir, vfs.ReadOnly)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, im.close()) }()
	r.im, r.live = im, !s.Still
	if err := r.run(); err != nil {
		return r.info(), err
	}
	return r.info(), nil
}

// info describes as much as was read.
func (r *replayer) info() Info {
	info := Info{
		ID: r.im.meta.id, Created: r.im.meta.created, Copy: r.im.isCopy, Epoch: r.snap.epoch,
		Snapshot: r.snap.lsn, Damaged: r.damaged,
		Segments: len(r.im.segs), Snapshots: len(r.im.snaps),
	}
	for _, s := range r.im.segs {
		info.Bytes += s.size
	}
	if s := r.scan; s != nil {
		info.Epoch = max(info.Epoch, s.epoch)
		info.Frames, info.Records, info.Durable = s.frames, s.records, s.durable
		info.Clean = s.last.seg != nil && s.last.kind == KindClose
	}
	if t := r.tail; t.seg != nil {
		info.Tail, info.Torn, info.TornBytes = t.lsn(), t.torn(), t.dirty-t.off
	}
	return info
}
