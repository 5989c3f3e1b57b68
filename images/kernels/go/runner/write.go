package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"sort"
	"strings"
)

// edit replaces a piece of the source.
type edit struct {
	from, to int
	text     string
}

// rewriting makes statements that use variables of the package of those that declare their own.
type rewriting struct {
	*checked
	plan    *plan
	cell    *cell
	kept    map[string]bool // variables of the package that the statements declare
	changed map[string]bool // those that had another type before
	unnamed map[string]bool // those that stay where they are
	small   []edit          // within statements, in order
	imports imports
}

// write makes the program of a run whose statements are typed, and completes the plan.
func (s *session) write(p *plan, cell *cell, c *checked) []string {
	fresh, unnamed := c.fresh()
	w := &rewriting{checked: c, plan: p, cell: cell, kept: map[string]bool{}, changed: map[string]bool{}, unnamed: unnamed, imports: imports{}}
	var isOld = map[string]bool{}
	for _, one := range p.variables {
		isOld[one.name] = true
	}
	for _, one := range fresh {
		w.kept[one.name] = true
		if old := find(p.variables, one.name); old != nil && old.kind == one.kind {
			continue // it stays the same variable
		}
		w.changed[one.name] = isOld[one.name]
		isOld[one.name] = false
	}
	if failure := w.names(); failure != nil {
		return failure
	}
	for _, one := range fresh {
		if !isOld[one.name] {
			p.forget(one.name)
			p.variables = append(p.variables[:len(p.variables):len(p.variables)], one)
		}
	}
	body := w.body()
	return s.assemble(p, cell, w, body, isOld)
}

// names finds the small edits: names of things whose names the run gives to variables, and function literals.
func (w *rewriting) names() []string {
	var failure []string
	for _, statement := range w.checked.body().List {
		ast.Inspect(statement, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.FuncLit:
				if text, isApart := w.literal(node); isApart {
					w.small = append(w.small, edit{w.offset(node.Pos()), w.offset(node.End()), text})
					return false
				}
			case *ast.Ident:
				text, why := w.renamed(node)
				if why != "" {
					failure = append(failure, fmt.Sprintf("%s: %s", w.files.Position(node.Pos()), why))
				} else if text != "" {
					w.small = append(w.small, edit{w.offset(node.Pos()), w.offset(node.End()), text})
				}
			}
			return true
		})
	}
	return failure
}

// renamed returns what takes the place of a name, or why nothing can.
func (w *rewriting) renamed(name *ast.Ident) (text, why string) {
	object := w.info.Uses[name]
	if object == nil {
		object = w.info.Defs[name]
	}
	if object != nil && isUniversal(name.Name) && w.isTopLevel(object) {
		if w.changed[name.Name] && !w.isTop(object) {
			return "__past_" + name.Name, ""
		}
		return packageName(name.Name), ""
	}
	if object == nil || !w.kept[name.Name] || w.info.Defs[name] != nil {
		return "", ""
	}
	switch object := object.(type) {
	case *types.PkgName:
		alias := aliasOf(object.Imported().Path())
		w.imports[alias] = object.Imported().Path()
		return alias, ""
	case *types.Var:
		if object.Parent() == w.pkg.Scope() && w.changed[name.Name] {
			return "__past_" + name.Name, ""
		}
	default:
		if object.Parent() == w.pkg.Scope() {
			return "", fmt.Sprintf("%s cannot be used in the run that declares a variable %s: give one of them another name", name.Name, name.Name)
		}
	}
	return "", ""
}

// literal makes a function of the package of a function literal that needs nothing of its surroundings, so that the
// variable that it is assigned to can last.
func (w *rewriting) literal(literal *ast.FuncLit) (string, bool) {
	isApart := true
	ast.Inspect(literal, func(node ast.Node) bool {
		name, isName := node.(*ast.Ident)
		if !isName {
			return true
		}
		object := w.info.Uses[name]
		if object != nil && isUniversal(name.Name) && w.isTopLevel(object) {
			isApart = false // it has another name in the program
		}
		if object == nil || object.Parent() == nil || object.Parent() == types.Universe || object.Pkg() != w.pkg {
			return true
		}
		if _, isPackage := object.(*types.PkgName); isPackage {
			isApart = isApart && !w.kept[name.Name]
			return true
		}
		isInside := literal.Pos() <= object.Pos() && object.Pos() < literal.End()
		isOfPackage := object.Parent() == w.pkg.Scope()
		_, isVariable := object.(*types.Var)
		isTop := isVariable && w.isTop(object) && w.kept[name.Name]
		isApart = isApart && (isInside || isTop || isOfPackage && !w.kept[name.Name])
		return true
	})
	if !isApart {
		return "", false
	}
	name := fmt.Sprintf("__func%d_%d", w.cell.number, len(w.plan.declarations))
	place := w.files.Position(literal.Pos())
	source := fmt.Sprintf("//line %s:%d:%d\nfunc %s%s\n", place.Filename, place.Line, max(1, place.Column-len(name)-1), name,
		w.source[w.offset(literal.Pos())+len("func"):w.offset(literal.End())])
	w.plan.declarations = append(w.plan.declarations, &declaration{
		names: []string{name}, kind: token.FUNC, source: source, isLit: true,
		outline: fmt.Sprintf("func %s%s{ panic(0) }\n", name, w.source[w.offset(literal.Pos())+len("func"):w.offset(literal.Body.Lbrace)]),
	})
	return name, true
}

