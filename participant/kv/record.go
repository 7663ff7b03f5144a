package kv

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// write is one key as a branch leaves it.
type write struct {
	key     string
	value   []byte
	deleted bool
}

// record is a prepared branch: everything that is needed to finish it.
//
//	xid (8) · prepared at, unix ns (8) · reads (4), writes (4)
//	per read:   len (2), key
//	per write:  len (2), key · 'p' or 'd' · len (4), value
//	crc32c (4) over all bytes before
//
// The checksum is there because bbolt has none on its pages, and a damaged record would commit what
// nobody wrote.
type record struct {
	// xid is the history counter at the prepare: the branch's number, and its position.
	xid    uint64
	at     time.Time
	reads  []string
	writes []write
}

var errDamaged = errors.New("the record is damaged")

func (r record) evidence(id txn.Identity) txn.Evidence {
	return txn.Evidence{
		Identity: id, Position: txn.Position{Timeline: 1, LSN: r.xid}, XID: r.xid,
	}
}

func encodeRecord(r record) []byte {
	b := binary.BigEndian.AppendUint64(nil, r.xid)
	b = binary.BigEndian.AppendUint64(b, uint64(r.at.UnixNano()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.reads)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.writes)))
	for _, key := range r.reads {
		b = appendKey(b, key)
	}
	for _, w := range r.writes {
		b = appendKey(b, w.key)
		kind := byte('p')
		if w.deleted {
			kind = 'd'
		}
		b = append(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(w.value)))
		b = append(b, w.value...)
	}
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func appendKey(b []byte, key string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(key))), key...)
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// decodeRecord copies everything out of b.
func decodeRecord(b []byte) (record, error) {
	if len(b) < 4 || checksum(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return record{}, errDamaged
	}
	d := decoder{rest: b[:len(b)-4]}
	r := record{xid: d.uint(8), at: time.Unix(0, int64(d.uint(8)))}
	reads, writes := d.uint(4), d.uint(4)
	for range reads {
		if d.short {
			break
		}
		r.reads = append(r.reads, string(d.take(2)))
	}
	for range writes {
		if d.short {
			break
		}
		w := write{key: string(d.take(2)), deleted: d.uint(1) == 'd'}
		w.value = append([]byte(nil), d.take(4)...)
		r.writes = append(r.writes, w)
	}
	if d.short || len(d.rest) != 0 {
		return record{}, errDamaged
	}
	return r, nil
}

// decoder reads from the front of rest. Once it fell short everything it gives is zero.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) next(n int) []byte {
	if d.short || n > len(d.rest) {
		d.short = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint(size int) uint64 {
	var v uint64
	for _, b := range d.next(size) {
		v = v<<8 | uint64(b)
	}
	return v
}

// take reads a length of so many bytes, and that many bytes behind it.
func (d *decoder) take(size int) []byte { return d.next(int(d.uint(size))) }
