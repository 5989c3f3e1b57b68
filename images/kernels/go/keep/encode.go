package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unsafe"
)

// Values with something outside of themselves in them: files, connections, locks that somebody holds.
var bound = []string{"os", "net", "syscall", "context", "runtime", "internal", "plugin", "database", "testing"}

var timeType = reflect.TypeFor[time.Time]()

// What an interface may hold and be kept. The program adds the types that it declares.
var known = map[string]reflect.Type{}

func init() {
	for _, one := range []any{
		false, 0, int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0), uint16(0), uint32(0), uint64(0),
		float32(0), float64(0), complex64(0), complex128(0), "", []byte{}, []any{}, []string{}, []int{}, []float64{},
		map[string]any{}, map[string]string{}, map[string]int{}, time.Time{}, time.Duration(0), errors.New(""),
	} {
		know(reflect.TypeOf(one))
	}
}

func know(one reflect.Type) { known[one.String()] = one }

// Know tells of a type that values in interfaces may have.
func Know[T any]() {
	know(reflect.TypeFor[T]())
	know(reflect.TypeFor[*T]())
	know(reflect.TypeFor[[]T]())
}

// heap is what pointers point to, each thing once, whichever variables lead there.
type heap struct {
	numbers map[place]uint64
	things  [][]byte
	failed  map[uint64]error // what cannot be kept
}

// place is where something is, and what it is taken for: a struct and its first field are at the same address.
type place struct {
	at   unsafe.Pointer
	kind reflect.Type
}

func newHeap() *heap { return &heap{numbers: map[place]uint64{}, failed: map[uint64]error{}} }

type writer struct{ data []byte }

func (out *writer) number(value uint64) { out.data = binary.AppendUvarint(out.data, value) }

func (out *writer) text(text string) {
	out.number(uint64(len(text)))
	out.data = append(out.data, text...)
}

func encode(variable any) ([]byte, error) {
	out := &writer{}
	err := out.value(reflect.ValueOf(variable).Elem(), 0)
	return out.data, err
}

func isBound(kind reflect.Type) bool {
	path := kind.PkgPath()
	root, _, _ := strings.Cut(path, "/")
	for _, name := range bound {
		if root == name {
			return true
		}
	}
	return false
}

func (out *writer) value(v reflect.Value, depth int) error {
	if depth > 10_000 {
		return errors.New("it is nested too deeply")
	}
	if isBound(v.Type()) {
		return fmt.Errorf("a %s cannot be", v.Type())
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			out.number(1)
		} else {
			out.number(0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		out.number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		out.number(v.Uint())
	case reflect.Float32, reflect.Float64:
		out.number(math.Float64bits(v.Float()))
	case reflect.Complex64, reflect.Complex128:
		out.number(math.Float64bits(real(v.Complex())))
		out.number(math.Float64bits(imag(v.Complex())))
	case reflect.String:
		out.text(v.String())
	case reflect.Slice:
		if v.IsNil() {
			out.number(0)
			return nil
		}
		out.number(uint64(v.Len()) + 1)
		if v.Type().Elem().Kind() == reflect.Uint8 {
			out.data = append(out.data, v.Bytes()...)
			return nil
		}
		return out.elements(v, depth)
	case reflect.Array:
		return out.elements(v, depth)
	case reflect.Map:
		if v.IsNil() {
			out.number(0)
			return nil
		}
		out.number(uint64(v.Len()) + 1)
		for entries := v.MapRange(); entries.Next(); {
			if err := out.value(entries.Key(), depth+1); err != nil {
				return err
			}
			if err := out.value(entries.Value(), depth+1); err != nil {
				return err
			}
		}
	case reflect.Pointer:
		return out.pointer(v, depth)
	case reflect.Struct:
		if v.Type() == timeType {
			moment, err := readable(v).Interface().(time.Time).MarshalBinary()
			out.text(string(moment))
			return err
		}
		for i := range v.NumField() {
			if err := out.value(v.Field(i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Interface:
		if v.IsNil() {
			out.text("")
			return nil
		}
		inner := v.Elem()
		if known[inner.Type().String()] != inner.Type() {
			return fmt.Errorf("a %s in an interface cannot be", inner.Type())
		}
		out.text(inner.Type().String())
		return out.value(inner, depth+1)
	default: // functions, channels, unsafe pointers
		if v.IsZero() {
			return nil
		}
		return fmt.Errorf("a %s cannot be", v.Type())
	}
	return nil
}

func (out *writer) elements(v reflect.Value, depth int) error {
	for i := range v.Len() {
		if err := out.value(v.Index(i), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// pointer writes 0 for nil, else one more than the number of what it points to.
func (out *writer) pointer(v reflect.Value, depth int) error {
	if v.IsNil() {
		out.number(0)
		return nil
	}
	target := place{v.UnsafePointer(), v.Type()}
	number, isOld := saved.numbers[target]
	if !isOld {
		number = uint64(len(saved.things))
		saved.numbers[target] = number
		saved.things = append(saved.things, nil)
		inner := &writer{}
		if err := inner.value(v.Elem(), depth+1); err != nil {
			saved.failed[number] = err
		}
		saved.things[number] = inner.data
	}
	out.number(number + 1)
	return saved.failed[number]
}

// readable returns a value that may be looked into although its field has a small letter.
func readable(v reflect.Value) reflect.Value {
	if v.CanInterface() {
		return v
	}
	if v.CanAddr() {
		return reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem()
	}
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	return copied
}
