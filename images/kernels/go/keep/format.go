package keep

import (
	"encoding/binary"
	"os"
	"reflect"
	"sort"
	"sync"
	"time"
	"unsafe"
)

// The state, as one program writes it and the next one reads it. A number is an unsigned varint, a text is its length
// and its bytes. Both programs run on one machine, so memory without pointers is written as it is.
//
//	types        number, then a digest of each (8 bytes, little endian)
//	derivations  number, then for each: how (a byte), a text or the number of a type and a part, the type that results.
//	             The next program finds its own types by them: it has no other way to a type without a name
//	blocks       number, then for each: type, count, name of the variable that the block is ("" for none)
//	maps         number, then for each: type, entries
//	channels     number, then for each: type, capacity, 1 if closed, items
//	contents     a text for each block, map and channel
//
// Within contents: a pointer is 0 for nil, 1 for what has no size, 2 and path and name of a thing, or a block's number + 3
// and an offset in bytes. A string is twice its length and its bytes, or that + 1, block and offset. A slice is 0 for
// nil, or 1, length and capacity without memory, or 2, block, offset, length and capacity. Maps and channels are 0 for nil or
// their number + 1. A value in an interface is 0 for nil or its type's number + 1, and its contents as a text. A function
// is 0 for nil or 1, path and name.

const (
	deriveVariable = 'v' // the type of a variable, by its name
	deriveName     = 'n' // a registered type, by its key
	deriveElem     = 'e'
	deriveKey      = 'k'
	deriveField    = 'f'
)

const (
	nilPointer = iota
	emptyPointer
	thingPointer
	blockPointer
)

type writer struct{ data []byte }

func (w *writer) number(value uint64) { w.data = binary.AppendUvarint(w.data, value) }

func (w *writer) text(text string) {
	w.number(uint64(len(text)))
	w.data = append(w.data, text...)
}

// block is memory that one or more views see.
type block struct {
	at       unsafe.Pointer
	end      uintptr // no pointer: one behind a block may be taken for one into its neighbour
	kind     *layout
	count    uintptr
	variable string
	covered  uintptr // size of the view that the kind was taken from
}

type saver struct {
	graph
	blocks    []*block
	types     []*layout
	numberOf  map[*layout]int
	found     writer // the derivations
	foundSize int
	mapOf     map[unsafe.Pointer]int
	channelOf map[unsafe.Pointer]int
	needed    map[string]bool // what the runner was told
}

// save writes the state of all variables. It tells the runner which ones cannot be saved, and what the state names.
func save() [][]byte {
	s := &saver{
		graph:    graph{numbers: map[identity]int{}},
		numberOf: map[*layout]int{}, mapOf: map[unsafe.Pointer]int{}, channelOf: map[unsafe.Pointer]int{},
		needed: map[string]bool{},
	}
	return s.write(s.roots())
}

// roots scans all variables and returns those that can be saved, with their nodes.
func (s *saver) roots() map[int]*variable {
	numbers := map[*variable]int{}
	for i := range variables {
		if one := &variables[i]; one.isSaved && one.kind.size > 0 {
			to := viewOf(one.at, one.kind, 1)
			numbers[one] = s.number(to, to.kind)
		}
	}
	s.scan()
	good := s.good()
	roots := map[int]*variable{}
	for i := range variables {
		one := &variables[i]
		number, isNode := numbers[one]
		if isNode && good[number] {
			roots[number] = one
		} else if isNode {
			tell(lostTag, one.name, s.nodes[number].failure)
		}
	}
	return roots
}

func (s *saver) write(roots map[int]*variable) [][]byte {
	var from []int
	for number := range s.nodes {
		if one := roots[number]; one != nil {
			from = append(from, number)
			s.derive(deriveVariable, one.name, 0, 0, one.kind)
		}
	}
	if len(from) == 0 {
		return nil
	}
	kept := s.reached(from)
	s.merge(kept, roots)
	var tables, queues []*node
	for number, one := range s.nodes {
		switch {
		case !kept[number]:
		case one.form == table:
			s.mapOf[one.at] = len(tables)
			tables = append(tables, one)
		case one.form == queue:
			s.channelOf[one.at] = len(queues)
			queues = append(queues, one)
		}
	}
	return s.assemble(tables, queues)
}

// merge makes blocks of the views that are kept.
func (s *saver) merge(kept []bool, roots map[int]*variable) {
	var views []int
	for number, one := range s.nodes {
		if kept[number] && one.form == view {
			views = append(views, number)
		}
	}
	sort.Slice(views, func(i, j int) bool {
		a, b := s.nodes[views[i]], s.nodes[views[j]]
		if a.at != b.at {
			return uintptr(a.at) < uintptr(b.at)
		}
		return a.size() > b.size()
	})
	var current *block
	for _, number := range views {
		one := s.nodes[number]
		end := uintptr(one.at) + one.size()
		if current == nil || uintptr(one.at) >= current.end {
			current = &block{at: one.at, end: end}
			s.blocks = append(s.blocks, current)
		}
		current.end = max(current.end, end)
		// The type of the memory is that of the view with the largest elements; one that sees more wins among equals.
		if current.kind == nil || one.kind.size > current.kind.size ||
			(one.kind.size == current.kind.size && one.size() > current.covered) {
			current.kind, current.covered = one.kind, one.size()
		}
		if root := roots[number]; root != nil {
			current.variable = root.name
		}
		one.block = len(s.blocks) - 1
	}
	for _, one := range s.blocks {
		one.count = (one.end - uintptr(one.at)) / one.kind.size
	}
}

