// Package keep is linked into every program that a run of Go code becomes. It brings variables over from the run before,
// hands them on to the next, and tells the runner what the run's value was and how it ended.
package keep

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

// Descriptors that the runner gives the program.
const (
	answersFd = 3 // what is told to the runner
	stateFd   = 4 // what the last run has kept, to be read
	keptFd    = 5 // what this run keeps, to be written
)

// What is told to the runner: one byte of these, a length, the text.
const (
	resultTag = 'r'
	panicTag  = 'p'
	traceTag  = 't'
	lostTag   = 'l'
)

var (
	answers = os.NewFile(answersFd, "answers")
	before  = map[string][]byte{}
	old     = &reader{}
	after   = &writer{}
	saved   = newHeap()
)

func tell(tag byte, text string) {
	fmt.Fprintf(answers, "%c%d\n%s", tag, len(text), text)
}

// Begin reads what was kept.
func Begin() {
	state := os.NewFile(stateFd, "state")
	defer state.Close()
	data, err := readAll(state)
	if err != nil || len(data) == 0 {
		return
	}
	in := &reader{data: data}
	old.things = make([]thing, in.number())
	for i := range old.things {
		old.things[i].data = []byte(in.text())
	}
	for in.more() {
		name := in.text()
		before[name] = []byte(in.text())
	}
}

func readAll(file *os.File) ([]byte, error) {
	var data []byte
	buffer := make([]byte, 64<<10)
	for {
		n, err := file.Read(buffer)
		data = append(data, buffer[:n]...)
		if n == 0 || err != nil {
			return data, nil
		}
	}
}

// Load gives a variable the value that it had at the end of the last run.
func Load[T any](name string, variable *T) {
	data, isThere := before[name]
	if !isThere {
		return
	}
	if err := decode(data, variable); err != nil {
		tell(lostTag, fmt.Sprintf("%s has lost its value: %v", name, err))
	}
}

// Save keeps a variable for the next run.
func Save[T any](name string, variable *T) {
	data, err := encode(variable)
	if err != nil {
		tell(lostTag, fmt.Sprintf("%s is not kept: %v", name, err))
		return
	}
	after.text(name)
	after.text(string(data))
}

// End is deferred: it tells of a panic, has the variables saved, and ends the program.
func End(save func()) {
	reason := recover()
	var stack string
	if reason != nil {
		stack = string(debug.Stack())
	}
	save()
	kept := os.NewFile(keptFd, "kept")
	heap := &writer{}
	heap.number(uint64(len(saved.things)))
	for _, one := range saved.things {
		heap.text(string(one))
	}
	kept.Write(heap.data)
	kept.Write(after.data)
	kept.Close()
	if reason != nil {
		text := fmt.Sprint(reason)
		if err, isError := reason.(error); isError {
			text = err.Error()
		}
		tell(panicTag, text)
		tell(traceTag, trimmed(stack))
		answers.Close()
		os.Exit(2)
	}
	answers.Close()
	os.Exit(0)
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

// trimmed returns the calls of the user's own code, of a stack as the runtime prints it.
func trimmed(stack string) string {
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
	return strings.Join(found, "\n")
}
