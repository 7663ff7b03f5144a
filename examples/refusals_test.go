package examples

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// answers is a server that gives one answer after the other, and then the last one again.
type answers struct {
	all   []answer
	asked atomic.Int32
}

type answer struct {
	status int
	body   string
}

func (s *answers) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a := s.all[min(int(s.asked.Add(1)), len(s.all))-1]
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.body))
}

// TestRefusals: a refusal of gavel settles a first call, and says nothing about a call that was
// made before. A refusal by anybody else settles nothing.
func TestRefusals(t *testing.T) {
	foreign := answer{http.StatusForbidden, "<h1>Forbidden</h1>"}
	refused := answer{http.StatusBadRequest, `{"code":"failed_precondition","message":"no"}`}
	aborted := answer{http.StatusConflict, `{"code":"aborted","message":"rolled back"}`}
	for name, command := range executing(t) {
		t.Run(name, func(t *testing.T) {
			expectAsked(t, command, 1, refused)
			expectAsked(t, command, 1, aborted)
			expectAsked(t, command, 2, foreign, aborted)
			expectAsked(t, command, 3, foreign, refused, aborted)
		})
	}
}

// TestUsage: what is no amount is not sent to anybody.
func TestUsage(t *testing.T) {
	for _, script := range []string{"curl/execute.sh", "curl/transfer.sh"} {
		for _, args := range [][]string{
			{}, {"alice", "bob"}, {"alice", "bob", "1", "2"}, {"alice", "bob", ""},
			{"alice", "bob", "0"}, {"alice", "bob", "01"}, {"alice", "bob", "-1"},
			{"alice", "bob", "1.5"},
		} {
			if s := run(t, nil, append([]string{script}, args...)...); s.code != 2 {
				t.Errorf("%s %q: exit %d, want 2\n%s", script, args, s.code, s.text)
			}
		}
	}
}

// executing are the commands of the examples that make a transfer in one call.
func executing(t *testing.T) map[string][]string {
	t.Helper()
	return map[string][]string{
		"curl":   {"curl/execute.sh"},
		"python": {findPython(t), "python/transfer.py"},
		"node":   {"node", "node/transfer.mjs"},
	}
}

// expectAsked makes a transfer that does not come to be, and counts the calls.
func expectAsked(t *testing.T, command []string, calls int32, all ...answer) {
	t.Helper()
	s := &answers{all: all}
	server := httptest.NewServer(s)
	defer server.Close()
	ended := program([]string{"GAVEL=" + server.URL}, command...)(t, transfer{"alice", "bob", "30"})
	if n := s.asked.Load(); ended.code != 1 || n != calls {
		t.Errorf("%v: exit %d after %d calls, want 1 after %d\n%s", all, ended.code, n, calls,
			ended.text)
	}
}
