package servicetest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
	"github.com/gavel-tx/gavel/txn"
)

// faultEnv names the fault with which TestKeptDuties runs the suite.
const faultEnv = "SERVICETEST_FAULT"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is what a shop has on its disk. It outlives the shop.
type store struct {
	mu       sync.Mutex
	reserved map[string]txn.Name
	sold     map[string]int
}

// shop is a service that sells things, beside its journal. Its fault is what it does wrong.
type shop struct {
	*store
	fault string
	// held are the things of branches that are not prepared.
	held map[string]txn.Name
}

var errTaken = errors.New("it is taken")

func (s *shop) hold(n txn.Name, thing string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	other, kept := s.reserved[thing]
	if other2, held := s.held[thing]; held && other2 != n || kept && other != n {
		return errTaken
	}
	s.held[thing] = n
	if s.fault == "sold when it is held" {
		s.sold[thing] = 1
	}
	return nil
}

func (s *shop) Prepare(_ context.Context, n txn.Name) (participant.Vote, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for thing, holder := range s.held {
		if holder == n && s.fault != "prepared in memory" {
			s.reserved[thing] = n
		}
	}
	return service.Yes(), nil
}

func (s *shop) Commit(_ context.Context, n txn.Name) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, things := range []map[string]txn.Name{s.held, s.reserved} {
		for thing, holder := range things {
			if holder == n {
				found = true
				s.sold[thing] = 1
				delete(things, thing)
			}
		}
	}
	if !found && s.fault == "a commit cannot be repeated" {
		return errors.New("there is no such branch")
	}
	return nil
}

func (s *shop) Rollback(_ context.Context, n txn.Name) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, things := range []map[string]txn.Name{s.held, s.reserved} {
		for thing, holder := range things {
			if holder == n {
				found = true
				delete(things, thing)
			}
		}
		if s.fault == "what is kept is not let go" {
			break
		}
	}
	if !found && s.fault == "a stranger is not rolled back" {
		return errors.New("there is no such branch")
	}
	return nil
}

func opener(fault string) servicetest.Opener {
	disk := &store{reserved: map[string]txn.Name{}, sold: map[string]int{}}
	return func(dir string) (*servicetest.Instance, error) {
		j, err := boltjournal.Open(filepath.Join(dir, "journal"))
		if err != nil {
			return nil, err
		}
		s := &shop{store: disk, fault: fault, held: map[string]txn.Name{}}
		r, err := service.Open(service.Config{Service: s, Journal: j})
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
		return &servicetest.Instance{
			Resource: r, Close: j.Close,
			Work: func(ctx context.Context, n txn.Name, call uint64, key string) error {
				return r.Work(ctx, n, call, func(context.Context) error {
					return s.hold(n, key)
				})
			},
			Effect: func(_ context.Context, key string) (bool, error) {
				disk.mu.Lock()
				defer disk.mu.Unlock()
				return disk.sold[key] == 1, nil
			},
		}, nil
	}
}

// TestKeptDuties is the suite over a shop that keeps its duties, and, in a process of its own that
// TestEveryBrokenDutyIsNoticed starts, over one that does not: a test cannot fail on behalf of
// another.
func TestKeptDuties(t *testing.T) {
	servicetest.RunCrashing(t, opener(os.Getenv(faultEnv)),
		func(t *testing.T, i *servicetest.Instance) {
			t.Helper()
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
		})
}

// faults are what services do wrong, each with the test that must say so.
var faults = map[string]string{
	"sold when it is held":          "commit_makes_the_effect_visible,_once",
	"prepared in memory":            "prepared_work_survives_a_crash",
	"a commit cannot be repeated":   "a_commit_that_is_cut_off/it_goes_on",
	"what is kept is not let go":    "a_rollback_that_is_cut_off/it_goes_on",
	"a stranger is not rolled back": "a_prepare_that_is_cut_off/the_process_ends",
}

// A suite that accepts everything would pass every service.
func TestEveryBrokenDutyIsNoticed(t *testing.T) {
	for fault, test := range faults {
		t.Run(fault, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKeptDuties$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("the suite passed")
			}
			if !strings.Contains(string(out), "--- FAIL: TestKeptDuties/"+test) {
				t.Errorf("%s did not notice:\n%s", test, out)
			}
		})
	}
}
