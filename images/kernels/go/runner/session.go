package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"os"
	"path"
	"strconv"
	"strings"
)

const keepPath = "sandlot/keep"

// imports are packages by the names that they are used by. Those without a name are there as "_ path" and ". path".
type imports map[string]string

// variable is one that lives on, or one whose name means something else by now (see plan.past).
type variable struct {
	name, kind string  // the type as source
	imports    imports // that the type needs
}

// needs is what a saved state names, because it is part of the program: see keep/names.go.
type needs struct {
	types  []needed // of values in interfaces
	things []needed // functions, and variables of the standard library
}

// needed is a key and an expression, or the import path of a package and a name in it.
type needed [2]string

// session is what runs have declared so far.
type session struct {
	tools        *tools
	imports      imports
	declarations []*declaration
	variables    []variable
	past         []variable // whose values are still in the state
	needs        needs
	state        *os.File // as the last program wrote it; nil for none
}

func newSession(tools *tools) *session { return &session{tools: tools, imports: imports{}} }

// plan is one run, as a program and as what is declared by it.
type plan struct {
	source       string
	needsModules bool
	isProgram    bool // it stands for itself, and keeps nothing
	imports      imports
	declarations []*declaration // with function literals that a variable may lead to
	variables    []variable
	old          []variable // the variables before this run
	past         []variable
	needs        needs
	hasRun       bool // there is something to execute
}

// accept keeps what a run has declared; *ended* is nil where nothing had to be executed.
func (s *session) accept(p *plan, ended *ending) {
	if p.isProgram {
		return
	}
	s.imports, s.declarations, s.variables, s.past = p.imports, p.declarations, p.variables, p.past
	if ended == nil {
		return
	}
	for _, one := range ended.lost {
		s.variables = without(s.variables, one.name)
	}
	if s.state != nil {
		s.state.Close()
	}
	s.state, s.needs, s.past = ended.state, ended.needs, nil
	s.declarations = nil
	for _, one := range p.declarations {
		if !one.isLit || s.needs.hasFunction(one.names[0]) {
			s.declarations = append(s.declarations, one)
		}
	}
}

func (n needs) hasFunction(name string) bool {
	for _, one := range n.things {
		if one == (needed{"main", name}) {
			return true
		}
	}
	return false
}

func find(all []variable, name string) *variable {
	for i := range all {
		if all[i].name == name {
			return &all[i]
		}
	}
	return nil
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
	if hasPackageClause(code) {
		return s.planProgram(code, number)
	}
	cell, failure := parseCell(code, number)
	if failure != nil {
		return nil, failure
	}
	if cell.main >= 0 {
		return s.planMain(cell)
	}
	cell.inits()
	p := &plan{imports: imports{}, variables: s.variables, old: s.variables, past: s.past, needs: s.needs}
	for name, path := range s.imports {
		p.imports[name] = path
	}
	p.declarations = append(p.declarations, s.declarations...)
	if failure := p.addImports(cell, s.tools); failure != nil {
		return nil, failure
	}
	for _, one := range cell.declarations {
		p.declare(one)
	}
	p.hasRun = len(cell.statements) > 0
	checked, failure := s.check(p, cell)
	if failure != nil {
		return nil, failure
	}
	return p, s.write(p, cell, checked)
}

func hasPackageClause(code string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), "", code, parser.PackageClauseOnly)
	return err == nil && file.Name != nil
}

// planProgram takes code that is a whole program as it is.
func (s *session) planProgram(code string, number int) (*plan, []string) {
	file, err := parser.ParseFile(token.NewFileSet(), fmt.Sprintf("run%d", number), code, parser.SkipObjectResolution)
	if err != nil {
		return nil, errorLines(err)
	}
	if file.Name.Name != "main" {
		return nil, []string{fmt.Sprintf("run%d:1: a program must be of package main, not %s", number, file.Name.Name)}
	}
	p := &plan{source: fmt.Sprintf("//line run%d:1\n%s", number, code), isProgram: true, hasRun: true}
	for _, spec := range file.Imports {
		p.needsModules = p.needsModules || !s.tools.isStandard(pathOf(spec))
	}
	return p, nil
}

