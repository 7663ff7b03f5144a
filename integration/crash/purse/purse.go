package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/txn"
)

// The buckets of the file.
var (
	// accounts is account → balance.
	accounts = []byte("accounts")
	// ledger is number of a transfer → its amounts, one each time that it was committed.
	ledger = []byte("ledger")
	// kept is prepared name → the job of a branch that voted Yes.
	kept = []byte("kept")
)

// purse has the accounts of the ring that are at the service.
type purse struct {
	resource *service.Resource
	db       *bbolt.DB
	// deaf: it is broken, and forgets what it is told to commit.
	deaf bool

	mu sync.Mutex
	// work is the jobs of branches that are not over. Of those that are prepared there is a copy in
	// the file, and the others are lost when the process ends, as the service is allowed to.
	work map[txn.Name]crash.Job
}

var _ service.Service = (*purse)(nil)

// openPurse opens the file in dir, with the journal in it or in another one beside it.
func openPurse(dir string, join bool) (*purse, error) {
	db, err := bbolt.Open(filepath.Join(dir, "purse.db"), 0o600,
		&bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	p := &purse{db: db, work: map[txn.Name]crash.Job{}}
	if err := p.open(dir, join); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return p, nil
}

func (p *purse) open(dir string, join bool) error {
	if err := p.db.Update(begin); err != nil {
		return err
	}
	journal, err := boltjournal.In(p.db)
	if !join {
		journal, err = boltjournal.Open(filepath.Join(dir, "journal.db"))
	}
	if err != nil {
		return err
	}
	p.resource, err = service.Open(service.Config{Service: p, Journal: journal, Kind: "purse"})
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	return nil
}

// begin makes the buckets, and fills the accounts the first time.
func begin(tx *bbolt.Tx) error {
	for _, name := range [][]byte{ledger, kept} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if tx.Bucket(accounts) != nil {
		return nil
	}
	b, err := tx.CreateBucket(accounts)
	for i := 0; i < crash.Accounts && err == nil; i++ {
		err = b.Put(accountKey(i), strconv.AppendInt(nil, crash.Balance, 10))
	}
	return err
}

func accountKey(n int) []byte { return []byte(strconv.Itoa(n)) }

// Close closes the file. What is kept for branches stays so.
func (p *purse) Close() error { return errors.Join(p.resource.Close(), p.db.Close()) }

// maxLegs bounds the changes of one job.
const maxLegs = 16

// do takes a job for a branch: the service's own API.
func (p *purse) do(ctx context.Context, job crash.Job) error {
	branch, err := job.Name()
	if err != nil {
		return err
	}
	if len(job.Legs) > maxLegs {
		return fmt.Errorf("purse: %d changes, and at most %d are allowed", len(job.Legs), maxLegs)
	}
	err = p.resource.Work(ctx, branch, job.Call, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.work[branch] = job
		return nil
	})
	if errors.Is(err, service.ErrRepeated) {
		return nil // the answer was lost, and the job is known
	}
	return err
}

func (p *purse) jobOf(branch txn.Name) crash.Job {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.work[branch]
}

func (p *purse) forget(branch txn.Name) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.work, branch)
}

// within works in the transaction of the journal, where that is in the same file, and otherwise in
// one of its own.
func (p *purse) within(ctx context.Context, do func(*bbolt.Tx) error) error {
	if tx := boltjournal.Tx(ctx); tx != nil {
		return do(tx)
	}
	return p.db.Update(do)
}

// Prepare implements service.Service: the job is kept, if there is enough for it whatever becomes
// of the other jobs that are kept.
func (p *purse) Prepare(ctx context.Context, branch txn.Name) (vote participant.Vote, err error) {
	job := p.jobOf(branch)
	if len(job.Legs) == 0 {
		return service.ReadOnly(), nil
	}
	text, err := json.Marshal(job)
	if err != nil {
		return participant.Vote{}, err
	}
	vote = service.Yes()
	err = p.within(ctx, func(tx *bbolt.Tx) error {
		all, err := spare(tx, branch)
		for _, leg := range job.Legs {
			if all[leg.Account] += leg.Amount; all[leg.Account] < 0 {
				vote = service.No(fmt.Sprintf("account %d has too little", leg.Account))
			}
		}
		if err != nil || vote.Vote == txn.VoteNo {
			return err
		}
		return tx.Bucket(kept).Put([]byte(branch.String()), text)
	})
	return vote, err
}

// spare is what each account has, less what other branches than this one may take from it.
func spare(tx *bbolt.Tx, branch txn.Name) (map[int]int64, error) {
	all := map[int]int64{}
	err := tx.Bucket(kept).ForEach(func(name, text []byte) error {
		if string(name) == branch.String() {
			return nil
		}
		var other crash.Job
		err := json.Unmarshal(text, &other)
		for _, leg := range other.Legs {
			all[leg.Account] += min(leg.Amount, 0)
		}
		return err
	})
	for i := 0; i < crash.Accounts && err == nil; i++ {
		var has int64
		has, err = balance(tx, i)
		all[i] += has
	}
	return all, err
}

func balance(tx *bbolt.Tx, account int) (int64, error) {
	text := tx.Bucket(accounts).Get(accountKey(account))
	if text == nil {
		return 0, fmt.Errorf("purse: there is no account %d", account)
	}
	return strconv.ParseInt(string(text), 10, 64)
}

// Commit implements service.Service. What is kept is done and no longer kept, in one transaction,
// so that it is done once however often it is asked for.
func (p *purse) Commit(ctx context.Context, branch txn.Name) error {
	return p.end(ctx, branch, func(tx *bbolt.Tx, job crash.Job) error {
		if p.deaf {
			return nil
		}
		for _, leg := range job.Legs {
			has, err := balance(tx, leg.Account)
			if err != nil {
				return err
			}
			err = tx.Bucket(accounts).Put(accountKey(leg.Account),
				strconv.AppendInt(nil, has+leg.Amount, 10))
			if err != nil {
				return err
			}
		}
		return note(tx, job)
	})
}

// note adds an amount to the rows of a transfer.
func note(tx *bbolt.Tx, job crash.Job) error {
	key := []byte(strconv.FormatInt(job.N, 10))
	var amounts []int64
	if text := tx.Bucket(ledger).Get(key); text != nil {
		if err := json.Unmarshal(text, &amounts); err != nil {
			return err
		}
	}
	text, err := json.Marshal(append(amounts, job.Amount))
	if err != nil {
		return err
	}
	return tx.Bucket(ledger).Put(key, text)
}

// Rollback implements service.Service.
func (p *purse) Rollback(ctx context.Context, branch txn.Name) error {
	return p.end(ctx, branch, func(*bbolt.Tx, crash.Job) error { return nil })
}

// end lets go of a branch, after its job is done if it is kept. It is forgotten in memory only once
// that is so on the disk: until then the transaction may be taken back.
func (p *purse) end(
	ctx context.Context, branch txn.Name, do func(*bbolt.Tx, crash.Job) error,
) error {
	return p.within(ctx, func(tx *bbolt.Tx) error {
		tx.OnCommit(func() { p.forget(branch) })
		key := []byte(branch.String())
		text := tx.Bucket(kept).Get(key)
		if text == nil {
			return nil
		}
		var job crash.Job
		err := json.Unmarshal(text, &job)
		if err == nil {
			err = do(tx, job)
		}
		return errors.Join(err, tx.Bucket(kept).Delete(key))
	})
}
