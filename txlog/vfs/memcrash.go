package vfs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"math/rand/v2"
	"slices"
)

// CrashClone is this machine after a power cut: of everything that no sync had made durable, rng
// decides sector by sector and directory operation by directory operation what is there. The same
// rng state gives the same clone. m itself goes on unharmed.
func (m *Mem) CrashClone(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := cloner{rng: rng, entries: make(map[*node]map[string]*node), copies: make(map[*node]*node)}
	for _, op := range m.ops {
		c.maybe(op)
	}
	return c.clone(m)
}

// KillClone is this machine after kill -9 of every process: nothing is lost, nothing became
// durable, and all locks are free.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := cloner{copies: make(map[*node]*node)}
	return c.clone(m)
}

// cloner copies a tree of nodes; with an rng it copies what a power cut leaves of it.
type cloner struct {
	rng     *rand.Rand
	entries map[*node]map[string]*node
	copies  map[*node]*node
}

// maybe keeps or drops one directory operation. One that is kept although another, on which it
// depends, was dropped has no effect: a file system never makes a name for nothing.
func (c *cloner) maybe(op dirOp) {
	if c.rng.IntN(2) == 0 {
		return
	}
	if op.from == nil || c.durable(op.from)[op.fromName] == op.node {
		op.apply(c.durable)
	}
}

// durable is the directory's entries after the crash, as far as decided.
func (c *cloner) durable(dir *node) map[string]*node {
	if c.entries[dir] == nil {
		c.entries[dir] = maps.Clone(dir.durable)
	}
	return c.entries[dir]
}

func (c *cloner) clone(m *Mem) *Mem {
	out := &Mem{nextNode: m.nextNode, capacity: m.capacity, locks: make(map[string]string)}
	out.root = c.node(m.root)
	if c.rng == nil {
		for _, op := range m.ops {
			op.node = c.node(op.node)
			op.from, op.to = c.optional(op.from), c.optional(op.to)
			out.ops = append(out.ops, op)
		}
	}
	out.used = usedBy(out.root)
	return out
}

func (c *cloner) optional(n *node) *node {
	if n == nil {
		return nil
	}
	return c.node(n)
}

// node copies n and all below it, once.
func (c *cloner) node(n *node) *node {
	if done := c.copies[n]; done != nil {
		return done
	}
	out := &node{inode: n.inode, birth: n.birth, dir: n.dir, links: n.links}
	c.copies[n] = out
	switch {
	case n.dir && c.rng != nil:
		out.live = c.children(c.durable(n))
		out.durable = maps.Clone(out.live)
	case n.dir:
		out.live, out.durable = c.children(n.live), c.children(n.durable)
	case c.rng != nil:
		out.links = 1
		out.disk = c.survivors(n)
		out.data, out.dirty = slices.Clone(out.disk), make(map[int64]bool)
	default:
		out.data, out.disk = slices.Clone(n.data), slices.Clone(n.disk)
		out.dirty = maps.Clone(n.dirty)
	}
	return out
}

// children copies entries in the order of their names, so that one seed gives one clone.
func (c *cloner) children(entries map[string]*node) map[string]*node {
	out := make(map[string]*node, len(entries))
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		out[name] = c.node(entries[name])
	}
	return out
}

// survivors is a file's content after a power cut. One file in four is written out wholly and one
// in four not at all, because a coin for each of many sectors would hardly ever show either.
func (c *cloner) survivors(n *node) []byte {
	mode := c.rng.IntN(4)
	keep := func() bool { return mode == 0 || mode > 1 && c.rng.IntN(2) == 0 }
	after := &node{data: n.data, disk: slices.Clone(n.disk)}
	if len(n.data) != len(n.disk) && keep() {
		after.resizeDisk(len(n.data))
	}
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		if keep() {
			after.writeSector(s)
		}
	}
	return after.disk
}

func usedBy(n *node) int64 {
	total := int64(len(n.data))
	for _, child := range n.live {
		total += usedBy(child)
	}
	return total
}

// Sum is a checksum over everything there is: names, contents and what of both is on disk. Two runs
// that did the same have the same sums.
func (m *Mem) Sum() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := sha256.New()
	m.root.sum(h, "")
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// sum writes down n and all below it, its names in their order. A hash takes everything.
func (n *node) sum(w hash.Hash, path string) {
	fmt.Fprintf(w, "%q %d %v %d %d\n", path, n.inode, n.dir, len(n.data), len(n.disk))
	w.Write(n.data)
	w.Write(n.disk)
	for _, name := range slices.Sorted(maps.Keys(n.live)) {
		n.live[name].sum(w, path+"/"+name)
	}
	for _, name := range slices.Sorted(maps.Keys(n.durable)) {
		fmt.Fprintf(w, "durable %q %d\n", name, n.durable[name].inode)
	}
}

// Damage changes a file behind everybody's back, on disk and as seen: fn edits its bytes in place.
// It reports whether the file exists.
func (m *Mem) Damage(name string, fn func(data []byte)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked("damage", name)
	if err != nil || n.dir {
		return false
	}
	fn(n.data)
	n.resizeDisk(len(n.data))
	copy(n.disk, n.data)
	clear(n.dirty)
	return true
}

// FlipBit inverts one bit of a file.
func (m *Mem) FlipBit(name string, off int64, bit uint) bool {
	return m.Damage(name, func(data []byte) { data[off] ^= 1 << (bit % 8) })
}

// ZeroSector clears one sector of a file.
func (m *Mem) ZeroSector(name string, sector int64) bool {
	return m.Damage(name, func(data []byte) { clear(sectorOf(data, sector)) })
}

// SwapSectors exchanges two sectors of a file, as a misdirected pair of writes would.
func (m *Mem) SwapSectors(name string, a, b int64) bool {
	return m.Damage(name, func(data []byte) {
		x, y := sectorOf(data, a), sectorOf(data, b)
		tmp := slices.Clone(x)
		copy(x, y)
		copy(y, tmp)
	})
}

func sectorOf(data []byte, s int64) []byte {
	return data[s*SectorSize : min((s+1)*SectorSize, int64(len(data)))]
}
