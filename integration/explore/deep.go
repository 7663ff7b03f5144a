package explore

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/gavel-tx/gavel/coordinator/protocol"
)

// deep copies values of any type and writes them down in a canonical form, unexported fields
// included. It works out once per type what there is to do.
//
// What an interface holds is taken for immutable and shared: the records and events that a machine
// keeps are values that nobody changes.
type deep struct {
	plans map[reflect.Type]*plan
	rules map[string]rule
	used  map[string]bool
}

// rule is how a field is treated that is not like the others.
type rule uint8

const (
	// skipped fields are copied but not written down: nobody's behaviour depends on them.
	skipped rule = iota + 1
	// raw instants are durations, and not relative to now.
	raw
	// few counts are told apart up to two.
	few
	// shared fields are neither copied deeply nor written down.
	shared
)

// plan is what to do with a value of one type. A nil fix means that a plain assignment copies all
// of it.
type plan struct {
	fix  func(unsafe.Pointer, *copying)
	dump func(unsafe.Pointer, *dumping)
}

// copying remembers the pointers of one copy, so that two that were equal stay so.
type copying struct{ old, fresh []unsafe.Pointer }

// dumping is a canonical form in the making.
type dumping struct {
	buf  []byte
	now  protocol.Instant
	seen []unsafe.Pointer
}

func newDeep(rules map[string]rule) *deep {
	return &deep{plans: map[reflect.Type]*plan{}, rules: rules, used: map[string]bool{}}
}

// unused lists the rules that no field has asked for: their fields are not there any more.
func (d *deep) unused() []string {
	var left []string
	for name := range d.rules {
		if !d.used[name] {
			left = append(left, name)
		}
	}
	slices.Sort(left)
	return left
}

// clone copies *src, which must be of type T, with all that belongs to it.
func clone[T any](d *deep, src *T) *T {
	dst := new(T)
	*dst = *src
	if p := d.of(reflect.TypeFor[T]()); p.fix != nil {
		p.fix(unsafe.Pointer(dst), &copying{})
	}
	return dst
}

// dump appends the canonical form of *src to buf. Instants are relative to now.
func dump[T any](d *deep, buf []byte, src *T, now protocol.Instant) []byte {
	to := &dumping{buf: buf, now: now}
	d.of(reflect.TypeFor[T]()).dump(unsafe.Pointer(src), to)
	return to.buf
}

// of is the plan of a type. It is registered before it is made, because types refer to each other
// in circles.
func (d *deep) of(t reflect.Type) *plan {
	if p := d.plans[t]; p != nil {
		return p
	}
	p := &plan{}
	d.plans[t] = p
	switch t.Kind() {
	case reflect.Bool, reflect.Uint8:
		p.dump = func(at unsafe.Pointer, to *dumping) { to.buf = append(to.buf, *(*byte)(at)) }
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64:
		d.planWord(t, p)
	case reflect.Int32, reflect.Uint32:
		p.dump = func(at unsafe.Pointer, to *dumping) { to.num(uint64(*(*uint32)(at))) }
	case reflect.Int16, reflect.Uint16:
		p.dump = func(at unsafe.Pointer, to *dumping) { to.num(uint64(*(*uint16)(at))) }
	case reflect.String:
		p.dump = func(at unsafe.Pointer, to *dumping) {
			s := *(*string)(at)
			to.num(uint64(len(s)))
			to.buf = append(to.buf, s...)
		}
	case reflect.Interface:
		d.planInterface(t, p)
	case reflect.Array:
		d.planArray(t, p)
	case reflect.Struct:
		d.planStruct(t, p)
	case reflect.Slice:
		d.planSlice(t, p)
	case reflect.Map:
		d.planMap(t, p)
	case reflect.Pointer:
		d.planPointer(t, p)
	default:
		panic(fmt.Sprintf("explore: cannot copy a %s", t))
	}
	return p
}

func (to *dumping) num(v uint64) { to.buf = binary.AppendUvarint(to.buf, v) }

// planWord writes an instant relative to now: two histories that differ in nothing but the time of
// day lead to the same state. Zero stands for "does not apply" and stays apart, which is why the
// clocks of this package start at one.
func (d *deep) planWord(t reflect.Type, p *plan) {
	p.dump = func(at unsafe.Pointer, to *dumping) { to.num(*(*uint64)(at)) }
	if t != reflect.TypeFor[protocol.Instant]() {
		return
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		v := *(*protocol.Instant)(at)
		if v == 0 {
			to.buf = append(to.buf, 0)
			return
		}
		to.buf = append(to.buf, 1)
		to.buf = binary.AppendVarint(to.buf, int64(v-to.now))
	}
}

func (d *deep) planInterface(t reflect.Type, p *plan) {
	p.dump = func(at unsafe.Pointer, to *dumping) {
		v := reflect.NewAt(t, at).Elem()
		if v.IsNil() {
			to.buf = append(to.buf, 0)
			return
		}
		name := v.Elem().Type().String()
		to.num(uint64(len(name)))
		to.buf = append(to.buf, name...)
		held := reflect.New(v.Elem().Type())
		held.Elem().Set(v.Elem())
		d.of(v.Elem().Type()).dump(held.UnsafePointer(), to)
	}
}

func (d *deep) planArray(t reflect.Type, p *plan) {
	elem, size, n := d.of(t.Elem()), t.Elem().Size(), t.Len()
	if elem.fix != nil {
		p.fix = func(at unsafe.Pointer, c *copying) {
			for i := range n {
				elem.fix(unsafe.Add(at, uintptr(i)*size), c)
			}
		}
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		for i := range n {
			elem.dump(unsafe.Add(at, uintptr(i)*size), to)
		}
	}
}

