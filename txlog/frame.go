package txlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// Record is one entry of the log. The log knows neither its meaning nor its types.
type Record struct {
	Type  uint8
	Flags uint8
	// Data is at most MaxRecord bytes.
	Data []byte
}

// Kind tells what a frame is for.
type Kind uint8

const (
	// KindData holds records.
	KindData Kind = iota
	// KindEmpty vouches for everything before it while nothing else is written.
	KindEmpty
	// KindSeal ends a segment; the log goes on in the next one.
	KindSeal
	// KindOpen is the first frame of an epoch.
	KindOpen
	// KindClose is the last frame of an epoch that ended in order.
	KindClose
	kindEnd
)

// String names the kind.
func (k Kind) String() string {
	names := [...]string{"data", "empty", "seal", "open", "close"}
	if int(k) >= len(names) {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return names[k]
}

const (
	frameMagic      = "GVF1"
	frameHeaderSize = 64
	// firstRoom and sectorRoom are the payload bytes in a frame's first sector and in each later
	// one.
	firstRoom  = sectorSize - frameHeaderSize
	sectorRoom = sectorSize - 1
	// stamp is the first byte of every sector of a frame but the first one, whose first byte is
	// that of the magic. So no written sector is all zero, not even after one bit has flipped, and
	// no payload can pass for the head of a frame. Four bits are set in it.
	stamp = 0xA5
	// maxCount bounds the records of a frame; the field has 24 bits.
	maxCount = 1<<24 - 1
	// recordOverhead is the most that a record takes besides its data: type, flags, length.
	recordOverhead = 2 + 3
)

// frameHeader is the head of a frame, the unit that is written, made durable and replayed as a
// whole.
//
//	0  4 magic "GVF1"       4  4 crc32c of 8..63       8  8 log id        16 8 LSN of this frame
//	24 4 payload length    28 4 crc32c of all behind the header, stamps and padding included
//	32 4 header crc32c of the frame before, or of the segment's header    36 4 its length
//	40 8 synced LSN: everything below was durable when this frame was written
//	48 3 record count      51 1 kind     52 4 epoch      56 8 wall clock, unix ns, never falling
type frameHeader struct {
	sum        uint32
	id         txn.LogID
	lsn        uint64
	payload    int
	payloadSum uint32
	prevSum    uint32
	prevLen    uint32
	synced     uint64
	count      int
	kind       Kind
	epoch      txn.Epoch
	clock      int64
}

var (
	errFrameHead = errors.New("no head of a frame here")
	errFrameBody = errors.New("a complete frame with a wrong checksum")
	errRecords   = errors.New("records do not fill their frame")
)

// frameLen is the bytes that a payload takes with header, stamps and padding.
func frameLen(payload int) int {
	if payload <= firstRoom {
		return sectorSize
	}
	return sectorSize + (payload-firstRoom+sectorRoom-1)/sectorRoom*sectorSize
}

// payloadRoom is the largest payload of a frame of n bytes.
func payloadRoom(n int) int { return firstRoom + (n/sectorSize-1)*sectorRoom }

// len is the bytes of the whole frame on disk. It is not stored: a stored length could contradict
// the payload's.
func (h frameHeader) len() int { return frameLen(h.payload) }

// put writes the header to b and returns its checksum.
func (h frameHeader) put(b []byte) uint32 {
	le := binary.LittleEndian
	copy(b, frameMagic)
	le.PutUint64(b[8:], uint64(h.id))
	le.PutUint64(b[16:], h.lsn)
	le.PutUint32(b[24:], uint32(h.payload))
	le.PutUint32(b[28:], h.payloadSum)
	le.PutUint32(b[32:], h.prevSum)
	le.PutUint32(b[36:], h.prevLen)
	le.PutUint64(b[40:], h.synced)
	le.PutUint32(b[48:], uint32(h.count)|uint32(h.kind)<<24)
	le.PutUint32(b[52:], uint32(h.epoch))
	le.PutUint64(b[56:], uint64(h.clock))
	sum := checksum(b[8:frameHeaderSize])
	le.PutUint32(b[4:], sum)
	return sum
}

// parseFrameHeader reads a header and believes only its checksum.
func parseFrameHeader(b []byte) (frameHeader, error) {
	le := binary.LittleEndian
	sum := le.Uint32(b[4:])
	if string(b[:4]) != frameMagic || sum != checksum(b[8:frameHeaderSize]) {
		return frameHeader{}, errFrameHead
	}
	word := le.Uint32(b[48:])
	return frameHeader{
		sum:        sum,
		id:         txn.LogID(le.Uint64(b[8:])),
		lsn:        le.Uint64(b[16:]),
		payload:    int(le.Uint32(b[24:])),
		payloadSum: le.Uint32(b[28:]),
		prevSum:    le.Uint32(b[32:]),
		prevLen:    le.Uint32(b[36:]),
		synced:     le.Uint64(b[40:]),
		count:      int(word & maxCount),
		kind:       Kind(word >> 24),
		epoch:      txn.Epoch(le.Uint32(b[52:])),
		clock:      int64(le.Uint64(b[56:])),
	}, nil
}

// batch is a frame that is being filled. Its buffer is used again and again; it is laid out from
// the start as it will be written, so that sealing it copies nothing.
type batch struct {
	buf     []byte
	n       int
	payload int
	count   int
	// index is that of the last Append in it, forced whether anyone waits for it, appends how many
	// there are.
	index   uint64
	forced  bool
	appends int
}

// newBatch makes a buffer for frames of up to size bytes.
func newBatch(size int) *batch {
	b := &batch{buf: make([]byte, size)}
	b.reset()
	return b
}

// reset empties the frame. The bytes of the one before stay in the buffer; seal clears what would
// show.
func (b *batch) reset() {
	*b = batch{buf: b.buf, n: frameHeaderSize}
}

// fits says whether payload more bytes find room.
func (b *batch) fits(payload int) bool { return frameLen(b.payload+payload) <= len(b.buf) }

// add encodes one record: type, flags, length, data. The caller has asked fits.
func (b *batch) add(r Record) {
	var head [recordOverhead]byte
	head[0], head[1] = r.Type, r.Flags
	n := 2 + binary.PutUvarint(head[2:], uint64(len(r.Data)))
	b.write(head[:n])
	b.write(r.Data)
	b.count++
}

// write copies p around the stamps.
func (b *batch) write(p []byte) {
	b.payload += len(p)
	for len(p) > 0 {
		if b.n%sectorSize == 0 {
			b.buf[b.n] = stamp
			b.n++
		}
		end := (b.n/sectorSize + 1) * sectorSize
		k := copy(b.buf[b.n:end], p)
		b.n += k
		p = p[k:]
	}
}

// seal completes the frame with header, padding and checksums and returns its bytes, valid until
// reset, and the header's checksum.
func (b *batch) seal(h frameHeader) ([]byte, uint32) {
	h.payload, h.count = b.payload, b.count
	frame := b.buf[:frameLen(b.payload)]
	clear(frame[b.n:])
	h.payloadSum = checksum(frame[frameHeaderSize:])
	sum := h.put(frame)
	assertStamped(frame)
	return frame, sum
}

// assertStamped holds the rule by which recovery tells a torn frame from a damaged one: a written
// sector is never all zero. To write a frame that breaks it would make a later crash undecidable.
func assertStamped(frame []byte) {
	if string(frame[:4]) != frameMagic {
		panic("txlog: a frame without its magic")
	}
	for off := sectorSize; off < len(frame); off += sectorSize {
		if frame[off] != stamp {
			panic(fmt.Sprintf("txlog: sector %d of a frame has no stamp", off/sectorSize))
		}
	}
}

// unstamp appends the payload of a whole frame to dst.
func unstamp(dst, frame []byte, payload int) []byte {
	dst = append(dst, frame[frameHeaderSize:min(sectorSize, frameHeaderSize+payload)]...)
	left := payload - firstRoom
	for off := sectorSize; left > 0; off += sectorSize {
		dst = append(dst, frame[off+1:off+1+min(sectorRoom, left)]...)
		left -= sectorRoom
	}
	return dst
}

// recordSize is what a record takes in a payload.
func recordSize(r Record) int {
	n, l := 3, len(r.Data)
	for ; l >= 0x80; l >>= 7 {
		n++
	}
	return n + len(r.Data)
}

// nextRecord takes the first record off p.
func nextRecord(p []byte) (Record, []byte, error) {
	if len(p) < 3 {
		return Record{}, nil, errRecords
	}
	size, n := binary.Uvarint(p[2:])
	if n <= 0 || size > MaxRecord || uint64(len(p)-2-n) < size {
		return Record{}, nil, errRecords
	}
	end := 2 + n + int(size)
	return Record{Type: p[0], Flags: p[1], Data: p[2+n : end : end]}, p[end:], nil
}

// checkRecords says whether payload is exactly count records. It runs over the whole frame before
// the first of its records is delivered, so that no frame is ever replayed in part.
func checkRecords(payload []byte, count int) error {
	var err error
	for range count {
		if _, payload, err = nextRecord(payload); err != nil {
			return err
		}
	}
	if len(payload) != 0 {
		return errRecords
	}
	return nil
}
