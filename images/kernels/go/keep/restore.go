package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"unsafe"
)

var errCut = errors.New("the saved state is damaged")

type reader struct{ data []byte }

func (r *reader) number() uint64 {
	value, size := binary.Uvarint(r.data)
	if size <= 0 {
		panic(errCut)
	}
	r.data = r.data[size:]
	return value
}

func (r *reader) bytes(size uint64) []byte {
	if size > uint64(len(r.data)) {
		panic(errCut)
	}
	found := r.data[:size]
	r.data = r.data[size:]
	return found
}

func (r *reader) text() string { return string(r.bytes(r.number())) }

// target is a block, map or channel that is restored.
type target struct {
	form    form
	kind    *layout
	typeId  int
	count   uint64
	at      unsafe.Pointer // where it is; nil if it cannot be
	name    string         // of the variable that a block is
	close   bool
	items   uint64
	content []byte
	leads   []int // numbers of targets that this one leads to
	failure string
}

type restorer struct {
	types   []*layout // nil for those that this program does not have
	reasons []string  // why a type cannot be used; "" if it can
	targets []*target // blocks, then maps, then channels
	blocks  int
	maps    int
	alive   []reflect.Value // memory that nothing leads to yet
}

// restore gives the variables the values that the state has. It tells of those that cannot have them.
func restore(data []byte) {
	defer func() {
		if reason := recover(); reason != nil {
			for i := range variables {
				reset(&variables[i], fmt.Sprint(reason))
			}
		}
	}()
	r := &restorer{}
	in := &reader{data}
	r.readTypes(in)
	r.readTargets(in)
	for _, one := range r.targets {
		r.make(one)
	}
	r.fill()
	r.spread()
	for _, one := range r.targets {
		if one.name != "" && one.failure != "" {
			for i := range variables {
				if variables[i].name == one.name {
					reset(&variables[i], one.failure)
				}
			}
		}
	}
}

func reset(one *variable, why string) {
	if !one.isOld {
		return
	}
	one.kind.at(one.at).SetZero()
	if one.isSaved {
		tell(resetTag, one.name, why)
	}
}

// readTypes finds the types of the state among those of this program.
func (r *restorer) readTypes(in *reader) {
	digests := make([]uint64, in.number())
	for i := range digests {
		digests[i] = binary.LittleEndian.Uint64(in.bytes(8))
	}
	r.types, r.reasons = make([]*layout, len(digests)), make([]string, len(digests))
	type derived struct {
		how              byte
		name             string
		from, part, into int
	}
	all := make([]derived, in.number())
	for i := range all {
		one := derived{how: in.bytes(1)[0]}
		if one.how == deriveVariable || one.how == deriveName {
			one.name = in.text()
		} else {
			one.from, one.part = int(in.number()), int(in.number())
		}
		one.into = int(in.number())
		all[i] = one
	}
	for isNew := true; isNew; {
		isNew = false
		for _, one := range all {
			if r.types[one.into] != nil {
				continue
			}
			var found *layout
			switch one.how {
			case deriveVariable:
				found = kindOfVariable(one.name)
			case deriveName:
				found = typesByKey[one.name]
				if found == nil && r.reasons[one.into] == "" {
					r.reasons[one.into] = "a type of its values, " + one.name + ", is not there any more"
				}
			default:
				if from := r.types[one.from]; from != nil {
					found = from.part(one.how, one.part)
				}
			}
			if found == nil {
				continue
			}
			if found.digest != digests[one.into] {
				r.reasons[one.into] = fmt.Sprintf("its type %s was declared in another form", found.goType)
				continue
			}
			r.types[one.into], r.reasons[one.into], isNew = found, "", true
		}
	}
	for isNew := true; isNew; { // what stands within a value must be whole
		isNew = false
		for _, one := range all {
			if one.how == deriveVariable || one.how == deriveName || r.reasons[one.into] == "" || r.reasons[one.from] != "" {
				continue
			}
			if from := r.types[one.from]; from != nil && from.holds(one.how) {
				r.reasons[one.from], isNew = r.reasons[one.into], true
			}
		}
	}
}

func kindOfVariable(name string) *layout {
	for i := range variables {
		if variables[i].name == name && variables[i].isOld {
			return variables[i].kind
		}
	}
	return nil
}

func (l *layout) part(how byte, number int) *layout {
	switch {
	case how == deriveElem:
		return l.elem
	case how == deriveKey:
		return l.key
	case number < len(l.fields):
		return l.fields[number].kind
	}
	return nil
}

// holds tells whether a part stands within a value, rather than somewhere that the value leads to.
func (l *layout) holds(how byte) bool {
	return how != deriveElem || (l.kind != reflect.Pointer && l.kind != reflect.Slice && l.special != atomicPointer)
}

