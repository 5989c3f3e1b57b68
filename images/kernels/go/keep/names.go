package keep

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// Things that the state names, because they are part of the program: types of values in interfaces, functions, and what
// variables of the standard library lead to, such as io.EOF. The state's next program registers those that it needs.

// thing is a value that a package declares.
type thing struct {
	path, name string
	isBuiltIn  bool // every program has it
	at         unsafe.Pointer
}

var (
	typesByKey  = map[string]*layout{}
	builtInType = map[*layout]bool{}
	things      = map[string]*thing{}         // by path and name
	thingsAt    = map[unsafe.Pointer]*thing{} // pointers only
)

func init() {
	for _, one := range []any{
		false, 0, int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0), uint16(0), uint32(0), uint64(0), uintptr(0),
		float32(0), float64(0), complex64(0), complex128(0), "", []byte{}, []any{}, []string{}, []int{}, []float64{},
		map[string]any{}, map[string]string{}, map[string]int{}, time.Time{}, time.Duration(0), time.Month(0),
		errors.New(""), errors.Join(io.EOF), fmt.Errorf("%w", io.EOF), fmt.Errorf("%w%w", io.EOF, io.EOF),
		&fs.PathError{}, &os.SyscallError{}, &strconv.NumError{},
	} {
		Type(one)
	}
	for kind := range maps(typesByKey) {
		builtInType[kind] = true
	}
	for _, one := range []struct {
		path, name string
		value      any
	}{
		{"io", "EOF", io.EOF}, {"io", "ErrUnexpectedEOF", io.ErrUnexpectedEOF}, {"io", "ErrClosedPipe", io.ErrClosedPipe},
		{"io", "ErrNoProgress", io.ErrNoProgress}, {"io", "ErrShortBuffer", io.ErrShortBuffer},
		{"io", "ErrShortWrite", io.ErrShortWrite}, {"io/fs", "ErrInvalid", fs.ErrInvalid},
		{"io/fs", "ErrPermission", fs.ErrPermission}, {"io/fs", "ErrExist", fs.ErrExist},
		{"io/fs", "ErrNotExist", fs.ErrNotExist}, {"io/fs", "ErrClosed", fs.ErrClosed}, {"io/fs", "SkipDir", fs.SkipDir},
		{"io/fs", "SkipAll", fs.SkipAll}, {"os", "ErrDeadlineExceeded", os.ErrDeadlineExceeded},
		{"os", "ErrNoDeadline", os.ErrNoDeadline}, {"os", "ErrProcessDone", os.ErrProcessDone},
		{"os", "Stdin", os.Stdin}, {"os", "Stdout", os.Stdout}, {"os", "Stderr", os.Stderr},
		{"errors", "ErrUnsupported", errors.ErrUnsupported}, {"strconv", "ErrRange", strconv.ErrRange},
		{"strconv", "ErrSyntax", strconv.ErrSyntax}, {"time", "UTC", time.UTC}, {"time", "Local", time.Local},
	} {
		Thing(one.path, one.name, one.value)
		things[one.path+"."+one.name].isBuiltIn = true
	}
}

func maps(all map[string]*layout) map[*layout]bool {
	found := map[*layout]bool{}
	for _, kind := range all {
		found[kind] = true
	}
	return found
}

// Type registers the type of a value, and the type that the value points to, for values in interfaces.
func Type(value any) {
	goType := reflect.TypeOf(value)
	typesByKey[keyOf(goType)] = layoutOf(goType)
	if goType.Kind() == reflect.Pointer {
		typesByKey[keyOf(goType.Elem())] = layoutOf(goType.Elem())
	}
}

// Thing registers a function or the value of a variable, by the import path of its package and its name.
func Thing(path, name string, value any) {
	found := reflect.ValueOf(value)
	if !found.IsValid() {
		return
	}
	one := &thing{path: path, name: name}
	switch found.Kind() {
	case reflect.Pointer:
		one.at = found.UnsafePointer()
		thingsAt[one.at] = one
	case reflect.Func:
		one.at = *(*unsafe.Pointer)(copied(found))
	}
	things[path+"."+name] = one
	if found.Kind() != reflect.Func {
		Type(value)
	}
}

