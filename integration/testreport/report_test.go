package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const pkg = "example.org/m/a"

// stream is the standard output of `go test -json` for the events.
func stream(t *testing.T, events ...event) string {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	for _, e := range events {
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// said are the events of a test's output, line by line.
func said(test string, lines ...string) []event {
	var out []event
	for _, line := range lines {
		out = append(out, event{Action: "output", Package: pkg, Test: test, Output: line + "\n"})
	}
	return out
}

func ended(action, test string) event {
	return event{Action: action, Package: pkg, Test: test, Elapsed: 0.25}
}

// join puts a last event behind others.
func join(events []event, more ...event) []event { return append(events, more...) }

type reportCase struct {
	name   string
	events []event
	want   string
	sum    Summary
	good   bool
}

func passingCases() []reportCase {
	return []reportCase{
		{
			name: "the layers sum up before the counts, in their order",
			events: join(said("TestA", "    a_test.go:7: sim: 3 worlds",
				"    a_test.go:8: log: 2 crashes", "    a_test.go:9: simple: no layer",
				"crash: kills client=1"),
				ended("pass", "TestA"), ended("pass", "")),
			want: "ok    example.org/m/a  0.2s\ncrash: kills client=1\nlog: 2 crashes\n" +
				"sim: 3 worlds\ntests: 1 passed, 0 failed\n",
			sum: Summary{Passed: 1}, good: true,
		},
		{
			name: "a passed test is quiet",
			events: join(said("TestA", "=== RUN   TestA", "detail", "--- PASS: TestA (0.00s)"),
				ended("pass", "TestA"), ended("pass", "")),
			want: "ok    example.org/m/a  0.2s\ntests: 1 passed, 0 failed\n",
			sum:  Summary{Passed: 1}, good: true,
		},
		{
			name: "subtests count with their test",
			events: join(said("TestA/x", "=== RUN   TestA/x"), ended("pass", "TestA/x"),
				ended("pass", "TestA/y"), ended("pass", "TestA"), ended("pass", "")),
			want: "ok    example.org/m/a  0.2s\ntests: 1 passed, 0 failed\n",
			sum:  Summary{Passed: 1}, good: true,
		},
		{
			name:   "a package without tests is no success",
			events: []event{ended("skip", "")},
			want:   "none  example.org/m/a  0.2s\ntests: 0 passed, 0 failed\n",
		},
		{name: "no package at all", want: "tests: 0 passed, 0 failed\n"},
	}
}

func failingCases() []reportCase {
	return []reportCase{
		{
			name: "a failed test says all that it said, its subtests too",
			events: join(said("TestA", "first"),
				event{Action: "output", Package: pkg, Test: "TestA/x", Output: "wrong\n"},
				ended("fail", "TestA/x"), ended("fail", "TestA"), ended("pass", "TestB"),
				event{Action: "output", Package: pkg, Output: "FAIL\n"}, ended("fail", "")),
			want: "first\nwrong\nFAIL  example.org/m/a  0.2s\ntests: 1 passed, 1 failed\n",
			sum:  Summary{Passed: 1, Failed: 1},
		},
		{
			name: "a skipped test is shown and spoils the run",
			events: join(said("TestA", "no database"), ended("skip", "TestA"),
				ended("pass", "TestB"), ended("pass", "")),
			want: "no database\nok    example.org/m/a  0.2s\n" +
				"tests: 1 passed, 0 failed, 1 skipped\n",
			sum: Summary{Passed: 1, Skipped: 1},
		},
		{
			name: "a leaked goroutine fails the package",
			events: join(said("", "PASS", "leaked goroutine"), ended("pass", "TestA"),
				ended("fail", "")),
			want: "PASS\nleaked goroutine\nFAIL  example.org/m/a  0.2s\n" +
				"tests: 1 passed, 1 failed\n",
			sum: Summary{Passed: 1, Failed: 1},
		},
		{
			name:   "a process that dies in a test",
			events: join(said("TestA", "assertion broken"), ended("fail", "")),
			want:   "assertion broken\nFAIL  example.org/m/a  0.2s\ntests: 0 passed, 1 failed\n",
			sum:    Summary{Failed: 1},
		},
		{
			name: "a package that does not build",
			events: []event{
				{Action: "build-output", ImportPath: "a [a.test]", Output: "a.go:2: no\n"},
				{Action: "build-fail", ImportPath: "a [a.test]"},
				{Action: "fail", Package: pkg, FailedBuild: "a [a.test]"},
			},
			want: "a.go:2: no\nFAIL  example.org/m/a  0.0s\ntests: 0 passed, 1 failed\n",
			sum:  Summary{Failed: 1},
		},
	}
}

func TestReport(t *testing.T) {
	for _, c := range append(passingCases(), failingCases()...) {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			sum, err := Report(strings.NewReader(stream(t, c.events...)), &out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
			if sum != c.sum || sum.Good() != c.good {
				t.Errorf("got %+v, good: %v; want %+v", sum, sum.Good(), c.sum)
			}
		})
	}
}

// TestPackagesRunTogether mixes the events of two packages with tests of one name.
func TestPackagesRunTogether(t *testing.T) {
	other := event{Action: "output", Package: pkg + "b", Test: "TestA", Output: "theirs\n"}
	events := append(said("TestA", "ours"), other, ended("fail", "TestA"), ended("fail", ""),
		event{Action: "pass", Package: pkg + "b", Test: "TestA"},
		event{Action: "pass", Package: pkg + "b"})
	var out strings.Builder
	if _, err := Report(strings.NewReader(stream(t, events...)), &out); err != nil {
		t.Fatal(err)
	}
	want := "ours\nFAIL  example.org/m/a  0.2s\nok    example.org/m/ab  0.0s\n" +
		"tests: 1 passed, 1 failed\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestOutputIsBounded shows the beginning of a test that never stops complaining.
func TestOutputIsBounded(t *testing.T) {
	var events []event
	line := strings.Repeat("x", 1023)
	for i := range 1024 {
		events = append(events, said("TestA", fmt.Sprintf("%04d%s", i, line[4:]))...)
	}
	var out strings.Builder
	_, err := Report(strings.NewReader(stream(t, join(events, ended("fail", "TestA"))...)), &out)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != maxKept/1024+1 {
		t.Errorf("%d lines of 1,024 bytes shown, and the closing line", n-1)
	}
	if !strings.HasPrefix(out.String(), "0000x") {
		t.Error("the beginning is missing")
	}
}

func TestGarbageIsAnError(t *testing.T) {
	var out strings.Builder
	text := stream(t, ended("pass", "TestA")) + "go: cannot find main module\n"
	sum, err := Report(strings.NewReader(text), &out)
	if err == nil || sum != (Summary{Passed: 1}) {
		t.Errorf("got %+v, %v", sum, err)
	}
}

// full is a writer without room.
type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestAFullDiskIsAnError(t *testing.T) {
	for _, events := range [][]event{
		{ended("fail", "TestA")}, {ended("pass", "")}, nil,
	} {
		_, err := Report(strings.NewReader(stream(t, events...)), full{})
		if !errors.Is(err, errFull) {
			t.Errorf("%v: got %v", events, err)
		}
	}
}
