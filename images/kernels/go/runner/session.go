package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"path"
	"sort"
	"strconv"
	"strings"
)

const keepPath = "sandlot/keep"

// chunk is one statement or declaration on the top level of a run.
type chunk struct {
	keyword token.Token // that it begins with; ILLEGAL for a statement
	text    string
	line    int
	column  int
}

// variable is one that lives on.
type variable struct{ name, kind string }

// session is what runs have declared so far.
type session struct {
	tools        *tools
	imports      map[string]string // name → path
	declarations map[string]string // name, or receiver and name → source
	order        []string          // of the declarations
	variables    []variable
	state        []byte
}

func newSession(tools *tools) *session {
	return &session{tools: tools, imports: map[string]string{}, declarations: map[string]string{}}
}

// plan is one run, as a program and as what is declared by it.
type plan struct {
	source       string // "" when there is nothing to execute
	needsModules bool
	isProgram    bool // it stands for itself, and keeps nothing
	imports      map[string]string
	declarations map[string]string
	order        []string
	variables    []variable
	hasRun       bool
}

func (p *plan) isEmpty() bool { return !p.hasRun }

// accept keeps what a run has declared; *ended* is nil where nothing had to be executed.
func (s *session) accept(p *plan, ended *ending) {
	if p.isProgram {
		return
	}
	s.imports, s.declarations, s.order = p.imports, p.declarations, p.order
	if ended == nil {
		return
	}
	s.variables, s.state = p.variables, ended.state
	for _, notice := range ended.lost { // "x is not kept: …"
		name, _, isGone := strings.Cut(notice, " is not kept")
		if isGone {
			s.variables = without(s.variables, name)
		}
	}
}

func kindOf(all []variable, name string) string {
	for _, one := range all {
		if one.name == name {
			return one.kind
		}
	}
	return ""
}

func without(all []variable, name string) []variable {
	var left []variable
	for _, one := range all {
		if one.name != name {
			left = append(left, one)
		}
	}
	return left
}

// plan makes a program of a run's code; the lines say what is wrong with it.
func (s *session) plan(code string, number int) (*plan, []string) {
	if isProgram(code) {
		return s.planProgram(code, number)
	}
	chunks, err := split(code)
	if err != nil {
		return nil, []string{fmt.Sprintf("run%d:%v", number, err)}
	}
	p := &plan{imports: copied(s.imports), declarations: copied(s.declarations), order: append([]string{}, s.order...)}
	var statements []chunk
	for _, one := range chunks {
		switch one.keyword {
		case token.IMPORT:
			if lines := p.addImports(one, number, s.tools); lines != nil {
				return nil, lines
			}
		case token.FUNC, token.TYPE, token.CONST:
			if lines := p.declare(one, number); lines != nil {
				return nil, lines
			}
		default:
			statements = append(statements, one)
		}
	}
	p.hasRun = len(statements) > 0
	return p, s.complete(p, statements, number)
}

func copied(from map[string]string) map[string]string {
	to := make(map[string]string, len(from))
	for key, value := range from {
		to[key] = value
	}
	return to
}

func isProgram(code string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), "", code, parser.PackageClauseOnly)
	return err == nil && file.Name != nil
}

// planProgram takes code that is a whole program as it is.
func (s *session) planProgram(code string, number int) (*plan, []string) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, fmt.Sprintf("run%d", number), code, parser.SkipObjectResolution)
	if err != nil {
		return nil, errorLines(err)
	}
	if file.Name.Name != "main" {
		return nil, []string{fmt.Sprintf("run%d:1: a program must be of package main, not %s", number, file.Name.Name)}
	}
	p := &plan{source: fmt.Sprintf("//line run%d:1\n%s", number, code), isProgram: true, hasRun: true}
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if _, isStandard := s.tools.packages[name]; !isStandard && name != "unsafe" {
			p.needsModules = true
		}
	}
	return p, nil
}