type field struct {
	offset uintptr
	plan   *plan
}

func (d *deep) planStruct(t reflect.Type, p *plan) {
	var fixed, dumped []field
	for f := range t.Fields() {
		how := d.rule(t.String() + "." + f.Name)
		if how == shared {
			continue
		}
		at := field{f.Offset, d.of(f.Type)}
		// A plan that is still being made belongs to a circle, and so has something to fix.
		if at.plan.fix != nil || at.plan.dump == nil {
			fixed = append(fixed, at)
		}
		switch how {
		case raw:
			at.plan = d.of(reflect.TypeFor[int64]())
			dumped = append(dumped, at)
		case few:
			at.plan = &plan{dump: func(at unsafe.Pointer, to *dumping) {
				to.num(uint64(min(*(*int)(at), 2)))
			}}
			dumped = append(dumped, at)
		case 0:
			dumped = append(dumped, at)
		}
	}
	if len(fixed) > 0 {
		p.fix = func(at unsafe.Pointer, c *copying) {
			for _, f := range fixed {
				f.plan.fix(unsafe.Add(at, f.offset), c)
			}
		}
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		for _, f := range dumped {
			f.plan.dump(unsafe.Add(at, f.offset), to)
		}
	}
}

func (d *deep) rule(name string) rule {
	how, ok := d.rules[name]
	if ok {
		d.used[name] = true
	}
	return how
}

// slice is how the language keeps a slice.
type slice struct {
	data     unsafe.Pointer
	len, cap int
}

// planSlice gives each copy an array of its own. An empty slice only loses its room to grow, into
// which two copies would otherwise both append.
func (d *deep) planSlice(t reflect.Type, p *plan) {
	elem, size := d.of(t.Elem()), t.Elem().Size()
	p.fix = func(at unsafe.Pointer, c *copying) {
		s := (*slice)(at)
		if s.len == 0 {
			s.cap = 0
			return
		}
		v := reflect.NewAt(t, at).Elem()
		fresh := reflect.MakeSlice(t, s.len, s.len)
		reflect.Copy(fresh, v)
		v.Set(fresh)
		if elem.fix != nil {
			for i := range s.len {
				elem.fix(unsafe.Add(s.data, uintptr(i)*size), c)
			}
		}
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		s := (*slice)(at)
		to.num(uint64(s.len))
		for i := range s.len {
			elem.dump(unsafe.Add(s.data, uintptr(i)*size), to)
		}
	}
}

func (d *deep) planMap(t reflect.Type, p *plan) {
	key, elem := d.of(t.Key()), d.of(t.Elem())
	if key.fix != nil {
		panic(fmt.Sprintf("explore: the keys of a %s need a copy of their own", t))
	}
	p.fix = func(at unsafe.Pointer, c *copying) {
		// A map is one pointer.
		if *(*unsafe.Pointer)(at) == nil {
			return
		}
		v := reflect.NewAt(t, at).Elem()
		fresh := reflect.MakeMapWithSize(t, v.Len())
		for it := v.MapRange(); it.Next(); {
			held := reflect.New(t.Elem())
			held.Elem().Set(it.Value())
			if elem.fix != nil {
				elem.fix(held.UnsafePointer(), c)
			}
			fresh.SetMapIndex(it.Key(), held.Elem())
		}
		v.Set(fresh)
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		v := reflect.NewAt(t, at).Elem()
		to.num(uint64(v.Len()))
		for _, e := range sortedEntries(key, v) {
			to.buf = append(to.buf, e.key...)
			held := reflect.New(t.Elem())
			held.Elem().Set(e.value)
			elem.dump(held.UnsafePointer(), to)
		}
	}
}

type mapEntry struct {
	key   []byte
	value reflect.Value
}

// sortedEntries orders a map by the canonical form of its keys. The values are written afterwards:
// pointers are numbered in the order in which they are met.
func sortedEntries(key *plan, v reflect.Value) []mapEntry {
	if v.Len() == 0 {
		return nil
	}
	entries := make([]mapEntry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		held := reflect.New(v.Type().Key())
		held.Elem().Set(it.Key())
		var to dumping
		key.dump(held.UnsafePointer(), &to)
		entries = append(entries, mapEntry{to.buf, it.Value()})
	}
	slices.SortFunc(entries, func(a, b mapEntry) int { return slices.Compare(a.key, b.key) })
	return entries
}

func (d *deep) planPointer(t reflect.Type, p *plan) {
	elem := d.of(t.Elem())
	p.fix = func(at unsafe.Pointer, c *copying) {
		if *(*unsafe.Pointer)(at) == nil {
			return
		}
		v := reflect.NewAt(t, at).Elem()
		if i := slices.Index(c.old, v.UnsafePointer()); i >= 0 {
			v.Set(reflect.NewAt(t.Elem(), c.fresh[i]))
			return
		}
		fresh := reflect.New(t.Elem())
		fresh.Elem().Set(v.Elem())
		c.old = append(c.old, v.UnsafePointer())
		c.fresh = append(c.fresh, fresh.UnsafePointer())
		v.Set(fresh)
		if elem.fix != nil {
			elem.fix(fresh.UnsafePointer(), c)
		}
	}
	p.dump = func(at unsafe.Pointer, to *dumping) {
		held := *(*unsafe.Pointer)(at)
		if held == nil {
			to.buf = append(to.buf, 0)
			return
		}
		if i := slices.Index(to.seen, held); i >= 0 {
			to.num(uint64(i) + 2)
			return
		}
		to.seen = append(to.seen, held)
		to.buf = append(to.buf, 1)
		elem.dump(held, to)
	}
}
