"""Java contexts as users get them: JShell in the image sandlot/java, over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/java"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}
# Whether the runner's own variables are there. That a sandbox has no network is for every program to know.
PRIVATE = """System.getenv().keySet().stream()
    .anyMatch(name -> name.contains("SANDLOT") && !name.equals("SANDLOT_NETWORK"))"""
ENVIRONMENT = {"GREETING": "grün 🌍", "TZ": "Asia/Tokyo"}


class Run(NamedTuple):
    """What one run gave, in order."""

    events: list[dict[str, Any]]

    def printed(self, stream: str = "stdout") -> str:
        """Of events, each of which has a line without its end."""
        return "\n".join(str(event["text"]) for event in self.events if event["type"] == stream)

    @property
    def value(self) -> str:
        (value,) = [str(event["results"]["text"]) for event in self.events if event["type"] == "result"]
        return value

    @property
    def error(self) -> dict[str, Any]:
        (error,) = [event["error"] for event in self.events if event["type"] == "error"]
        return error

    @property
    def receipt(self) -> dict[str, Any]:
        return self.events[-1]["receipt"]


class Context:
    """A context, and short ways to use it."""

    def __init__(self, box: httpx.Client, context_id: str) -> None:
        self.box = box
        self.id = context_id

    def run(self, code: str) -> Run:
        answer = self.box.post("/code", json={"code": code, "context": {"id": self.id}})
        return Run([json.loads(line) for line in answer.text.splitlines() if line])

    def value(self, code: str) -> str:
        return self.run(code).value

    def ask(self, what: str, code: str, **more: object) -> dict[str, Any]:
        return self.box.post(f"/code/contexts/{self.id}/{what}", json={"code": code, **more}).json()

    def interrupted(self, code: str) -> Run:
        """Run code that prints a line first, and interrupt it then."""
        body = {"code": code, "context": {"id": self.id}}
        events: list[dict[str, Any]] = []
        with self.box.stream("POST", "/code", json=body) as answer:
            for line in filter(None, answer.iter_lines()):
                events.append(json.loads(line))
                if events[-1]["type"] == "stdout":
                    self.box.delete("/code", params={"id": self.id})
        return Run(events)


@pytest.fixture(scope="module")
def box(server: LiveServer) -> Iterator[httpx.Client]:
    """A client at the execd endpoint of a sandbox."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    with httpx.Client(base_url=server.address, headers=headers, timeout=60, trust_env=False) as http:
        sandbox_id = http.post("/v1/sandboxes", json={**CREATE, "env": ENVIRONMENT}).json()["id"]
        http.base_url = httpx.URL(f"{server.address}/v1/sandboxes/{sandbox_id}/proxy/44772")
        yield http
        http.delete(f"{server.address}/v1/sandboxes/{sandbox_id}")


@pytest.fixture(scope="module")
def java(box: httpx.Client) -> Context:
    """A context for all tests that leave it as it was."""
    return new_context(box)


def new_context(box: httpx.Client) -> Context:
    return Context(box, str(box.post("/code/context", json={"language": "java"}).json()["id"]))


def test_state_persists(java: Context) -> None:
    """Variables, methods, classes and imports; several snippets in one run, of which the last gives the value."""
    code = """
        import java.time.Duration;
        // A comment between snippets; none after the last.
        int hours = 2;
        String say(String name) {
            return "hi " + name;
        }
        class Pair<T> {
            final T one;
            Pair(T one) { this.one = one; }
            @Override public String toString() { return "<" + one + ">"; }
        }
        record Point(int x, int y) {}
        enum Colour { RED, GREEN }
    """
    assert java.run(code).receipt["cause"] == "ok"
    assert java.value("Duration.ofHours(hours)") == "PT2H"
    assert java.value('say("you")') == '"hi you"'
    assert java.value("new Pair<>(new Point(1, 2))") == "<Point[x=1, y=2]>"
    assert java.value("hours += 1;\nhours") == "3"
    assert java.value("Colour.values()") == "Colour[2] { RED, GREEN }"
    assert java.value("String say(String name) { return name; }\nsay(null)") == "null"


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1+1", "2"),
        ("List.of(3, 1, 2).stream().sorted().collect(Collectors.toList())", "[1, 2, 3]"),
        ("new BigDecimal(1).add(BigDecimal.TEN)", "11"),
        ('Pattern.compile("a").matcher("a").matches() // imported as by the jshell tool', "true"),
        ('"grün 🌍 \\"\\u2028\\n"', '"grün 🌍 \\"\u2028\\n"'),
        ("var x = 'c'; x", "'c'"),
        ('switch (2) {\n  case 1 -> "one";\n  default -> """\n    many\n    """;\n}', '"many\\n"'),
        ("for (int i = 0; i < 2; i++) {\n}", None),
        ("int declared = 1;", None),
    ],
)
def test_values(java: Context, code: str, value: str | None) -> None:
    """Expressions give them; statements and declarations do not."""
    events = java.run(code).events
    assert [event["results"]["text"] for event in events if event["type"] == "result"] == [value] * bool(value)


