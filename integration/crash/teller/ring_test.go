package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/kv"
)

// noted is a place that notes what a transfer does there.
type noted struct{ moved, seen *int64 }

func (c noted) move(_ context.Context, _, amount int64, legs []crash.Leg) error {
	for _, l := range legs {
		if l.Account < 0 || l.Account >= crash.Accounts {
			return errors.New("there is no such account")
		}
		*c.moved += l.Amount
		amount -= l.Amount
	}
	if amount != 0 {
		return errors.New("the row says something else")
	}
	return nil
}

func (c noted) read(context.Context, int) error {
	*c.seen++
	return nil
}

// TestVisitsKeepTheCourse: at every place exactly the share is done.
func TestVisitsKeepTheCourse(t *testing.T) {
	for n := range int64(200) {
		course := crash.CourseOf(n)
		r := &ring{}
		for p, share := range course.Shares {
			var moved, read int64
			r.counters[p] = noted{&moved, &read}
			if err := r.visit(t.Context(), crash.Place(p), n, share); err != nil {
				t.Fatal(err)
			}
			if moved != share.Amount || (read == 1) != (share.Role == crash.Reads) {
				t.Errorf("transfer %d at place %d: moved %d, read %d; its share is %+v", n, p,
					moved, read, share)
			}
		}
	}
}

// TestErrands: the coordinator asks the service, unless the service has refused already.
func TestErrands(t *testing.T) {
	if r := (&errand{}).Review(t.Context()); r.Finding != client.FoundWriter || !r.Elsewhere {
		t.Errorf("one that went well: %+v", r)
	}
	r := (&errand{failed: io.ErrUnexpectedEOF}).Review(t.Context())
	if r.Finding != client.FoundFailed || !errors.Is(r.Err, io.ErrUnexpectedEOF) {
		t.Errorf("one that failed: %+v", r)
	}
}

// TestRefusalsAreErrors: what the service does not take is an error with its words, and so is a
// service that is not there.
func TestRefusalsAreErrors(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/work" {
			http.Error(w, "not here", http.StatusConflict)
		}
	}))
	if err := post(t.Context(), s.URL+"/work", crash.Job{}); err != nil {
		t.Error(err)
	}
	err := post(t.Context(), s.URL+"/else", crash.Job{})
	if err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("a refusal: %v", err)
	}
	s.Close()
	if err := post(t.Context(), s.URL+"/work", crash.Job{}); err == nil {
		t.Error("nobody was there, and took it")
	}
}

func TestOperationsOfTheRing(t *testing.T) {
	least := int64(-3)
	add := encodeOp(kv.Op{Kind: kv.OpAdd, Key: []byte("k"), Delta: 2, Minimum: &least}).GetAdd()
	if string(add.GetKey()) != "k" || add.GetDelta() != 2 || add.GetMinimum() != least {
		t.Errorf("an addition: %v", add)
	}
	put := encodeOp(kv.Op{Kind: kv.OpPut, Key: []byte("k"), Value: []byte("v")}).GetPut()
	if string(put.GetKey()) != "k" || string(put.GetValue()) != "v" {
		t.Errorf("a put: %v", put)
	}
	read := encodeOp(kv.Op{Kind: kv.OpRead, Key: []byte("k")}).GetRead()
	if string(read.GetKey()) != "k" {
		t.Errorf("a read: %v", read)
	}
}
