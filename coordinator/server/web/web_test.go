package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/coordinator/server/web"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testID() txn.ID { return txn.NewID(0x123456789abcdef, 42) }

// fake is a coordinator with one transaction.
type fake struct {
	result txn.Result
	err    error
	begun  txn.BeginRequest
	wait   time.Duration
}

func (f *fake) Begin(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
	f.begun = r
	if f.err != nil {
		return txn.Begun{}, f.err
	}
	return txn.Begun{ID: testID(), Timeout: time.Minute, Branches: []txn.Enlisted{
		{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1)}}}, nil
}

func (f *fake) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	if r.Wait < 0 {
		panic("a negative wait")
	}
	select {
	case <-time.After(f.wait):
	case <-ctx.Done():
		return txn.Result{}, errors.New("the call was ended")
	}
	return f.result, f.err
}

func (f *fake) Rollback(context.Context, txn.ID, string) (txn.Result, error) {
	panic("not this one")
}

func (f *fake) Outcome(context.Context, txn.ID) (txn.Result, error) { return f.result, f.err }

func (f *fake) List(context.Context, txn.ListRequest) ([]txn.Result, error) {
	return []txn.Result{f.result}, f.err
}

func committed() txn.Result {
	return txn.Result{ID: testID(), State: txn.StateCommitted, Outcome: txn.OutcomeCommitted}
}

// site is a server with the deadlines of a real one, only shorter.
func site(t *testing.T, f *fake, o web.Options) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(web.Handler(server.New(f, server.Options{}), o))
	s.Config.ReadTimeout = 50 * time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// post sends a body, and returns the status and what came back.
func post(t *testing.T, s *httptest.Server, method, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+web.Path+method,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	return do(t, s, r)
}