// keyOf returns a name of a type that no other type of a program has. Import paths of named types are in it.
func keyOf(goType reflect.Type) string {
	if goType.PkgPath() != "" {
		return goType.PkgPath() + "." + goType.Name()
	}
	if goType.Kind() == reflect.Pointer {
		return "*" + keyOf(goType.Elem())
	}
	source, _ := sourceOf(goType)
	return source
}

// sourceOf returns a type as source, with import paths in angle quotes as qualifiers ("[]«net/url».URL"); false if the
// type cannot be written outside of its package.
func sourceOf(goType reflect.Type) (string, bool) {
	if goType.Name() != "" {
		return named(goType)
	}
	var elem string
	canBe := true
	switch goType.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
		elem, canBe = sourceOf(goType.Elem())
	}
	switch goType.Kind() {
	case reflect.Pointer:
		return "*" + elem, canBe
	case reflect.Slice:
		return "[]" + elem, canBe
	case reflect.Array:
		return fmt.Sprintf("[%d]%s", goType.Len(), elem), canBe
	case reflect.Chan:
		return fmt.Sprintf("%s (%s)", goType.ChanDir(), elem), canBe
	case reflect.Map:
		key, isKeyWritable := sourceOf(goType.Key())
		return fmt.Sprintf("map[%s]%s", key, elem), canBe && isKeyWritable
	case reflect.Struct:
		return structSource(goType)
	case reflect.Interface:
		return "interface{}", goType.NumMethod() == 0
	}
	return goType.String(), false
}

func structSource(goType reflect.Type) (string, bool) {
	out, canBe := "struct{", true
	for i := range goType.NumField() {
		part := goType.Field(i)
		source, isWritable := sourceOf(part.Type)
		canBe = canBe && isWritable && (part.PkgPath == "" || part.PkgPath == "main")
		if !part.Anonymous {
			out += part.Name + " "
		}
		out += source
		if part.Tag != "" {
			out += " " + strconv.Quote(string(part.Tag))
		}
		out += "; "
	}
	return out + "}", canBe
}

// named writes a type with a name; the names of type arguments are in its own, with import paths.
func named(goType reflect.Type) (string, bool) {
	name, arguments, isGeneric := strings.Cut(goType.Name(), "[")
	canBe := goType.PkgPath() == "" || goType.PkgPath() == "main" || isExported(name)
	source := qualified(goType.PkgPath(), name)
	if isGeneric {
		source += "[" + qualifiedAll(arguments)
	}
	return source, canBe && !strings.Contains(source, "·")
}

func qualified(path, name string) string {
	if path == "" || path == "main" {
		return name
	}
	return "«" + path + "»." + name
}

// qualifiedAll puts the import paths in a text such as "net/url.URL,[]main.T]" into quotes.
func qualifiedAll(text string) string {
	isPart := func(r rune) bool { return !strings.ContainsRune("[]{}()*, ;<", r) }
	var out strings.Builder
	for len(text) > 0 {
		end := strings.IndexFunc(text, func(r rune) bool { return !isPart(r) })
		if end < 0 {
			end = len(text)
		}
		if dot := strings.LastIndex(text[:end], "."); dot > 0 && dot < end-1 {
			out.WriteString(qualified(text[:dot], text[dot+1:end]))
		} else {
			out.WriteString(text[:end])
		}
		if end < len(text) {
			out.WriteByte(text[end])
			end++
		}
		text = text[end:]
	}
	return out.String()
}

func isExported(name string) bool { return name != "" && name[0] >= 'A' && name[0] <= 'Z' }

// functionAt returns the function that a function value is; nil when it is a closure, a method or an instance of a
// generic function, which have no name to find them by.
func functionAt(value unsafe.Pointer) *thing {
	function := runtime.FuncForPC(*(*uintptr)(value))
	if function == nil {
		return nil
	}
	name := function.Name()
	slash := strings.LastIndex(name, "/") + 1
	path, rest, _ := strings.Cut(name[slash:], ".")
	path = name[:slash] + path
	if rest == "" || strings.ContainsAny(rest, ".[]()-") || (path != "main" && !isExported(rest)) {
		return nil
	}
	return &thing{path: path, name: rest}
}
