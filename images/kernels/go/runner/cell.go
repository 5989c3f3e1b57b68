package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
)

// cell is the code of one run, taken apart by Go's own parser.
type cell struct {
	number       int
	code         string
	lines        []int          // offsets where lines begin
	lexical      *scanner.Error // a comment that is not terminated
	imports      []*ast.ImportSpec
	importsAt    []int // offsets of the imports
	declarations []*declaration
	statements   []statement
	main         int // offset of a function main; -1 without one
}

// declaration is a function, method, type or group of constants.
type declaration struct {
	names   []string // of a method: receiver type and name, with a dot
	kind    token.Token
	source  string // with its place
	outline string // the same with an empty body: what others need to know of it
	isInit  bool   // a function init: executed once, and not kept
	isLit   bool   // it was a function literal: kept while a variable leads to it
}

// statement is one on the top level of a run.
type statement struct {
	node   ast.Stmt
	text   string
	offset int
	calls  string // the name of an init function that is called in its place
}

// parseCell takes a run apart. The lines say what is wrong with it.
func parseCell(code string, number int) (*cell, []string) {
	code = strings.ReplaceAll(strings.TrimPrefix(code, "\ufeff"), "\r\n", "\n")
	c := &cell{number: number, code: code, lines: []int{0}, main: -1}
	for i := range code {
		if code[i] == '\n' {
			c.lines = append(c.lines, i+1)
		}
	}
	at, end := c.next(0)
	for at < len(code) {
		kind, second := c.tokens(at)
		var failure *scanner.Error
		end = at
		switch {
		case kind == token.IMPORT || kind == token.FUNC && second == token.IDENT:
			end, failure = c.declaration(at)
		case kind == token.FUNC: // a method, or a function literal
			var other *scanner.Error
			if end, failure = c.declaration(at); failure != nil {
				end, other = c.statementsFrom(at)
				if other == nil || other.Pos.Offset > failure.Pos.Offset {
					failure = other
				}
			}
		case kind == token.RBRACE || kind == token.RPAREN || kind == token.RBRACK:
			failure = c.errorAt(at, fmt.Sprintf("unexpected '%s'", kind))
		default:
			end, failure = c.statementsFrom(at)
		}
		if failure != nil {
			return nil, c.lineOf(failure)
		}
		next, isApart := c.next(end)
		if next < len(code) && isApart == 0 {
			return nil, []string{fmt.Sprintf("%s: expected ';' or a new line before this", c.place(next))}
		}
		at = next
	}
	if c.lexical != nil {
		return nil, c.lineOf(c.lexical)
	}
	return c, nil
}

func (c *cell) lineOf(failure *scanner.Error) []string {
	return []string{fmt.Sprintf("%s: %s", c.place(failure.Pos.Offset), failure.Msg)}
}

// next returns the offset of the first token from an offset on, without semicolons; and whether a semicolon or the
// end of a line is before it.
func (c *cell) next(from int) (offset, isApart int) {
	var scan scanner.Scanner
	file := token.NewFileSet().AddFile("", 1, len(c.code)-from)
	scan.Init(file, []byte(c.code[from:]), func(place token.Position, text string) {
		if strings.HasPrefix(text, "comment") {
			c.lexical = c.errorAt(from+place.Offset, text)
		}
	}, 0)
	for {
		place, kind, _ := scan.Scan()
		offset = from + file.Offset(place)
		if kind == token.SEMICOLON {
			isApart = 1
			continue
		}
		if strings.Contains(c.code[from:min(offset, len(c.code))], "\n") {
			isApart = 1
		}
		if kind == token.EOF {
			return len(c.code), 1
		}
		return offset, isApart
	}
}

// tokens returns the first two tokens from an offset on.
func (c *cell) tokens(from int) (first, second token.Token) {
	var scan scanner.Scanner
	scan.Init(token.NewFileSet().AddFile("", 1, len(c.code)-from), []byte(c.code[from:]), nil, 0)
	_, first, _ = scan.Scan()
	_, second, _ = scan.Scan()
	return first, second
}

// place returns where an offset is, as the positions of errors have it.
func (c *cell) place(offset int) string {
	line, column := c.lineColumn(offset)
	return fmt.Sprintf("run%d:%d:%d", c.number, line, column)
}

func (c *cell) lineColumn(offset int) (line, column int) {
	offset = min(offset, len(c.code))
	for line < len(c.lines) && c.lines[line] <= offset {
		line++
	}
	return line, offset - c.lines[line-1] + 1
}

func (c *cell) errorAt(offset int, text string) *scanner.Error {
	return &scanner.Error{Pos: token.Position{Offset: offset}, Msg: text}
}

