package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

const testLog txn.LogID = 7

func branch(n txn.Seq) txn.Name { return txn.NameOf(txn.NewID(testLog, n), 1) }

func open(t *testing.T) *purse {
	t.Helper()
	p, err := openPurse(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// take has a branch take an amount from account 1, and asks for its vote.
func take(t *testing.T, p *purse, n txn.Seq, amount int64) txn.Vote {
	t.Helper()
	err := p.do(t.Context(), crash.Job{Branch: branch(n).String(), Call: 1, N: int64(n),
		Amount: -amount, Legs: []crash.Leg{{Account: 1, Amount: -amount}}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.resource.Prepare(t.Context(), txn.Fence{Log: testLog, Epoch: 1, LSN: 1},
		[]participant.Branch{{Name: branch(n)}})
	if err != nil {
		t.Fatal(err)
	}
	return v[0].Vote
}

// end ends a branch.
func end(t *testing.T, p *purse, n txn.Seq, commit bool) {
	t.Helper()
	call := p.resource.Rollback
	if commit {
		call = p.resource.Commit
	}
	_, err := call(t.Context(), txn.Fence{Log: testLog, Epoch: 1, LSN: 1},
		[]participant.Branch{{Name: branch(n)}})
	if err != nil {
		t.Fatal(err)
	}
}

// What a branch that voted Yes will take is taken: another one cannot have it, until the first is
// rolled back.
func TestWhatIsPromisedIsKept(t *testing.T) {
	p := open(t)
	for _, c := range []struct {
		n      txn.Seq
		amount int64
		want   txn.Vote
	}{{1, 600, txn.VoteYes}, {2, 600, txn.VoteNo}, {3, 400, txn.VoteYes}, {4, 1, txn.VoteNo}} {
		if v := take(t, p, c.n, c.amount); v != c.want {
			t.Errorf("branch %d takes %d: %v, want %v", c.n, c.amount, v, c.want)
		}
	}
	end(t, p, 1, false)
	if v := take(t, p, 5, 600); v != txn.VoteYes {
		t.Errorf("what a rollback has freed: %v", v)
	}
	end(t, p, 3, true)
	s, err := p.statement(1)
	if err != nil || s.Sum != crash.Accounts*crash.Balance-400 || len(s.Rows) != 1 ||
		s.Rows[0] != (crash.Row{N: 3, Amount: -400}) || len(s.Kept) != 1 {
		t.Errorf("the statement is %+v, %v", s, err)
	}
}

// TestDeaf: a deaf one is told to commit, says so, and has nothing to show.
func TestDeaf(t *testing.T) {
	p := open(t)
	p.deaf = true
	if v := take(t, p, 1, 5); v != txn.VoteYes {
		t.Fatal(v)
	}
	end(t, p, 1, true)
	s, err := p.statement(1)
	if err != nil || len(s.Rows)+len(s.Kept) > 0 || s.Sum != crash.Accounts*crash.Balance {
		t.Errorf("the statement is %+v, %v", s, err)
	}
}

func TestAPI(t *testing.T) {
	p := open(t)
	ask := func(method, path string, body any) *httptest.ResponseRecorder {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		p.api().ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(text)))
		return w
	}
	job := crash.Job{Branch: branch(1).String(), Call: 1, N: 1, Legs: []crash.Leg{{}}}
	second := job
	second.Call = 3
	many := job
	many.Branch, many.Legs = branch(2).String(), make([]crash.Leg, maxLegs+1)
	for _, c := range []struct {
		what, method, path string
		body               any
		want               int
	}{
		{"a job", http.MethodPost, "/work", job, http.StatusOK},
		{"the same call again", http.MethodPost, "/work", job, http.StatusOK},
		{"a call too far", http.MethodPost, "/work", second, http.StatusConflict},
		{"no branch", http.MethodPost, "/work", crash.Job{Call: 1}, http.StatusConflict},
		{"too much", http.MethodPost, "/work", many, http.StatusConflict},
		{"no job", http.MethodPost, "/work", "x", http.StatusBadRequest},
		{"a statement", http.MethodGet, "/statement?from=0", nil, http.StatusOK},
		{"from nowhere", http.MethodGet, "/statement", nil, http.StatusBadRequest},
	} {
		w := ask(c.method, c.path, c.body)
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d: %s", c.what, w.Code, c.want,
				strings.TrimSpace(w.Body.String()))
		}
	}
}
