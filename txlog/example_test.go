package txlog_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// A log is made once, then opened, appended to and closed; the next opening replays it.
func Example() {
	parent, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(parent) }()
	dir := filepath.Join(parent, "log")
	opts := txlog.InitOptions{SegmentSize: txlog.MinSegmentSize}
	if err := txlog.Init(vfs.OS(), dir, txn.LogID(0xabcdef), opts); err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		if err := life(dir); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// epoch 1
	// durable up to append 1
	// replayed "committed"
	// epoch 2
	// durable up to append 1
}

func life(dir string) error {
	done := make(chan uint64, 1)
	log, err := txlog.Open(txlog.Options{
		Dir: dir,
		Replay: func(e txlog.Entry) error {
			fmt.Printf("replayed %q\n", e.Data)
			return nil
		},
		OnPersisted: func(p txlog.Persisted) { done <- p.Index },
	})
	if err != nil {
		return err
	}
	fmt.Println("epoch", log.Epoch())
	record := txlog.Record{Type: 5, Data: []byte("committed")}
	if _, err := log.Append([]txlog.Record{record}, true); err != nil {
		return err
	}
	fmt.Println("durable up to append", <-done)
	return log.Close()
}
