// Package ui is how commands talk: answers on standard output, as a table for people or JSON for
// programs, and everything else (progress, the journal, errors) on standard error.
package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/lmittmann/tint"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// IO is what a command may read and write besides files. Tests put buffers in.
type IO struct {
	Out, Err io.Writer
	// Terminal says that Err is a terminal, where bars and colours are welcome.
	Terminal bool
	// Getenv reads the environment.
	Getenv func(string) string
	// Now is the wall clock.
	Now func() time.Time
}

// Process is the IO of this process.
func Process() IO {
	return IO{Out: os.Stdout, Err: os.Stderr, Terminal: term.IsTerminal(int(os.Stderr.Fd())),
		Getenv: os.Getenv, Now: time.Now}
}

// Format is the shape of an answer.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
)

// String is the name of the format, as Set takes it.
func (f *Format) String() string { return string(*f) }

// Set accepts the name of a format.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Table, JSON:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("%q is neither %q nor %q", s, Table, JSON)
}

// Type names the values in help texts.
func (f *Format) Type() string { return "table|json" }

// Rows writes a table to w: a header in capitals, and columns with nothing between them but space.
func Rows(w io.Writer, header []string, rows [][]string) {
	t := table.NewWriter()
	t.SetOutputMirror(lineTrimmer{w})
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	t.AppendHeader(tableRow(header))
	for _, r := range rows {
		t.AppendRow(tableRow(r))
	}
	t.Render()
}

func tableRow(cells []string) table.Row {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		row[i] = c
	}
	return row
}

// lineTrimmer takes the spaces off the ends of lines, which only get in the way of copying.
type lineTrimmer struct{ w io.Writer }

func (l lineTrimmer) Write(p []byte) (int, error) {
	lines := strings.Split(string(p), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if _, err := io.WriteString(l.w, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteJSON writes v as indented JSON and a newline.
func WriteJSON(w io.Writer, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("ui: encode the answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", body)
	return err
}

// WriteProto writes a message of the API in protobuf's JSON, every field included. protojson adds
// spaces at random, on purpose, so its output is indented anew: the same answer is the same bytes.
func WriteProto(w io.Writer, m proto.Message) error {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("ui: encode the answer: %w", err)
	}
	var body bytes.Buffer
	if err := json.Indent(&body, raw, "", "  "); err != nil {
		return fmt.Errorf("ui: indent the answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", body.Bytes())
	return err
}

// LogFormat is the shape of the journal.
type LogFormat string

// String is the name of the format, as Set takes it.
func (f *LogFormat) String() string { return string(*f) }

// Set accepts auto, text or json.
func (f *LogFormat) Set(s string) error {
	switch s {
	case "auto", "text", "json":
		*f = LogFormat(s)
		return nil
	}
	return fmt.Errorf("%q is not one of auto, text, json", s)
}

// Type names the values in help texts.
func (f *LogFormat) Type() string { return "auto|text|json" }

// Logger writes the journal to standard error: text on a terminal, JSON elsewhere, unless format
// says otherwise. NO_COLOR is honoured.
func (i IO) Logger(format LogFormat, level slog.Level) *slog.Logger {
	if format == "json" || format != "text" && !i.Terminal {
		return slog.New(slog.NewJSONHandler(i.Err, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(i.Err, &tint.Options{
		Level: level, TimeFormat: time.TimeOnly,
		NoColor: !i.Terminal || i.Getenv("NO_COLOR") != "",
	}))
}
