package keep

import (
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"strings"
	"unsafe"
)

// layout is what the walks over values need to know about a type. Every type has one layout, so layouts are compared by
// pointer.
type layout struct {
	goType  reflect.Type
	kind    reflect.Kind
	size    uintptr
	refusal string // why no value of this type can be saved; "" otherwise
	isRaw   bool   // a value is its bytes: no pointers in it, nothing special
	special special
	fields  []field
	key     *layout // of a map
	elem    *layout // of a pointer, slice, array, map or channel
	count   uintptr // elements of an array
	digest  uint64  // of the type's form; a type of the same name with another form has another digest
}

type field struct {
	offset uintptr
	kind   *layout
}

// special is a type whose values need more than a walk over their fields.
type special int

const (
	plain         special = iota
	moment                // time.Time: the monotonic clock is that of one process
	forgotten             // an address of its own, which starts anew in the next program
	pool                  // sync.Pool: only its function New is saved
	atomicPointer         // atomic.Pointer[T]: an unsafe.Pointer that leads to a T
	syncMap               // sync.Map: saved by its entries
)

// Packages and types whose values belong to their process.
var bound = map[string]bool{
	"internal/poll": true, "internal/abi": true, "internal/godebug": true,
	"runtime.Func": true, "runtime.Frames": true, "runtime.Pinner": true, "plugin": true, "reflect": true, "unique": true, "weak": true, "testing": true, "internal/runtime/maps": true,
	"os.File": true, "os.Process": true, "os.Root": true, "time.Timer": true, "time.Ticker": true,
	"database/sql.DB": true, "context.cancelCtx": true, "context.timerCtx": true,
}

var layouts = map[reflect.Type]*layout{}

func layoutOf(goType reflect.Type) *layout {
	if found, isKnown := layouts[goType]; isKnown {
		return found
	}
	l := &layout{goType: goType, kind: goType.Kind(), size: goType.Size()}
	layouts[goType] = l // before its parts, which may lead back here
	l.special = specialOf(goType)
	if bound[goType.PkgPath()] || bound[goType.PkgPath()+"."+goType.Name()] {
		l.refusal = fmt.Sprintf("a %s ends with its program", goType)
	}
	switch l.kind {
	case reflect.Pointer, reflect.Slice, reflect.Chan:
		l.elem = layoutOf(goType.Elem())
	case reflect.Map:
		l.key, l.elem = layoutOf(goType.Key()), layoutOf(goType.Elem())
	case reflect.Array:
		l.elem, l.count = layoutOf(goType.Elem()), uintptr(goType.Len())
		l.isRaw = l.elem.isRaw
	case reflect.Struct:
		l.isRaw = true
		for i := range goType.NumField() {
			part := goType.Field(i)
			l.fields = append(l.fields, field{part.Offset, layoutOf(part.Type)})
			l.isRaw = l.isRaw && layoutOf(part.Type).isRaw
		}
		if l.special == atomicPointer {
			l.elem = layoutOf(atomicTarget(goType))
		}
	case reflect.String, reflect.Interface, reflect.Func, reflect.UnsafePointer:
	default:
		l.isRaw = true
	}
	l.isRaw = l.isRaw && l.refusal == "" && l.special == plain
	l.digest = digestOf(goType)
	return l
}

func specialOf(goType reflect.Type) special {
	name := goType.PkgPath() + "." + goType.Name()
	switch {
	case name == "time.Time":
		return moment
	case name == "sync.copyChecker":
		return forgotten
	case name == "sync.Pool":
		return pool
	case name == "sync.Map":
		return syncMap
	case strings.HasPrefix(name, "sync/atomic.Pointer["):
		return atomicPointer
	}
	return plain
}

// atomicTarget returns the T of an atomic.Pointer[T].
func atomicTarget(goType reflect.Type) reflect.Type {
	for i := range goType.NumField() { // a field of type [0]*T stands for it
		if part := goType.Field(i).Type; part.Kind() == reflect.Array && part.Elem().Kind() == reflect.Pointer {
			return part.Elem().Elem()
		}
	}
	return reflect.TypeFor[byte]()
}

// digestOf tells types of the same name apart: those that were declared again in another form.
func digestOf(goType reflect.Type) uint64 {
	sum := fnv.New64a()
	describe(sum, goType)
	return sum.Sum64()
}

// describe writes the form of a type, with what stands within its values. What its values lead to has types of its own.
func describe(out io.Writer, goType reflect.Type) {
	fmt.Fprintln(out, goType.PkgPath(), goType, goType.Kind(), goType.Size())
	switch goType.Kind() {
	case reflect.Struct:
		for i := range goType.NumField() {
			part := goType.Field(i)
			fmt.Fprintln(out, part.Name, part.Offset)
			describe(out, part.Type)
		}
	case reflect.Array:
		describe(out, goType.Elem())
	case reflect.Pointer, reflect.Slice, reflect.Chan:
		fmt.Fprintln(out, goType.Elem())
	case reflect.Map:
		fmt.Fprintln(out, goType.Key(), goType.Elem())
	}
}

// flat returns the innermost element of an array type, and how many of them a value has; other types are their own
// only element. So a pointer to an array and a slice of it are views of the same kind.
func (l *layout) flat() (*layout, uintptr) {
	count := uintptr(1)
	for l.kind == reflect.Array {
		count *= l.count
		l = l.elem
	}
	return l, count
}

// parts are the types that a value of a type may lead to without an interface: for each how to derive it.
func (l *layout) parts() []derivation {
	var found []derivation
	if l.elem != nil {
		found = append(found, derivation{deriveElem, 0, l.elem})
	}
	if l.key != nil {
		found = append(found, derivation{deriveKey, 0, l.key})
	}
	for i, part := range l.fields {
		found = append(found, derivation{deriveField, i, part.kind})
	}
	return found
}

type derivation struct {
	how    byte
	number int
	target *layout
}

// at returns the value of a type at an address, of fields with small letters too.
func (l *layout) at(place unsafe.Pointer) reflect.Value { return reflect.NewAt(l.goType, place).Elem() }

func (l *layout) make() unsafe.Pointer { return reflect.New(l.goType).UnsafePointer() }

// copied returns the address of a copy of a value that has no address itself.
func copied(value reflect.Value) unsafe.Pointer {
	place := reflect.New(value.Type())
	place.Elem().Set(value)
	return place.UnsafePointer()
}