// isTop tells whether a variable is one of those that the statements declare on their top level.
func (w *rewriting) isTop(object types.Object) bool {
	scope := w.info.Scopes[w.checked.body()]
	return scope != nil && object.Parent() == scope
}

// isTopLevel tells whether an object is a variable that lasts: of this run, or of one before.
func (w *rewriting) isTopLevel(object types.Object) bool {
	if w.isTop(object) {
		return w.kept[object.Name()]
	}
	function := w.file.Decls[len(w.file.Decls)-1].(*ast.FuncDecl)
	return object.Parent() != nil && object.Parent() == w.info.Scopes[function.Type]
}

// text returns a piece of the source with the small edits in it.
func (w *rewriting) text(from, to int) string {
	var out strings.Builder
	first := sort.Search(len(w.small), func(i int) bool { return w.small[i].from >= from })
	for _, one := range w.small[first:] {
		if one.to > to {
			break
		}
		out.WriteString(w.source[from:one.from] + one.text)
		from = one.to
	}
	out.WriteString(w.source[from:to])
	return out.String()
}

// body returns the statements of the program.
func (w *rewriting) body() string {
	var out strings.Builder
	nodes := w.checked.body().List
	at := 0
	for _, one := range w.cell.statements {
		if one.calls != "" {
			fmt.Fprintf(&out, "%s()\n", one.calls)
			continue
		}
		node := nodes[at]
		at++
		line, column := w.cell.lineColumn(one.offset)
		fmt.Fprintf(&out, "//line run%d:%d:%d\n%s\n", w.cell.number, line, column, w.statement(node, at == len(nodes)))
		for _, name := range defined(node) {
			if w.unnamed[name.Name] {
				fmt.Fprintf(&out, "_ = %s\n__keep.Unnamed(%q)\n", name.Name, name.Name)
			}
		}
	}
	return out.String()
}

func (w *rewriting) statement(node ast.Stmt, isLast bool) string {
	from, to := w.offset(node.Pos()), w.offset(node.End())
	switch inner := unlabelled(node).(type) {
	case *ast.AssignStmt:
		if at := w.offset(inner.TokPos); inner.Tok == token.DEFINE && w.isKept(inner) {
			return w.text(from, at) + "=" + w.text(at+len(":="), to)
		}
	case *ast.DeclStmt:
		if group := inner.Decl.(*ast.GenDecl); group.Tok == token.VAR && w.isKept(inner) {
			return w.text(from, w.offset(inner.Pos())) + w.assignments(group)
		}
	case *ast.ExprStmt:
		if isLast && w.isValue(inner.X) {
			return w.text(from, w.offset(inner.Pos())) + "__keep.Result(" + w.text(w.offset(inner.Pos()), to) + ")"
		}
	}
	return w.text(from, to)
}

func (w *rewriting) isKept(node ast.Stmt) bool {
	for _, name := range defined(node) {
		if w.unnamed[name.Name] {
			return false
		}
	}
	return true
}

// assignments does what a declaration of variables does, to variables that are there.
func (w *rewriting) assignments(group *ast.GenDecl) string {
	var parts []string
	for _, spec := range group.Specs {
		spec := spec.(*ast.ValueSpec)
		names := make([]string, len(spec.Names))
		isBlank := true
		for i, name := range spec.Names {
			names[i] = packageName(name.Name)
			isBlank = isBlank && name.Name == "_"
		}
		from, to := w.offset(spec.Pos()), w.offset(spec.End())
		switch {
		case isBlank: // with its type, which the value must have
			parts = append(parts, "var "+w.text(from, to))
		case len(spec.Values) == 0:
			kind := w.text(w.offset(spec.Type.Pos()), w.offset(spec.Type.End()))
			for _, name := range names {
				if name != "_" {
					parts = append(parts, fmt.Sprintf("%s = func() (__zero %s) { return }()", name, kind))
				}
			}
		default:
			values := w.text(w.offset(spec.Values[0].Pos()), to)
			parts = append(parts, strings.Join(names, ", ")+" = "+values)
		}
	}
	return strings.Join(parts, "; ")
}

