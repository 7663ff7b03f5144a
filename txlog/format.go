package txlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// Version is the format of the files that this package writes.
const Version = 1

// Limits of the log. Each is checked where the data comes in and, again, where it is read back.
const (
	// MaxRecord bounds the data of one record, in bytes.
	MaxRecord = 64 << 10
	// MaxFrame bounds one frame, in bytes; in small segments a frame is bounded by the segment.
	MaxFrame = 1 << 20
	// DefaultSegmentSize, MinSegmentSize and MaxSegmentSize are sizes of a segment, in bytes. The
	// smallest ones are for simulations: below 128 KiB not every record that MaxRecord allows fits
	// into a frame.
	DefaultSegmentSize = 64 << 20
	MinSegmentSize     = 16 << 10
	MaxSegmentSize     = 1 << 30
)

const (
	sectorSize = vfs.SectorSize
	metaSize   = sectorSize
	// headerSize is what a segment's header takes. Frames start behind it.
	headerSize = 4096
	// tailReserve is the room that ordinary frames leave at the end of a segment: one sector for
	// the seal, the others for the empty frames of opening and closing, which must find room even
	// while no next segment can be made.
	tailReserve = 4096
)

const (
	metaMagic = "GVLMETA\n"
	segMagic  = "GVLSEG\x01\x00"
)

// checksum is CRC-32C: it finds every burst of up to 32 bits and, in all that is written here,
// every change of up to three bits, and processors compute it about as fast as memory delivers.
func checksum(p []byte) uint32 { return updateChecksum(0, p) }

// updateChecksum is the checksum of p behind something that has the checksum sum.
func updateChecksum(sum uint32, p []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), p)
}

var (
	errMagic    = errors.New("wrong magic")
	errChecksum = errors.New("wrong checksum")
	errSize     = errors.New("wrong size")
	errForeign  = errors.New("belongs to another log")
)

// meta is the file that makes a directory a log. It is written once.
//
//	0  8 magic "GVLMETA\n"     8  4 format version       12 4 flags (1: born from a snapshot)
//	16 8 log id               24 8 created, unix ns       32 8 inode of this file
//	40 8 its birth, s         48 4 its birth, ns          52 .. zero       508 4 crc32c of 0..507
type meta struct {
	id      txn.LogID
	created time.Time
	// inode and birth are the file's own. In a copy of the directory they differ from what the file
	// system says, and the log knows that it is a copy.
	inode uint64
	birth time.Time
	// born says that the log began with a snapshot, so that its absence is damage and not youth.
	born bool
}

const flagBorn = 1

// encode lays the file out as drawn above.
func (m meta) encode() []byte {
	b := make([]byte, metaSize)
	copy(b, metaMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], Version)
	if m.born {
		le.PutUint32(b[12:], flagBorn)
	}
	le.PutUint64(b[16:], uint64(m.id))
	le.PutUint64(b[24:], uint64(m.created.UnixNano()))
	le.PutUint64(b[32:], m.inode)
	if !m.birth.IsZero() {
		le.PutUint64(b[40:], uint64(m.birth.Unix()))
		le.PutUint32(b[48:], uint32(m.birth.Nanosecond()))
	}
	le.PutUint32(b[metaSize-4:], checksum(b[:metaSize-4]))
	return b
}

// decodeMeta checks the checksum before the version: a flipped bit is damage and not a newer
// format.
func decodeMeta(b []byte) (meta, error) {
	le := binary.LittleEndian
	switch {
	case len(b) != metaSize:
		return meta{}, fmt.Errorf("%w: %d bytes, not %d", errSize, len(b), metaSize)
	case string(b[:8]) != metaMagic:
		return meta{}, errMagic
	case le.Uint32(b[metaSize-4:]) != checksum(b[:metaSize-4]):
		return meta{}, errChecksum
	case le.Uint32(b[8:]) != Version:
		return meta{}, &VersionError{Found: le.Uint32(b[8:])}
	}
	m := meta{
		id:      txn.LogID(le.Uint64(b[16:])),
		created: time.Unix(0, int64(le.Uint64(b[24:]))).UTC(),
		inode:   le.Uint64(b[32:]),
		born:    le.Uint32(b[12:])&flagBorn != 0,
	}
	if s, ns := le.Uint64(b[40:]), le.Uint32(b[48:]); s != 0 || ns != 0 {
		m.birth = time.Unix(int64(s), int64(ns)).UTC()
	}
	return m, nil
}

// isCopy says whether info, of the file that m was read from, is not of the file that m was written
// to.
func (m meta) isCopy(info vfs.Info) bool {
	return m.inode != info.Inode || !m.birth.Equal(info.Birth)
}

// segmentHeader is the first 4096 bytes of a segment, durable before the segment has its name.
//
//	0  8 magic "GVLSEG\x01\x00"   8  8 log id          16 8 segment number    24 8 base LSN
//	32 4 segment size             36 4 sector size     40 8 created, unix ns  48 .. zero
//	4092 4 crc32c of 0..4091
type segmentHeader struct {
	id      txn.LogID
	num     uint64
	base    uint64
	size    int64
	created time.Time
}

// end is the LSN behind the segment, which is the base of the next.
func (h segmentHeader) end() uint64 { return h.base + uint64(h.size) }

// encode lays the header out as drawn above.
func (h segmentHeader) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, segMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], uint64(h.id))
	le.PutUint64(b[16:], h.num)
	le.PutUint64(b[24:], h.base)
	le.PutUint32(b[32:], uint32(h.size))
	le.PutUint32(b[36:], sectorSize)
	le.PutUint64(b[40:], uint64(h.created.UnixNano()))
	le.PutUint32(b[headerSize-4:], checksum(b[:headerSize-4]))
	return b
}

// decodeSegmentHeader returns the header and its checksum, with which the chain of the segment's
// frames begins.
func decodeSegmentHeader(b []byte) (segmentHeader, uint32, error) {
	le := binary.LittleEndian
	sum := le.Uint32(b[headerSize-4:])
	switch {
	case string(b[:8]) != segMagic:
		return segmentHeader{}, 0, errMagic
	case sum != checksum(b[:headerSize-4]):
		return segmentHeader{}, 0, errChecksum
	case le.Uint32(b[36:]) != sectorSize:
		return segmentHeader{}, 0, fmt.Errorf("%w: sectors of %d", errSize, le.Uint32(b[36:]))
	}
	return segmentHeader{
		id:      txn.LogID(le.Uint64(b[8:])),
		num:     le.Uint64(b[16:]),
		base:    le.Uint64(b[24:]),
		size:    int64(le.Uint32(b[32:])),
		created: time.Unix(0, int64(le.Uint64(b[40:]))).UTC(),
	}, sum, nil
}

// checkSegmentSize says whether a segment may have this size.
func checkSegmentSize(size int64) error {
	if size < MinSegmentSize || size > MaxSegmentSize || size%headerSize != 0 {
		return fmt.Errorf("txlog: segment size %d is not a multiple of %d from %d to %d",
			size, headerSize, MinSegmentSize, MaxSegmentSize)
	}
	return nil
}

// maxFrame is the largest frame that segments of this size hold.
func maxFrame(segmentSize int64) int {
	return int(min(MaxFrame, segmentSize-headerSize-tailReserve))
}
