package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/plot"

	"github.com/gavel-tx/gavel/integration/bench"
)

// fixture is a report of figures that nobody has measured.
const fixture = "../testdata/report.json"

// texts are what a picture says, in order. It must be well-formed, and need nothing from outside.
func texts(t *testing.T, picture []byte) []string {
	t.Helper()
	var all []string
	in := xml.NewDecoder(bytes.NewReader(picture))
	inside := false
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = token.Name.Local == "text"
			for _, a := range token.Attr {
				if a.Name.Local == "href" || a.Name.Local == "src" {
					t.Errorf("it refers to %s", a.Value)
				}
			}
		case xml.CharData:
			if inside {
				all = append(all, strings.TrimSpace(string(token)))
			}
		case xml.EndElement:
			inside = false
		}
	}
}

// TestPicture has all panels, and in them the lines that do the same work.
func TestPicture(t *testing.T) {
	out := filepath.Join(t.TempDir(), "report.svg")
	if err := run([]string{"-in", fixture, "-out", out}, io.Discard); err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	said := texts(t, picture)
	for _, want := range []string{"Throughput", "Latency at 500 transfers per second",
		"Where a commit's time goes, 8 clients", "More branches, 8 clients", "2pc", "2pc-pipelined",
		"server-classic-applied", "99 %", "prepare", "clients", "branches"} {
		if !slices.Contains(said, want) {
			t.Errorf("it does not say %q: %q", want, said)
		}
	}
	if slices.Contains(said, "one-resource") {
		t.Error("it shows a line that does other work")
	}
	if !bytes.Contains(picture, []byte("Arial")) {
		t.Error("it asks for no font of the system")
	}
}

// TestPanels: what was not measured has no panel.
func TestPanels(t *testing.T) {
	file, err := os.Open(fixture)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := bench.ReadJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	r.Summaries = r.Select(bench.Closed)
	all, err := panels(r)
	if err != nil || len(all) != 2 {
		t.Errorf("%d panels, %v", len(all), err)
	}
	if got := family(r); len(got) != 3 || got[0] != "2pc" {
		t.Errorf("%v", got)
	}
}

// TestTicks: plain numbers, within the axis.
func TestTicks(t *testing.T) {
	labels := func(all []plot.Tick) string {
		var words []string
		for _, tick := range all {
			words = append(words, tick.Label)
		}
		return strings.Join(words, ", ")
	}
	if got := labels(shares{}.Ticks(1, 2000)); got != "0 %, 90 %, 99 %, 99.9 %" {
		t.Error(got)
	}
	if got := labels(decades{}.Ticks(0.04, 0.5)); got != "0.05, 0.1, 0.2, 0.5" {
		t.Error(got)
	}
	if got := labels(decades{}.Ticks(400, 2500)); got != "500, 1000, 2000" {
		t.Error(got)
	}
}

// TestStyles: lines can be told apart.
func TestStyles(t *testing.T) {
	names := bench.Names()[:15]
	for i, a := range names {
		for j, b := range names[:i] {
			x, y := styleOf(i, a), styleOf(j, b)
			if x.Color == y.Color && slices.Equal(x.Dashes, y.Dashes) {
				t.Errorf("%s looks like %s", a, b)
			}
		}
	}
}

// TestFaults: what cannot be read or drawn is said.
func TestFaults(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-in", "/nope"}, {"-in", empty}, {"-x"},
		{"-in", fixture, "-out", "/nope/x.svg"}} {
		if err := run(args, io.Discard); err == nil {
			t.Errorf("%v works", args)
		}
	}
}
