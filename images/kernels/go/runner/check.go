package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"sort"
	"strings"
)

const maxErrors = 10

// checked is a run whose types are known: its statements in a function, as they were written.
type checked struct {
	source string
	files  *token.FileSet
	file   *ast.File
	info   *types.Info
	body   *ast.BlockStmt
	pkg    *types.Package
	isBare bool // its last statement is an expression that is told, assigned to nothing
	// Packages that only the types of variables name.
	qualifiers map[string]string
}

// check types a run, adding imports of standard packages that it uses by their names. The lines say what is wrong.
func (s *session) check(p *plan, variables []variable, body string, number int) (*checked, []string) {
	s.tools.lock.Lock()
	defer s.tools.lock.Unlock()
	for {
		c := &checked{files: token.NewFileSet()}
		var out strings.Builder
		head(&out, p.imports, false)
		for _, one := range variables {
			fmt.Fprintf(&out, "var %s %s\n", one.name, one.kind)
		}
		p.writeDeclarations(&out)
		out.WriteString("func main() {\n" + body + "}\n")
		c.source = out.String()
		file, err := parser.ParseFile(c.files, fmt.Sprintf("run%d", number), c.source, parser.SkipObjectResolution)
		if err != nil {
			return nil, errorLines(err)
		}
		c.file = file
		c.info = &types.Info{
			Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{},
			Uses: map[*ast.Ident]types.Object{}, Implicits: map[ast.Node]types.Object{},
		}
		var lines []string
		config := types.Config{Importer: s.tools.imported, Error: func(err error) {
			// Soft ones are imports and variables that are not used, which is no mistake here.
			if one, isOne := err.(types.Error); !isOne || !one.Soft {
				lines = append(lines, err.Error())
			}
		}}
		c.pkg, _ = config.Check("main", c.files, []*ast.File{file}, c.info)
		if s.addMissing(p, c) {
			continue
		}
		if len(lines) > 0 {
			return nil, lines[:min(len(lines), maxErrors)]
		}
		c.body = mainOf(file).Body
		return c, nil
	}
}

// addMissing imports packages that are used and not imported; it tells whether there were any.
func (s *session) addMissing(p *plan, c *checked) bool {
	found := false
	ast.Inspect(c.file, func(node ast.Node) bool {
		selector, isSelector := node.(*ast.SelectorExpr)
		if !isSelector {
			return true
		}
		name, isName := selector.X.(*ast.Ident)
		if !isName || c.info.Uses[name] != nil || c.info.Defs[name] != nil || p.imports[name.Name] != "" {
			return true
		}
		if standard, isStandard := s.tools.byName[name.Name]; isStandard {
			p.imports[name.Name] = standard
			found = true
		}
		return true
	})
	return found
}

func mainOf(file *ast.File) *ast.FuncDecl {
	for i := len(file.Decls) - 1; i >= 0; i-- {
		if function, isFunction := file.Decls[i].(*ast.FuncDecl); isFunction && function.Name.Name == "main" {
			return function
		}
	}
	return nil
}

// used returns the imports that the code needs.
func (c *checked) used(imports map[string]string) map[string]string {
	needed := map[string]string{}
	for _, object := range c.info.Uses {
		if name, isPackage := object.(*types.PkgName); isPackage {
			needed[name.Name()] = name.Imported().Path()
		}
	}
	for name, path := range imports { // for their effects, or with all their names
		if name == "_" || name == "." {
			needed[name] = path
		}
	}
	for name := range c.qualifiers {
		needed[name] = c.qualifiers[name]
	}
	return needed
}

// freshVariables returns what the statements declare on their top level, where its type can be written down.
func (c *checked) freshVariables(imports map[string]string) []variable {
	c.qualifiers = map[string]string{}
	var found []variable
	seen := map[string]bool{}
	add := func(name *ast.Ident) {
		object := c.info.Defs[name]
		if object == nil || name.Name == "_" || seen[name.Name] {
			return
		}
		if kind, canBe := c.written(object.Type(), imports); canBe {
			seen[name.Name] = true
			found = append(found, variable{name.Name, kind})
		}
	}
	for _, statement := range c.body.List {
		switch statement := statement.(type) {
		case *ast.AssignStmt:
			if statement.Tok == token.DEFINE {
				for _, left := range statement.Lhs {
					if name, isName := left.(*ast.Ident); isName {
						add(name)
					}
				}
			}
		case *ast.DeclStmt:
			if group, isGroup := statement.Decl.(*ast.GenDecl); isGroup && group.Tok == token.VAR {
				for _, spec := range group.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						add(name)
					}
				}
			}
		}
	}
	return found
}

