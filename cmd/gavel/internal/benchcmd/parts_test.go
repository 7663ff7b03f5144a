package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/integration/bench"
)

// TestExplain: each way in which a run can fail has its exit code, and says what is with the data.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		code exit.Code
		data bool
	}{
		{bench.ErrAudit, exit.No, true},
		{bench.ErrConfig, exit.Usage, false},
		{bench.ErrUnreachable, exit.Unreachable, true},
		{bench.ErrRoom, exit.Refused, true},
		{bench.ErrTable, exit.Refused, true},
		{context.Canceled, exit.Interrupted, false},
		{errors.New("x"), exit.No, false},
	} {
		got := exit.Of(explain(fmt.Errorf("in round 1: %w", c.err)))
		if got.Code != c.code || (got.Data != "") != c.data || !errors.Is(got, c.err) {
			t.Errorf("%v: %+v", c.err, got)
		}
	}
	// A loss of money is the answer, whatever else went wrong on the way out.
	both := errors.Join(context.Canceled, bench.ErrAudit)
	if got := exit.Of(explain(both)); got.Code != exit.No {
		t.Errorf("%+v", got)
	}
}

// measured is a report of figures that nobody has measured.
func measured(t *testing.T) *bench.Report {
	t.Helper()
	file, err := os.Open("../../../../integration/bench/testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := bench.ReadJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPublish: the essence on the screen, the whole in files, each in its form.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	o := options{reports: []string{filepath.Join(dir, "r.md"), filepath.Join(dir, "r.json")}}
	if err := o.publish(ui.IO{Out: &out}, measured(t)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"LINE                    CLIENTS 1   CLIENTS 8",
		"2pc-pipelined           300 (50 %)  2400 (50 %)", "before, 20000000000 after: kept",
		"report: " + o.reports[0]} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
	for i, want := range []string{"# What an atomic commit costs", "{\n \"format\""} {
		body, err := os.ReadFile(o.reports[i])
		if err != nil || !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: %.60q, %v", o.reports[i], body, err)
		}
	}
	o.reports = []string{filepath.Join(dir, "nope", "r.md")}
	if err := o.publish(ui.IO{Out: &out}, measured(t)); err == nil {
		t.Error("a report went nowhere")
	}
}

// TestCoordinatorThatDoesNotStart: what it said last is in the error, and no process is left.
func TestCoordinatorThatDoesNotStart(t *testing.T) {
	dbs := &databases{resources: []bench.Resource{{Name: "a"}}, urls: []string{"nonsense"}}
	_, err := startCoordinator(t.Context(), os.Args[0], t.TempDir(), dbs)
	if err == nil || !strings.Contains(err.Error(), "resource a") {
		t.Errorf("%v", err)
	}
	_, err = startCoordinator(t.Context(), "/nope", t.TempDir(), dbs)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestServerSettings: two servers of our own have room for what they are asked for.
func TestServerSettings(t *testing.T) {
	o := options{clients: []int{1, 512}}
	got := o.serverSettings()
	if got["max_connections"] != "752" || got["max_prepared_transactions"] != "1224" {
		t.Errorf("%v", got)
	}
}
