"""The Go runner: every form of the language at the top level, and state that goes from run to run."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent.go_graphs import random_case
from tests.support.agent.go_runner import Case, Runner, build, compiled_outputs, read_cases

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="this machine has no Go"),
    pytest.mark.timeout(600),  # the first test compiles the packages, unless Go's cache has them
]

CELLS = Path(__file__).parent / "go_cells"
STATEMENTS = read_cases(CELLS / "statements.txt")
MEMORY = read_cases(CELLS / "memory.txt")
GRAPHS = [random_case(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner, and what its programs are linked from."""
    return build(tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def root() -> str:
    return subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def context_maker(built: Path, root: str, tmp_path: Path) -> Iterator[Callable[[], Runner]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Runner(built, root, tmp_path))


@pytest.fixture
def context(context_maker: Callable[[], Runner]) -> Runner:
    return context_maker()


@pytest.fixture(scope="module")
def shared(built: Path, root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A context for many cases, which declare only variables."""
    with Runner(built, root, tmp_path_factory.mktemp("shared")) as runner:
        yield runner


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every case prints as part of a compiled program."""
    cases = STATEMENTS + MEMORY + GRAPHS
    outputs = compiled_outputs(cases, tmp_path_factory.mktemp("reference"))
    return {case.name: output for case, output in zip(cases, outputs, strict=True)}


def compare(context: Runner, reference: dict[str, str], case: Case) -> None:
    runs = [context.run(code) for code in case.runs]
    assert [run.errors for run in runs] == [[] for _ in runs]
    assert "".join(run.output for run in runs) == reference[case.name]


@pytest.mark.parametrize("case", STATEMENTS, ids=lambda case: case.name)
def test_statements_do_what_they_do_in_a_program(
    shared: Runner, context_maker: Callable[[], Runner], reference: dict[str, str], case: Case
) -> None:
    has_declarations = any(line.startswith(("func ", "type ", "const ")) for line in case.runs[0].split("\n"))
    compare(context_maker() if has_declarations else shared, reference, case)


@pytest.mark.parametrize("case", MEMORY + GRAPHS, ids=lambda case: case.name)
def test_runs_share_what_a_program_shares(context: Runner, reference: dict[str, str], case: Case) -> None:
    compare(context, reference, case)


def outputs(context: Runner, *codes: str) -> list[str]:
    """Run codes that succeed and say nothing on stderr; return what each prints."""
    runs = [context.run(code) for code in codes]
    assert [(run.errors, run.notices) for run in runs] == [([], "") for _ in runs]
    return [run.output for run in runs]


def test_init_functions_run_once(context: Runner) -> None:
    """In their own run; variables that are declared behind them have their values by then."""
    first = 'var a = 1\nfunc init() { fmt.Println("init", a, b) }\nvar b = a + 1\nfmt.Println("statement")'
    assert outputs(context, first, 'fmt.Println("later")') == ["init 1 2\nstatement\n", "later\n"]
    assert outputs(
        context, "func init() { a = 5 }", "func init() { a++ }\nfunc init() { a *= 2 }", "fmt.Println(a)"
    ) == [
        "",
        "",
        "12\n",
    ]


def test_initialisers_are_evaluated_once(context: Runner) -> None:
    first = 'func f() int { fmt.Println("f"); return 7 }\nvar x = f()\ny := f()\nvar ( z = f(); _ = f() )'
    assert outputs(context, first, "fmt.Println(x, y, z)") == ["f\n" * 4, "7 7 7\n"]


MAIN = """\
import (
	"fmt"
	m "math"
)

var x = "main's"

func init() { fmt.Println("init") }

func main() {
	fmt.Println(x, m.Sqrt(4))
}
"""


def test_a_function_main_makes_a_program(context: Runner) -> None:
    """It stands for itself: what the session has stays as it is."""
    printed = outputs(
        context, "x := 1", MAIN, 'func main() { fmt.Println(strings.ToUpper("no imports")) }', "fmt.Println(x)"
    )
    assert printed == ["", "init\nmain's 2\n", "NO IMPORTS\n", "1\n"]
    (error,) = context.run('func main() { fmt.Println("a") }\nfmt.Println("b")').errors
    assert error["value"].startswith("run5:2:1: a function main makes the code a program (run5:1:1)")
    (error,) = context.run("func main() { undefined() }").errors
    assert "run6:1:15: undefined: undefined" in error["value"]


VALUES = [
    ("6 * 7", "42"),
    ("len([]int{1, 2})", "2"),
    ("float64(3) / 2", "1.5"),
    ("[]int{1, 2}", "[1 2]"),
    ('map[string]int{"a": 1}["a"]', "1"),
    ("struct{ X int }{3}", "{X:3}"),
    ("func(n int) int { return n + 1 }(4)", "5"),
    ("(func() int { return 3 })()", "3"),
    ('"a" + "b"', '"ab"'),
    ("'a'", "97"),
    ("x := 3; x", "3"),
    ("x := 3\nx // a comment", "3"),
    ("x := 3\nx;", "3"),
    ("p := &struct{ X int }{1}\np.X", "1"),
    ("!true", "false"),
    ("-5", "-5"),
    ("^0", "-1"),
    ("1 < 2 && 2 < 3", "true"),
    ("c := make(chan int, 1); c <- 4; <-c", "4"),
    ("var v any = 3; v.(int)", "3"),
    ("type T struct{ A, B int }\nT{1, 2}", "{A:1 B:2}"),
    ("type P[A any] struct{ V A }\nP[int]{1}", "{V:1}"),
    ("1.5\nfunc f() {}", "1.5"),
    ("time.Second", "1s"),
    ("strings.Repeat(\n\t`a`,\n\t2,\n)", '"aa"'),
    ("[...]string{2: `c`}[2]", '"c"'),
    ("len(`a;b`)", "3"),
]


def test_the_last_expression_is_the_value(context: Runner) -> None:
    for code, value in VALUES:
        run = context.run(code)
        assert (code, run.values, run.errors) == (code, [value], [])


NO_VALUES = [
    "x := 1",
    "var y = 2",
    "x++",
    "if true { }",
    'print("")',
    "func() { }()",
    "for range 1 { 	_ = 1 }",
    "// comment",
    ";",
    "{ }",
]


def test_other_statements_have_no_value(context: Runner) -> None:
    for code in NO_VALUES:
        run = context.run(code)
        assert (code, run.values, run.errors) == (code, [], [])


SYNTAX_ERRORS = [
    ("x := 1 y := 2", "1:8"),
    ("x := 1 }", "1:8"),
    ("}", "1:1"),
    ("x := (1\ny := 2", "1:8"),
    ("for i := 0; i < 3 {", "1:19"),
    ("if x := 1 { }", "1:4"),
    ('fmt.Println("open', "1:13"),
    ("a := `open", "1:6"),
    ("/* open", "1:1"),
    ("x := 1\nfunc f( { }", "2:9"),
    ("func f() { } x := 1", "1:14"),
    ("func (t T) { }", "1:9"),
    ("switch { case }", "1:15"),
    ("import fmt", "1:11"),
    ("1 +", "1:4"),
    ("5\n6", "1:1"),
    ("return 5", "1:8"),
    ("func f() { x := 1 }", "1:12"),
    ("unused:\nfmt.Println(1)", "1:1"),
    ("goto nowhere", "1:6"),
    ("x := nil", "1:6"),
    ("missing.Call()", "1:1"),
]


def test_errors_have_places(context: Runner) -> None:
    for number, (code, place) in enumerate(SYNTAX_ERRORS, start=1):
        (error,) = context.run(code).errors
        assert (code, error["name"]) == (code, "CompileError")
        assert (code, error["value"].partition(": ")[0]) == (code, f"run{number}:{place}")
    assert context.run("1").values == ["1"]


def test_functions_use_variables_that_their_run_declares(context: Runner) -> None:
    code = "func add() { count += step }\ncount, step := 0, 2\nadd(); add()\nfmt.Println(count)"
    assert outputs(context, code, "add(); fmt.Println(count)") == ["4\n", "6\n"]


def test_names_may_be_declared_again(context: Runner) -> None:
    """As whatever they are by then; the rest of a group of constants stays."""
    assert outputs(
        context,
        "x := 1\nconst ( A = iota + 10; B; C )\nfunc f() int { return 1 }\ntype T struct{ N int }",
        "x := strconv.Itoa(x)",
        'x += "!"; fmt.Println(x)',
        "const B = 5",
        "fmt.Println(A, B, C)",
        "f := 3; x := []int{f}",
        "fmt.Println(f + x[0])",
        "func x() int { return 8 }",
        "type f = string",
        'const T = "t"',
        "fmt.Println(x(), f(T))",
    ) == ["", "", "1!\n", "", "10 5 12\n", "", "6\n", "", "", "", "8 t\n"]


def test_variables_may_have_the_names_of_packages(context: Runner) -> None:
    assert outputs(
        context,
        "list := list.New(); list.PushBack(1)",
        "fmt.Println(list.Len())",
        'url, err := url.Parse("http://h/p"); strings := strings.Split("a,b", ",")',
        "fmt.Println(url.Host, err, strings)",
        'import "strings"\nfmt.Println(strings.ToUpper("a"))',
    ) == ["", "1\n", "", "h <nil> [a b]\n", "A\n"]


def test_variables_may_have_the_names_of_what_is_built_in(context: Runner) -> None:
    """Functions go on meaning what is built in."""
    assert outputs(
        context,
        "func f() int { return max(1, len(`ab`)) }",
        "max := f() + 5; var len, cap int = 3, 4; new, string := 7, 8; true := 0; var s = `s`",
        "max++; { len := 1; len++ }\nfmt.Println(max, len, cap, new, string, true, s, f())",
        'max := "text"; p := &max; var zero struct{ X int }',
        '*p += "!"; fmt.Println(max, f(), zero)',
    ) == ["", "", "8 3 4 7 8 0 s 2\n", "", "text! 2 {0}\n"]


def test_a_new_variable_leaves_pointers_to_the_old_one(context: Runner) -> None:
    assert outputs(
        context, "x := 3; p, q := &x, &x", 'x := "text"', "*p++; fmt.Println(x, *q)", "x := 4; fmt.Println(*p)"
    ) == [
        "",
        "",
        "text 4\n",
        "4\n",
    ]


def test_a_type_in_another_form_takes_its_values_away(context: Runner) -> None:
    """Rather than giving them other meanings."""
    outputs(context, "type T struct{ A int }\nv := T{1}; w := []T{{2}}; n := 5; p := &n", "type T struct{ A, B int }")
    run = context.run("fmt.Println(v, w, *p)")
    assert run.output == "{0 0} [] 5\n"
    assert run.notices.count("has lost its value: its type main.T was declared in another form") == 2
    assert outputs(context, "v.B = 3", "fmt.Println(v)") == ["", "{0 3}\n"]


NOT_KEPT = [
    ('v, _ := os.Open("/dev/null")', "a os.File ends with its program"),
    ("v := time.NewTimer(time.Hour)", "a time.Timer ends with its program"),
    ("v := time.After(time.Hour)", "what sends to the channel ends with its program"),
    ("v, cancel := context.WithCancel(context.Background()); _ = cancel", "ends with its program"),
    ("n := 1; v := unsafe.Pointer(&n)", "an unsafe.Pointer ends with its program"),
    ("v := map[string]any{`f`: []any{os.Stdin.Close}}", "ends with its program"),
]


def test_what_cannot_last_is_told(context: Runner) -> None:
    """The variable is gone, the others stay, also those that lead to parts of it."""
    for code, why in NOT_KEPT:
        run = context.run("kept := 1\n" + code)
        assert run.errors == []
        assert why in run.notices
        assert "sandlot: v is not kept: " in run.notices
        (error,) = context.run("v").errors
        assert "undefined: v" in error["value"]
        assert context.run("kept").values == ["1"]
    code = 'type pair struct { n int; f *os.File }\nv := &pair{n: 1}; v.f, _ = os.Open("/dev/null"); n := &v.n'
    assert "v is not kept" in context.run(code).notices
    assert outputs(context, "*n++; fmt.Println(*n)") == ["2\n"]


@pytest.mark.parametrize("code", ["{}", 'import "os/exec"\nfunc main() {{\n{}\n}}'])
def test_what_a_program_has_started_does_not_hold_its_run(context: Runner, code: str) -> None:
    """The context goes on while the other program does: also behind code that is a program itself."""
    run = context.run(code.format('c := exec.Command("sleep", "60"); fmt.Println(c.Start(), c.Process.Pid)'))
    assert run.status == "ok"
    nothing, pid = run.output.split()
    assert nothing == "<nil>"
    os.kill(int(pid), signal.SIGKILL)


def test_a_panic_keeps_what_was_done(context: Runner) -> None:
    run = context.run('x := 1; s := []int{1}; t := s\nt[0] = 5\nfunc f() { panic("no") }\nf()')
    assert run.errors[0]["value"] == "no"
    assert run.errors[0]["traceback"] == ["panic: no", "at f (run1:3)", "at main (run1:4)"]
    assert outputs(context, "s[0]++; fmt.Println(x, t)") == ["1 [6]\n"]


def test_a_program_that_exits_leaves_variables_as_they_were(context: Runner) -> None:
    outputs(context, "x := 1; p := &x")
    (error,) = context.run("x = 2; os.Exit(3)").errors
    assert error["name"] == "ExitError"
    assert outputs(context, "*p += 10; fmt.Println(x)") == ["11\n"]


def test_broken_code_breaks_nothing(context: Runner) -> None:
    """Whatever the cells are cut or mixed to, the context says what is wrong and goes on."""
    draw = random.Random(20261128)
    for case in STATEMENTS:
        ends = [found.end() for found in re.finditer(r"\w+|[^\w\s]", case.runs[0])]
        cut = draw.choice(ends)
        for code in (case.runs[0][:cut], case.runs[0][:cut] + draw.choice("(){}[];:=.,\"'`") + case.runs[0][cut:]):
            run = context.run(code + "\nvar wrong string = 5")  # so that nothing is executed
            assert (code, run.status) == (code, "error")
    assert context.run("1 + 1").values == ["2"]


def test_an_interrupt_that_comes_before_the_program_is_not_lost(context: Runner) -> None:
    """Its signal strikes nothing yet. The next run is not meant."""
    for code in ("for {}", 'x := 1\nfor { fmt.Print("") }', "select {}"):
        assert context.run(code, interrupt=True).status == "interrupted"
        assert context.run('fmt.Println("on")').output == "on\n"