def test_output_comes_in_order(java: Context) -> None:
    """Of System.out and System.err, and of programs that the code starts."""
    run = java.run(
        "for (int i = 0; i < 3; i++) {\n"
        '  System.out.println("java " + i); System.out.print("héé");\n'
        '  new ProcessBuilder("sh", "-c", "echo; echo child").inheritIO().start().waitFor();\n'
        "}\n"
        'System.err.println("err");'
    )
    assert run.printed() == "\n".join(f"java {i}\nhéé\nchild" for i in range(3))
    assert run.printed("stderr") == "err"
    lines = java.run("for (int i = 0; i < 100_000; i++) System.out.println(i);").printed().split()
    assert lines == [str(i) for i in range(100_000)]


def test_it_is_a_program_of_the_sandbox(java: Context) -> None:
    """Working directory, variables and time zone, though the JVM was started before they were known."""
    assert java.value('System.getenv("GREETING")') == '"grün 🌍"'
    assert java.value(PRIVATE) == "false"
    assert java.value('new File("a").getAbsolutePath()') == '"/workspace/a"'
    assert java.value('Path.of("a").toAbsolutePath().toString() + System.getProperty("user.dir")') == (
        '"/workspace/a/workspace"'
    )
    assert java.value("TimeZone.getDefault().getID()") == '"Asia/Tokyo"'
    run = java.run(
        'new ProcessBuilder("sh", "-c", "pwd; echo $GREETING; ls /proc/self/fd").inheritIO().start().waitFor()'
    )
    assert run.printed().split() == ["/workspace", "grün", "🌍", "0", "1", "2", "3"]  # 3 is the directory itself
    java.run('Files.writeString(Path.of("note"), "text")')
    assert java.value('Files.readString(Path.of("/workspace/note")) + new File("note").length()') == '"text4"'


def test_compile_errors_have_positions(java: Context) -> None:
    """Where the run's code is wrong, in lines and columns of that code."""
    run = java.run('int fine = 1;\n\n  int wrong = "text";')
    assert run.error["ename"] == "CompilationException"
    assert run.error["evalue"] == ("line 3, column 15: incompatible types: java.lang.String cannot be converted to int")
    assert run.error["traceback"][1:] == ['  int wrong = "text";', "              ^^^^^^"]
    assert run.receipt["cause"] == "error"
    assert "cannot find symbol" in java.run("nowhere + 1").error["evalue"]
    assert java.value("fine") == "1"


@pytest.mark.parametrize("wrong", ["class A {", "int b = ;", 'String s = "open', "1 +"])
def test_nothing_runs_of_code_that_is_no_java(java: Context, wrong: str) -> None:
    run = java.run(f'System.out.println("ran");\n{wrong}')
    is_cut = wrong in ("class A {", "1 +")
    assert run.error["ename"] == ("IncompleteSourceException" if is_cut else "CompilationException")
    assert run.error["evalue"].startswith("line 2, ")
    assert run.printed() == ""