func (n *node) size() uintptr { return n.kind.size * n.count }

// assemble writes contents first, because they find the types of values in interfaces.
func (s *saver) assemble(tables, queues []*node) [][]byte {
	var contents [][]byte
	head := &writer{}
	head.number(uint64(len(s.blocks)))
	for _, one := range s.blocks {
		head.number(uint64(s.typeNumber(one.kind)))
		head.number(uint64(one.count))
		head.text(one.variable)
		contents = append(contents, s.blockContent(one))
	}
	head.number(uint64(len(tables)))
	for _, one := range tables {
		content := &writer{}
		entries := one.kind.at(unsafe.Pointer(&one.at)).MapRange()
		size := 0
		for ; entries.Next(); size++ {
			s.value(content, one.kind.key, copied(entries.Key()))
			s.value(content, one.kind.elem, copied(entries.Value()))
		}
		head.number(uint64(s.typeNumber(one.kind)))
		head.number(uint64(size))
		contents = append(contents, content.data)
	}
	head.number(uint64(len(queues)))
	for _, one := range queues {
		content := &writer{}
		s.all(content, one.kind.elem, one.items.UnsafePointer(), uintptr(one.items.Len()))
		head.number(uint64(s.typeNumber(one.kind)))
		head.number(uint64(one.count))
		head.number(flag(one.isClosed))
		head.number(uint64(one.items.Len()))
		contents = append(contents, content.data)
	}
	first := &writer{}
	first.number(uint64(len(s.types)))
	for _, one := range s.types {
		first.data = binary.LittleEndian.AppendUint64(first.data, one.digest)
	}
	first.number(uint64(s.foundSize))
	parts := [][]byte{first.data, s.found.data, head.data}
	for _, one := range contents {
		size := &writer{}
		size.number(uint64(len(one)))
		parts = append(parts, size.data, one)
	}
	return parts
}

func flag(isSet bool) uint64 {
	if isSet {
		return 1
	}
	return 0
}

func (s *saver) blockContent(one *block) []byte {
	if one.kind.isRaw {
		return unsafe.Slice((*byte)(one.at), one.count*one.kind.size)
	}
	content := &writer{}
	s.all(content, one.kind, one.at, one.count)
	return content.data
}

// typeNumber returns the number of a type. Every one is derived from that of a variable or of a value in an interface, but
// for the bytes of strings.
func (s *saver) typeNumber(kind *layout) int {
	if number, isKnown := s.numberOf[kind]; isKnown {
		return number
	}
	return s.named(kind)
}

// derive notes how the next program finds a type, and with it the types of everything that it leads to.
func (s *saver) derive(how byte, name string, from, part int, kind *layout) {
	number, isKnown := s.numberOf[kind]
	if !isKnown {
		number = len(s.types)
		s.numberOf[kind] = number
		s.types = append(s.types, kind)
	}
	s.foundSize++
	s.found.data = append(s.found.data, how)
	if how == deriveVariable || how == deriveName {
		s.found.text(name)
	} else {
		s.found.number(uint64(from))
		s.found.number(uint64(part))
	}
	s.found.number(uint64(number))
	if isKnown || kind.refusal != "" || kind.isRaw && kind.kind != reflect.Array {
		return
	}
	for _, one := range kind.parts() {
		s.derive(one.how, "", number, one.number, one.target)
	}
}

// named notes a type of a value in an interface.
func (s *saver) named(kind *layout) int {
	key := keyOf(kind.goType)
	if !s.needed[key] {
		s.needed[key] = true
		s.derive(deriveName, key, 0, 0, kind)
		if !builtInType[kind] {
			source, isWritable := sourceOf(kind.goType)
			source = "*new(" + source + ")"
			if !isWritable {
				source = makers[key]
			}
			tell(typeTag, key, source)
		}
	}
	return s.numberOf[kind]
}

func (s *saver) thing(w *writer, one *thing) {
	w.text(one.path)
	w.text(one.name)
	key := one.path + "." + one.name
	if known := things[key]; (known == nil || !known.isBuiltIn) && !s.needed["thing "+key] {
		s.needed["thing "+key] = true
		tell(valueTag, one.path, one.name)
	}
}

func (s *saver) all(w *writer, kind *layout, at unsafe.Pointer, count uintptr) {
	if kind.isRaw {
		w.data = append(w.data, unsafe.Slice((*byte)(at), count*kind.size)...)
		return
	}
	for i := range count {
		s.value(w, kind, unsafe.Add(at, i*kind.size))
	}
}

