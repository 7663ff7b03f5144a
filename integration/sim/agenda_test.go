package sim

// instant is a point in a world's time, in nanoseconds since its beginning.
type instant int64

const (
	microsecond instant = 1e3
	millisecond instant = 1e6
	second      instant = 1e9
)

// happening is something that will be done at an instant. What is due at the same instant is done
// in the order in which it was planned, so that a world has one history.
type happening struct {
	at    instant
	order uint64
	do    func()
}

func (h happening) before(o happening) bool {
	return h.at < o.at || h.at == o.at && h.order < o.order
}

// agenda is what will happen, in a binary heap with the next happening first.
type agenda struct {
	now   instant
	order uint64
	heap  []happening
}

// at plans do for an instant; one that is over means now.
func (a *agenda) at(t instant, do func()) {
	a.order++
	a.heap = append(a.heap, happening{max(t, a.now), a.order, do})
	for i := len(a.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !a.heap[i].before(a.heap[up]) {
			return
		}
		a.heap[i], a.heap[up] = a.heap[up], a.heap[i]
		i = up
	}
}

func (a *agenda) after(d instant, do func()) { a.at(a.now+d, do) }

// next moves the clock to the next happening and takes it, or returns nil.
func (a *agenda) next() func() {
	if len(a.heap) == 0 {
		return nil
	}
	h := a.heap[0]
	n := len(a.heap) - 1
	a.heap[0] = a.heap[n]
	a.heap[n] = happening{}
	a.heap = a.heap[:n]
	a.sink()
	a.now = h.at
	return h.do
}

// sink brings the first element of the heap to its place.
func (a *agenda) sink() {
	for i, n := 0, len(a.heap); ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if a.heap[c].before(a.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		a.heap[i], a.heap[least] = a.heap[least], a.heap[i]
		i = least
	}
}
