package participantcmd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/participant"
)

// patient is a resource that counts how often it is asked about itself.
type patient struct {
	participant.Resource
	asked  int
	checks []participant.Check
	blind  bool
	err    error
}

func (p *patient) Describe(ctx context.Context) (participant.Description, error) {
	p.asked++
	if ctx.Err() != nil {
		return participant.Description{}, ctx.Err()
	}
	return participant.Description{Kind: "kv", Version: "1", Evidence: !p.blind,
		Checks: p.checks}, p.err
}

// TestProbe: one that is well is asked seldom, one that is not well often, and a prober that hung
// up leaves no trace.
func TestProbe(t *testing.T) {
	now := time.Unix(0, 0)
	res := &patient{}
	p := &probe{resource: resource.Opened{Name: "r", Manager: res}, timeout: time.Minute,
		now: func() time.Time { return now }}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i, step := range []struct {
		after time.Duration
		err   error
		asked int
		ready bool
	}{
		{0, nil, 1, true}, {probeEvery - 1, errors.New("down"), 1, true},
		{1, errors.New("down"), 2, false}, {probeEverySick - 1, nil, 2, false}, {1, nil, 3, true},
	} {
		now = now.Add(step.after)
		res.err = step.err
		if ready := serve.Passed(p.checks(gone)); ready != step.ready || res.asked != step.asked {
			t.Errorf("step %d: ready %v after %d questions", i, ready, res.asked)
		}
	}
}

// TestFindings: what would make commits fail makes it unready, a warning does not, and both come
// with what to do.
func TestFindings(t *testing.T) {
	for level, ready := range map[participant.Level]bool{participant.LevelOK: true,
		participant.LevelWarn: true, participant.LevelFail: false} {
		res := &patient{checks: []participant.Check{{Level: level, What: "slots", Fix: "do it"}}}
		p := &probe{resource: resource.Opened{Name: "r", Manager: res}, timeout: time.Minute,
			now: time.Now}
		checks := p.checks(t.Context())
		if serve.Passed(checks) != ready {
			t.Errorf("%s: %+v", level, checks)
		}
		last := checks[len(checks)-1].Detail
		if told := strings.Contains(last, "slots; fix: do it"); told != (level > 0) {
			t.Errorf("%s: %q", level, last)
		}
	}
}

// TestWithoutEvidence: a resource that cannot prove how a branch ended is ready, and says so.
func TestWithoutEvidence(t *testing.T) {
	for _, blind := range []bool{true, false} {
		p := &probe{resource: resource.Opened{Name: "r", Manager: &patient{blind: blind}},
			timeout: time.Minute, now: time.Now}
		checks := p.checks(t.Context())
		told := strings.Contains(checks[len(checks)-1].Detail, "cannot prove how a branch ended")
		if told != blind || !serve.Passed(checks) {
			t.Errorf("blind %v: %+v", blind, checks)
		}
	}
}

// TestAResourceThatCannotTell is taken to be well: its service is there.
func TestAResourceThatCannotTell(t *testing.T) {
	p := &probe{resource: resource.Opened{Name: "r"}, timeout: time.Minute, now: time.Now}
	if !serve.Passed(p.checks(t.Context())) {
		t.Error("it is not ready")
	}
}