def test_exceptions(java: Context) -> None:
    """By JShell's name, as in the official image: class and message are the value. The trace has causes and places."""
    java.run(
        "class Bad extends RuntimeException {\n  Bad(String text, Throwable cause) { super(text, cause); }\n}\n"
        "void fail(Object o) {\n  try {\n    o.hashCode();\n  } catch (NullPointerException e) {\n"
        '    throw new Bad("no luck", e);\n  }\n}'
    )
    run = java.run("int before = 1;\n\nfail(null);")
    assert (run.error["ename"], run.error["evalue"]) == ("EvalException", "Bad: no luck")
    lines = [line.strip() for line in run.error["traceback"]]
    assert lines[0] == "Bad: no luck"
    assert lines[1].startswith("at fail(#")
    assert lines[1].endswith(":8)")
    assert lines[2].startswith("at (#")
    assert lines[2].endswith(":3)")
    assert lines[3].startswith(
        'Caused by: java.lang.NullPointerException: Cannot invoke "Object.hashCode()" because "o"'
    )
    for code, value in (
        ("int y = 10 / 0;", "java.lang.ArithmeticException: / by zero"),
        ('throw new IOException("x")', "java.io.IOException: x"),
        ("throw new Exception()", "java.lang.Exception"),
        ("int deep(int n) { return deep(n + 1); }\ndeep(0)", "java.lang.StackOverflowError"),
    ):
        error = java.run(code).error
        assert (error["ename"], error["evalue"], error["traceback"][0]) == ("EvalException", value, value)
    assert java.value("before") == "1"


HOSTILE = [
    "class Evil extends RuntimeException { public String getMessage() { throw this; } }\nthrow new Evil();",
    "class Odd { public String toString() { return null; } }\nnew Odd()",
    'class Loud { public String toString() { throw new Error("loud"); } }\nnew Loud()',
    'throw new RuntimeException("\\0".repeat(4_000_000))',
    '"\\ud800"',
    'throw new Error("\\ud800")',
    '"x".repeat(17_000_000)',
    "System.setOut(null); System.setErr(null); 1",
]


def test_no_value_of_user_code_breaks_the_channel(box: httpx.Client) -> None:
    """What cannot be said becomes an error of its run."""
    java = new_context(box)
    java.run("int kept = 7;")
    for code in HOSTILE:
        assert java.run(code).receipt["cause"] in ("ok", "error"), code
        assert java.value("kept") == "7", code
    box.delete(f"/code/contexts/{java.id}")


def test_an_interrupt_that_comes_with_the_run(box: httpx.Client) -> None:
    """It strikes a thread that is about to start."""
    java = new_context(box)
    for _ in range(5):
        assert java.interrupted('System.out.println("on");\nwhile (true) {}').receipt["cause"] == "interrupted"
    assert java.value("6 * 7") == "42"
    box.delete(f"/code/contexts/{java.id}")


def test_what_is_not_declared_yet_is_told(java: Context) -> None:
    run = java.run("int twice(int n) { return 2 * times(n); }")
    assert run.printed("stderr") == "method twice(int) cannot be used until method times(int) is declared"
    error = java.run("twice(1)").error
    assert (error["ename"], error["evalue"]) == ("UnresolvedReferenceException", run.printed("stderr"))
    assert java.value("int times(int n) { return n; }\ntwice(4)") == "8"
    assert java.run("class First { Second other; }\nclass Second {}").printed("stderr") == ""


@pytest.mark.parametrize(
    "code",
    [
        'System.out.println("on"); while (true) {}',
        'System.out.println("on"); Thread.sleep(60_000);',
        'System.out.println("on"); while (true) { try { while (true) {} } catch (Throwable everything) {} }',
        'System.out.println("on"); new ServerSocket(0).accept()',  # waits outside of Java
        'new ProcessBuilder("sh", "-c", "echo on; exec sleep 60").inheritIO().start().waitFor();\nwhile (true) {}',
    ],
)
def test_an_interrupted_run_leaves_the_state(box: httpx.Client, code: str) -> None:
    java = new_context(box)
    java.run("int kept = 7;")
    began = time.monotonic()
    run = java.interrupted(code)
    assert run.receipt["cause"] == "interrupted"
    assert run.error["ename"] == "java.lang.InterruptedException"
    assert time.monotonic() - began < 10
    assert java.value("kept") == "7"
    box.delete(f"/code/contexts/{java.id}")


