package ui

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// lineEvery is the time between two lines of progress where there is no terminal.
const lineEvery = 5 * time.Second

// Unit is what a Bar counts.
type Unit uint8

// The units.
const (
	Things Unit = iota
	Bytes
)

// Bar shows how far something long has come: as a bar on a terminal, else as a line every five
// seconds. Its methods are for one goroutine; Done must be called.
type Bar struct {
	title string
	unit  Unit
	// On a terminal:
	writer  progress.Writer
	tracker *progress.Tracker
	ended   chan struct{}
	// Elsewhere:
	out  io.Writer
	now  func() time.Time
	last time.Time
}

// Bar starts one. A total of 0 is not known yet.
func (i IO) Bar(title string, unit Unit, total int64) *Bar {
	b := &Bar{title: title, unit: unit, out: i.Err, now: i.Now, last: i.Now()}
	if !i.Terminal {
		return b
	}
	b.writer = progress.NewWriter()
	b.writer.SetOutputWriter(i.Err)
	// Rendering ends by itself when the tracker is done: a Stop that comes before Render has begun
	// would be lost, and the wait for its end never over.
	b.writer.SetAutoStop(true)
	b.writer.SetUpdateFrequency(100 * time.Millisecond)
	b.writer.SetTrackerLength(28)
	b.writer.SetStyle(progress.StyleBlocks)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.tracker = &progress.Tracker{Message: title, Total: total, Units: units(unit)}
	b.writer.AppendTracker(b.tracker)
	b.ended = make(chan struct{})
	go func() {
		defer close(b.ended)
		b.writer.Render()
	}()
	return b
}

func units(u Unit) progress.Units {
	if u == Bytes {
		return progress.UnitsBytes
	}
	return progress.UnitsDefault
}

// Set says how far it has come.
func (b *Bar) Set(done, total int64) {
	if b.writer != nil {
		b.tracker.UpdateTotal(total)
		b.tracker.SetValue(done)
		return
	}
	if now := b.now(); now.Sub(b.last) >= lineEvery {
		b.last = now
		fmt.Fprintf(b.out, "%s: %s of %s\n", b.title, b.unit.text(done), b.unit.text(total))
	}
}

// Done ends the bar and waits until nothing more is drawn.
func (b *Bar) Done() {
	if b.writer == nil {
		return
	}
	b.tracker.MarkAsDone()
	<-b.ended
}

func (u Unit) text(n int64) string {
	if u == Bytes {
		return SizeText(n)
	}
	return fmt.Sprint(n)
}
