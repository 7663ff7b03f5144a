package sim

import (
	"fmt"
	"io"
	"strings"
)

// ringSize is how many lines of a history are kept for a report.
const ringSize = 64

// line is one thing that has happened. It is made into text only when somebody reads it: a world
// writes some hundred lines, and nearly all worlds are good ones.
type line struct {
	at     instant
	format string
	word   string
	args   [4]uint64
	n      int
}

// trace is the history of a world: a checksum over all of it, and its last lines.
type trace struct {
	sum  uint64
	last [ringSize]line
	n    int
	// out, if not nil, gets every line.
	out io.Writer
}

// mix is a step of FNV-1a over eight bytes at once, with a rotation that brings high bits down.
func (t *trace) mix(v uint64) {
	t.sum = (t.sum ^ v) * 0x100000001b3
	t.sum ^= t.sum >> 29
}

// say adds a line. The format has a %s for the word, if there is one, and then a %d for each
// number.
func (w *world) say(format, word string, args ...uint64) {
	t := &w.trace
	l := &t.last[t.n%ringSize]
	t.n++
	*l = line{at: w.now, format: format, word: word, n: len(args)}
	t.mix(uint64(w.now))
	t.mix(uint64(len(format))<<8 | uint64(len(word)))
	for i := range word {
		t.mix(uint64(word[i]))
	}
	for i, a := range args {
		l.args[i] = a
		t.mix(a)
	}
	if t.out != nil {
		fmt.Fprintln(t.out, l)
	}
}

func (l line) String() string {
	var args []any
	if l.word != "" {
		args = append(args, l.word)
	}
	for _, a := range l.args[:l.n] {
		args = append(args, a)
	}
	return fmt.Sprintf("%12.6f  ", float64(l.at)/1e9) + fmt.Sprintf(l.format, args...)
}

// tail is the last lines, oldest first.
func (t *trace) tail() string {
	var b strings.Builder
	for i := max(0, t.n-ringSize); i < t.n; i++ {
		fmt.Fprintln(&b, t.last[i%ringSize])
	}
	return b.String()
}
