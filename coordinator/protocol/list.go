package protocol

import (
	"slices"

	"github.com/gavel-tx/gavel/txn"
)

// enter takes a transaction into memory. Its id goes into order, so that a page of List costs what
// is on the page, however many transactions run. Sequences rise: a new id goes to the end, except
// that ids of an adopted log may stand behind it.
func (m *Machine) enter(t *transaction) {
	m.live[t.id] = t
	i, _ := slices.BinarySearchFunc(m.order, t.id, compareIDs)
	m.order = slices.Insert(m.order, i, t.id)
	if len(m.order) > 2*len(m.live)+1024 {
		m.order = slices.DeleteFunc(m.order, func(id txn.ID) bool { return m.live[id] == nil })
	}
}

func compareIDs(a, b txn.ID) int { return slices.Compare(a[:], b[:]) }

// List is a page of the transactions that run or need a person: those behind after, in the order of
// their ids. It looks at up to n ids, some of which may be over already, so a page may even be
// empty. The next page is behind next; there is none if next is zero.
func (m *Machine) List(after txn.ID, n int) (page []txn.Result, next txn.ID) {
	i, found := slices.BinarySearchFunc(m.order, after, compareIDs)
	if found {
		i++
	}
	ids := m.order[i:]
	if len(ids) > n {
		ids = ids[:n]
		next = ids[n-1]
	}
	for _, id := range ids {
		if t := m.live[id]; t != nil {
			page = append(page, *m.result(t))
		}
	}
	return page, next
}

// Transactions lists everything at once. It is for tests and small machines.
func (m *Machine) Transactions() []txn.Result {
	all, _ := m.List(txn.ID{}, len(m.order))
	return all
}
