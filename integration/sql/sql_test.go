package sql_test

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	client "github.com/gavel-tx/gavel/client/remote"
	participants "github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// balance is that of a bank's account, as anybody sees it.
func balance(t *testing.T, bank string) (n int64) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url(bank, "app"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, "SELECT bal FROM acct WHERE id = 1").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// prepared is how many prepared transactions the server has.
func prepared(t *testing.T) (n int) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, shared.server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	// What Describe tries out for a moment does not count.
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'gavel1.%'").
		Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// post asks the coordinator in JSON, and returns the status and what came back.
func post(t *testing.T, c *process, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.http+
		"/gavel.v1.TransactionService/ExecuteTransaction", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return do(t, r)
}

const (
	debit  = "update acct set bal = bal - 30 where id = 1 and bal >= 30"
	credit = "update acct set bal = bal + 30 where id = 1"
)

// TestExec: from the command line, over an in-process resource and a participant.
func TestExec(t *testing.T) {
	b := participant(t, "bank_b", t.TempDir(), "127.0.0.1:0")
	c := coordinator(t, b)
	at := "--coordinator=" + c.grpc
	before := [2]int64{balance(t, "bank_a"), balance(t, "bank_b")}
	moved := func(n int64) bool {
		return balance(t, "bank_a") == before[0]-n && balance(t, "bank_b") == before[1]+n
	}

	transfer := []string{"exec", at, "--expect", "1,1", "--key", "order-1", "bank_a", debit,
		"bank_b", credit}
	code, out := gavel(t, transfer...)
	if code != 0 || !strings.Contains(out, "COMMITTED  ") || !moved(30) {
		t.Fatalf("exit code %d, moved %v: %s", code, moved(30), out)
	}
	id := regexp.MustCompile(`COMMITTED  (\S+)`).FindStringSubmatch(out)[1]
	code, out = gavel(t, transfer...)
	if code != 0 || !strings.Contains(out, id) || !strings.Contains(out, "done before") {
		t.Errorf("the same key again: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "--key", "order-1", "bank_a", credit)
	if code != 4 || !strings.Contains(out, "a request with another body") {
		t.Errorf("another request with the key: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "--expect=1,2", "bank_a", debit, "bank_b", credit)
	if code != 6 || !strings.Contains(out, "statement 2 on bank_b changed 1 rows, expected 2") {
		t.Errorf("a wrong number of rows: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "bank_b", credit, "bank_a",
		"update acct set bal = -1 where id = 1")
	if code != 6 || !strings.Contains(out, "statement 2 on bank_a failed: new row for relation") {
		t.Errorf("a failed statement: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "bank_a", "select id, bal from acct", "bank_b",
		"create temp table x (a int)")
	if code != 6 || !strings.Contains(out, "keep temporary tables") {
		t.Errorf("what cannot be prepared: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "bank_c", "select 1")
	if code != 4 || !strings.Contains(out, "may not run SQL at resource bank_c") {
		t.Errorf("not allowed: exit code %d: %s", code, out)
	}
	code, out = gavel(t, "exec", at, "bank_a", "select id, 'x' as name from acct", "bank_b",
		"select bal, null as nothing from acct where id = 1")
	if code != 0 || !strings.Contains(out, "ID  NAME") || !strings.Contains(out, "NULL") {
		t.Errorf("rows: exit code %d: %s", code, out)
	}
	if code, out = gavel(t, "tx", "show", at, id); code != 0 {
		t.Errorf("tx show: exit code %d: %s", code, out)
	}
	if !moved(30) {
		t.Error("something that was rolled back has an effect")
	}
	await(t, "nothing is prepared", func() bool { return prepared(t) == 0 })
}

// TestJSON: whatever can POST moves money, or hears why not.
func TestJSON(t *testing.T) {
	c := coordinator(t, participant(t, "bank_b", t.TempDir(), "127.0.0.1:0"))
	before := [2]int64{balance(t, "bank_a"), balance(t, "bank_b")}
	const body = `{"idempotencyKey": "order-42", "statements": [
		{"resource": "bank_a", "sql": "update acct set bal = bal - $1 where id = 1 and bal >= $1",
			"args": [{"int64": AMOUNT}], "expectRows": 1},
		{"resource": "bank_b", "sql": "update acct set bal = bal + $1 where id = 1 returning bal",
			"args": [{"int64": AMOUNT}], "expectRows": 1}]}`
	code, text := post(t, c, strings.ReplaceAll(body, "AMOUNT", "10"))
	var answer struct {
		Transaction struct{ TransactionID, State string }
		Results     []struct {
			RowsAffected string
			Columns      []string
			Rows         []struct{ Values []map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, text, err)
	}
	if len(answer.Results) != 2 || answer.Results[0].RowsAffected != "1" ||
		answer.Results[1].Columns[0] != "bal" || answer.Transaction.TransactionID == "" {
		t.Errorf("%s", text)
	}
	if balance(t, "bank_a") != before[0]-10 || balance(t, "bank_b") != before[1]+10 {
		t.Error("the money did not move")
	}
	poor := strings.NewReplacer("AMOUNT", "1000000", "order-42", "order-43")
	code, text = post(t, c, poor.Replace(body))
	if code != http.StatusConflict || !strings.Contains(text, `"code":"aborted"`) ||
		!strings.Contains(text, "statement 1 on bank_a changed 0 rows, expected 1") ||
		!strings.Contains(text, "PARTICIPANT_VOTED_NO") {
		t.Errorf("%d %s", code, text)
	}
	code, text = post(t, c, `{"statements": [{"resource": "bank_c", "sql": "select 1"}]}`)
	if code != http.StatusForbidden || !strings.Contains(text, "SQL_NOT_ALLOWED") {
		t.Errorf("%d %s", code, text)
	}
}

// dial reaches a participant.
func dial(t *testing.T, p *process) *remote.Client {
	t.Helper()
	c, err := remote.Dial(p.grpc, remote.WithResource("bank_b"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// work attaches a branch and runs a statement.
func work(t *testing.T, c *remote.Client, n txn.Name, sql string) session.Branch {
	t.Helper()
	b, err := c.Attach(t.Context(), session.Attachment{Name: n})
	if err == nil {
		t.Cleanup(b.Close)
		_, err = b.Execute(t.Context(), session.Statement{SQL: sql}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParticipantKilledBeforePrepare: the work is gone, and the transaction is rolled back.
func TestParticipantKilledBeforePrepare(t *testing.T) {
	dir := t.TempDir()
	b := participant(t, "bank_b", dir, "127.0.0.1:0")
	c := coordinator(t, b)
	decider, err := client.Dial(c.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer decider.Close()
	begun, err := decider.Begin(t.Context(), txn.BeginRequest{Resources: []string{"bank_b"}})
	if err != nil {
		t.Fatal(err)
	}
	before := balance(t, "bank_b")
	if err := work(t, dial(t, b), begun.Branches[0].Name, credit).Finish(); err != nil {
		t.Fatal(err)
	}
	b.end(syscall.SIGKILL)
	participant(t, "bank_b", dir, b.grpc)
	r, err := decider.Commit(t.Context(), txn.CommitRequest{ID: begun.ID})
	if err != nil || r.Outcome != txn.OutcomeRolledBack {
		t.Errorf("%+v, %v", r, err)
	}
	if got := balance(t, "bank_b"); got != before || prepared(t) != 0 {
		t.Errorf("balance %d, was %d; %d prepared", got, before, prepared(t))
	}
}

// TestParticipantKilledAfterPrepare: what it has voted for is committed by its next life.
func TestParticipantKilledAfterPrepare(t *testing.T) {
	dir := t.TempDir()
	b := participant(t, "bank_b", dir, "127.0.0.1:0")
	before := balance(t, "bank_b")
	c, f := dial(t, b), txn.Fence{Log: 77, Epoch: 1, LSN: 1}
	branch := participants.Branch{Name: txn.Name{Log: f.Log, Seq: 1, Branch: 1}}
	if _, err := c.List(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	work(t, c, branch.Name, credit)
	votes, err := c.Prepare(t.Context(), f, []participants.Branch{branch})
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("%+v, %v", votes, err)
	}
	branch.Evidence = votes[0].Evidence
	b.end(syscall.SIGKILL)
	b = participant(t, "bank_b", dir, b.grpc)
	found, err := dial(t, b).Commit(t.Context(), f, []participants.Branch{branch})
	if err != nil || found[0].Standing != txn.StandingCommitted {
		t.Fatalf("%+v, %v", found, err)
	}
	if got := balance(t, "bank_b"); got != before+30 {
		t.Errorf("balance %d, was %d", got, before)
	}
}