func (r *restorer) readTargets(in *reader) {
	r.blocks = int(in.number())
	for range r.blocks {
		r.targets = append(r.targets, &target{form: view, typeId: int(in.number()), count: in.number(), name: in.text()})
	}
	r.maps = int(in.number())
	for range r.maps {
		r.targets = append(r.targets, &target{form: table, typeId: int(in.number()), count: in.number()})
	}
	for range in.number() {
		one := &target{form: queue, typeId: int(in.number()), count: in.number()}
		one.close, one.items = in.number() == 1, in.number()
		r.targets = append(r.targets, one)
	}
	for _, one := range r.targets {
		one.content = in.bytes(in.number())
	}
}

// make allocates a target, so that others can lead to it.
func (r *restorer) make(one *target) {
	one.kind = r.types[one.typeId]
	if one.kind == nil && r.reasons[one.typeId] == "" {
		r.reasons[one.typeId] = "a type of its values is not there any more"
	}
	if one.failure = r.reasons[one.typeId]; one.failure != "" {
		return
	}
	var memory reflect.Value
	switch one.form {
	case view:
		if one.at = r.variable(one); one.at != nil {
			return
		}
		memory = reflect.MakeSlice(reflect.SliceOf(one.kind.goType), int(one.count), int(one.count))
		one.at = memory.UnsafePointer()
	case table:
		memory = reflect.MakeMapWithSize(one.kind.goType, int(one.count))
		one.at = memory.UnsafePointer()
	case queue:
		memory = reflect.MakeChan(reflect.ChanOf(reflect.BothDir, one.kind.elem.goType), int(one.count))
		one.at = memory.UnsafePointer()
	}
	r.alive = append(r.alive, memory)
}

// variable returns the memory of the variable that a block is; nil if it is none, or one of another size.
func (r *restorer) variable(one *target) unsafe.Pointer {
	for i := range variables {
		if found := &variables[i]; one.name != "" && found.name == one.name && found.isOld &&
			found.kind.size == uintptr(one.count)*one.kind.size {
			return found.at
		}
	}
	return nil
}

// fill writes the contents: what map keys may be made of before the maps.
func (r *restorer) fill() {
	for _, isRaw := range []bool{true, false} {
		for _, one := range r.targets[:r.blocks] {
			if one.at != nil && one.kind.isRaw == isRaw {
				r.all(one, &reader{one.content}, one.kind, one.at, uintptr(one.count))
			}
		}
	}
	for _, one := range r.targets[r.blocks:] {
		switch {
		case one.at == nil:
		case one.form == table:
			r.fillMap(one)
		default:
			r.fillChannel(one)
		}
	}
}

func (r *restorer) fillMap(one *target) {
	in := &reader{one.content}
	into := one.kind.at(unsafe.Pointer(&one.at))
	for range one.count {
		key, value := one.kind.key.make(), one.kind.elem.make()
		r.value(one, in, one.kind.key, key)
		r.value(one, in, one.kind.elem, value)
		into.SetMapIndex(one.kind.key.at(key), one.kind.elem.at(value))
	}
}

func (r *restorer) fillChannel(one *target) {
	in := &reader{one.content}
	both := reflect.ChanOf(reflect.BothDir, one.kind.elem.goType)
	channel := reflect.NewAt(both, unsafe.Pointer(&one.at)).Elem()
	for range one.items {
		item := one.kind.elem.make()
		r.value(one, in, one.kind.elem, item)
		channel.Send(one.kind.elem.at(item))
	}
	if one.close {
		channel.Close()
	}
}

func (r *restorer) all(from *target, in *reader, kind *layout, at unsafe.Pointer, count uintptr) {
	if kind.isRaw {
		size := count * kind.size
		copy(unsafe.Slice((*byte)(at), size), in.bytes(uint64(size)))
		return
	}
	for i := range count {
		r.value(from, in, kind, unsafe.Add(at, i*kind.size))
	}
}

// lead returns where a target is.
func (r *restorer) lead(from *target, number uint64) unsafe.Pointer {
	if number >= uint64(len(r.targets)) {
		panic(errCut)
	}
	from.leads = append(from.leads, int(number))
	return r.targets[number].at
}

// place returns an address within a block; nil if the block cannot be.
func (r *restorer) place(from *target, block, offset uint64) unsafe.Pointer {
	at := r.lead(from, block)
	one := r.targets[block]
	if at == nil {
		return nil
	}
	if one.form != view || offset >= one.count*uint64(one.kind.size) {
		panic(errCut)
	}
	return unsafe.Add(at, offset)
}

