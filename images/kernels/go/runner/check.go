package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"sort"
	"strings"
)

const maxErrors = 10

// checked is source whose types are known.
type checked struct {
	source string
	files  *token.FileSet
	file   *ast.File
	info   *types.Info
	pkg    *types.Package
}

// typed finds the types of a program's source. The lines say what is wrong with it; there are none for what *isFine*
// excuses. Without a result the source does not parse.
func (t *tools) typed(source string, number int, isFine func(*checked, types.Error) bool) (*checked, []string) {
	t.lock.Lock()
	defer t.lock.Unlock()
	c := &checked{source: source, files: token.NewFileSet()}
	file, err := parser.ParseFile(c.files, fmt.Sprintf("run%d", number), source, parser.SkipObjectResolution)
	if err != nil {
		return nil, errorLines(err)
	}
	c.file = file
	c.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{},
		Uses: map[*ast.Ident]types.Object{}, Scopes: map[ast.Node]*types.Scope{},
	}
	var lines []string
	config := types.Config{Importer: t.imported, Error: func(err error) {
		if one, isOne := err.(types.Error); isOne && isFine != nil && isFine(c, one) {
			return
		}
		lines = append(lines, err.Error())
	}}
	c.pkg, _ = config.Check("main", c.files, []*ast.File{file}, c.info)
	return c, lines[:min(len(lines), maxErrors)]
}

// addMissing finds standard packages that a source uses by their names and does not import; it tells whether there are
// any that were not yet found.
func (t *tools) addMissing(c *checked, known, missing imports) bool {
	isNew := false
	ast.Inspect(c.file, func(node ast.Node) bool {
		selector, isSelector := node.(*ast.SelectorExpr)
		if !isSelector {
			return true
		}
		name, isName := selector.X.(*ast.Ident)
		if !isName || c.info.Uses[name] != nil || c.info.Defs[name] != nil {
			return true
		}
		standard, isStandard := t.byName[name.Name]
		if isStandard && known[name.Name] == "" && missing[name.Name] == "" {
			missing[name.Name], isNew = standard, true
		}
		return true
	})
	return isNew
}

func (t *tools) isStandard(path string) bool { return t.packages[path] != "" || path == "unsafe" }

func (i imports) write(out *strings.Builder) {
	names := make([]string, 0, len(i))
	for name := range i {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		alias, _, _ := strings.Cut(name, " ")
		fmt.Fprintf(out, "import %s %q\n", alias, i[name])
	}
}

// check types the statements of a run in a function, as they are written. Functions have only their outlines, because they
// may use variables that the statements declare.
func (s *session) check(p *plan, cell *cell) (*checked, []string) {
	for {
		var out strings.Builder
		var parameters []string
		out.WriteString("package main\n")
		all := imports{}
		for name, path := range p.imports {
			all[name] = path
		}
		for _, one := range p.variables {
			for name, path := range one.imports {
				all[name] = path
			}
		}
		all.write(&out)
		for _, one := range p.variables {
			if isUniversal(one.name) { // functions and types go on meaning what is built in
				parameters = append(parameters, one.name+" "+one.kind)
			} else {
				fmt.Fprintf(&out, "var %s %s\n", one.name, one.kind)
			}
		}
		p.writeDeclarations(&out, true)
		out.WriteString("func __run(" + strings.Join(parameters, ", ") + ") {\n{\n")
		for _, one := range cell.statements {
			if one.calls == "" {
				out.WriteString(cell.placed(one.offset, one.offset+len(one.text)))
			}
		}
		out.WriteString("}\n}\n")
		c, failure := s.tools.typed(out.String(), cell.number, isFineStatement)
		if c == nil {
			return nil, failure
		}
		if !s.tools.addMissing(c, p.imports, p.imports) {
			return c, failure
		}
	}
}

// isFineStatement excuses variables and imports that are not used, and a value at the end of the run.
func isFineStatement(c *checked, err types.Error) bool {
	if err.Soft {
		return true
	}
	statements := c.body().List
	if len(statements) == 0 || !strings.HasSuffix(err.Msg, " is not used") {
		return false
	}
	last, isExpression := statements[len(statements)-1].(*ast.ExprStmt)
	return isExpression && last.Pos() <= err.Pos && err.Pos < last.End()
}

