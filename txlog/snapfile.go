package txlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// A snapshot holds the records that replace the log below its LSN: a header, chunks, a trailer, and
// nothing else, not one byte.
//
//	header   0 8 magic "GVLSNAP\x01"    8 8 log id     16 8 LSN     24 8 created, unix ns
//	         32 4 epoch                36 4 zero      40 4 zero    44 4 crc32c of 0..43
//	chunk    0 4 magic "GVC1"    4 4 crc32c of 8..     8 4 number, from 0     12 4 payload length
//	         16 4 record count  20 .. payload: records as in a frame, none across two chunks
//	trailer  0 4 magic "GVT1"    4 4 crc32c of 8..39   8 8 chunks   16 8 records   24 8 bytes
//	         32 4 crc32c of all chunk crcs   36 4 zero
const (
	snapMagic        = "GVLSNAP\x01"
	chunkMagic       = "GVC1"
	trailerMagic     = "GVT1"
	snapHeaderSize   = 48
	chunkHeaderSize  = 20
	snapTrailerSize  = 40
	maxChunk         = 256 << 10
	maxChunkPayload  = maxChunk - chunkHeaderSize
	snapshotOverhead = snapHeaderSize + snapTrailerSize
)

var (
	errSnapTotals = errors.New("totals do not agree")
	errSnapName   = errors.New("name and content do not agree")
)

type snapHeader struct {
	id      txn.LogID
	lsn     uint64
	created time.Time
	epoch   txn.Epoch
}

// encode lays the header out as drawn above.
func (h snapHeader) encode() []byte {
	b := make([]byte, snapHeaderSize)
	copy(b, snapMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], uint64(h.id))
	le.PutUint64(b[16:], h.lsn)
	le.PutUint64(b[24:], uint64(h.created.UnixNano()))
	le.PutUint32(b[32:], uint32(h.epoch))
	le.PutUint32(b[snapHeaderSize-4:], checksum(b[:snapHeaderSize-4]))
	return b
}

// decodeSnapHeader believes a header by its checksum; whose it is, the caller asks.
func decodeSnapHeader(b []byte) (snapHeader, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != snapMagic:
		return snapHeader{}, errMagic
	case le.Uint32(b[snapHeaderSize-4:]) != checksum(b[:snapHeaderSize-4]):
		return snapHeader{}, errChecksum
	}
	return snapHeader{
		id:      txn.LogID(le.Uint64(b[8:])),
		lsn:     le.Uint64(b[16:]),
		created: time.Unix(0, int64(le.Uint64(b[24:]))).UTC(),
		epoch:   txn.Epoch(le.Uint32(b[32:])),
	}, nil
}

// snapTotals are what the trailer vouches for.
type snapTotals struct {
	chunks, records, bytes uint64
	sums                   uint32
}

// count takes one chunk into the totals; sum is the chunk's checksum.
func (t *snapTotals) count(sum uint32, records, payload int) {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], t.sums)
	binary.LittleEndian.PutUint32(b[4:], sum)
	t.sums = checksum(b[:])
	t.chunks++
	t.records += uint64(records)
	t.bytes += uint64(payload)
}

// encode lays the trailer out. The reader encodes its own totals and compares all bytes: there is
// no field of the trailer that could be wrong unseen.
func (t snapTotals) encode() []byte {
	b := make([]byte, snapTrailerSize)
	copy(b, trailerMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], t.chunks)
	le.PutUint64(b[16:], t.records)
	le.PutUint64(b[24:], t.bytes)
	le.PutUint32(b[32:], t.sums)
	le.PutUint32(b[4:], checksum(b[8:]))
	return b
}

// snapWriter writes a snapshot's bytes to a file, chunk by chunk.
type snapWriter struct {
	file   vfs.File
	off    int64
	chunk  []byte
	count  int
	totals snapTotals
	// alive is asked before each write; its error ends the work.
	alive func() error
}

