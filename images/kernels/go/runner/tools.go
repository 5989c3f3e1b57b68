package main

import (
	"bufio"
	"errors"
	"fmt"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What is made by the image build: for every package of the standard library its compiled form, and a list of them.
const packagesFile = "packages.cfg"

// A program that was interrupted and goes on is killed after this.
const grace = time.Second

// tools are the compiler, the linker, and a directory for what they make.
type tools struct {
	compile, link, goCommand string
	config                   string            // the list, as the tools read it
	packages                 map[string]string // import path → file
	byName                   map[string]string // last part of an import path → the path that is meant by it
	directory                string
	imported                 types.Importer
	lock                     sync.Mutex // of `imported`
}

func openTools(root string) (*tools, error) {
	home := filepath.Dir(os.Args[0])
	found, err := filepath.Glob(filepath.Join(root, "pkg", "tool", "*", "compile"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("there is no compiler below %s", root)
	}
	t := &tools{
		compile: found[0], link: filepath.Join(filepath.Dir(found[0]), "link"),
		goCommand: filepath.Join(root, "bin", "go"), config: filepath.Join(home, packagesFile),
		packages: map[string]string{}, byName: map[string]string{},
	}
	list, err := os.ReadFile(t.config)
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(list), "\n") {
		path, file, isPackage := strings.Cut(strings.TrimPrefix(line, "packagefile "), "=")
		if isPackage {
			t.packages[path] = file
		}
	}
	t.nameThem()
	t.imported = newImporter(t.packages)
	t.directory, err = os.MkdirTemp("", "sandlot-go-")
	return t, err
}

// nameThem finds out which package a bare name means: the one with the shortest path, unless it is one of these.
func (t *tools) nameThem() {
	paths := make([]string, 0, len(t.packages))
	for path := range t.packages {
		if !strings.Contains(path, "internal") && !strings.HasPrefix(path, "vendor/") && !strings.HasPrefix(path, "sandlot/") {
			paths = append(paths, path)
		}
	}
	sort.Slice(paths, func(i, j int) bool {
		if len(paths[i]) != len(paths[j]) {
			return len(paths[i]) < len(paths[j])
		}
		return paths[i] < paths[j]
	})
	for _, path := range paths {
		name := path[strings.LastIndex(path, "/")+1:]
		if name == "v2" {
			continue
		}
		if _, isTaken := t.byName[name]; !isTaken {
			t.byName[name] = path
		}
	}
	t.byName["rand"], t.byName["template"], t.byName["unsafe"] = "math/rand", "text/template", "unsafe"
}

func (t *tools) close() { os.RemoveAll(t.directory) }

// warmUp has the tools and the commonest packages in the page cache before somebody waits for them.
func (t *tools) warmUp() {
	t.lock.Lock()
	t.imported.Import("fmt")
	t.lock.Unlock()
	warm := newSession(t)
	if plan, failure := warm.plan("fmt.Println()", 0); failure == nil {
		t.build(plan, 0, os.Environ())
	}
}

// build makes a program; the lines say why it could not.
func (t *tools) build(plan *plan, number int, env []string) (string, []string) {
	base := filepath.Join(t.directory, fmt.Sprintf("run%d", number))
	source, object := base+".go", base+".o"
	defer os.Remove(source)
	defer os.Remove(object)
	if err := os.WriteFile(source, []byte(plan.source), 0o600); err != nil {
		return "", []string{err.Error()}
	}
	if plan.needsModules {
		return t.buildWithModules(source, base, env)
	}
	args := []string{"-p", "main", "-complete", "-c", "2", "-trimpath", t.directory + "=>", "-importcfg", t.config, "-o", object, source}
	if lines := t.do(t.compile, args, base); lines != nil {
		return "", lines
	}
	args = []string{"-importcfg", t.config, "-s", "-w", "-buildmode=exe", "-o", base, object}
	if lines := t.do(t.link, args, base); lines != nil {
		return "", lines
	}
	return base, nil
}

// buildWithModules has the go command do it, for what imports more than the standard library.
func (t *tools) buildWithModules(source, base string, env []string) (string, []string) {
	if _, err := os.Stat("go.mod"); err != nil {
		return "", []string{"imports more than the standard library, and there is no go.mod in the working directory"}
	}
	command := exec.Command(t.goCommand, "build", "-o", base, source)
	command.Env = env
	output, err := command.CombinedOutput()
	if err != nil {
		return "", messages(output, err)
	}
	return base, nil
}

func (t *tools) do(tool string, args []string, base string) []string {
	command := exec.Command(tool, args...)
	command.Env = []string{"TMPDIR=" + t.directory}
	// A process group of its own: an interrupt is not for the compiler.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := command.CombinedOutput()
	if err == nil {
		return nil
	}
	return messages(output, err)
}

func messages(output []byte, err error) []string {
	var lines []string
	for line := range strings.Lines(string(output)) {
		if line = strings.TrimRight(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		lines = []string{err.Error()}
	}
	return lines
}

// ending is how a program ended, and what it told.
type ending struct {
	isInterrupted, isPanic bool
	isWhole                bool // it came to its end, and has saved its variables
	status                 string
	exitCode               int   // 128 + signal number when a signal ended it
	peak                   int64 // bytes of memory
	result, panicText      string
	trace                  []string
	lost                   []notice // variables that are not saved
	reset                  []notice // variables that could not be restored
	needs                  needs
	state                  *os.File
	isSaved                bool
}

// notice is about a variable.
type notice struct{ name, why string }

// run executes a program with the variables that were kept.
func (t *tools) run(binary string, env []string, state *os.File, interrupts <-chan struct{}) *ending {
	defer os.Remove(binary)
	ended := &ending{trace: []string{}}
	answers, answersEnd, err := os.Pipe()
	if err != nil {
		ended.status = err.Error()
		return ended
	}
	saved, err := t.stateFile()
	if err != nil {
		ended.status = err.Error()
		return ended
	}
	if state == nil {
		state, _ = os.Open(os.DevNull)
		defer state.Close()
	}
	state.Seek(0, io.SeekStart)
	command := exec.Command(binary)
	command.Env = env
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.ExtraFiles = []*os.File{answersEnd, state, saved}
	err = command.Start()
	answersEnd.Close()
	if err != nil {
		saved.Close()
		ended.status = err.Error()
		return ended
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		ended.listen(answers)
	}()
	over := make(chan error, 1)
	go func() {
		err := command.Wait()
		// All that it has told is in the pipe. What the program has started may hold the other end, and goes on.
		answers.SetReadDeadline(time.Now().Add(grace))
		<-told
		over <- err
	}()
	var killer <-chan time.Time
	for {
		select {
		case <-interrupts: // the program has got the signal, if it was there in time
			ended.isInterrupted = true
			killer = time.After(grace)
			continue
		case <-killer:
			command.Process.Kill()
			answers.Close()
			continue
		case err = <-over:
		}
		break
	}
	answers.Close()
	ended.exitCode, ended.peak = used(command.ProcessState)
	// It may be over before we have heard of the interrupt that ended it.
	ended.isInterrupted = ended.isInterrupted || ended.exitCode == 128+int(syscall.SIGINT)
	if ended.isWhole = (err == nil || ended.isPanic) && ended.isSaved; ended.isWhole {
		ended.state = saved
	} else {
		saved.Close()
	}
	if err != nil && !ended.isPanic {
		ended.status = err.Error()
	}
	return ended
}

// used returns a program's exit code, as shells have it, and the most memory that it had at once, in bytes.
func used(state *os.ProcessState) (code int, peak int64) {
	if state == nil { // nobody could wait for it
		return 0, 0
	}
	code = state.ExitCode()
	if status, isKnown := state.Sys().(syscall.WaitStatus); isKnown && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if usage, isKnown := state.SysUsage().(*syscall.Rusage); isKnown {
		peak = int64(usage.Maxrss) * 1024
	}
	return code, peak
}

// stateFile makes a file that has no name any more.
func (t *tools) stateFile() (*os.File, error) {
	file, err := os.CreateTemp(t.directory, "state")
	if err == nil {
		os.Remove(file.Name())
	}
	return file, err
}

// listen reads what the program tells: see keep.go.
func (e *ending) listen(answers *os.File) {
	in := bufio.NewReader(answers)
	for {
		tag, err := in.ReadByte()
		if err != nil {
			return
		}
		fields, err := readFields(in)
		if err != nil {
			return
		}
		e.hear(tag, fields)
	}
}

var errRecord = errors.New("not a record of the program's")

func readFields(in *bufio.Reader) ([]string, error) {
	var count int
	if _, err := fmt.Fscanf(in, "%d\n", &count); err != nil || count < 0 || count > maxLine {
		return nil, errRecord
	}
	var fields []string
	for range count {
		var size int
		if _, err := fmt.Fscanf(in, "%d\n", &size); err != nil || size < 0 || size > maxLine {
			return nil, errRecord
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		fields = append(fields, string(text))
	}
	return fields, nil
}

func (e *ending) hear(tag byte, fields []string) {
	switch {
	case tag == 'r' && len(fields) == 1:
		e.result = fields[0]
	case tag == 'p' && len(fields) > 0:
		e.isPanic, e.panicText = true, fields[0]
		e.trace = append([]string{"panic: " + fields[0]}, fields[1:]...)
	case tag == 'l' && len(fields) == 2:
		e.lost = append(e.lost, notice{fields[0], fields[1]})
	case tag == 'z' && len(fields) == 2:
		e.reset = append(e.reset, notice{fields[0], fields[1]})
	case tag == 't' && len(fields) == 2:
		e.needs.types = append(e.needs.types, needed{fields[0], fields[1]})
	case tag == 'v' && len(fields) == 2:
		e.needs.things = append(e.needs.things, needed{fields[0], fields[1]})
	case tag == 'c':
		e.isSaved = true
	}
}
