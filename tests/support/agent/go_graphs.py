"""Random programs that build graphs of pointers, slices and maps, cut into runs at random places."""

from __future__ import annotations

import random

from tests.support.agent.go_runner import Case

DECLARATIONS = """\
type Inner struct{ X, Y int }
type Node struct {
	V int
	P *int
	N *Node
	S []int
	M map[string]int
	A [3]int
	I any
	In Inner
	B []Node
	K []*Node
}
func put(p *int, n int) { if p != nil { *p = n } }
func set(s []int, i, n int) { if len(s) > 0 { s[i%len(s)] = n } }
func cut(s []int, i, j int) []int { if cap(s) == 0 { return s }; i %= cap(s); return s[i : i+j%(cap(s)-i+1)] }
func at(s []int, i int) *int { if len(s) == 0 { return nil }; return &s[i%len(s)] }
func in(m map[string]int, k string, n int) { if m != nil { m[k] = n } }
func step(q *Node) *Node { if q == nil || q.N == nil { return q }; return q.N }
func node(b []Node, i int) *Node { if len(b) == 0 { return nil }; return &b[i%len(b)] }
func pin(i any, n int) {
	switch i := i.(type) {
	case *int: put(i, n)
	case *Node: if i != nil { i.V = n }
	case []int: set(i, n, n)
	case map[string]int: in(i, "i", n)
	case *Inner: i.Y = n
	}
}
func show(name string, q *Node, seen map[*Node]int) {
	if q == nil { fmt.Println(name, "nil"); return }
	if n, ok := seen[q]; ok { fmt.Println(name, "is", n); return }
	seen[q] = len(seen)
	fmt.Println(name, q.V, q.S, cap(q.S), q.S[:cap(q.S)], len(q.M), q.M, q.A, q.In, len(q.B), cap(q.B), len(q.K))
	if q.P != nil { fmt.Println(name, "P", *q.P) }
	fmt.Printf("%s I %T\\n", name, q.I)
	show(name+".N", q.N, seen)
	for i := range q.B { show(fmt.Sprint(name, ".B", i), &q.B[i], seen) }
	for i, k := range q.K { show(fmt.Sprint(name, ".K", i), k, seen) }
}
"""

SHOW = """\
seen := map[*Node]int{}
for i, q := range []*Node{&n0, &n1, q0, q1, q2} { show(fmt.Sprint("q", i), q, seen) }
for i, s := range [][]int{s0, s1, s2} { fmt.Println("s", i, s, cap(s), s[:cap(s)]) }
fmt.Println(m0, m1, len(b0), cap(b0), len(b1), cap(b1))
places := []*int{p0, p1, p2, n0.P, n1.P, &n0.V, &n0.A[0], &n0.A[1], &n1.A[0], &n0.In.X, at(s0, 0), at(s1, 0), at(s2, 0)}
for i, p := range places { for j, q := range places { if i < j && p != nil && p == q { fmt.Println("same", i, j) } } }
for i, p := range places { if p != nil { fmt.Println("place", i, *p) } }
fmt.Println(i0 == any(q0), i1 == any(p0))
"""

BEGIN = """\
var n0, n1 Node
var q0, q1, q2 *Node
var s0, s1, s2 []int
var m0, m1 map[string]int
var p0, p1, p2 *int
var b0, b1 []Node
var i0, i1 any = 0, ""
s0 = make([]int, 2, 6); m0 = map[string]int{}; q0 = &n0; p0 = &n0.V; b0 = make([]Node, 2, 3)"""


def statement(draw: random.Random) -> str:
    """Return a statement that never panics."""
    q, r = (f"q{draw.randrange(3)}" for _ in range(2))
    s, t = (f"s{draw.randrange(3)}" for _ in range(2))
    p, m, b, i = f"p{draw.randrange(3)}", f"m{draw.randrange(2)}", f"b{draw.randrange(2)}", f"i{draw.randrange(2)}"
    n, c = f"n{draw.randrange(2)}", f"b{draw.randrange(2)}"
    k, x = draw.randrange(100), draw.randrange(7)
    return draw.choice(
        [
            f"{p} = &{n}.V",
            f"{p} = &{n}.A[{x % 3}]",
            f"{p} = &{n}.In.Y",
            f"{p} = at({s}, {x})",
            f"put({p}, {k})",
            f"{s} = cut({t}, {x}, {k})",
            f"{s} = append({t}, {k})",
            f"{s} = {n}.A[{x % 3}:]",
            f"set({s}, {x}, {k})",
            f"{m} = map[string]int{{{k}: {k}}}".replace(f"{{{k}:", f'{{"k{k}":'),
            f"m{x % 2} = {m}",
            f'in({m}, "k{x}", {k})',
            f"{q} = &{n}",
            f"{q} = &Node{{V: {k}, N: {r}, S: {s}, M: {m}, P: {p}}}",
            f"{q} = step({r})",
            f"{q} = node({b}, {x})",
            f"if {q} != nil {{ {q}.N = {r}; {q}.S = {s} }}",
            f"if {q} != nil {{ {q}.K = append({q}.K, {r}); {q}.V++ }}",
            f"if {q} != nil {{ {p} = &{q}.V; {s} = {q}.S; {m} = {q}.M }}",
            f"{n}.B = {b}",
            f"{n}.M, {n}.P, {n}.I = {m}, {p}, {i}",
            f"{b} = append({c}, Node{{V: {k}, P: {p}}})",
            f"if len({b}) > 1 {{ {c} = {b}[1:] }}",
            f"{i} = {q}",
            f"{i} = {p}",
            f"{i} = {s}",
            f"{i} = {m}",
            f"{i} = &{n}.In",
            f"pin({i}, {k})",
            f"{n}.I = {n}.A",
            f"{n}.A[{x % 3}] = {k}",
        ]
    )


def random_case(seed: int) -> Case:
    """Return a case of several runs that ends by showing everything."""
    draw = random.Random(seed)
    sizes = [draw.randrange(4, 14) for _ in range(draw.randrange(3, 6))]
    runs = ["\n".join(statement(draw) for _ in range(size)) for size in sizes]
    return Case(f"graph {seed}", [DECLARATIONS + BEGIN, *runs, SHOW])