// split takes a run apart, as the compiler would: at the ends of lines where a statement can end.
func split(code string) ([]chunk, error) {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(code))
	var failure error
	var scan scanner.Scanner
	scan.Init(file, []byte(code), func(place token.Position, text string) {
		if failure == nil {
			failure = fmt.Errorf("%d:%d: %s", place.Line, place.Column, text)
		}
	}, 0)
	var chunks []chunk
	depth, start := 0, -1
	var first, second token.Token
	for {
		place, kind, _ := scan.Scan()
		offset := file.Offset(place)
		switch kind {
		case token.LPAREN, token.LBRACE, token.LBRACK:
			depth++
		case token.RPAREN, token.RBRACE, token.RBRACK:
			depth--
		}
		if kind == token.EOF || (kind == token.SEMICOLON && depth <= 0) {
			if start >= 0 {
				chunks = append(chunks, chunk{keywordOf(first, second), code[start:offset], file.Line(file.Pos(start)), file.Position(file.Pos(start)).Column})
				start, first, second = -1, token.ILLEGAL, token.ILLEGAL
			}
			if kind == token.EOF {
				return chunks, failure
			}
			continue
		}
		switch {
		case start < 0:
			start, first = offset, kind
		case second == token.ILLEGAL:
			second = kind
		}
	}
}

func keywordOf(first, second token.Token) token.Token {
	switch first {
	case token.IMPORT, token.TYPE, token.CONST, token.VAR:
		return first
	case token.FUNC: // `func (` is a method or a function literal: `declare` finds out
		if second == token.IDENT || second == token.LPAREN {
			return token.FUNC
		}
	}
	return token.ILLEGAL
}

func (p *plan) addImports(one chunk, number int, tools *tools) []string {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, fmt.Sprintf("run%d", number), placed("package main\n", one, number), parser.ImportsOnly)
	if err != nil {
		return errorLines(err)
	}
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if _, isThere := tools.packages[name]; !isThere && name != "unsafe" {
			where := files.Position(spec.Path.Pos())
			return []string{fmt.Sprintf("%s: package %s is not in the standard library", where, name)}
		}
		alias := path.Base(name)
		if strings.Trim(alias, "v0123456789") == "" { // math/rand/v2
			alias = path.Base(path.Dir(name))
		}
		if spec.Name != nil {
			alias = spec.Name.Name
		}
		p.imports[alias] = name
	}
	return nil
}

func placed(before string, one chunk, number int) string {
	return fmt.Sprintf("%s//line run%d:%d:%d\n%s\n", before, number, one.line, one.column, one.text)
}

// declare keeps a function, method, type or constant, in place of the one of that name.
func (p *plan) declare(one chunk, number int) []string {
	source := placed("", one, number)
	file, err := parser.ParseFile(token.NewFileSet(), fmt.Sprintf("run%d", number), "package main\n"+source, parser.SkipObjectResolution)
	if err != nil {
		return errorLines(err)
	}
	for _, declared := range file.Decls {
		for _, name := range namesOf(declared) {
			if _, isKnown := p.declarations[name]; isKnown {
				p.forget(name)
			}
			p.declarations[name] = source
			p.order = append(p.order, name)
		}
	}
	return nil
}

// forget drops a declaration, and the others that stand in the same group.
func (p *plan) forget(name string) {
	source := p.declarations[name]
	var order []string
	for _, other := range p.order {
		if p.declarations[other] == source {
			delete(p.declarations, other)
		} else {
			order = append(order, other)
		}
	}
	p.order = order
}

func namesOf(declared ast.Decl) []string {
	switch declared := declared.(type) {
	case *ast.FuncDecl:
		if declared.Recv != nil && len(declared.Recv.List) == 1 {
			return []string{receiver(declared.Recv.List[0].Type) + "." + declared.Name.Name}
		}
		return []string{declared.Name.Name}
	case *ast.GenDecl:
		var names []string
		for _, spec := range declared.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, spec.Name.Name)
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					names = append(names, name.Name)
				}
			}
		}
		return names
	}
	return nil
}