// planMain takes code with a function main as a program that stands for itself. The code needs no package clause, and no
// imports of standard packages.
func (s *session) planMain(cell *cell) (*plan, []string) {
	for _, one := range cell.statements {
		declared, isDeclared := one.node.(*ast.DeclStmt)
		if one.calls == "" && (!isDeclared || declared.Decl.(*ast.GenDecl).Tok != token.VAR) {
			return nil, []string{fmt.Sprintf("%s: a function main makes the code a program (%s), which has no statements outside of functions: "+
				"move this into a function, or give main another name", cell.place(one.offset), cell.place(cell.main))}
		}
	}
	text := fmt.Sprintf("//line run%d:1:1\n%s", cell.number, cell.code)
	p := &plan{isProgram: true, hasRun: true, imports: imports{}}
	for _, spec := range cell.imports {
		p.needsModules = p.needsModules || !s.tools.isStandard(pathOf(spec))
		p.imports[nameOf(spec)] = pathOf(spec)
	}
	missing := imports{}
	if !p.needsModules {
		source := "package main\n" + text
		for {
			checked, failure := s.tools.typed(source, cell.number, nil)
			if failure != nil && checked == nil {
				return nil, failure
			}
			if !s.tools.addMissing(checked, p.imports, missing) {
				break
			}
			source = programOf(missing, text)
		}
	}
	p.source = programOf(missing, text)
	return p, nil
}

func programOf(missing imports, text string) string {
	var out strings.Builder
	out.WriteString("package main\n")
	missing.write(&out)
	out.WriteString(text)
	return out.String()
}

func pathOf(spec *ast.ImportSpec) string {
	name, _ := strconv.Unquote(spec.Path.Value)
	return name
}

// nameOf returns the name that an import is used by, as a key of imports.
func nameOf(spec *ast.ImportSpec) string {
	found := pathOf(spec)
	if spec.Name != nil {
		if name := spec.Name.Name; name != "_" && name != "." {
			return name
		}
		return spec.Name.Name + " " + found
	}
	name := path.Base(found)
	if strings.Trim(name, "v0123456789") == "" { // math/rand/v2
		name = path.Base(path.Dir(found))
	}
	return name
}

func (p *plan) addImports(cell *cell, tools *tools) []string {
	for i, spec := range cell.imports {
		if !tools.isStandard(pathOf(spec)) {
			return []string{fmt.Sprintf("%s: package %s is not in the standard library", cell.place(cell.importsAt[i]), pathOf(spec))}
		}
		p.forget(nameOf(spec))
		p.imports[nameOf(spec)] = pathOf(spec)
	}
	return nil
}

// declare takes a function, method, type or constant, in place of whatever had its name before this run.
func (p *plan) declare(one *declaration) {
	for _, name := range one.names {
		if name != "_" {
			p.forget(name)
		}
	}
	p.declarations = append(p.declarations, one)
}

// forget makes a name free: the import, variable or declaration of an earlier run that has it gives way.
func (p *plan) forget(name string) {
	delete(p.imports, name)
	if old := find(p.variables, name); old != nil {
		p.past = append(p.past[:len(p.past):len(p.past)], *old)
		p.variables = without(p.variables, name)
	}
	var left []*declaration
	for _, one := range p.declarations {
		for _, other := range one.names {
			if one != nil && other == name {
				one = one.without(name)
			}
		}
		if one != nil {
			left = append(left, one)
		}
	}
	p.declarations = left
}

func (p *plan) writeDeclarations(out *strings.Builder, isOutline bool) {
	for _, one := range p.declarations {
		if isOutline {
			out.WriteString(one.outline)
		} else {
			out.WriteString(one.source)
		}
	}
}

// declares tells whether there is a declaration of a kind for a name.
func (p *plan) declares(kind token.Token, name string) bool {
	for _, one := range p.declarations {
		for _, other := range one.names {
			if one.kind == kind && other == name {
				return true
			}
		}
	}
	return false
}

// isWritable tells whether a type can be written now: all types that its source names are declared.
func (p *plan) isWritable(kind string) bool {
	expression, err := parser.ParseExpr(kind)
	if err != nil {
		return false
	}
	isWhole := true
	var visit func(node ast.Node) bool
	visit = func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.SelectorExpr: // of a package
			return false
		case *ast.Field: // whose name is none of a type
			ast.Inspect(node.Type, visit)
			return false
		case *ast.Ident:
			_, isUniversal := types.Universe.Lookup(node.Name).(*types.TypeName)
			isWhole = isWhole && (isUniversal || node.Name == "new" || p.declares(token.TYPE, node.Name))
		}
		return true
	}
	ast.Inspect(expression, visit)
	return isWhole
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
