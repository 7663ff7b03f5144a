package kv

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// The files of a store. The second one is there while a compaction runs, or after one that did not
// end; whoever opens the store removes it.
const (
	fileName    = "kv.db"
	compactName = "kv.db.compact"
)

// compactTx bounds the bytes of one transaction of a compaction; they are in memory.
const compactTx = 16 << 20

// Compacted says what a compaction did, in bytes of the file.
type Compacted struct{ Before, After int64 }

// Compact writes the store in dir anew, without its free pages: bbolt uses them again, and never
// gives them back. It needs room for a second copy of what is in use, and a store that no process
// has open; wait is how long it waits for one. Everything else stays: the identity, the position,
// the fences, what is prepared, and the memory of ends.
//
//	lock kv.db ─▶ write kv.db.compact, synced ─▶ compare ─▶ rename ─▶ sync the directory ─▶ unlock
//
// A crash before the rename leaves the old file, and one after it the new one; the two hold the
// same. On return the new file and its name are durable.
func Compact(dir string, wait time.Duration) (Compacted, error) {
	done, err := compact(dir, wait, func(string) {})
	if err != nil {
		return Compacted{}, fmt.Errorf("kv: compact %s: %w", dir, err)
	}
	return done, nil
}

// compact tells step what it has just done.
func compact(dir string, wait time.Duration, step func(string)) (done Compacted, err error) {
	path := filepath.Join(dir, fileName)
	if _, err := os.Stat(path); err != nil {
		return done, err // bbolt would make a store
	}
	old, err := openFile(path, wait, os.OpenFile)
	if err != nil {
		return done, err
	}
	// Until the end: who waits for it must not get the old file, and believe it to be the store.
	defer func() { err = errors.Join(err, old.Close()) }()
	step("locked")
	if err := old.View(isStore); err != nil {
		return done, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return done, err
	}
	next := filepath.Join(dir, compactName)
	if err := writeCompact(next, old, info, step); err != nil {
		return done, errors.Join(err, removeIfThere(next))
	}
	after, err := os.Stat(next)
	if err != nil {
		return done, err
	}
	if err := os.Rename(next, path); err != nil {
		return done, errors.Join(err, removeIfThere(next))
	}
	step("renamed")
	if err := syncDir(dir); err != nil {
		return done, err
	}
	step("synced")
	return Compacted{Before: info.Size(), After: after.Size()}, nil
}

// writeCompact makes the copy, and compares it: a page that was damaged must not replace itself by
// less.
func writeCompact(path string, old *bbolt.DB, info fs.FileInfo, step func(string)) (err error) {
	if err := removeIfThere(path); err != nil {
		return err
	}
	// It syncs every transaction, the last one included.
	db, err := bbolt.Open(path, info.Mode().Perm(), &bbolt.Options{
		FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return err
	}
	step("made")
	err = bbolt.Compact(db, old, compactTx)
	if err == nil {
		step("copied")
		err = same(old, db)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	step("compared")
	return keepOwner(path, info)
}

// isStore refuses a bbolt file that is none of ours.
func isStore(tx *bbolt.Tx) error {
	meta := tx.Bucket([]byte("meta"))
	if meta == nil || len(meta.Get([]byte("system"))) != 8 {
		return errors.New("the file is not a kv store, or has lost its identity")
	}
	switch got := meta.Get([]byte("format")); {
	case bytes.Equal(got, []byte{firstFormat}), bytes.Equal(got, []byte{format}):
		return nil
	default:
		return fmt.Errorf("the file has format %v, and this version reads %d", got, format)
	}
}

var errDiffers = errors.New(
	"the copy differs from the file, which may be damaged; nothing was changed",
)

// same compares all that two files hold.
func same(a, b *bbolt.DB) error {
	return a.View(func(ta *bbolt.Tx) error {
		return b.View(func(tb *bbolt.Tx) error {
			n := 0
			err := tb.ForEach(func([]byte, *bbolt.Bucket) error { n++; return nil })
			if err != nil {
				return err
			}
			err = ta.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
				n--
				return sameBucket(bucket, tb.Bucket(name))
			})
			if err == nil && n != 0 {
				err = errDiffers
			}
			return err
		})
	})
}

func sameBucket(a, b *bbolt.Bucket) error {
	if b == nil || a.Sequence() != b.Sequence() {
		return errDiffers
	}
	ca, cb := a.Cursor(), b.Cursor()
	ka, va := ca.First()
	kb, vb := cb.First()
	for ka != nil && bytes.Equal(ka, kb) && bytes.Equal(va, vb) {
		ka, va = ca.Next()
		kb, vb = cb.Next()
	}
	if ka != nil || kb != nil {
		return errDiffers
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// maxReopen bounds how often a file may be replaced while somebody waits for it.
const maxReopen = 8

// openFile opens a store's file, and makes sure that the file that it has locked is still the one
// of that name: a compaction may have replaced it while this process waited for the lock, and what
// is written into the old one then is lost.
func openFile(
	path string, wait time.Duration, open func(string, int, os.FileMode) (*os.File, error),
) (*bbolt.DB, error) {
	for range maxReopen {
		var file *os.File
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: wait, FreelistType: bbolt.FreelistMapType,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = open(name, flag, mode)
				file = f
				return f, err
			},
		})
		if err != nil {
			return nil, err
		}
		locked, err := file.Stat()
		named, err2 := os.Stat(path)
		if err == nil && err2 == nil && os.SameFile(locked, named) {
			return db, nil
		}
		if errors.Is(err2, fs.ErrNotExist) {
			err2 = nil // the next round makes it again, as if it had never been there
		}
		if err := errors.Join(err, err2, db.Close()); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the file was replaced again and again while it was being opened")
}
