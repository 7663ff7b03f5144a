package protocol

import (
	"slices"
	"sort"

	"github.com/gavel-tx/gavel/txn"
)

// bitmap is a set of sequences at or above first, one bit each: what a forgotten transaction costs.
// Every epoch leaps ahead, so that the bits lie in runs with nothing between them.
type bitmap struct {
	first txn.Seq
	runs  []run // ascending, without overlap
}

// run is a stretch of bits. Bit 0 of words[0] stands for base, a multiple of 64.
type run struct {
	base  txn.Seq
	words []uint64
}

// maxGap is how many words of zeros cost less than another run.
const maxGap = 4096

// before is the number of runs that begin at or below q.
func (b *bitmap) before(q txn.Seq) int {
	// Sequences come in order, but for a few: it is nearly always the last one.
	if n := len(b.runs); n > 0 && b.runs[n-1].base <= q {
		return n
	}
	return sort.Search(len(b.runs), func(i int) bool { return b.runs[i].base > q })
}

func (b *bitmap) set(q txn.Seq) {
	at := b.before(q)
	if at == 0 || (q-b.runs[at-1].base)/64 >= txn.Seq(len(b.runs[at-1].words)+maxGap) {
		b.runs = slices.Insert(b.runs, at, run{base: q &^ 63})
		at++
	}
	r := &b.runs[at-1]
	i := int((q - r.base) / 64)
	for len(r.words) <= i {
		r.words = append(r.words, 0)
	}
	r.words[i] |= 1 << (q % 64)
}

func (b *bitmap) has(q txn.Seq) bool {
	at := b.before(q)
	if q < b.first || at == 0 {
		return false
	}
	r := b.runs[at-1]
	i := (q - r.base) / 64
	return i < txn.Seq(len(r.words)) && r.words[i]>>(q%64)&1 == 1
}

func (b *bitmap) dropBelow(q txn.Seq) {
	if q <= b.first {
		return
	}
	b.first = q
	b.runs = slices.DeleteFunc(b.runs, func(r run) bool {
		return r.base+64*txn.Seq(len(r.words)) <= q
	})
	if len(b.runs) == 0 || b.runs[0].base >= q {
		return
	}
	r := &b.runs[0]
	n := (q - r.base) / 64
	r.base, r.words = r.base+64*n, slices.Clone(r.words[n:])
	r.words[0] &= ^uint64(0) << (q % 64)
}

// chunkWords is how many words one OutcomesRecord carries: 32 KiB, half of what a record may hold.
const chunkWords = 4096

func (b *bitmap) records(yield func(Record) bool) {
	for _, r := range b.runs {
		for at := 0; at < len(r.words); at += chunkWords {
			chunk := r.words[at:min(at+chunkWords, len(r.words))]
			bits := make([]byte, 0, len(chunk)*8)
			any := uint64(0)
			for _, w := range chunk {
				any |= w
				for i := range 8 {
					bits = append(bits, byte(w>>(8*i)))
				}
			}
			if any != 0 && !yield(OutcomesRecord{First: r.base + txn.Seq(at)*64, Bits: bits}) {
				return
			}
		}
	}
}