func receiver(kind ast.Expr) string {
	switch kind := kind.(type) {
	case *ast.StarExpr:
		return receiver(kind.X)
	case *ast.IndexExpr:
		return receiver(kind.X)
	case *ast.IndexListExpr:
		return receiver(kind.X)
	case *ast.Ident:
		return kind.Name
	}
	return ""
}

// complete checks a run, finds the types of what it declares, and writes the program.
func (s *session) complete(p *plan, statements []chunk, number int) []string {
	var body strings.Builder
	isBare := len(statements) > 0 && isBare(statements[len(statements)-1].text)
	for i, one := range statements {
		if isBare && i == len(statements)-1 {
			one.text = "_ = " + one.text
			one.column = max(1, one.column-len("_ = "))
		}
		body.WriteString(placed("", one, number))
	}
	checked, failure := s.check(p, s.variables, body.String(), number)
	if failure != nil {
		return failure
	}
	checked.isBare = isBare
	p.variables = append([]variable{}, s.variables...)
	fresh := checked.freshVariables(p.imports)
	for _, one := range fresh {
		p.variables = append(without(p.variables, one.name), one)
	}
	text := checked.rewritten(fresh)
	var out strings.Builder
	head(&out, checked.used(p.imports), p.hasRun)
	for _, one := range p.variables {
		fmt.Fprintf(&out, "var %s %s\n", one.name, one.kind)
	}
	p.writeDeclarations(&out)
	out.WriteString("func main() {\n")
	if p.hasRun {
		out.WriteString("__keep.Begin()\n")
		for _, name := range typeNames(p) {
			fmt.Fprintf(&out, "__keep.Know[%s]()\n", name)
		}
		for _, one := range s.variables {
			if kindOf(p.variables, one.name) == one.kind { // else it is another one by now
				fmt.Fprintf(&out, "__keep.Load(%q, &%s)\n", one.name, one.name)
			}
		}
		out.WriteString("defer __keep.End(func() {\n")
		for _, one := range p.variables {
			fmt.Fprintf(&out, "__keep.Save(%q, &%s)\n", one.name, one.name)
		}
		out.WriteString("})\n")
	}
	out.WriteString(text)
	out.WriteString("}\n")
	p.source = out.String()
	return nil
}

// isBare tells whether a statement is an expression that Go does not take as one: no call, and nothing received.
func isBare(text string) bool {
	expression, err := parser.ParseExpr(text)
	if err != nil {
		return false
	}
	switch expression := ast.Unparen(expression).(type) {
	case *ast.CallExpr:
		return false
	case *ast.UnaryExpr:
		return expression.Op != token.ARROW
	}
	return true
}

// typeNames are the types without parameters that the session has declared, none of which is an interface or an alias.
func typeNames(p *plan) []string {
	var names []string
	for _, name := range p.order {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package main\n"+p.declarations[name], parser.SkipObjectResolution)
		if err != nil {
			continue
		}
		for _, declared := range file.Decls {
			group, isGroup := declared.(*ast.GenDecl)
			if !isGroup || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				kind := spec.(*ast.TypeSpec)
				_, isInterface := kind.Type.(*ast.InterfaceType)
				if kind.Name.Name == name && kind.TypeParams == nil && !isInterface {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

func head(out *strings.Builder, used map[string]string, keeps bool) {
	out.WriteString("package main\n")
	if keeps {
		fmt.Fprintf(out, "import __keep %q\n", keepPath)
	}
	names := make([]string, 0, len(used))
	for name := range used {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(out, "import %s %q\n", name, used[name])
	}
}

func (p *plan) writeDeclarations(out *strings.Builder) {
	written := map[string]bool{}
	for _, name := range p.order {
		if source := p.declarations[name]; !written[source] {
			written[source] = true
			out.WriteString(source)
		}
	}
}

func errorLines(err error) []string {
	var lines []string
	if list, isList := err.(scanner.ErrorList); isList {
		for _, one := range list {
			lines = append(lines, one.Error())
		}
		return lines
	}
	return []string{err.Error()}
}
