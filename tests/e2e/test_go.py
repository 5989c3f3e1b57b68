"""Go contexts as users get them: in the image sandlot/go, over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.server.live_server import LiveServer

CREATE = {
    "image": {"uri": "sandlot/go"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "2", "memory": "1Gi"},
    "env": {"GREETING": "grün 🌍"},
}


class Run(NamedTuple):
    """What one run gave, in order."""

    events: list[dict[str, Any]]

    def printed(self, stream: str = "stdout") -> str:
        """Of events, each of which has a line without its end."""
        return "\n".join(str(event["text"]) for event in self.events if event["type"] == stream)

    @property
    def values(self) -> list[str]:
        return [str(event["results"]["text"]) for event in self.events if event["type"] == "result"]

    @property
    def error(self) -> dict[str, Any]:
        (error,) = [event["error"] for event in self.events if event["type"] == "error"]
        return error


class Context:
    """A context of Go."""

    def __init__(self, box: httpx.Client) -> None:
        self.box = box
        answer = box.post("/code/context", json={"language": "go"})
        assert answer.status_code == 200, answer.text
        self.id = answer.json()["id"]

    def run(self, code: str) -> Run:
        answer = self.box.post("/code", json={"code": code, "context": {"id": self.id}})
        return Run([json.loads(line) for line in answer.text.splitlines() if line])

    def value(self, code: str) -> str:
        (value,) = self.run(code).values
        return value


@pytest.fixture(scope="module")
def box(server: LiveServer) -> Iterator[httpx.Client]:
    """The execd endpoint of a sandbox."""
    sandbox = server.request("POST", "/v1/sandboxes", CREATE)
    with httpx.Client(
        base_url=f"{server.address}/v1/sandboxes/{sandbox['id']}/proxy/44772",
        headers={"OPEN-SANDBOX-API-KEY": server.key},
        timeout=60,
    ) as client:
        yield client
    server.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")


@pytest.fixture
def context(box: httpx.Client) -> Context:
    return Context(box)


def test_what_is_printed_and_what_has_a_value(context: Context) -> None:
    """The last expression is the value; what fmt.Println gives back is none. Nothing has to be imported."""
    run = context.run('fmt.Println("hello")\nfmt.Fprintln(os.Stderr, "careful")')
    assert (run.printed(), run.printed("stderr"), run.values) == ("hello", "careful", [])
    assert context.value("6 * 7") == "42"
    assert context.value('strings.ToUpper("go")') == '"GO"'
    assert context.value("[]int{1, 2}") == "[1 2]"
    assert context.value('os.Getenv("GREETING")') == '"grün 🌍"'
    assert context.run("").events[-1]["type"] == "execution_complete"


def test_declarations_and_variables_last(context: Context) -> None:
    """With the values that runs gave them; what is declared anew takes the place of the old one."""
    context.run("func double(n int) int { return 2 * n }\ntype Pair struct {\n\tleft, right int\n}")
    context.run("func (p *Pair) sum() int { return p.left + p.right }\nconst limit = 10")
    context.run('x, names := 20, map[string][]Pair{"a": {{1, 2}}}\np := &Pair{3, 4}\nq := p')
    context.run("x++; p.left = limit")
    assert context.value("double(x)") == "42"
    assert context.value("q.sum()") == "14"  # the same one
    assert context.value('names["a"][0].right') == "2"
    context.run("func double(n int) int { return 3 * n }")
    assert context.value("double(x)") == "63"
    context.run('x := "text"')
    assert context.value("x") == '"text"'
    context.run(
        'var count int\nvar when = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)\nvar anything any = []string{"a"}'
    )
    context.run("for i := range 5 {\n\tcount += i\n}")
    assert context.value("count") == "10"
    assert context.value("when.Year()") == "2026"
    assert context.value("anything") == "[a]"


def test_statements_and_shared_memory(context: Context) -> None:
    """One of each kind; tests/integration/execd/test_go_runner.py has the rest."""
    printed = context.run("for i := 0; ; i++ {\n\tif i > 2 { break }\n\tfmt.Println(i)\n}").printed()
    assert printed == "0\n1\n2"
    assert context.run('func() { defer func() { fmt.Println(recover()) }(); panic("x") }()').printed() == "x"
    assert context.run('func init() { fmt.Println("once") }').printed() == "once"
    context.run("s := []int{1, 2, 3}; t := s[1:]; n := 1; p := &n; c := make(chan int, 1)")
    context.run("f := func(k int) int { return k * n }")
    context.run("t[0] = 20; *p = 3; c <- s[1]")
    assert context.run("fmt.Println(s, n, f(2), <-c)").printed() == "[1 20 3] 3 6 20"
    assert context.run('func main() { fmt.Println(strings.ToUpper("main")) }').printed() == "MAIN"


def test_what_cannot_last_is_told(context: Context) -> None:
    """A file lives with its program; the rest goes on."""
    run = context.run('f, err := os.Open("/etc/hostname"); n := 1')
    assert "f is not kept" in run.printed("stderr")
    assert context.value("n") == "1"
    assert "undefined: f" in context.run("f").error["evalue"]
    assert context.run("err").values == []  # nil is no value


def test_whole_programs(context: Context) -> None:
    """Stand for themselves."""
    code = 'package main\n\nimport "fmt"\n\ntype T struct{}\n\nfunc main() {\n\tfmt.Println("whole", T{})\n}\n'
    assert context.run(code).printed() == "whole {}"
    assert "undefined: T" in context.run("T{}").error["evalue"]
    assert "package main" in context.run("package other").error["evalue"]


ERRORS = [
    ("x := 1\nundefined(x)", "CompileError", "run1:2:1: undefined: undefined"),
    ("var s string = 5", "CompileError", "run1:1:16: cannot use 5"),
    ("fmt.Println(1 +)", "CompileError", "run1:1:16: expected operand"),
    ('s := "open', "CompileError", "run1:1:6"),
    ('import "no/such/package"\n_ = 1', "CompileError", "no/such/package"),
    ("func f() int { }\nf()", "CompileError", "missing return"),
    ('panic("boom")', "panic", "boom"),
    ("a := []int{1}; i := 5\na[i] = 1", "panic", "index out of range"),
    ("os.Exit(3)", "ExitError", "exit status 3"),
]


@pytest.mark.parametrize(("code", "name", "text"), ERRORS)
def test_errors_have_places(context: Context, code: str, name: str, text: str) -> None:
    """Of the run as it was written; the context lives on."""
    error = context.run(code).error
    assert error["ename"] == name
    assert text in "\n".join([error["evalue"], *error["traceback"]])
    assert context.value("1 + 1") == "2"


def test_a_panic_tells_where_and_keeps_what_was_done(context: Context) -> None:
    context.run('func f(n int) {\n\tpanic(fmt.Sprint("no ", n))\n}')
    context.run("x := 1")
    error = context.run("x = 2\nf(x)").error
    assert (error["ename"], error["evalue"]) == ("panic", "no 2")
    assert error["traceback"][1:] == ["at f (run1:2)", "at main (run3:2)"]
    assert context.value("x") == "2"
    goroutine = context.run('go func() { panic("elsewhere") }()\ntime.Sleep(time.Second)')
    assert "panic: elsewhere" in goroutine.printed("stderr")
    assert context.value("x") == "2"


def test_an_interrupt_ends_the_program_and_keeps_the_context(context: Context) -> None:
    """A busy loop, and a program that pays no heed."""
    context.run("x := 1")
    for code in (
        'fmt.Println("begun"); for {}',
        'c := make(chan os.Signal, 1); signal.Notify(c, syscall.SIGINT)\nfmt.Println("begun"); for {}',
    ):
        events: list[Run] = []
        thread = threading.Thread(target=lambda code=code, events=events: events.append(context.run(code)))
        thread.start()
        deadline = time.monotonic() + 20
        while thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.3)
            context.box.delete("/code", params={"id": context.id})
        thread.join(30)
        assert events[0].error["ename"] == "KeyboardInterrupt"
    assert context.value("x") == "1"


def test_contexts_are_apart(box: httpx.Client, context: Context) -> None:
    """And closed one by one."""
    other = Context(box)
    context.run("x := 1")
    assert "undefined: x" in other.run("x").error["evalue"]
    assert box.delete(f"/code/contexts/{other.id}").status_code == 200
    assert context.value("x") == "1"


def test_programs_of_a_program(context: Context) -> None:
    """Share its output; the working directory is the sandbox's, and `go` is there."""
    code = 'c := exec.Command("sh", "-c", "echo from sh; pwd; go version")\nc.Stdout = os.Stdout\nerr := c.Run()\nerr'
    printed = context.run(code).printed().split("\n")
    assert printed[:2] == ["from sh", "/workspace"]
    assert printed[2].startswith("go version go1.")
