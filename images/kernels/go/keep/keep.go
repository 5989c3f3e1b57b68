// Package keep is linked into every program that a run of Go code becomes. The package restores the variables of the
// runs before, saves them for the next run, and tells the runner the value of the run and how the program ended.
//
// The generated program registers types, values and variables, then calls Begin, and defers End. The saved form is
// described in format.go.
package keep

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

// Descriptors that the runner gives the program.
const (
	answersFd = 3 // records for the runner
	stateFd   = 4 // the state that the last run saved, to be read
	savedFd   = 5 // the state that this run saves, to be written
)

// Tags of records for the runner. A record is its tag, the number of its fields in decimal and a newline; then for
// each field its length in bytes in decimal, a newline, and the field.
const (
	resultTag   = 'r' // text of the run's value
	panicTag    = 'p' // text of the panic, then a field for each call in its stack
	lostTag     = 'l' // name of a variable that is not saved, reason
	resetTag    = 'z' // name of a variable that could not be restored, reason
	typeTag     = 't' // key and source of a type that the state needs by name
	valueTag    = 'v' // import path, or "main"; name of a package's function or variable that the state needs
	completeTag = 'c' // the state is written
)

var answers = os.NewFile(answersFd, "answers")

func init() {
	for fd := answersFd; fd <= savedFd; fd++ {
		syscall.CloseOnExec(fd) // programs that the code starts must not hold them, and so the run, open
	}
}

func tell(tag byte, fields ...string) {
	var out strings.Builder
	fmt.Fprintf(&out, "%c%d\n", tag, len(fields))
	for _, field := range fields {
		fmt.Fprintf(&out, "%d\n%s", len(field), field)
	}
	answers.WriteString(out.String())
}

// variable is a top-level variable of the session.
type variable struct {
	name    string
	kind    *layout
	at      unsafe.Pointer
	isOld   bool // the state has a value for it
	isSaved bool
}

var variables []variable

// Old registers a variable whose value the state has, and that lives on. pointer leads to the variable.
func Old(name string, pointer any) { register(name, pointer, true, true) }

// New registers a variable that this run declares. pointer leads to the variable.
func New(name string, pointer any) { register(name, pointer, false, true) }

// Past registers a variable whose value the state has, and whose name means something else after this run. Pointers
// that lead to the variable keep it. pointer leads to memory for its value.
func Past(name string, pointer any) { register(name, pointer, true, false) }

func register(name string, pointer any, isOld, isSaved bool) {
	value := reflect.ValueOf(pointer)
	variables = append(variables, variable{name, layoutOf(value.Type().Elem()), value.UnsafePointer(), isOld, isSaved})
}

// Begin restores the variables. It is called once everything is registered.
func Begin() {
	state := os.NewFile(stateFd, "state")
	data, err := io.ReadAll(state)
	state.Close()
	if err == nil && len(data) > 0 {
		restore(data)
	}
}

// End is deferred: it reports a panic, saves the variables, and ends the program.
func End() {
	reason := recover()
	var stack string
	if reason != nil {
		stack = string(debug.Stack())
	}
	state := save()
	saved := os.NewFile(savedFd, "saved")
	err := emit(saved, state)
	if closed := saved.Close(); err == nil && closed == nil {
		tell(completeTag)
	}
	if reason != nil {
		tell(panicTag, append([]string{panicText(reason)}, userCalls(stack)...)...)
		answers.Close()
		os.Exit(2)
	}
	answers.Close()
	os.Exit(0)
}

func panicText(reason any) string {
	if err, isError := reason.(error); isError {
		return err.Error()
	}
	return fmt.Sprint(reason)
}

// Result tells the value of the last expression.
func Result(value any) {
	switch value := value.(type) {
	case nil:
		return
	case string:
		tell(resultTag, fmt.Sprintf("%q", value))
	case error, fmt.Stringer:
		tell(resultTag, fmt.Sprint(value))
	default:
		tell(resultTag, fmt.Sprintf("%+v", value))
	}
}

// Unnamed tells that a variable ends with its run, because its type has no name outside of a function.
func Unnamed(name string) {
	tell(lostTag, name, "its type cannot be written outside of the function that declares it")
}

// userCalls returns the calls of the user's own code, of a stack as the runtime prints it, the innermost first.
func userCalls(stack string) []string {
	lines := strings.Split(stack, "\n")
	var found []string
	for i := 1; i+1 < len(lines); i += 2 {
		place, _, _ := strings.Cut(strings.TrimSpace(lines[i+1]), " ")
		place = place[strings.LastIndex(place, "/")+1:]
		if number := strings.TrimPrefix(place, "run"); number == place || number == "" || number[0] < '0' || number[0] > '9' {
			continue
		}
		call := strings.TrimPrefix(lines[i], "main.")
		if cut := strings.LastIndex(call, "("); cut > 0 {
			call = call[:cut]
		}
		found = append(found, "at "+call+" ("+place+")")
	}
	return found
}
