package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
	"unsafe"
)

var errCut = errors.New("what was kept of it does not fit its type")

// thing is something that pointers point to, made when the first of them is read.
type thing struct {
	data []byte
	made reflect.Value
}

type reader struct {
	data   []byte
	things []thing
	err    error
}

func (in *reader) more() bool { return len(in.data) > 0 && in.err == nil }

func (in *reader) number() uint64 {
	value, size := binary.Uvarint(in.data)
	if size <= 0 {
		in.err, in.data = errCut, nil
		return 0
	}
	in.data = in.data[size:]
	return value
}

func (in *reader) bytes(size uint64) []byte {
	if size > uint64(len(in.data)) {
		in.err, in.data = errCut, nil
		return nil
	}
	found := in.data[:size]
	in.data = in.data[size:]
	return found
}

func (in *reader) text() string { return string(in.bytes(in.number())) }

func decode(data []byte, variable any) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%v", reason)
		}
	}()
	in := &reader{data: data, things: old.things}
	target := reflect.ValueOf(variable).Elem()
	found := reflect.New(target.Type()).Elem()
	in.value(found)
	if in.err == nil && len(in.data) > 0 {
		in.err = errCut
	}
	if in.err == nil {
		target.Set(found)
	}
	return in.err
}

func (in *reader) value(v reflect.Value) {
	if in.err != nil {
		return
	}
	v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() // also a field with a small letter
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(in.number() == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(in.number()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(in.number())
	case reflect.Float32, reflect.Float64:
		v.SetFloat(math.Float64frombits(in.number()))
	case reflect.Complex64, reflect.Complex128:
		re, im := math.Float64frombits(in.number()), math.Float64frombits(in.number())
		v.SetComplex(complex(re, im))
	case reflect.String:
		v.SetString(in.text())
	case reflect.Slice:
		size := in.number()
		if size == 0 {
			return
		}
		size--
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(append([]byte{}, in.bytes(size)...))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 0, int(min(size, uint64(len(in.data))+1))))
		for range size {
			if in.err != nil {
				return
			}
			item := reflect.New(v.Type().Elem()).Elem()
			in.value(item)
			v.Set(reflect.Append(v, item))
		}
	case reflect.Array:
		for i := range v.Len() {
			in.value(v.Index(i))
		}
	case reflect.Map:
		size := in.number()
		if size == 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range size - 1 {
			if in.err != nil {
				return
			}
			key, item := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			in.value(key)
			in.value(item)
			v.SetMapIndex(key, item)
		}
	case reflect.Pointer:
		if number := in.number(); number > uint64(len(in.things)) {
			in.err = errCut
		} else if number > 0 {
			v.Set(in.thing(&in.things[number-1], v.Type()))
		}
	case reflect.Struct:
		if v.Type() == timeType {
			var moment time.Time
			in.err = moment.UnmarshalBinary([]byte(in.text()))
			v.Set(reflect.ValueOf(moment))
			return
		}
		for i := range v.NumField() {
			in.value(v.Field(i))
		}
	case reflect.Interface:
		name := in.text()
		if name == "" {
			return
		}
		kind, isKnown := known[name]
		if !isKnown || !kind.AssignableTo(v.Type()) {
			in.err = fmt.Errorf("its type %s is not there any more", name)
			return
		}
		inner := reflect.New(kind).Elem()
		in.value(inner)
		v.Set(inner)
	}
}

// thing returns a pointer to one thing.
func (in *reader) thing(one *thing, kind reflect.Type) reflect.Value {
	if !one.made.IsValid() {
		made := reflect.New(kind.Elem())
		if made.Type() != kind { // a pointer type with a name
			made = made.Convert(kind)
		}
		one.made = made
		inner := &reader{data: one.data, things: in.things}
		inner.value(made.Elem())
		if inner.err == nil && len(inner.data) > 0 {
			inner.err = errCut
		}
		in.err = inner.err
	}
	if one.made.Type() != kind {
		in.err = errCut
		return reflect.Zero(kind)
	}
	return one.made
}
