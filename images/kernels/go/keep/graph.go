package keep

import (
	"reflect"
	"sync"
	"unsafe"
)

// The state is a graph. Its nodes are pieces of memory that variables, pointers and slices lead to (views), maps and
// channels. A walk over the values of all variables finds the nodes. Views that overlap are then one block of memory, so
// what shared memory before shares memory afterwards.

type form int

const (
	view form = iota
	table
	queue
)

// identity tells nodes apart: memory by its type too, for a struct and its first field are at the same address.
type identity struct {
	form  form
	at    unsafe.Pointer
	kind  *layout
	count uintptr
}

type node struct {
	identity
	edges     []int // numbers of nodes that this one leads to
	failure   string
	items     reflect.Value // what was in a channel
	isClosed  bool
	hasSender bool // a variable leads to the sending end of a channel
	block     int  // number of the block of a view
}

type graph struct {
	nodes   []*node
	numbers map[identity]int
	pending []int
}

// Strings of at least this many bytes are views, so that parts of one string stay parts of it.
const longString = 64

var byteLayout = layoutOf(reflect.TypeFor[byte]())
var anyLayout = layoutOf(reflect.TypeFor[any]())

// viewOf is the memory of a number of values, one after the other.
func viewOf(at unsafe.Pointer, kind *layout, count uintptr) identity {
	flat, each := kind.flat()
	return identity{view, at, flat, count * each}
}

func (g *graph) number(one identity, kind *layout) int {
	number, isKnown := g.numbers[one]
	if !isKnown {
		number = len(g.nodes)
		g.numbers[one] = number
		one.kind = kind
		g.nodes = append(g.nodes, &node{identity: one})
		g.pending = append(g.pending, number)
	}
	return number
}

// scan finds everything that the pending nodes lead to.
func (g *graph) scan() {
	for len(g.pending) > 0 {
		last := len(g.pending) - 1
		one := g.nodes[g.pending[last]]
		g.pending = g.pending[:last]
		switch one.form {
		case view:
			g.scanAll(one, one.kind, one.at, one.count)
		case table:
			g.scanMap(one)
		case queue:
			g.scanChannel(one)
		}
	}
}

func (g *graph) scanAll(from *node, kind *layout, at unsafe.Pointer, count uintptr) {
	if kind.isRaw {
		return
	}
	for i := range count {
		g.value(from, kind, unsafe.Add(at, i*kind.size))
	}
}

func (g *graph) scanMap(one *node) {
	place := unsafe.Pointer(&one.at) // a map is a pointer
	for entries := one.kind.at(place).MapRange(); entries.Next(); {
		g.value(one, one.kind.key, copied(entries.Key()))
		g.value(one, one.kind.elem, copied(entries.Value()))
	}
}

// scanChannel takes what is in a channel's buffer out: the program is over.
func (g *graph) scanChannel(one *node) {
	both := reflect.ChanOf(reflect.BothDir, one.kind.elem.goType)
	channel := reflect.NewAt(both, unsafe.Pointer(&one.at)).Elem()
	one.items = reflect.MakeSlice(reflect.SliceOf(one.kind.elem.goType), 0, channel.Len())
	one.count = uintptr(channel.Cap())
	for channel.Len() > 0 {
		item, isOpen := channel.TryRecv()
		if !isOpen {
			break
		}
		one.items = reflect.Append(one.items, item)
	}
	if item, isOpen := channel.TryRecv(); item.IsValid() && !isOpen {
		one.isClosed = true
	}
	g.scanAll(one, one.kind.elem, one.items.UnsafePointer(), uintptr(one.items.Len()))
}

func (from *node) fail(why string) {
	if from.failure == "" {
		from.failure = why
	}
}

func (g *graph) lead(from *node, to identity, kind *layout) {
	from.edges = append(from.edges, g.number(to, kind))
}