// writeSnapshot writes a whole snapshot from the start of file and returns its size. Nothing of it
// is durable on return. The records' data is not kept.
func writeSnapshot(
	file vfs.File, h snapHeader, records iter.Seq[Record], alive func() error,
) (int64, error) {
	w := &snapWriter{file: file, chunk: make([]byte, chunkHeaderSize), alive: alive}
	if err := w.write(h.encode()); err != nil {
		return 0, err
	}
	for r := range records {
		if err := w.add(r); err != nil {
			return 0, err
		}
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	err := w.write(w.totals.encode())
	return w.off, err
}

// add encodes one record into the chunk, or into the next one if it does not fit: no record is
// split.
func (w *snapWriter) add(r Record) error {
	if len(r.Data) > MaxRecord {
		return fmt.Errorf("%w: a record of %d bytes; the limit is %d",
			ErrTooLarge, len(r.Data), MaxRecord)
	}
	if len(w.chunk)+recordSize(r) > maxChunk {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.chunk = append(w.chunk, r.Type, r.Flags)
	w.chunk = binary.AppendUvarint(w.chunk, uint64(len(r.Data)))
	w.chunk = append(w.chunk, r.Data...)
	w.count++
	return nil
}

// flush writes the chunk, if anything is in it.
func (w *snapWriter) flush() error {
	if w.count == 0 {
		return nil
	}
	le, b := binary.LittleEndian, w.chunk
	copy(b, chunkMagic)
	le.PutUint32(b[8:], uint32(w.totals.chunks))
	le.PutUint32(b[12:], uint32(len(b)-chunkHeaderSize))
	le.PutUint32(b[16:], uint32(w.count))
	sum := checksum(b[8:])
	le.PutUint32(b[4:], sum)
	w.totals.count(sum, w.count, len(b)-chunkHeaderSize)
	w.chunk, w.count = b[:chunkHeaderSize], 0
	return w.write(b)
}

// write appends to the file, unless the log has failed meanwhile.
func (w *snapWriter) write(b []byte) error {
	if err := w.alive(); err != nil {
		return err
	}
	if err := writeFull(w.file, b, w.off); err != nil {
		return err
	}
	w.off += int64(len(b))
	return nil
}

// writeFull writes all of b; anything less is an error.
func writeFull(f io.WriterAt, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n != len(b) {
		return io.ErrShortWrite
	}
	return err
}

// snapReader reads a snapshot front to back.
type snapReader struct {
	s      snapshotFile
	size   int64
	off    int64
	buf    []byte
	totals snapTotals
	// read is told of the bytes read, for progress.
	read func(n int)
}

// corrupt names a place in this snapshot.
func (r *snapReader) corrupt(off int64, err error) error {
	return &CorruptionError{File: r.s.name, Offset: off, Err: err}
}

// readSnapshot checks every byte of a snapshot of log id and delivers its records, or only checks
// if fn is nil. A damaged one is a *CorruptionError; records of whole chunks before the damage may
// have been delivered by then, so a caller checks first and delivers in a second run.
func readSnapshot(
	s snapshotFile, id txn.LogID, read func(int), fn func(Record) error,
) (snapHeader, error) {
	info, err := s.file.Stat()
	if err != nil {
		return snapHeader{}, fmt.Errorf("txlog: stat %s: %w", s.name, err)
	}
	// No part of the file can be longer than the file, so a small one takes little memory.
	buf := make([]byte, min(info.Size, maxChunk))
	r := &snapReader{s: s, size: info.Size, buf: buf, read: read}
	h, err := r.header(id)
	if err != nil {
		return snapHeader{}, err
	}
	for r.off < r.size-snapTrailerSize {
		if err := r.chunk(fn); err != nil {
			return snapHeader{}, err
		}
	}
	return h, r.trailer()
}

// header also holds the LSN against the file's name: a renamed snapshot would replay from the wrong
// place.
func (r *snapReader) header(id txn.LogID) (snapHeader, error) {
	if r.size < snapshotOverhead {
		return snapHeader{}, r.corrupt(0, fmt.Errorf("%w: %d bytes", errSize, r.size))
	}
	b, err := r.take(snapHeaderSize)
	if err != nil {
		return snapHeader{}, err
	}
	h, err := decodeSnapHeader(b)
	switch {
	case err != nil:
		return snapHeader{}, r.corrupt(0, err)
	case h.id != id:
		return snapHeader{}, r.corrupt(8, errForeign)
	case h.lsn != r.s.lsn:
		return snapHeader{}, r.corrupt(16, errSnapName)
	}
	return h, nil
}

// take reads the next n bytes, valid until the next take.
func (r *snapReader) take(n int) ([]byte, error) {
	b := r.buf[:n]
	if err := readFull(r.s.file, b, r.off); err != nil {
		return nil, fmt.Errorf("txlog: read %s: %w", r.s.name, err)
	}
	r.off += int64(n)
	if r.read != nil {
		r.read(n)
	}
	return b, nil
}

// chunk reads one chunk, checks all of it, and only then delivers its records.
func (r *snapReader) chunk(fn func(Record) error) error {
	at, le := r.off, binary.LittleEndian
	b, err := r.take(chunkHeaderSize)
	if err != nil {
		return err
	}
	var head [chunkHeaderSize]byte
	copy(head[:], b)
	size := int64(le.Uint32(head[12:]))
	room := r.size - snapTrailerSize - r.off
	if string(head[:4]) != chunkMagic || size > maxChunkPayload || size > room {
		return r.corrupt(at, errMagic)
	}
	payload, err := r.take(int(size))
	if err != nil {
		return err
	}
	sum, count := le.Uint32(head[4:]), int(le.Uint32(head[16:]))
	switch {
	case chunkSum(head[8:], payload) != sum:
		return r.corrupt(at, errChecksum)
	case uint64(le.Uint32(head[8:])) != r.totals.chunks:
		return r.corrupt(at, fmt.Errorf("this is not chunk %d", r.totals.chunks))
	case checkRecords(payload, count) != nil:
		return r.corrupt(at, errRecords)
	}
	r.totals.count(sum, count, len(payload))
	return deliver(payload, fn)
}

// chunkSum is the checksum of a chunk that lies in two buffers.
func chunkSum(head, payload []byte) uint32 {
	return updateChecksum(checksum(head), payload)
}

// deliver hands the records of a checked payload to fn.
func deliver(payload []byte, fn func(Record) error) error {
	for fn != nil && len(payload) > 0 {
		r, rest, err := nextRecord(payload)
		if err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
		payload = rest
	}
	return nil
}

// trailer checks that the file ends here and that nothing is missing in the middle: chunks carry
// their number, and the totals their count.
func (r *snapReader) trailer() error {
	at := r.off
	if r.size-at != snapTrailerSize {
		return r.corrupt(at, errSize)
	}
	b, err := r.take(snapTrailerSize)
	if err != nil {
		return err
	}
	if string(b) != string(r.totals.encode()) {
		return r.corrupt(at, errSnapTotals)
	}
	return nil
}