// placed returns a piece of the code with a directive that says where it is from.
func (c *cell) placed(from, to int) string {
	line, column := c.lineColumn(from)
	return fmt.Sprintf("//line run%d:%d:%d\n%s\n", c.number, line, column, c.code[from:to])
}

// parsed is a file made of a prefix and the code from an offset on.
type parsed struct {
	file    *ast.File
	shift   int            // what is to be added to a position for the offset in the code
	failure *scanner.Error // the first one, with its offset in the code
}

func (c *cell) parse(prefix string, from int, suffix string) parsed {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", prefix+c.code[from:]+suffix, parser.AllErrors|parser.SkipObjectResolution)
	p := parsed{file: file, shift: from - len(prefix) - 1}
	if list, isList := err.(scanner.ErrorList); isList && len(list) > 0 {
		list.Sort()
		first := list[0]
		for _, one := range list { // a directive in the code may have changed the order
			if one.Pos.Offset < first.Pos.Offset {
				first = one
			}
		}
		p.failure = c.errorAt(first.Pos.Offset+from-len(prefix), first.Msg)
		if p.failure.Pos.Offset >= len(c.code) { // in what the suffix adds
			p.failure.Pos.Offset = len(c.code)
			p.failure.Msg = strings.Replace(p.failure.Msg, "found '}'", "found the end", 1)
		}
	}
	return p
}

func (p parsed) offset(place token.Pos) int { return int(place) + p.shift }

// declaration takes one import, function or method; it returns where it ends.
func (c *cell) declaration(from int) (int, *scanner.Error) {
	p := c.parse("package p\n", from, "")
	if len(p.file.Decls) == 0 {
		return from, p.failure
	}
	first := p.file.Decls[0]
	end := min(p.offset(first.End()), len(c.code))
	if p.failure != nil && p.failure.Pos.Offset <= end && !c.isBehind(p.failure.Pos.Offset, end) {
		return from, p.failure
	}
	switch first := first.(type) {
	case *ast.FuncDecl:
		c.function(p, first)
	case *ast.GenDecl:
		for _, spec := range first.Specs {
			spec := spec.(*ast.ImportSpec)
			c.imports = append(c.imports, spec)
			c.importsAt = append(c.importsAt, p.offset(spec.Path.Pos()))
		}
	default: // the parser has given up
		return from, p.failure
	}
	return end, nil
}

func (c *cell) function(p parsed, found *ast.FuncDecl) {
	from, end := p.offset(found.Pos()), min(p.offset(found.End()), len(c.code))
	one := &declaration{names: []string{found.Name.Name}, kind: token.FUNC, source: c.placed(from, end)}
	one.outline = one.source
	if found.Body != nil {
		one.outline = c.placed(from, p.offset(found.Body.Lbrace))
		one.outline = strings.TrimSuffix(one.outline, "\n") + "{ panic(0) }\n"
	}
	switch {
	case found.Recv != nil && len(found.Recv.List) == 1:
		one.names[0] = receiver(found.Recv.List[0].Type) + "." + found.Name.Name
	case found.Name.Name == "init":
		name := fmt.Sprintf("__init%d_%d", c.number, len(c.statements)+len(c.declarations))
		nameAt := p.offset(found.Name.Pos())
		one.isInit = true
		one.source = strings.TrimSuffix(c.placed(from, nameAt), "\n") + name + c.code[nameAt+len("init"):end] + "\n"
		one.outline, one.names[0] = "", name
		c.statements = append(c.statements, statement{calls: name})
	case found.Name.Name == "main" && found.Recv == nil:
		c.main = from
	}
	c.declarations = append(c.declarations, one)
}

// statementsFrom takes statements up to the first thing that is none; it returns where the last one ends.
func (c *cell) statementsFrom(from int) (int, *scanner.Error) {
	p := c.parse("package p\nfunc _() {\n", from, "\n}")
	end := from
	if len(p.file.Decls) > 0 {
		function, isFunction := p.file.Decls[0].(*ast.FuncDecl)
		if !isFunction || function.Body == nil {
			return from, p.failure
		}
		for i, node := range function.Body.List {
			start, stop := p.offset(node.Pos()), min(p.offset(node.End()), len(c.code))
			if kind, _ := c.tokens(start); i > 0 && (kind == token.FUNC || kind == token.IMPORT) {
				break
			}
			if _, isEmpty := node.(*ast.EmptyStmt); isEmpty && p.failure == nil {
				continue
			}
			if p.failure != nil && p.failure.Pos.Offset <= stop && !c.isBehind(p.failure.Pos.Offset, stop) {
				if end == from {
					return from, p.failure
				}
				break
			}
			c.statement(p, node, start, stop)
			end = stop
		}
	}
	if end == from {
		if p.failure == nil {
			p.failure = c.errorAt(from, "expected a statement")
		}
		return from, p.failure
	}
	return end, nil
}

