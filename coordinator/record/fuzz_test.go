package record

import (
	"runtime"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// decodeLimit is what decoding may allocate beside a small multiple of the body, in bytes.
const decodeLimit = 64 << 10

// FuzzDecodeMemory: a body that claims to hold a lot takes no more memory than one that does, and
// nothing of the body is kept.
func FuzzDecodeMemory(f *testing.F) {
	f.Fuzz(func(t *testing.T, typ uint8, data []byte) {
		data = slices.Clone(data)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := Decode(txlog.Record{Type: typ, Data: data})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(64*len(data)+decodeLimit) {
			t.Errorf("%s of %d bytes took %d", Name(typ), len(data), took)
		}
		if err != nil {
			return
		}
		want := slices.Clone(Encode(nil, r).Data)
		clear(data)
		if got := Encode(nil, r).Data; !slices.Equal(got, want) {
			t.Errorf("%x has become %x with its bytes", want, got)
		}
	})
}

// FuzzReplay replays any records: a log that contradicts itself is refused, and never a panic. Of
// one that is accepted, the snapshot is accepted too, and says the same.
func FuzzReplay(f *testing.F) {
	const log = txn.LogID(7)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := protocol.NewState(log)
		for len(b) >= 2 {
			n := min(int(b[1]), len(b)-2)
			r, err := Decode(txlog.Record{Type: b[0], Data: b[2 : 2+n]})
			if err != nil || s.Apply(r) != nil {
				return
			}
			b = b[2+n:]
		}
		again := protocol.NewState(log)
		for r := range s.Records() {
			back, err := Decode(Encode(nil, r))
			if err == nil {
				err = again.Apply(back)
			}
			if err != nil {
				t.Fatalf("%+v, of a snapshot, is refused: %v", r, err)
			}
		}
		if got, want := encoded(again), encoded(s); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("a snapshot replays as %x, not %x", got, want)
		}
	})
}

// encoded are the records of a snapshot, each a type and a body.
func encoded(s *protocol.State) [][]byte {
	var out [][]byte
	for r := range s.Records() {
		rec := Encode(nil, r)
		out = append(out, append([]byte{rec.Type}, rec.Data...))
	}
	return out
}
