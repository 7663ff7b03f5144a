package kv_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txn"
)

// A branch from its first operation to its commit. The coordinator does all but Apply.
func Example() {
	dir, err := os.MkdirTemp("", "kv")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := kv.Open(kv.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx, fence := context.Background(), txn.Fence{Log: 1, Epoch: 1}
	branch := []participant.Branch{{Name: txn.NameOf(txn.NewID(1, 1), 1)}}
	_, err = store.Apply(ctx, branch[0].Name, 1, []kv.Op{
		{Kind: kv.OpPut, Key: []byte("alice"), Value: []byte("100")},
		{Kind: kv.OpAdd, Key: []byte("alice"), Delta: -30},
	})
	if err != nil {
		log.Fatal(err)
	}
	show := func(when string) {
		entries, err := store.Get(ctx, [][]byte{[]byte("alice")})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %q\n", when, entries[0].Value)
	}

	votes, err := store.Prepare(ctx, fence, branch)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("vote:", votes[0].Vote)
	show("prepared")
	branch[0].Evidence = votes[0].Evidence
	findings, err := store.Commit(ctx, fence, branch)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("standing:", findings[0].Standing)
	show("committed")
	// Output:
	// vote: YES
	// prepared: ""
	// standing: COMMITTED
	// committed: "70"
}
