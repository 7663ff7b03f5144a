package main

import (
	"encoding/json"
	"net/http"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/integration/crash"
)

// maxJob bounds the body of a request, in bytes.
const maxJob = 64 << 10

// api is what clients of the service call.
func (p *purse) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /work", p.serveWork)
	mux.HandleFunc("GET /statement", p.serveStatement)
	return mux
}

func (p *purse) serveWork(w http.ResponseWriter, r *http.Request) {
	var job crash.Job
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJob)).Decode(&job)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := p.do(r.Context(), job); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

func (p *purse) serveStatement(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseInt(r.FormValue("from"), 10, 64)
	if err != nil {
		http.Error(w, "from: "+err.Error(), http.StatusBadRequest)
		return
	}
	s, err := p.statement(from)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	// One that has gone away gets no answer.
	_ = json.NewEncoder(w).Encode(s)
}

// statement is all of it at one moment.
func (p *purse) statement(from int64) (s crash.Statement, err error) {
	err = p.db.View(func(tx *bbolt.Tx) error {
		err := tx.Bucket(kept).ForEach(func(name, _ []byte) error {
			s.Kept = append(s.Kept, string(name))
			return nil
		})
		for i := 0; i < crash.Accounts && err == nil; i++ {
			var has int64
			has, err = balance(tx, i)
			s.Sum += has
		}
		if err != nil {
			return err
		}
		return tx.Bucket(ledger).ForEach(func(key, text []byte) error {
			n, err := strconv.ParseInt(string(key), 10, 64)
			if err != nil || n < from {
				return err
			}
			var amounts []int64
			err = json.Unmarshal(text, &amounts)
			for _, a := range amounts {
				s.Rows = append(s.Rows, crash.Row{N: n, Amount: a})
			}
			return err
		})
	})
	return s, err
}