func do(t *testing.T, s *httptest.Server, r *http.Request) (int, string) {
	t.Helper()
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func ask(id txn.ID) string { return `{"transactionId": "` + id.String() + `"}` }

func TestJSON(t *testing.T) {
	f := &fake{result: committed()}
	s := site(t, f, web.Options{})
	code, body := post(t, s, "BeginTransaction", `{"resources": ["bank_a"], "timeout": "7s"}`)
	var begun struct {
		TransactionID string
		Branches      []struct{ PreparedName string }
	}
	if err := json.Unmarshal([]byte(body), &begun); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusOK || begun.TransactionID != testID().String() ||
		begun.Branches[0].PreparedName != txn.NameOf(testID(), 1).String() ||
		f.begun.Timeout != 7*time.Second || f.begun.Resources[0] != "bank_a" {
		t.Errorf("%d %s, asked %+v", code, body, f.begun)
	}
	for _, method := range []string{"CommitTransaction", "GetTransaction", "ListTransactions"} {
		question := ask(testID())
		if method == "ListTransactions" {
			question = `{}`
		}
		if code, body := post(t, s, method, question); code != http.StatusOK ||
			!strings.Contains(body, "OUTCOME_COMMITTED") {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
}

// TestNoGET: a browser does not say which page a GET is for.
func TestNoGET(t *testing.T) {
	s := site(t, &fake{result: committed()}, web.Options{})
	for _, method := range []string{"GetTransaction", "CommitTransaction"} {
		q := url.Values{"encoding": {"json"}, "message": {ask(testID())}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			s.URL+web.Path+method+"?"+q.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if code, body := do(t, s, r); code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
}

// TestALargeRequestThatStalls holds no connection.
func TestALargeRequestThatStalls(t *testing.T) {
	s := site(t, &fake{result: committed()}, web.Options{MaxMessage: 200})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST %sCommitTransaction HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n%s", web.Path,
		strings.Repeat("x", 1000))
	if err != nil {
		t.Fatal(err)
	}
	// It ends only when the server has closed the connection.
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) ||
		!strings.HasPrefix(string(answer), "HTTP/1.1 413") {
		t.Errorf("%q, %v", answer, err)
	}
}

// TestStatus: only a commit is 200, and only a rollback is 409; the reason is in the details.
func TestStatus(t *testing.T) {
	rolledBack := txn.Result{ID: testID(), State: txn.StateRolledBack,
		Outcome: txn.OutcomeRolledBack, Cause: txn.CauseVotedNo, Resource: "bank_a"}
	for name, c := range map[string]struct {
		f      fake
		status int
		want   []string
	}{
		"committed": {fake{result: committed()}, 200, []string{"OUTCOME_COMMITTED"}},
		"rolled back": {fake{result: rolledBack}, 409,
			[]string{`"aborted"`, "PARTICIPANT_VOTED_NO"}},
		"not known yet": {fake{result: txn.Result{ID: testID(), State: txn.StateCommitting}}, 503,
			[]string{`"unavailable"`, "OUTCOME_UNKNOWN"}},
		"refused": {fake{err: txn.Refusef(txn.ReasonInvalid, "votes", "no such branch")}, 400,
			[]string{`"invalid_argument"`, "no such branch", "INVALID_ARGUMENT"}},
		"an error": {fake{err: errors.New("who knows")}, 500,
			[]string{`"internal"`, "OUTCOME_UNKNOWN"}},
	} {
		code, body := post(t, site(t, &c.f, web.Options{}), "CommitTransaction", ask(testID()))
		if code != c.status {
			t.Errorf("%s: %d %s", name, code, body)
		}
		for _, w := range c.want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: %s does not hold %s", name, body, w)
			}
		}
	}
}

// TestBadRequests are refused before anybody is asked.
func TestBadRequests(t *testing.T) {
	s := site(t, &fake{result: committed()}, web.Options{MaxMessage: 200})
	for name, c := range map[string]struct {
		method, body string
		status       int
		header       []string
	}{
		"no such method": {"Nothing", `{}`, 404, nil},
		"no session":     {"Session", `{}`, 404, nil},
		"no JSON":        {"CommitTransaction", `{`, 400, nil},
		"no such field": {"CommitTransaction", `{"keys": 1, "transactionId": "` +
			testID().String() + `"}`, 400, nil},
		"no id": {"CommitTransaction", `{}`, 400, nil},
		"too large": {"BeginTransaction", `{"label": "` + strings.Repeat("x", 300) + `"}`, 413,
			nil},
		"a form": {"CommitTransaction", `{}`, 415, []string{"Content-Type", "text/plain"}},
		"another site's": {"CommitTransaction", ask(testID()), 403,
			[]string{"Origin", "https://a.example"}},
		"in its own name": {"CommitTransaction", ask(testID()), 403,
			[]string{"Origin", "http://a.example", "Host", "a.example"}},
		"a panic": {"RollbackTransaction", ask(testID()), 500, nil},
	} {
		if code, body := post(t, s, c.method, c.body, c.header...); code != c.status {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	for _, header := range [][]string{{"Origin", s.URL}, {"Host", "gavel:7441"}} {
		if code, body := post(t, s, "CommitTransaction", ask(testID()), header...); code != 200 {
			t.Errorf("%q: %d %s", header, code, body)
		}
	}
	behind := site(t, &fake{result: committed()}, web.Options{TLS: true})
	if code, body := post(t, behind, "CommitTransaction", ask(testID()), "Origin",
		"http://a.example", "Host", "a.example"); code != 200 {
		t.Errorf("with TLS: %d %s", code, body)
	}
}

// TestACallMayTakeLong: the server's deadline is for the arrival of a request.
func TestACallMayTakeLong(t *testing.T) {
	s := site(t, &fake{result: committed(), wait: 300 * time.Millisecond}, web.Options{})
	if code, body := post(t, s, "CommitTransaction", ask(testID())); code != 200 {
		t.Errorf("%d %s", code, body)
	}
}

// TestGRPCWeb: a frame of five bytes, a message, and the trailers as a frame of their own.
func TestGRPCWeb(t *testing.T) {
	s := site(t, &fake{result: committed()}, web.Options{})
	m, err := proto.Marshal(&gavelv1.GetTransactionRequest{TransactionId: testID().String()})
	if err != nil {
		t.Fatal(err)
	}
	frame := append([]byte{0, 0, 0, 0, byte(len(m))}, m...)
	code, body := post(t, s, "GetTransaction", string(frame),
		"Content-Type", "application/grpc-web+proto")
	size := int(body[4])
	var answer gavelv1.GetTransactionResponse
	if err := proto.Unmarshal([]byte(body[5:5+size]), &answer); err != nil {
		t.Fatal(err)
	}
	rest := body[5+size:]
	if code != 200 || answer.GetTransaction().GetOutcome() != gavelv1.Outcome_OUTCOME_COMMITTED ||
		rest[0] != 0x80 || !strings.Contains(strings.ToLower(rest), "grpc-status: 0") {
		t.Errorf("%d %q", code, body)
	}
}