// assemble writes the program, checks it as a whole, and writes it again with the imports that it needs.
func (s *session) assemble(p *plan, cell *cell, w *rewriting, body string, isOld map[string]bool) []string {
	var text strings.Builder
	all := imports{"__keep": keepPath}
	for name, path := range w.imports {
		all[name] = path
	}
	var registered strings.Builder
	for _, one := range p.variables {
		all.add(one.imports)
		fmt.Fprintf(&text, "var %s %s\n", packageName(one.name), one.kind)
		kind := "New"
		if isOld[one.name] {
			kind = "Old"
		}
		fmt.Fprintf(&registered, "__keep.%s(%q, &%s)\n", kind, one.name, packageName(one.name))
	}
	for i, one := range p.past {
		if !p.isWritable(one.kind) {
			continue
		}
		all.add(one.imports)
		name := "__past_" + one.name
		if find(p.past[i+1:], one.name) != nil {
			name = fmt.Sprintf("__past%d_%s", i, one.name)
		}
		fmt.Fprintf(&text, "var %s %s\n", name, one.kind)
		fmt.Fprintf(&registered, "__keep.Past(%q, &%s)\n", one.name, name)
	}
	p.writeDeclarations(&text, false)
	text.WriteString("func main() {\n")
	s.registerNeeds(&registered, p, all)
	rest := body + "}\n"
	for {
		var out strings.Builder
		out.WriteString("package main\n")
		whole := imports{}
		whole.add(p.imports)
		whole.add(all)
		whole.write(&out)
		out.WriteString(text.String() + registered.String() + "__keep.Begin()\ndefer __keep.End()\n" + rest)
		c, failure := s.tools.typed(out.String(), cell.number, isFineProgram)
		if c == nil {
			return failure
		}
		if s.tools.addMissing(c, p.imports, p.imports) {
			continue
		}
		if failure != nil {
			return failure
		}
		used := c.used(p.imports)
		out.Reset()
		out.WriteString("package main\n")
		var errors strings.Builder
		if len(p.variables) > 0 {
			s.registerErrors(&errors, used)
		}
		used.write(&out)
		out.WriteString(text.String() + registered.String() + errors.String() + "__keep.Begin()\ndefer __keep.End()\n" + rest)
		p.source = out.String()
		return nil
	}
}

func (i imports) add(other imports) {
	for name, path := range other {
		i[name] = path
	}
}

// isFineProgram excuses imports that are not used.
func isFineProgram(_ *checked, err types.Error) bool {
	return err.Soft && strings.Contains(err.Msg, " imported and not used") || strings.Contains(err.Msg, " imported as ")
}

// used returns the imports that a program needs.
func (c *checked) used(visible imports) imports {
	needed := imports{}
	for _, object := range c.info.Uses {
		if name, isPackage := object.(*types.PkgName); isPackage {
			needed[name.Name()] = name.Imported().Path()
		}
	}
	for name, path := range visible { // for their effects, or with all their names
		if strings.HasPrefix(name, "_ ") || strings.HasPrefix(name, ". ") {
			needed[name] = path
		}
	}
	return needed
}

// registerNeeds registers what the state names, as far as it is still there.
func (s *session) registerNeeds(out *strings.Builder, p *plan, all imports) {
	for _, one := range p.needs.types {
		source, needed := resolved(one[1])
		if !strings.HasPrefix(source, "*new(") || p.isWritable(strings.TrimPrefix(source, "*")) {
			all.add(needed)
			fmt.Fprintf(out, "__keep.Type(%s)\n", source)
		}
	}
	for _, one := range p.needs.things {
		path, name := one[0], one[1]
		switch {
		case path == "main":
			if p.declares(token.FUNC, name) {
				fmt.Fprintf(out, "__keep.Thing(%q, %q, %s)\n", path, name, name)
			}
		case s.tools.has(path, name):
			all[aliasOf(path)] = path
			fmt.Fprintf(out, "__keep.Thing(%q, %q, %s.%s)\n", path, name, aliasOf(path), name)
		}
	}
}

// resolved replaces import paths in angle quotes by names of packages.
func resolved(source string) (string, imports) {
	needed := imports{}
	for {
		before, rest, isThere := strings.Cut(source, "«")
		path, after, isWhole := strings.Cut(rest, "»")
		if !isThere || !isWhole {
			return source, needed
		}
		needed[aliasOf(path)] = path
		source = before + aliasOf(path) + after
	}
}

// has tells whether a package of the standard library declares a name.
func (t *tools) has(path, name string) bool {
	t.lock.Lock()
	defer t.lock.Unlock()
	found, err := t.imported.Import(path)
	return err == nil && ast.IsExported(name) && found.Scope().Lookup(name) != nil
}

// registerErrors registers the errors that the imported packages declare, so that they stay what they are compared with.
func (s *session) registerErrors(out *strings.Builder, used imports) {
	s.tools.lock.Lock()
	defer s.tools.lock.Unlock()
	failure := types.Universe.Lookup("error").Type()
	for name, path := range used {
		if path == keepPath || strings.Contains(name, " ") || path == "unsafe" {
			continue
		}
		found, err := s.tools.imported.Import(path)
		if err != nil {
			continue
		}
		for _, one := range found.Scope().Names() {
			declared, isVariable := found.Scope().Lookup(one).(*types.Var)
			if isVariable && declared.Exported() && types.Identical(declared.Type(), failure) {
				fmt.Fprintf(out, "__keep.Thing(%q, %q, %s.%s)\n", path, one, name, one)
			}
		}
	}
}
