package main

import (
	"bytes"
	"image/color"
	"io"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/gavel-tx/gavel/integration/bench"
)

// width of the picture, in points.
const width vg.Length = 720

// What the plots are measured with, and what the picture asks for: fonts of the reader's system
// that are as wide, or nearly so.
const (
	measured = "Liberation Sans"
	system   = "Arial, Liberation Sans, Helvetica, sans-serif"
)

// render draws the report as SVG, one panel below the other.
func render(w io.Writer, r *bench.Report) error {
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	plot.DefaultFont, plotter.DefaultFont = sans, sans
	all, err := panels(r)
	if err != nil {
		return err
	}
	var height vg.Length
	for _, p := range all {
		height += p.height
	}
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	top := vg.Length(0)
	for _, p := range all {
		part := draw.Crop(whole, 12, -12, height-top-p.height+6, -top-10)
		p.plot.Draw(part)
		top += p.height
	}
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	_, err = io.WriteString(w, strings.ReplaceAll(picture.String(), measured, system))
	return err
}

func gray(v uint8) color.Color { return color.Gray{Y: v} }

// styleOf gives gavel's lines colours, those of the parallel plan with dashes, those of queued
// statements with dots and those of the delegate plan with both, and what is made by hand shades of
// gray with dashes.
func styleOf(i int, name string) draw.LineStyle {
	s := draw.LineStyle{Width: 1.5}
	for prefix, colors := range map[string][]color.Color{
		"server-":   {rgb(0x1f6feb), rgb(0x8957e5)},
		"embedded-": {rgb(0x1a7f37), rgb(0xbf8700)},
	} {
		if strings.HasPrefix(name, prefix) {
			s.Width, s.Color = 2, colors[0]
			if strings.HasSuffix(name, "-decided") {
				s.Color = colors[1]
			}
			switch {
			case strings.Contains(name, "-parallel-"):
				s.Dashes = []vg.Length{8, 3}
			case strings.Contains(name, "-queued-"):
				s.Dashes = []vg.Length{2, 2}
			case strings.Contains(name, "-delegate-"):
				s.Dashes = []vg.Length{8, 3, 2, 3}
			}
			return s
		}
	}
	s.Color = gray(uint8(40 + 30*(i%5)))
	if i > 0 {
		s.Dashes = []vg.Length{vg.Length(2 + 2*i), 3}
	}
	return s
}

func rgb(v uint32) color.Color {
	return color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 255}
}

// phaseColor goes from what the application does to what the commit costs.
func phaseColor(i int) color.Color {
	return []color.Color{gray(190), rgb(0xbf8700), rgb(0x1f6feb), rgb(0xcf222e),
		rgb(0x1a7f37)}[i]
}

// shares are the ticks of an axis of 1/(1-share): 0 %, 90 %, 99 % and so on.
type shares struct{}

// Ticks has a tick for each power of ten.
func (shares) Ticks(low, high float64) []plot.Tick {
	var all []plot.Tick
	for _, name := range []string{"0 %", "90 %", "99 %", "99.9 %", "99.99 %"} {
		at := math.Pow(10, float64(len(all)))
		if at >= low && at <= high {
			all = append(all, plot.Tick{Value: at, Label: name})
		}
	}
	return all
}

// decades are the ticks of a logarithmic axis: each power of ten, and two between them.
type decades struct{}

// Ticks has labels in plain numbers.
func (decades) Ticks(low, high float64) []plot.Tick {
	var all []plot.Tick
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		for _, step := range []float64{1, 2, 5} {
			at := step * math.Pow(10, power)
			if at >= low && at <= high {
				label := strconv.FormatFloat(at, 'f', -1, 64)
				all = append(all, plot.Tick{Value: at, Label: label})
			}
		}
	}
	return all
}
