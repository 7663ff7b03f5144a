package protocol

import "github.com/gavel-tx/gavel/txn"

// bitmap is a set of sequences at or above first, one bit each: what a forgotten transaction costs.
// words[0] holds bit first-first%64, so that dropping whole words needs no shifting.
type bitmap struct {
	first txn.Seq
	words []uint64
}

func (b *bitmap) base() txn.Seq { return b.first &^ 63 }

func (b *bitmap) set(q txn.Seq) {
	i := int((q - b.base()) / 64)
	for len(b.words) <= i {
		b.words = append(b.words, 0)
	}
	b.words[i] |= 1 << (q % 64)
}

func (b *bitmap) has(q txn.Seq) bool {
	if q < b.first {
		return false
	}
	i := int((q - b.base()) / 64)
	return i < len(b.words) && b.words[i]>>(q%64)&1 == 1
}

func (b *bitmap) dropBelow(q txn.Seq) {
	if q <= b.first {
		return
	}
	n := min(int((q-b.base())/64), len(b.words))
	b.words = append([]uint64(nil), b.words[n:]...)
	b.first = q
	if len(b.words) > 0 {
		b.words[0] &= ^uint64(0) << (q % 64)
	}
}

// chunkWords is how many words one OutcomesRecord carries: 32 KiB, half of what a record may hold.
const chunkWords = 4096

func (b *bitmap) records(yield func(Record) bool) {
	for at := 0; at < len(b.words); at += chunkWords {
		chunk := b.words[at:min(at+chunkWords, len(b.words))]
		bits := make([]byte, 0, len(chunk)*8)
		any := uint64(0)
		for _, w := range chunk {
			any |= w
			for i := range 8 {
				bits = append(bits, byte(w>>(8*i)))
			}
		}
		if any != 0 && !yield(OutcomesRecord{First: b.base() + txn.Seq(at)*64, Bits: bits}) {
			return
		}
	}
}