// value follows one value.
func (g *graph) value(from *node, kind *layout, at unsafe.Pointer) {
	if kind.isRaw {
		return
	}
	if kind.refusal != "" {
		from.fail(kind.refusal)
		return
	}
	switch kind.special {
	case forgotten:
		return
	case pool:
		g.value(from, kind.fields[len(kind.fields)-1].kind, kind.last(at))
		return
	case moment:
		at = withoutClock(at)
	case atomicPointer:
		g.pointer(from, kind.elem, *(*unsafe.Pointer)(kind.last(at)))
		return
	case syncMap:
		(*sync.Map)(at).Range(func(key, value any) bool {
			g.value(from, anyLayout, unsafe.Pointer(&key))
			g.value(from, anyLayout, unsafe.Pointer(&value))
			return true
		})
		return
	}
	switch kind.kind {
	case reflect.Pointer:
		g.pointer(from, kind.elem, *(*unsafe.Pointer)(at))
	case reflect.String:
		if text := *(*string)(at); len(text) >= longString {
			g.lead(from, viewOf(unsafe.Pointer(unsafe.StringData(text)), byteLayout, uintptr(len(text))), byteLayout)
		}
	case reflect.Slice:
		if slice := kind.at(at); slice.Cap() > 0 && kind.elem.size > 0 {
			to := viewOf(slice.UnsafePointer(), kind.elem, uintptr(slice.Cap()))
			g.lead(from, to, to.kind)
		}
	case reflect.Map:
		if to := *(*unsafe.Pointer)(at); to != nil {
			g.lead(from, identity{form: table, at: to}, kind)
		}
	case reflect.Chan:
		if to := *(*unsafe.Pointer)(at); to != nil {
			g.lead(from, identity{form: queue, at: to}, kind)
			if kind.goType.ChanDir() != reflect.RecvDir {
				g.nodes[g.numbers[identity{form: queue, at: to}]].hasSender = true
			}
		}
	case reflect.Struct:
		for _, part := range kind.fields {
			g.value(from, part.kind, unsafe.Add(at, part.offset))
		}
	case reflect.Array:
		g.scanAll(from, kind.elem, at, kind.count)
	case reflect.Interface:
		g.dynamic(from, kind.at(at).Elem())
	case reflect.Func:
		if function := *(*unsafe.Pointer)(at); function != nil && functionAt(function) == nil {
			from.fail("a function that is a closure, a method value or generic ends with its program")
		}
	case reflect.UnsafePointer:
		if *(*unsafe.Pointer)(at) != nil {
			from.fail("an unsafe.Pointer ends with its program")
		}
	}
}

func (g *graph) pointer(from *node, elem *layout, to unsafe.Pointer) {
	if to == nil || elem.size == 0 || thingsAt[to] != nil {
		return
	}
	if elem.refusal != "" {
		from.fail(elem.refusal)
		return
	}
	found := viewOf(to, elem, 1)
	g.lead(from, found, found.kind)
}

func (g *graph) dynamic(from *node, inner reflect.Value) {
	if !inner.IsValid() {
		return
	}
	kind := layoutOf(inner.Type())
	_, isWritable := sourceOf(kind.goType)
	if key := keyOf(kind.goType); !isWritable && typesByKey[key] != kind && makers[key] == "" {
		from.fail("a " + kind.goType.String() + " in an interface ends with its program")
		return
	}
	g.value(from, kind, copied(inner))
}

// last returns the address of the last field.
func (l *layout) last(at unsafe.Pointer) unsafe.Pointer {
	return unsafe.Add(at, l.fields[len(l.fields)-1].offset)
}

// good returns which nodes lead to nothing that cannot be saved.
func (g *graph) good() []bool {
	var failed []int
	leading := make([][]int, len(g.nodes))
	good := make([]bool, len(g.nodes))
	for number, one := range g.nodes {
		if one.form == queue && !one.hasSender && !one.isClosed {
			one.fail("what sends to the channel ends with its program")
		}
		good[number] = one.failure == ""
		if one.failure != "" {
			failed = append(failed, number)
		}
	}
	if len(failed) == 0 {
		return good
	}
	for number, one := range g.nodes {
		for _, to := range one.edges {
			leading[to] = append(leading[to], number)
		}
	}
	for len(failed) > 0 {
		number := failed[len(failed)-1]
		failed = failed[:len(failed)-1]
		for _, from := range leading[number] {
			if good[from] {
				good[from] = false
				g.nodes[from].failure = g.nodes[number].failure
				failed = append(failed, from)
			}
		}
	}
	return good
}

// reached returns which nodes these ones lead to, themselves included.
func (g *graph) reached(from []int) []bool {
	found := make([]bool, len(g.nodes))
	for _, number := range from {
		found[number] = true
	}
	for len(from) > 0 {
		number := from[len(from)-1]
		from = from[:len(from)-1]
		for _, to := range g.nodes[number].edges {
			if !found[to] {
				found[to] = true
				from = append(from, to)
			}
		}
	}
	return found
}