// body is the block of the statements, at the end of the function that has them.
func (c *checked) body() *ast.BlockStmt {
	all := c.file.Decls[len(c.file.Decls)-1].(*ast.FuncDecl).Body.List
	return all[len(all)-1].(*ast.BlockStmt)
}

// isUniversal tells whether a name means something that is built in, such as max, unless it is declared.
func isUniversal(name string) bool { return types.Universe.Lookup(name) != nil }

// packageName returns the name that a variable has in the program. One with the name of something that is built in has
// another there, because functions of other runs may use what is built in.
func packageName(variable string) string {
	if isUniversal(variable) {
		return "__var_" + variable
	}
	return variable
}

func (c *checked) offset(place token.Pos) int { return c.files.File(c.file.Pos()).Offset(place) }

// fresh returns the variables that the statements declare on their top level, and the names of those whose types cannot be
// written outside of a function. A statement that declares one of these keeps none of its variables.
func (c *checked) fresh() (found []variable, unnamed map[string]bool) {
	unnamed = map[string]bool{}
	for _, statement := range c.body().List {
		var here []variable
		isWritable := true
		for _, name := range defined(statement) {
			object := c.info.Defs[name]
			if object == nil || name.Name == "_" {
				continue
			}
			here = append(here, c.variable(object))
			isWritable = isWritable && c.isWritable(object.Type(), map[types.Type]bool{})
		}
		if isWritable {
			found = append(found, here...)
			continue
		}
		for _, one := range here {
			unnamed[one.name] = true
		}
	}
	return found, unnamed
}

func (c *checked) variable(object types.Object) variable {
	one := variable{name: object.Name(), imports: imports{}}
	one.kind = types.TypeString(object.Type(), func(other *types.Package) string {
		if other == c.pkg {
			return ""
		}
		alias := aliasOf(other.Path())
		one.imports[alias] = other.Path()
		return alias
	})
	return one
}

// aliasOf returns a name for a package that no variable has.
func aliasOf(path string) string {
	return "__" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, path)
}

// isWritable tells whether a type can be written outside of all functions.
func (c *checked) isWritable(kind types.Type, seen map[types.Type]bool) bool {
	if seen[kind] {
		return true
	}
	seen[kind] = true
	switch kind := kind.(type) {
	case *types.Basic:
		return kind.Kind() != types.UntypedNil && kind.Kind() != types.Invalid
	case *types.Alias:
		return c.isNameWritable(kind.Obj()) && c.areWritable(kind.TypeArgs(), seen)
	case *types.Named:
		return c.isNameWritable(kind.Obj()) && c.areWritable(kind.TypeArgs(), seen)
	case *types.Pointer:
		return c.isWritable(kind.Elem(), seen)
	case *types.Slice:
		return c.isWritable(kind.Elem(), seen)
	case *types.Array:
		return c.isWritable(kind.Elem(), seen)
	case *types.Chan:
		return c.isWritable(kind.Elem(), seen)
	case *types.Map:
		return c.isWritable(kind.Key(), seen) && c.isWritable(kind.Elem(), seen)
	case *types.Signature:
		return c.isTupleWritable(kind.Params(), seen) && c.isTupleWritable(kind.Results(), seen)
	case *types.Struct:
		for i := range kind.NumFields() {
			if field := kind.Field(i); !c.isWritable(field.Type(), seen) || (!field.Exported() && field.Pkg() != c.pkg) {
				return false
			}
		}
		return true
	case *types.Interface:
		for i := range kind.NumMethods() {
			if method := kind.Method(i); !c.isWritable(method.Type(), seen) || (!method.Exported() && method.Pkg() != c.pkg) {
				return false
			}
		}
		return true
	}
	return false
}

func (c *checked) isTupleWritable(tuple *types.Tuple, seen map[types.Type]bool) bool {
	for i := range tuple.Len() {
		if !c.isWritable(tuple.At(i).Type(), seen) {
			return false
		}
	}
	return true
}

func (c *checked) areWritable(arguments *types.TypeList, seen map[types.Type]bool) bool {
	for i := range arguments.Len() {
		if !c.isWritable(arguments.At(i), seen) {
			return false
		}
	}
	return true
}

func (c *checked) isNameWritable(name *types.TypeName) bool {
	switch name.Pkg() {
	case nil:
		return true
	case c.pkg:
		return name.Parent() == c.pkg.Scope()
	}
	return name.Exported() && !strings.Contains(name.Pkg().Path(), "internal")
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