func (r *restorer) pointer(from *target, in *reader, elem *layout, at *unsafe.Pointer) {
	switch number := in.number(); number {
	case nilPointer:
	case emptyPointer:
		*at = elem.make()
	case thingPointer:
		*at = r.thing(from, in)
	default:
		*at = r.place(from, number-blockPointer, in.number())
	}
}

func (r *restorer) thing(from *target, in *reader) unsafe.Pointer {
	name := in.text() + "." + in.text()
	one := things[name]
	if one == nil {
		from.failure = name + " is not there any more"
		return nil
	}
	return one.at
}

func (r *restorer) value(from *target, in *reader, kind *layout, at unsafe.Pointer) {
	if kind.isRaw {
		copy(unsafe.Slice((*byte)(at), kind.size), in.bytes(uint64(kind.size)))
		return
	}
	switch kind.special {
	case forgotten:
		return
	case pool:
		r.value(from, in, kind.fields[len(kind.fields)-1].kind, kind.last(at))
		return
	case atomicPointer:
		r.pointer(from, in, kind.elem, (*unsafe.Pointer)(kind.last(at)))
		return
	case syncMap:
		r.syncMap(from, in, (*sync.Map)(at))
		return
	}
	switch kind.kind {
	case reflect.Pointer:
		r.pointer(from, in, kind.elem, (*unsafe.Pointer)(at))
	case reflect.String:
		*(*string)(at) = r.string(from, in)
	case reflect.Slice:
		r.slice(from, in, kind, at)
	case reflect.Map:
		if number := in.number(); number > 0 {
			*(*unsafe.Pointer)(at) = r.lead(from, uint64(r.blocks)+number-1)
		}
	case reflect.Chan:
		if number := in.number(); number > 0 {
			*(*unsafe.Pointer)(at) = r.lead(from, uint64(r.blocks+r.maps)+number-1)
		}
	case reflect.Struct:
		for _, part := range kind.fields {
			r.value(from, in, part.kind, unsafe.Add(at, part.offset))
		}
	case reflect.Array:
		r.all(from, in, kind.elem, at, kind.count)
	case reflect.Interface:
		r.dynamic(from, in, kind.at(at))
	case reflect.Func:
		if in.number() == 1 {
			*(*unsafe.Pointer)(at) = r.thing(from, in)
		}
	}
}

func (r *restorer) string(from *target, in *reader) string {
	size := in.number()
	if size%2 == 0 {
		return string(in.bytes(size / 2))
	}
	at := r.place(from, in.number(), in.number())
	if at == nil {
		return ""
	}
	return unsafe.String((*byte)(at), int(size/2))
}

// slice writes the three words of a slice: address, length, capacity.
func (r *restorer) slice(from *target, in *reader, kind *layout, at unsafe.Pointer) {
	var memory unsafe.Pointer
	switch in.number() {
	case 0:
		return
	case 1:
		memory = reflect.MakeSlice(kind.goType, 0, 0).UnsafePointer()
	default:
		memory = r.place(from, in.number(), in.number())
	}
	size, capacity := int(in.number()), int(in.number())
	if memory == nil {
		return
	}
	words := (*struct {
		memory         unsafe.Pointer
		size, capacity int
	})(at)
	words.memory, words.size, words.capacity = memory, size, capacity
}

func (r *restorer) dynamic(from *target, in *reader, into reflect.Value) {
	number := in.number()
	if number == 0 {
		return
	}
	content := &reader{in.bytes(in.number())}
	kind, why := r.types[number-1], r.reasons[number-1]
	switch {
	case why != "":
		from.failure = why
	case kind == nil || !kind.goType.AssignableTo(into.Type()):
		from.failure = "the type of a value in an interface is not there any more"
	default:
		inner := kind.make()
		r.value(from, content, kind, inner)
		into.Set(kind.at(inner))
	}
}

func (r *restorer) syncMap(from *target, in *reader, into *sync.Map) {
	for range in.number() {
		var key, value any
		r.value(from, in, anyLayout, unsafe.Pointer(&key))
		r.value(from, in, anyLayout, unsafe.Pointer(&value))
		if from.failure == "" {
			into.Store(key, value)
		}
	}
}

// spread gives the failure of a target to all that lead to it.
func (r *restorer) spread() {
	leading := make([][]int, len(r.targets))
	var failed []int
	for number, one := range r.targets {
		for _, to := range one.leads {
			leading[to] = append(leading[to], number)
		}
		if one.failure != "" {
			failed = append(failed, number)
		}
	}
	for len(failed) > 0 {
		number := failed[len(failed)-1]
		failed = failed[:len(failed)-1]
		for _, from := range leading[number] {
			if r.targets[from].failure == "" {
				r.targets[from].failure = r.targets[number].failure
				failed = append(failed, from)
			}
		}
	}
}
