package service

import "context"

// Journal is where a Resource keeps what it must not forget: small entries in the order of their
// keys, changed in transactions. Keys have at most 64 bytes, values at most 1 KiB. One Resource of
// one process uses a journal; opening it a second time must fail. It is safe for concurrent use.
type Journal interface {
	// Update runs f in one transaction, and is durable when it returns nil. No two of them run at
	// once, or it is as if none did. An error of f takes everything back and is returned as it is.
	// Any other error means that nobody knows whether the transaction remains. The transaction may
	// be taken back and f be run again. The context of f is the one by which the journal's package
	// hands out its transaction, where it joins.
	Update(ctx context.Context, f func(ctx context.Context, tx Tx) error) error
	// View runs f on one moment, of which everything is durable. Put must not be called.
	View(ctx context.Context, f func(tx Tx) error) error
	// Joins says whether the service's own changes can be part of the transactions of Update.
	Joins() bool
}

// Tx is a journal's transaction. Slices passed in are not kept and slices returned are valid until
// the transaction ends; neither side changes them.
type Tx interface {
	// Get returns the value under key, or nil if there is none.
	Get(key []byte) ([]byte, error)
	// Put writes an entry. A nil value removes it, if it is there.
	Put(key, value []byte) error
	// Scan calls f with the entries whose keys begin with prefix, in the order of their keys, until
	// it returns false or an error. Put must not be called meanwhile.
	Scan(prefix []byte, f func(key, value []byte) (more bool, err error)) error
}