// place writes where in which block a view is.
func (s *saver) place(w *writer, one identity, shift uint64) {
	number := s.nodes[s.numbers[one]].block
	w.number(uint64(number) + shift)
	w.number(uint64(uintptr(one.at) - uintptr(s.blocks[number].at)))
}

func (s *saver) pointer(w *writer, elem *layout, to unsafe.Pointer) {
	switch {
	case to == nil:
		w.number(nilPointer)
	case thingsAt[to] != nil:
		w.number(thingPointer)
		s.thing(w, thingsAt[to])
	case elem.size == 0:
		w.number(emptyPointer)
	default:
		s.place(w, viewOf(to, elem, 1), blockPointer)
	}
}

func (s *saver) value(w *writer, kind *layout, at unsafe.Pointer) {
	if kind.isRaw {
		w.data = append(w.data, unsafe.Slice((*byte)(at), kind.size)...)
		return
	}
	switch kind.special {
	case forgotten:
		return
	case pool:
		s.value(w, kind.fields[len(kind.fields)-1].kind, kind.last(at))
		return
	case moment:
		at = withoutClock(at)
	case atomicPointer:
		s.pointer(w, kind.elem, *(*unsafe.Pointer)(kind.last(at)))
		return
	case syncMap:
		s.syncMap(w, (*sync.Map)(at))
		return
	}
	switch kind.kind {
	case reflect.Pointer:
		s.pointer(w, kind.elem, *(*unsafe.Pointer)(at))
	case reflect.String:
		text := *(*string)(at)
		if len(text) < longString {
			w.number(uint64(len(text)) * 2)
			w.data = append(w.data, text...)
			return
		}
		w.number(uint64(len(text))*2 + 1)
		s.place(w, viewOf(unsafe.Pointer(unsafe.StringData(text)), byteLayout, uintptr(len(text))), 0)
	case reflect.Slice:
		s.slice(w, kind, kind.at(at))
	case reflect.Map:
		s.reference(w, s.mapOf, *(*unsafe.Pointer)(at))
	case reflect.Chan:
		s.reference(w, s.channelOf, *(*unsafe.Pointer)(at))
	case reflect.Struct:
		for _, part := range kind.fields {
			s.value(w, part.kind, unsafe.Add(at, part.offset))
		}
	case reflect.Array:
		s.all(w, kind.elem, at, kind.count)
	case reflect.Interface:
		s.dynamicValue(w, kind.at(at).Elem())
	case reflect.Func:
		function := *(*unsafe.Pointer)(at)
		w.number(flag(function != nil))
		if function != nil {
			s.thing(w, functionAt(function))
		}
	}
}

func (s *saver) slice(w *writer, kind *layout, slice reflect.Value) {
	switch {
	case slice.IsNil():
		w.number(0)
		return
	case slice.Cap() == 0 || kind.elem.size == 0:
		w.number(1)
	default:
		w.number(2)
		s.place(w, viewOf(slice.UnsafePointer(), kind.elem, uintptr(slice.Cap())), 0)
	}
	w.number(uint64(slice.Len()))
	w.number(uint64(slice.Cap()))
}

func (s *saver) reference(w *writer, numbers map[unsafe.Pointer]int, to unsafe.Pointer) {
	if to == nil {
		w.number(0)
		return
	}
	w.number(uint64(numbers[to]) + 1)
}

func (s *saver) dynamicValue(w *writer, inner reflect.Value) {
	if !inner.IsValid() {
		w.number(0)
		return
	}
	kind := layoutOf(inner.Type())
	w.number(uint64(s.named(kind)) + 1)
	content := &writer{}
	s.value(content, kind, copied(inner))
	w.text(string(content.data))
}

func (s *saver) syncMap(w *writer, from *sync.Map) {
	content, size := &writer{}, 0
	from.Range(func(key, value any) bool {
		s.value(content, anyLayout, unsafe.Pointer(&key))
		s.value(content, anyLayout, unsafe.Pointer(&value))
		size++
		return true
	})
	w.number(uint64(size))
	w.data = append(w.data, content.data...)
}

// withoutClock returns the address of a copy of a time.Time without a reading of the monotonic clock.
func withoutClock(at unsafe.Pointer) unsafe.Pointer {
	stripped := (*time.Time)(at).Round(0)
	return unsafe.Pointer(&stripped)
}

// emit writes the parts of a state, small ones together.
func emit(file *os.File, parts [][]byte) error {
	const enough = 256 << 10
	var buffer []byte
	for _, part := range parts {
		if len(buffer)+len(part) > enough {
			if _, err := file.Write(buffer); err != nil {
				return err
			}
			buffer = buffer[:0]
		}
		if len(part) > enough {
			if _, err := file.Write(part); err != nil {
				return err
			}
			continue
		}
		buffer = append(buffer, part...)
	}
	_, err := file.Write(buffer)
	return err
}