def test_input(box: httpx.Client, java: Context) -> None:
    """System.in asks the client for lines; nobody answers unless they said so."""
    body = {
        "code": "var in = new Scanner(System.in); in.nextLine() + in.nextInt()",
        "context": {"id": java.id},
        "allow_input": True,
    }
    answers = iter(["Ada", "36"])
    events: list[dict[str, Any]] = []
    with box.stream("POST", "/code", json=body) as answer:
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line))
            if events[-1]["type"] == "input_request":
                assert box.post("/code/input", params={"id": java.id}, json={"text": next(answers)}).is_success
    assert Run(events).value == '"Ada36"'
    assert java.value("System.in.read()") == "-1"


def test_questions(java: Context) -> None:
    """Completion and inspection; positions count characters, not UTF-16 units."""
    java.run("int longname = 1;")
    code = 'String s = "🌍";\nSystem.out.println(longn);'
    found = java.ask("complete", code, cursor=40)
    assert found == {"matches": ["longname"], "start": 35, "end": 40}
    assert "max(" in java.ask("complete", "Math.ma")["matches"]
    assert java.ask("inspect", "longname")["data"] == {"text/plain": "int longname"}
    assert "int Math.max(int a, int b)" in java.ask("inspect", "Math.max(1, 2)", cursor=6)["data"]["text/plain"]
    assert java.ask("inspect", "zzz") == {"found": False, "data": {}}


def test_classes_of_the_working_directory_are_found(box: httpx.Client) -> None:
    """What `javac` puts there, as by the jshell tool."""
    source = 'package greet; public class Hello { public static String hi() { return \\"hi\\"; } }'
    command = f'mkdir -p greet && echo "{source}" > greet/Hello.java && javac greet/Hello.java'
    assert '"exit_code"' not in box.post("/command", json={"command": command}).text
    java = new_context(box)
    assert java.value("greet.Hello.hi()") == '"hi"'


def test_exit_ends_the_context_and_a_restart_begins_anew(box: httpx.Client) -> None:
    java = new_context(box)
    run = java.run('System.out.print("last words"); System.exit(3);')
    assert run.printed() == "last words"
    assert (run.receipt["cause"], run.receipt["died_of"], run.receipt["exit_code"]) == ("died", "exit", 3)
    assert box.post(f"/code/contexts/{java.id}/restart").json() == {"id": java.id, "language": "java"}
    assert java.value("1 + 1") == "2"


def test_a_busy_context_does_not_stop_another(box: httpx.Client, java: Context) -> None:
    busy = new_context(box)
    thread = threading.Thread(target=busy.interrupted, args=['System.out.println("on"); Thread.sleep(2_000);'])
    thread.start()
    assert java.value("1 + 1") == "2"
    thread.join()


def test_memory_runs_out_and_the_state_stays(java: Context) -> None:
    code = "List<byte[]> much = new ArrayList<>();\nwhile (true) much.add(new byte[16 << 20]);"
    assert java.run(code).error["evalue"].startswith("java.lang.OutOfMemoryError")
    assert java.value("much = null") == "null"


def test_a_warm_java_has_the_heap_of_the_sandbox_that_it_gets(java: Context) -> None:
    """Its JVM was started before the limit was known; a context that is opened later is a spare that knew it."""
    heap = "Runtime.getRuntime().maxMemory() >> 20"
    assert 900 < int(java.value(heap)) <= 1024  # half of the default limit
    with LiveServer(["--image", "sandlot/java", "--pool-size", "1"]) as server:
        server.wait_full()
        headers = {"OPEN-SANDBOX-API-KEY": server.key}
        with httpx.Client(base_url=server.address, headers=headers, timeout=60, trust_env=False) as http:
            body = {**CREATE, "env": ENVIRONMENT, "resourceLimits": {"memory": "1Gi"}}
            sandbox_id = http.post("/v1/sandboxes", json=body).json()["id"]
            http.base_url = httpx.URL(f"{server.address}/v1/sandboxes/{sandbox_id}/proxy/44772")
            for _ in range(2):
                context = new_context(http)
                assert 400 < int(context.value(heap)) <= 512
                assert context.value('System.getenv("GREETING") + new File("a").getAbsolutePath()') == (
                    '"grün 🌍/workspace/a"'
                )
                assert context.value(PRIVATE) == "false"
