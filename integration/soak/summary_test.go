package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// example is what the layers say.
const example = `
=== RUN   TestScenarios
    explore_test.go:39: explore: 39 worlds, 1104648 different states, 9 steps between them
    fire_test.go:80: log: 8000 crash states, 808 faults, 110 lies
    sim_test.go:80: sim: 7500 bare worlds from seed 5, 6000 a second, at rest 2.0 s: lost 3
    sim_test.go:80: sim: 750 full worlds from seed 5, 120 a second, at rest 2.0 s: lost 3
    sim_test.go:80: sim: 7500 bare worlds from seed 9, 6000 a second, at rest 2.0 s: lost 3
--- PASS: TestX (0.1s)
crash: kills coordinator=9 sidecar=5; stops backend=1 sidecar=3; request lost=6; zombie prepare=2
crash: kills coordinator=1; request lost=4
`

func exampleSummary() *summary {
	s := &summary{}
	for line := range strings.Lines(example) {
		s.take(strings.TrimSuffix(line, "\n"))
	}
	return s
}

func TestSummary(t *testing.T) {
	s := exampleSummary()
	want := `soak of 1m0s
explore: 39 worlds, 1104648 different states, 9 steps between them
log: 8000 crash states, 808 faults, 110 lies
sim: 15750 worlds: bare 15000, full 750
crash: 2 rounds, 15 kills: coordinator 10, sidecar 5
crash: request lost 10, stopped backend 1, stopped sidecar 3, zombie prepare 2
`
	if got := s.report(time.Minute); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEnough(t *testing.T) {
	s := exampleSummary()
	if err := s.enough(15 * time.Second); err != nil {
		t.Errorf("a quarter of a minute: %v", err)
	}
	for name, spoil := range map[string]func(*summary){
		"worlds": func(s *summary) { s.worlds = nil }, "kills": func(s *summary) { s.kills = nil },
		"faults": func(s *summary) { s.faults = nil }, "layers": func(s *summary) { s.last = nil },
	} {
		s := exampleSummary()
		spoil(s)
		if s.enough(15*time.Second) == nil {
			t.Errorf("without %s it is enough", name)
		}
	}
	if s.enough(time.Hour) == nil {
		t.Error("for an hour it is enough")
	}
}

// TestAFailureIsTold: a test that cannot even be built is an error, and what it said is kept.
func TestAFailureIsTold(t *testing.T) {
	s := &soak{dir: t.TempDir(), until: time.Now()}
	err := s.test(context.Background(), command{name: "none", pkg: "./no/such/package", run: "."})
	if err == nil {
		t.Fatal("no error")
	}
	text, rerr := os.ReadFile(s.dir + "/none.txt")
	if rerr != nil || len(text) == 0 {
		t.Errorf("nothing is kept: %v", rerr)
	}
}
