package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	participants "github.com/gavel-tx/gavel/participant/remote"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// kvBanks are two key-value stores, each behind a participant process. Clients work within branches
// over gRPC, as a program in any language would, and leave the votes to the coordinator.
type kvBanks struct {
	procs [2]*child
	conns [2]*grpc.ClientConn
	data  [2]gavelv1.KvServiceClient
	lists [2]*participants.Client
	// keys are the ledgers' keys that were ever tried: the store has no listing of its data.
	keys keySet
}

// openKV starts both participants.
func (s *story) openKV(ctx context.Context) (_ banks, err error) {
	b := &kvBanks{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop(context.WithoutCancel(ctx)))
		}
	}()
	for i, name := range bankNames {
		b.procs[i] = &child{binary: s.o.binary, journal: filepath.Join(s.dir, name+".journal"),
			args: []string{"participant", "--name", name, "--kv", filepath.Join(s.dir, name)}}
		if err := b.open(ctx, i); err != nil {
			return nil, fmt.Errorf("demo: start a key-value store: %w", err)
		}
	}
	return b, nil
}

func (b *kvBanks) open(ctx context.Context, i int) (err error) {
	if err := b.procs[i].start(ctx); err != nil {
		return err
	}
	if err := b.procs[i].ready(ctx); err != nil {
		return err
	}
	addr := b.procs[i].grpc
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	if b.conns[i], err = grpc.NewClient(addr, plain); err != nil {
		return err
	}
	b.data[i] = gavelv1.NewKvServiceClient(b.conns[i])
	b.lists[i], err = participants.Dial(addr, participants.WithResource(bankNames[i]))
	return err
}

func (b *kvBanks) urls() [2]string {
	return [2]string{"grpc://" + b.procs[0].grpc, "grpc://" + b.procs[1].grpc}
}

func (b *kvBanks) describe() []string {
	var out []string
	for i, p := range b.procs {
		out = append(out, fmt.Sprintf("%s  embedded key-value store, process %d at %s",
			bankNames[i], p.cmd.Process.Pid, p.grpc))
	}
	return out
}

// move does what client.InTx does for databases. Balances are kept as the difference to the opening
// balance: a key that does not exist counts as zero.
func (b *kvBanks) move(
	ctx context.Context, c decider, t transfer,
) (answer, txn.ID, error) {
	b.keys.add(t.key)
	begun, err := c.Begin(ctx, txn.BeginRequest{Resources: bankNames[:], Label: t.key})
	if err != nil {
		// What was only begun leaves no trace, so that this is certain.
		return rolledBack, txn.ID{}, nil
	}
	for i := range b.data {
		if err := b.apply(ctx, i, begun, t); err != nil {
			// Nothing was prepared, and the commit is never asked for.
			_, _ = c.Rollback(ctx, begun.ID, "a bank refused")
			return rolledBack, begun.ID, nil
		}
	}
	r, err := c.Commit(ctx, txn.CommitRequest{ID: begun.ID})
	return readResult(begun.ID, r, err)
}

func readResult(id txn.ID, r txn.Result, err error) (answer, txn.ID, error) {
	switch {
	case errors.Is(err, txn.ErrUnknown):
		return unknown, id, nil
	case err != nil:
		// A refused commit changed nothing.
		return rolledBack, id, nil
	case r.Outcome == txn.OutcomeCommitted:
		return committed, id, nil
	case r.Outcome == txn.OutcomeRolledBack:
		return rolledBack, id, nil
	}
	return unknown, id, fmt.Errorf("%s ended as %s: %s", id, r.Outcome, r.Reason)
}

// applyTimeout bounds one call, which holds no lock that others would wait for.
const applyTimeout = 5 * time.Second

func (b *kvBanks) apply(ctx context.Context, bank int, begun txn.Begun, t transfer) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	var name txn.Name
	for _, e := range begun.Branches {
		if e.Resource == bankNames[bank] {
			name = e.Name
		}
	}
	change := t.change(bank)
	account := []byte(accountName(t.accountIDs[bank]))
	_, err := b.data[bank].Apply(ctx, &gavelv1.ApplyRequest{
		PreparedName: name.String(), Sequence: 1, Operations: []*gavelv1.Operation{
			{Kind: &gavelv1.Operation_Add{Add: &gavelv1.AddOperation{Key: account, Delta: change}}},
			{Kind: &gavelv1.Operation_Put{Put: &gavelv1.PutOperation{Key: []byte(t.key),
				Value: strconv.AppendInt(nil, change, 10)}}},
		}})
	return err
}

func (b *kvBanks) prepared(
	ctx context.Context, f txn.Fence,
) (found [2]map[txn.Name]bool, err error) {
	for i, c := range b.lists {
		listing, err := c.List(ctx, f)
		if err != nil {
			return found, err
		}
		found[i] = map[txn.Name]bool{}
		for _, branch := range listing.Branches {
			found[i][branch.Name] = true
		}
	}
	return found, nil
}

func (b *kvBanks) left(ctx context.Context, f txn.Fence) (int, error) {
	found, err := b.prepared(ctx, f)
	return len(found[0]) + len(found[1]), err
}

func (b *kvBanks) books(ctx context.Context) (books, error) {
	all := books{sum: total}
	for i := range b.data {
		for id := range accounts {
			change, _, err := b.number(ctx, i, accountName(id))
			if err != nil {
				return all, err
			}
			all.sum += change
		}
		all.ledgers[i] = map[string]int64{}
		for _, key := range b.keys.all() {
			amount, found, err := b.number(ctx, i, key)
			if err != nil {
				return all, err
			}
			if found {
				all.ledgers[i][key] = amount
			}
		}
	}
	return all, nil
}

func (b *kvBanks) has(ctx context.Context, key string) (found [2]bool, err error) {
	for i := range b.data {
		if _, found[i], err = b.number(ctx, i, key); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (b *kvBanks) number(ctx context.Context, bank int, key string) (int64, bool, error) {
	answer, err := b.data[bank].Get(ctx, &gavelv1.GetRequest{Keys: [][]byte{[]byte(key)}})
	if err != nil {
		return 0, false, err
	}
	e := answer.GetEntries()[0]
	if !e.GetFound() {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(string(e.GetValue()), 10, 64)
	return n, true, err
}

func (b *kvBanks) stop(ctx context.Context) error {
	var errs []error
	for i := range b.procs {
		if b.lists[i] != nil {
			errs = append(errs, b.lists[i].Close())
		}
		if b.conns[i] != nil {
			errs = append(errs, b.conns[i].Close())
		}
		if b.procs[i] != nil {
			errs = append(errs, b.procs[i].stop(ctx))
		}
	}
	return errors.Join(errs...)
}