// written returns a type as source; false when it has a part that cannot be named from here.
func (c *checked) written(kind types.Type, imports map[string]string) (string, bool) {
	canBe := true
	needed := map[string]string{}
	text := types.TypeString(kind, func(other *types.Package) string {
		if other == c.pkg {
			return ""
		}
		if strings.Contains(other.Path(), "internal") {
			canBe = false
		}
		for name, path := range imports {
			if path == other.Path() && name != "_" && name != "." {
				needed[name] = path
				return name
			}
		}
		name := "__" + strings.ReplaceAll(path.Base(other.Path()), "-", "_")
		needed[name] = other.Path()
		return name
	})
	if kind == types.Typ[types.UntypedNil] || strings.Contains(text, "invalid type") {
		canBe = false
	}
	if canBe {
		for name, path := range needed {
			c.qualifiers[name] = path
		}
	}
	return text, canBe
}

// edit replaces a piece of the source.
type edit struct {
	from, to int
	text     string
}

// rewritten returns the statements with variables that are declared elsewhere, and a last expression that is told.
func (c *checked) rewritten(fresh []variable) string {
	kept := map[string]bool{}
	for _, one := range fresh {
		kept[one.name] = true
	}
	offset := func(place token.Pos) int { return c.files.File(c.file.Pos()).Offset(place) }
	var edits []edit
	for _, statement := range c.body.List {
		switch statement := statement.(type) {
		case *ast.AssignStmt:
			if statement.Tok == token.DEFINE && c.allKept(statement.Lhs, kept) {
				at := offset(statement.TokPos)
				edits = append(edits, edit{at, at + len(":="), "="})
			}
		case *ast.DeclStmt:
			if group, isGroup := statement.Decl.(*ast.GenDecl); isGroup && group.Tok == token.VAR {
				edits = append(edits, edit{offset(statement.Pos()), offset(statement.End()), c.assignments(group, kept)})
			}
		}
	}
	if count := len(c.body.List); count > 0 {
		switch last := c.body.List[count-1].(type) {
		case *ast.ExprStmt:
			if c.isValue(last.X) {
				edits = append(edits, told(offset(last.Pos()), offset(last.Pos()), offset(last.End()))...)
			}
		case *ast.AssignStmt:
			if c.isBare {
				edits = append(edits, told(offset(last.Pos()), offset(last.Rhs[0].Pos()), offset(last.End()))...)
			}
		}
	}
	sort.SliceStable(edits, func(i, j int) bool { return edits[i].from < edits[j].from })
	var out strings.Builder
	at := offset(c.body.Lbrace) + 1
	for _, one := range edits {
		out.WriteString(c.source[at:one.from] + one.text)
		at = one.to
	}
	out.WriteString(c.source[at:offset(c.body.Rbrace)])
	return out.String()
}

// told makes an expression the run's value; what stands before it goes.
func told(from, start, end int) []edit {
	return []edit{{from, start, "__keep.Result("}, {end, end, ")"}}
}

func (c *checked) allKept(names []ast.Expr, kept map[string]bool) bool {
	for _, left := range names {
		name, isName := left.(*ast.Ident)
		if !isName || (c.info.Defs[name] != nil && name.Name != "_" && !kept[name.Name]) {
			return false
		}
	}
	return true
}

// assignments does what a declaration of variables does, to variables that are there.
func (c *checked) assignments(group *ast.GenDecl, kept map[string]bool) string {
	offset := func(place token.Pos) int { return c.files.File(c.file.Pos()).Offset(place) }
	var parts []string
	for _, spec := range group.Specs {
		spec := spec.(*ast.ValueSpec)
		names := make([]string, len(spec.Names))
		for i, name := range spec.Names {
			names[i] = name.Name
			if name.Name != "_" && !kept[name.Name] { // it stays where it is
				return c.source[offset(group.Pos()):offset(group.End())]
			}
		}
		if len(spec.Values) == 0 {
			for _, name := range names {
				if name != "_" {
					parts = append(parts, fmt.Sprintf("%s = *new(%s)", name, c.source[offset(spec.Type.Pos()):offset(spec.Type.End())]))
				}
			}
			continue
		}
		first, last := spec.Values[0], spec.Values[len(spec.Values)-1]
		parts = append(parts, strings.Join(names, ", ")+" = "+c.source[offset(first.Pos()):offset(last.End())])
	}
	return strings.Join(parts, "; ")
}

// isValue tells whether an expression has one value that is worth telling.
func (c *checked) isValue(expression ast.Expr) bool {
	found, isThere := c.info.Types[expression]
	if !isThere || found.IsVoid() || found.Type == nil {
		return false
	}
	if _, isTuple := found.Type.(*types.Tuple); isTuple {
		return false
	}
	return found.IsValue()
}
