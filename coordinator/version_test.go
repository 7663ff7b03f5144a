package coordinator

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
)

// TestRecordOfANewerVersion: what this version cannot read may be a decision. It refuses to start,
// says why, and leaves everything as it is; the version that wrote it goes on with it.
func TestRecordOfANewerVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		durable := make(chan struct{}, 1)
		log, err := txlog.Open(txlog.Options{FS: w.disk, Dir: logDir, SegmentSize: 128 << 10,
			OnPersisted: func(txlog.Persisted) {
				select {
				case durable <- struct{}{}:
				default:
				}
			}})
		if err != nil {
			t.Fatal(err)
		}
		tomorrow := []txlog.Record{{Type: 99, Data: []byte("tomorrow")}}
		if _, err := log.Append(tomorrow, true); err != nil {
			t.Fatal(err)
		}
		<-durable
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := Open(t.Context(), w.config())
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, record.ErrUnknownType) {
			t.Errorf("version safety: a record that nobody can read is read over: %v", err)
		}
		rest()
		w.want(0, 0)
	})
}