// isBehind tells whether a failure at the end of a statement belongs to what follows.
func (c *cell) isBehind(failure, end int) bool {
	next, isApart := c.next(end)
	return failure >= next && isApart == 1 && next < len(c.code)
}

func (c *cell) statement(p parsed, node ast.Stmt, from, end int) {
	declared, isDeclared := node.(*ast.DeclStmt)
	if isDeclared {
		group := declared.Decl.(*ast.GenDecl)
		switch group.Tok {
		case token.TYPE:
			for _, spec := range group.Specs {
				c.typeSpec(p, spec.(*ast.TypeSpec))
			}
			return
		case token.CONST:
			source := c.placed(from, end)
			c.declarations = append(c.declarations, &declaration{names: constants(group), kind: token.CONST, source: source, outline: source})
			return
		}
	}
	c.statements = append(c.statements, statement{node: node, text: c.code[from:end], offset: from})
}

// typeSpec takes one type of a group, so that another may be declared again by itself.
func (c *cell) typeSpec(p parsed, spec *ast.TypeSpec) {
	from, end := p.offset(spec.Pos()), p.offset(spec.End())
	line, column := c.lineColumn(from)
	source := fmt.Sprintf("type(\n//line run%d:%d:%d\n%s\n)\n", c.number, line, column, c.code[from:end])
	c.declarations = append(c.declarations, &declaration{
		names: []string{spec.Name.Name}, kind: token.TYPE, source: source, outline: source,
	})
}

func constants(group *ast.GenDecl) []string {
	var names []string
	for _, spec := range group.Specs {
		for _, name := range spec.(*ast.ValueSpec).Names {
			names = append(names, name.Name)
		}
	}
	return names
}

// without returns a declaration that does not declare a name; nil if nothing is left. A constant becomes a blank, so that
// those that follow in its group keep their values.
func (d *declaration) without(name string) *declaration {
	if d.kind != token.CONST {
		return nil
	}
	files := token.NewFileSet()
	const prefix = "package p\n"
	file, err := parser.ParseFile(files, "", prefix+d.source, parser.SkipObjectResolution)
	if err != nil || len(file.Decls) != 1 {
		return nil
	}
	other := &declaration{kind: d.kind, source: d.source}
	isOther := false
	for _, spec := range file.Decls[0].(*ast.GenDecl).Specs {
		for _, one := range spec.(*ast.ValueSpec).Names {
			switch at := int(one.Pos()) - 1 - len(prefix); {
			case one.Name == name:
				other.source = d.source[:at] + "_" + d.source[at+len(name):]
				other.names = append(other.names, "_")
			default:
				other.names = append(other.names, one.Name)
				isOther = isOther || one.Name != "_"
			}
		}
	}
	other.outline = other.source
	if !isOther {
		return nil
	}
	return other
}

func receiver(kind ast.Expr) string {
	switch kind := kind.(type) {
	case *ast.StarExpr:
		return receiver(kind.X)
	case *ast.ParenExpr:
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

// defined returns the names that a statement declares.
func defined(node ast.Stmt) []*ast.Ident {
	var names []*ast.Ident
	switch node := unlabelled(node).(type) {
	case *ast.AssignStmt:
		if node.Tok == token.DEFINE {
			for _, left := range node.Lhs {
				if name, isName := left.(*ast.Ident); isName {
					names = append(names, name)
				}
			}
		}
	case *ast.DeclStmt:
		if group := node.Decl.(*ast.GenDecl); group.Tok == token.VAR {
			for _, spec := range group.Specs {
				names = append(names, spec.(*ast.ValueSpec).Names...)
			}
		}
	}
	return names
}

func unlabelled(node ast.Stmt) ast.Stmt {
	for {
		labelled, isLabelled := node.(*ast.LabeledStmt)
		if !isLabelled {
			return node
		}
		node = labelled.Stmt
	}
}

// inits moves the calls of init functions behind the variables that are declared after them: a file's variables have
// their values before its init functions run.
func (c *cell) inits() {
	var moved, pending []statement
	for _, one := range c.statements {
		if one.calls != "" {
			pending = append(pending, one)
			continue
		}
		declared, isDeclared := one.node.(*ast.DeclStmt)
		if !isDeclared || declared.Decl.(*ast.GenDecl).Tok != token.VAR {
			moved, pending = append(moved, pending...), nil
		}
		moved = append(moved, one)
	}
	c.statements = append(moved, pending...)
}
