package ui

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// screen is an IO into a buffer.
func screen(terminal bool) (IO, *bytes.Buffer) {
	var b bytes.Buffer
	io := IO{Out: &b, Err: &b, Terminal: terminal, Getenv: func(string) string { return "" },
		Now: time.Now}
	return io, &b
}

func TestFormats(t *testing.T) {
	var f Format
	for _, word := range []string{"table", "json"} {
		if err := f.Set(word); err != nil || f.String() != word {
			t.Errorf("%s: %v", word, err)
		}
	}
	if err := f.Set("yaml"); err == nil || f.Type() != "table|json" {
		t.Error("yaml is taken")
	}
	var l LogFormat
	for _, word := range []string{"auto", "text", "json"} {
		if err := l.Set(word); err != nil || l.String() != word {
			t.Errorf("%s: %v", word, err)
		}
	}
	if err := l.Set("xml"); err == nil || l.Type() != "auto|text|json" {
		t.Error("xml is taken")
	}
}

// TestRows: a header in capitals, aligned columns, no space at the ends of lines.
func TestRows(t *testing.T) {
	var b bytes.Buffer
	Rows(&b, []string{"id", "state"}, [][]string{{"1", "COMMITTED"}, {"1000", "ACTIVE"}})
	want := "ID    STATE\n1     COMMITTED\n1000  ACTIVE\n"
	if got := b.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestJSONIsStable: protojson varies its spaces from build to build; ours are always the same, and
// fields with their default value are there.
func TestJSONIsStable(t *testing.T) {
	var b bytes.Buffer
	m := &gavelv1.Transaction{TransactionId: "x", Age: durationpb.New(time.Second)}
	if err := WriteProto(&b, m); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "{\n  \"transactionId\": \"x\",\n") {
		t.Error(b.String())
	}
	var fields map[string]any
	if err := json.Unmarshal(b.Bytes(), &fields); err != nil || fields["label"] != "" {
		t.Errorf("%v, %v", fields, err)
	}
	b.Reset()
	err := WriteJSON(&b, map[string]int{"n": 1})
	if err != nil || b.String() != "{\n  \"n\": 1\n}\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if err := WriteJSON(&b, func() {}); err == nil {
		t.Error("a function has JSON")
	}
}

// TestLogger: JSON where nobody looks, text on a terminal, and what was asked for otherwise.
func TestLogger(t *testing.T) {
	for _, c := range []struct {
		terminal bool
		format   LogFormat
		json     bool
	}{{false, "auto", true}, {true, "auto", false}, {true, "json", true}, {false, "text", false}} {
		io, b := screen(c.terminal)
		log := io.Logger(c.format, slog.LevelInfo)
		log.Debug("hidden")
		log.Info("shown", "k", "v")
		if got := json.Valid(b.Bytes()); got != c.json || !strings.Contains(b.String(), "shown") ||
			strings.Contains(b.String(), "hidden") {
			t.Errorf("%+v: %s", c, b)
		}
	}
	io, b := screen(true)
	io.Getenv = func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }
	io.Logger("auto", slog.LevelInfo).Error("plain")
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("colour in spite of NO_COLOR: %q", b)
	}
}

// TestBarElsewhere: a line every five seconds, and none before.
func TestBarElsewhere(t *testing.T) {
	io, b := screen(false)
	now := time.Unix(0, 0)
	io.Now = func() time.Time { return now }
	bar := io.Bar("Reading log", Bytes, 0)
	for i := range 11 {
		now = time.Unix(int64(i), 0)
		bar.Set(int64(i)<<20, 10<<20)
	}
	bar.Done()
	want := "Reading log: 5.0 MiB of 10.0 MiB\nReading log: 10.0 MiB of 10.0 MiB\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	now = time.Unix(20, 0)
	bar = io.Bar("Asking", Things, 2)
	now = time.Unix(30, 0)
	bar.Set(1, 2)
	if b.String() != "Asking: 1 of 2\n" {
		t.Errorf("%q", b.String())
	}
}

// TestBarOnATerminal draws something, and ends when it is told to, at whatever moment.
func TestBarOnATerminal(t *testing.T) {
	io, b := screen(true)
	bar := io.Bar("transfers", Things, 100)
	bar.Done()
	if !strings.Contains(b.String(), "transfers") {
		t.Errorf("%q", b.String())
	}
	io, b = screen(true)
	bar = io.Bar("bytes", Bytes, 0)
	bar.Set(50, 100)
	bar.Set(100, 100)
	bar.Done()
	if !strings.Contains(b.String(), "bytes") {
		t.Errorf("%q", b.String())
	}
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB",
		1536: "1.5 KiB", 64 << 20: "64.0 MiB", 3 << 40: "3.0 TiB", 5 << 50: "5120.0 TiB"} {
		if got := SizeText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestSize: what is given is taken to the byte, and shown as it can be given again.
func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"1B": 1, "1023KiB": 1023 << 10, "512 MiB": 512 << 20,
		"4GiB": 4 << 30, "2TiB": 2 << 40, "9223372036854775807B": 1<<63 - 1} {
		var s, again Size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%s is shown as %s", text, s.String())
		}
	}
	for _, bad := range []string{"", "B", "0B", "-1B", "1", "1KB", "1.5GiB", "x", "1 GiB B",
		"9007199254740992KiB", "9223372036854775808B"} {
		s := Size(7)
		if err := s.Set(bad); err == nil || s != 7 || !strings.Contains(err.Error(), "512MiB") {
			t.Errorf("%q: %d, %v", bad, s, err)
		}
	}
	if none := Size(0); none.String() != "" {
		t.Error(none.String())
	}
}

// TestProcess: the real streams.
func TestProcess(t *testing.T) {
	if io := Process(); io.Out == nil || io.Err == nil || io.Getenv == nil || io.Now == nil {
		t.Errorf("%+v", io)
	}
}
