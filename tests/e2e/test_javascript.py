"""JavaScript and TypeScript contexts, over HTTP, in a sandbox made from sandlot/node."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/node"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}
BUSY = [
    "while (true) {}",
    "await new Promise((resolve) => setTimeout(resolve, 1)); while (true) {}",
    "while (true) await null",
    "setImmediate(() => { while (true) {} }); await new Promise(() => {})",
    # Not the first of a turn: Node's own list of them does not survive that it is terminated.
    "setImmediate(() => {}); setImmediate(() => { while (true) {} }); await new Promise(() => {})",
    "setImmediate(() => process.nextTick(function again() { process.nextTick(again) })); await new Promise(() => {})",
    "await new Promise(() => { setInterval(() => {}, 1000) })",
    "for (;;) { try { for (;;) {} } catch {} }",
    "require('child_process').execSync('sleep 60')",
    "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "/(a+)+$/.test('a'.repeat(50) + 'b')",
]


class Finished(NamedTuple):
    """What one run gave."""

    events: list[dict[str, Any]]

    @property
    def order(self) -> list[str]:
        """What arrived, in short: lines as they are, displays and values after =, errors after !."""
        words: list[str] = []
        for event in self.events:
            match event["type"]:
                case "stdout" | "stderr":
                    words.extend(event["text"].split("\n"))
                case "result":
                    words.extend(f"={text}" for text in event["results"].values())
                case "error":
                    words.append(f"!{event['error']['ename']}")
        return words

    @property
    def value(self) -> str:
        return next(str(event["results"]["text"]) for event in self.events if event["type"] == "result")

    @property
    def error(self) -> dict[str, Any]:
        return next(dict(event["error"]) for event in self.events if event["type"] == "error")

    @property
    def receipt(self) -> dict[str, Any]:
        return dict(self.events[-1]["receipt"])

    def printed(self, stream: str = "stdout") -> str:
        return "\n".join(event["text"] for event in self.events if event["type"] == stream)


class Context:
    """One context and short ways to use it."""

    def __init__(self, box: httpx.Client, language: str) -> None:
        self.box = box
        answer = box.post("/code/context", json={"language": language})
        assert answer.status_code == 200, answer.text
        self.id = str(answer.json()["id"])

    def run(self, code: str, **more: Any) -> Finished:
        answer = self.box.post("/code", json={"code": code, "context": {"id": self.id}, **more})
        return Finished([json.loads(line) for line in answer.text.splitlines() if line])

    def value(self, code: str) -> str:
        run = self.run(code)
        assert run.receipt["cause"] == "ok", run.events
        return run.value

    def interrupted(self, code: str) -> Finished:
        """Run code, interrupt it once it has said that it begins."""
        events: list[dict[str, Any]] = []
        body = {"code": f"console.log('begun');\n{code}", "context": {"id": self.id}}
        with self.box.stream("POST", "/code", json=body) as answer:
            for line in filter(None, answer.iter_lines()):
                events.append(json.loads(line))
                if events[-1]["type"] == "stdout":
                    assert self.box.delete("/code", params={"id": self.id}).is_success
        return Finished(events)


@pytest.fixture(scope="module")
def box(server: LiveServer) -> Iterator[httpx.Client]:
    """A client at the execd endpoint of a sandbox."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    with httpx.Client(base_url=server.address, headers=headers, timeout=60, trust_env=False) as http:
        created = http.post("/v1/sandboxes", json=CREATE)
        assert created.status_code == 202, created.text
        sandbox_id = created.json()["id"]
        http.base_url = httpx.URL(f"{server.address}/v1/sandboxes/{sandbox_id}/proxy/44772")
        yield http
        http.delete(f"{server.address}/v1/sandboxes/{sandbox_id}")


@pytest.fixture(params=["javascript", "typescript"])
def either(box: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Context]:
    """A new context of each language."""
    context = Context(box, request.param)
    yield context
    box.delete(f"/code/contexts/{context.id}")


@pytest.fixture
def js(box: httpx.Client) -> Iterator[Context]:
    """A new JavaScript context."""
    context = Context(box, "js")
    yield context
    box.delete(f"/code/contexts/{context.id}")


@pytest.fixture
def ts(box: httpx.Client) -> Iterator[Context]:
    """A new TypeScript context."""
    context = Context(box, "ts")
    yield context
    box.delete(f"/code/contexts/{context.id}")


# -- state


def test_names_live_from_run_to_run_and_may_be_declared_again(either: Context) -> None:
    either.run("const a = 1; let b = [2]; class C { get n() { return 3 } }; function f() { return a + b[0] }")
    assert either.value("f() + new C().n") == "6"
    either.run("const a = 10; let b; class C { get n() { return 30 } }")
    assert either.value("[a, b, new C().n]") == "[ 10, undefined, 30 ]"
    assert either.value("const { x, ...rest } = { x: 1, y: 2 }; const [p, , q = 5] = [4]; [x, rest, p, q]") == (
        "[ 1, { y: 2 }, 4, 5 ]"
    )


def test_names_of_code_with_await_live_as_well(either: Context) -> None:
    code = """
        const { a: { b }, ...rest } = await Promise.resolve({ a: { b: 1 }, c: 2 })
        function later() { return b + 1 }
        class Q { hi() { return 'hi' } }
        for (var i = 0; i < 3; i++) { var last = i; await null }
        let fresh
        const done = async () => {}
        ;[1].length
    """
    assert either.value(code) == "1"
    assert either.value("b = 7; [b, rest, later(), new Q().hi(), i, last, fresh]") == (
        "[ 7, { c: 2 }, 8, 'hi', 3, 2, undefined ]"
    )


@pytest.mark.parametrize("name", ["crypto", "navigator", "performance", "URL", "fetch", "require", "display"])
def test_names_of_node_may_be_declared(js: Context, name: str) -> None:
    assert js.value(f"const {name} = 1; {name}") == "1"
    assert js.value(f"{name} + 1") == "2"


def test_user_code_may_put_its_own_in_place_of_what_the_runner_uses(js: Context) -> None:
    js.run("class Set { constructor() { throw 1 } } class Map {} class Promise {} function Object() {}")
    js.run(
        "const JSON = 1, Error = 2, Symbol = 3, Atomics = 4, Buffer = 5, Array = 6, setImmediate = 7; var process = 8"
    )
    js.run("[].__proto__.extra = 1; ({}).__proto__.extra = 2")
    assert js.value("[await 1, process]") == "[ 1, 8 ]"
    assert js.run("display(2)").order == ["=2"]
    assert js.run("null.x").error["ename"] == "TypeError"
    assert js.interrupted("while (true) {}").receipt["cause"] == "interrupted"


def test_contexts_share_nothing(box: httpx.Client, js: Context) -> None:
    other = Context(box, "javascript")
    js.run("globalThis.shared = 1; Array.prototype.mine = 1; process.env.MINE = '1'; process.chdir('/')")
    assert other.value("[typeof shared, [].mine, process.env.MINE, process.cwd()]") == (
        "[ 'undefined', undefined, undefined, '/workspace' ]"
    )


def test_a_busy_context_stops_no_other(box: httpx.Client, js: Context) -> None:
    other = Context(box, "javascript")
    body = {"code": "console.log('begun'); while (true) {}", "context": {"id": js.id}}
    with box.stream("POST", "/code", json=body) as answer:
        lines = filter(None, answer.iter_lines())
        assert any('"stdout"' in line for line in lines)
        assert other.value("1 + 1") == "2"
        box.delete("/code", params={"id": js.id})


# -- values, output, modules


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("'x'", "'x'"),
        ("null", "null"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("const v = await new Promise((resolve) => setTimeout(() => resolve(42), 5)); v + 1", "43"),
        ("Promise.resolve(7)", "7"),
        ("async function main() { await null; return 'of main' }\nmain()", "'of main'"),
        ("f(); function f() { return 1 }", "1"),
        ("new Map([[1, { a: [] }]])", "Map(1) { 1 => { a: [] } }"),
        ("// a comment\n5 // another", "5"),
        ("import fs, { readFileSync as read } from 'node:fs'\nread === fs.readFileSync", "true"),
        ("import * as os from 'os'; typeof os.cpus", "'function'"),
        ("require.main === module && typeof require('fs').statSync", "'function'"),
        ("(await import('node:path')).posix.sep", "'/'"),
        ("using held = { [Symbol.dispose]() {} }\ntypeof held", "'object'"),
        ("export const exported = 1\nexported", "1"),
        ("[__dirname, import.meta.dirname, process.argv.length]", "[ '/workspace', '/workspace', 1 ]"),
    ],
)
def test_the_value_of_a_run(either: Context, code: str, text: str) -> None:
    assert either.value(code) == text


def test_long_and_odd_code(js: Context) -> None:
    assert js.value(f"const big = '{'x' * 5_000_000}'; big.length") == "5000000"
    assert js.value("+".join(["1"] * 20_000)) == "20000"
    assert js.run("throw new Error('\\ud800')").error["evalue"] == "\ufffd"


@pytest.mark.parametrize("code", ["undefined", "const x = 1", "if (true) { 1 }", "for (let i = 0; i < 2; i++) i", ""])
def test_what_has_no_value(js: Context, code: str) -> None:
    run = js.run(code)
    assert (run.order, run.receipt["cause"]) == ([], "ok")


def test_modules_come_from_the_working_directory(js: Context) -> None:
    js.run("""
        const fs = require('fs')
        fs.mkdirSync('here/node_modules/pkg', { recursive: true })
        fs.writeFileSync('here/node_modules/pkg/index.js', 'module.exports = { pkg: 1 }')
        fs.writeFileSync('here/own.mjs', 'export const own = 2; export default 3')
        process.chdir('here')
    """)
    assert js.value("require('pkg').pkg") == "1"
    assert (
        js.value("import three, { own } from './own.mjs'; import pkg from 'pkg'; [own, three, pkg.pkg]")
        == "[ 2, 3, 1 ]"
    )
    assert js.value("(await import('./own.mjs')).own") == "2"
    missing = js.run("import { nothing } from './own.mjs'").error
    assert (missing["ename"], "nothing" in missing["evalue"]) == ("SyntaxError", True)


def test_everything_arrives_in_the_order_in_which_it_happened(js: Context) -> None:
    run = js.run("""
        const { execSync, spawnSync } = require('child_process')
        for (let i = 0; i < 3; i++) {
            console.log('log', i)
            execSync('echo child', { stdio: 'inherit' })
            process.stdout.write('written\\n')
            display({ 'text/html': `<b>${i}</b>` })
        }
        queueMicrotask(() => console.log('microtask'))
        6
    """)
    steps = [word for i in range(3) for word in (f"log {i}", "child", "written", f"=<b>{i}</b>")]
    assert run.order == [*steps, "microtask", "=6"]


def test_much_output_arrives_whole(js: Context) -> None:
    run = js.run("for (let i = 0; i < 100_000; i++) console.log(i); console.error('err')")
    assert run.printed() == "\n".join(map(str, range(100_000)))
    assert run.printed("stderr") == "err"


def test_a_run_may_end_its_streams_and_the_next_one_prints(js: Context) -> None:
    assert js.run("process.stdout.end('last\\n'); process.stdout.destroy()").printed() == "last"
    assert js.run("console.log('still')").printed() == "still"


@pytest.mark.parametrize(
    ("code", "mime", "text"),
    [
        ("({ a: [1, null] })", "application/json", '{"a":[1,null]}'),
        ("display({ 'image/png': Buffer.from('bytes') })", "image/png", "Ynl0ZXM="),
        ("display({ 'text/html': '<b>', 'text/plain': 'b' })", "text/html", "<b>"),
        ("display([1, 2])", "text", "[ 1, 2 ]"),
        ("({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': '<i>' }) })", "text/html", "<i>"),
        ("({ [Symbol.for('Jupyter.display')]: async () => ({ 'a/b': { c: 1 } }) })", "a/b", '{"c":1}'),
    ],
)
def test_rich_values(either: Context, code: str, mime: str, text: str) -> None:
    (shown,) = [event["results"] for event in either.run(code).events if "results" in event]
    assert shown[mime] == text


@pytest.mark.parametrize("code", ["({ f() {} })", "const a = [1]; a.push(a); a", "[NaN]", "new Date(0)", "[undefined]"])
def test_what_json_cannot_say_has_a_text_only(js: Context, code: str) -> None:
    (shown,) = [event["results"] for event in js.run(code).events if "results" in event]
    assert list(shown) == ["text"]


def test_programs_do_not_get_the_channel(js: Context) -> None:
    listing = js.run("console.log(require('child_process').execSync('ls /proc/self/fd').toString())").printed()
    assert listing.split() == ["0", "1", "2", "3"]  # the last is the directory that ls reads


# -- TypeScript


def test_types_are_stripped_and_what_is_more_than_types_works(ts: Context) -> None:
    ts.run("interface Point { x: number }\ntype Maybe<T> = T | null\nconst p: Maybe<Point> = { x: 1 }")
    assert ts.value("p!.x as number") == "1"
    ts.run(
        "enum Color { Red, Green = 'g' }\n"
        "class Box { constructor(private n: number) {} get(): number { return this.n } }"
    )
    assert ts.value("[Color.Red, Color.Green, new Box(4).get()]") == "[ 0, 'g', 4 ]"
    assert ts.value("const f = async <T,>(v: T): Promise<T> => v\nconst r: string = await f('x')\nr") == "'x'"
    assert ts.value(
        "import { type Stats, statSync } from 'fs'\nimport type { No } from './nowhere'\ntypeof statSync"
    ) == ("'function'")
    error = ts.run("enum E { A }\n\nthrow new Error(`${E.A}`)").error
    assert error["traceback"][:2] == ["<cell 7>:3", "throw new Error(`${E.A}`)"]
    assert error["traceback"][-1] == "    at <cell 7>:3:7"
    wrong = ts.run("let x: = 3").error
    assert (wrong["ename"], wrong["traceback"][0]) == ("SyntaxError", "<cell 8>:1")


def test_code_that_crashes_the_compiler_does_not_end_the_context(ts: Context) -> None:
    ts.run("let kept: number = 1")
    assert "nested too deeply" in ts.run("+".join(["1"] * 20_000)).error["evalue"]
    assert ts.value("enum E { A = 5 }\nkept + E.A") == "6"
    assert ts.run("let x: = 3").error["traceback"][0] == "<cell 4>:1"


# -- errors


def test_errors_name_the_line_and_show_no_frame_but_the_users(either: Context) -> None:
    either.run("function boom() {\n  throw new RangeError('bad')\n}")
    error = either.run("await null\n\nboom()").error
    assert (error["ename"], error["evalue"]) == ("RangeError", "bad")
    assert error["traceback"][1:] == ["    at boom (<cell 1>:2:9)", "    at <cell 2>:3:1"]
    caught = either.run("class A {}; try { boom() } catch (error) { console.log(error) }").printed()
    assert caught == "RangeError: bad\n    at boom (<cell 1>:2:9)\n    at <cell 3>:1:19"
    line = either.run("\nlet x = null.y").error["traceback"]
    assert line[:3] == ["<cell 4>:2", "let x = null.y", "             ^"]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("const = 5", "SyntaxError", "Unexpected token"),
        ("await foo(", "SyntaxError", "Unexpected end of input"),
        ("let a = 1; let a = 2", "SyntaxError", "already been declared"),
        ("nothing", "ReferenceError", "nothing is not defined"),
        ("throw 5", "Uncaught", "5"),
        ("const fixed = 1\nfixed = 2", "TypeError", "Assignment to constant variable"),
        ("const fixed = await 1; fixed++", "TypeError", "Assignment to constant variable"),
        ("Promise.reject(new TypeError('no'))", "TypeError", "no"),
        ("require('nowhere')", "Error", "Cannot find module 'nowhere'"),
        ("await import('nowhere')", "Error", "Cannot find package 'nowhere'"),
        ("await new Promise(() => setTimeout(() => null.x, 1))", "TypeError", "reading 'x'"),
    ],
)
def test_errors(js: Context, code: str, name: str, message: str) -> None:
    run = js.run(code)
    assert run.receipt["cause"] == "error"
    assert run.error["ename"] == name
    assert message in run.error["evalue"]


def test_what_fails_after_its_run_is_reported_and_kills_nothing(js: Context) -> None:
    js.run("kept = 1; setTimeout(() => { throw new Error('late') }, 50)")
    run = js.run("await new Promise((resolve) => setTimeout(resolve, 100)); kept")
    assert "Uncaught Error: late" in run.printed("stderr")
    assert run.value == "1"
    first = js.run("Promise.reject(new Error('nobody waits')); 2")
    assert "Unhandled rejection: Error: nobody waits" in first.printed("stderr")
    assert first.value == "2"


# -- interrupts, ends, questions, input


@pytest.mark.parametrize("code", BUSY)
def test_an_interrupt_stops_a_run_and_keeps_the_state(js: Context, code: str) -> None:
    js.run("kept = 1")
    run = js.interrupted(code)
    assert (run.receipt["cause"], run.error["ename"]) == ("interrupted", "KeyboardInterrupt")
    assert js.value("kept") == "1"
    again = js.interrupted("while (true) {}")
    assert again.receipt["cause"] == "interrupted"
    assert js.value("await new Promise((resolve) => setTimeout(() => resolve(kept), 1))") == "1"


@pytest.mark.parametrize(
    "busy",
    ["while (true) {}", "setImmediate(() => { while (true) {} })", "(function again() { queueMicrotask(again) })()"],
)
def test_what_an_interrupted_run_has_left_does_not_keep_the_next_one(js: Context, box: httpx.Client, busy: str) -> None:
    """A timer of the run begins something endless when the run is over."""
    other = Context(box, "js")  # to wait with
    js.interrupted(f"setTimeout(() => {{ {busy} }}, 200); await new Promise(() => {{}})")
    other.run("await new Promise((resolve) => setTimeout(resolve, 400))")
    assert js.value("await new Promise((resolve) => setImmediate(() => setTimeout(resolve, 1, 'next')))") == "'next'"


def test_an_interrupt_that_comes_with_the_run(js: Context) -> None:
    """Before it has begun, or when it is about to end: it ends once, and the next one is not meant."""
    for _ in range(10):
        assert js.interrupted("").receipt["cause"] in ("ok", "interrupted")
    assert js.value("'next'") == "'next'"


@pytest.mark.parametrize(
    "code",
    [
        "await new Promise(() => {})",
        "new Promise(() => {})",
        "const { stdin: input, stdout: output } = process;"
        "await require('node:readline/promises').createInterface({ input, output }).question('name? ')",
        "process.removeAllListeners(); await new Promise(() => {})",
        "({ [Symbol.for('Jupyter.display')]: () => new Promise(() => {}) })",
    ],
)
def test_waiting_for_what_can_never_settle_ends(either: Context, code: str) -> None:
    """As Node ends a program then; and the context goes on."""
    run = either.run(code)
    assert (run.receipt["cause"], run.error["ename"]) == ("error", "UnsettledTopLevelAwait"), run.events
    assert "input(" in run.error["evalue"]
    assert either.value("6 * 7") == "42"


@pytest.mark.parametrize(
    "awaited",
    [
        "new Promise((resolve) => setTimeout(resolve, 300, 'yes'))",
        "new Promise((resolve) => setTimeout(resolve, 600, 'yes').unref())",
        "new Promise((resolve) => AbortSignal.timeout(600).addEventListener('abort', () => resolve('yes')))",
        "require('fs').promises.readFile('/etc/hostname').then(() => 'yes')",
        "require('util').promisify(require('zlib').gzip)(Buffer.alloc(2e7)).then(() => 'yes')",
        "require('util').promisify(require('crypto').pbkdf2)('a', 'b', 2e5, 64, 'sha512').then(() => 'yes')",
        "require('util').promisify(require('child_process').exec)('sleep 0.5').then(() => 'yes')",
        "new Promise((resolve) => { const child = require('child_process').spawn('sleep', ['0.6'],"
        " { stdio: 'ignore' }); child.unref(); child.on('exit', () => resolve('yes')) })",
        "new Promise((resolve) => { const { Worker } = require('worker_threads'); const code ="
        " `setTimeout(() => require('worker_threads').parentPort.postMessage('yes'), 500)`;"
        " const worker = new Worker(code, { eval: true }); worker.unref(); worker.on('message', resolve) })",
        "new Promise((resolve) => { const server = require('net').createServer((socket) => { server.close();"
        " setTimeout(() => socket.end('yes'), 300) }).listen(0, () => require('net').connect(server.address().port)"
        ".on('data', (data) => resolve(String(data)))) })",
        "new Promise((resolve) => process.once('beforeExit', () => setTimeout(resolve, 300, 'yes')))",
        "require('stream/promises').pipeline(require('stream').Readable.from(['printed']), process.stdout)"
        ".then(() => 'yes')",
    ],
)
def test_what_may_still_settle_is_waited_for(js: Context, awaited: str) -> None:
    """Timers, files, threads, children, workers and sockets; those too that would not keep a program alive."""
    assert js.value(f"await {awaited}") == "'yes'"


HOSTILE = [
    "display({ 'application/json': { a: NaN } })",
    "display({ 'application/json': (() => { const a = {}; a.a = a; return a })() })",
    "display({ 'text/plain': 10n })",
    "display('a', { displayId: { toString() { throw new Error('id') } } })",
    "({ [Symbol.for('Jupyter.display')]: () => ({ 'text/plain': NaN, 'a\\ud800/b': '\\ud800' }) })",
    "({ [require('util').inspect.custom]() { throw new Error('inspect') } })",
    "throw new Proxy(new Error('x'), { getPrototypeOf() { throw 1 }, get() { throw 2 } })",
    "throw new Error('\\0'.repeat(3e6))",
    "throw new Error('\\n'.repeat(200_000))",
    "throw Object.assign(new Error(), { stack: '\\n'.repeat(500_000) })",
    "display(Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`a/${i}`, 'x'])))",
    "({ [Symbol.for('Jupyter.display')]: () => Object.fromEntries([...'x'.repeat(1001)].map((x, i) => [x + i, x])) })",
    "class P extends Promise { static get [Symbol.species]() { throw new Error('species') } }; P.resolve(1)",
    "await input('x'.repeat(17e6))",
    "setTimeout(() => { throw new Proxy({}, { getPrototypeOf() { throw 1 } }) }, 1);"
    "await new Promise((resolve) => setTimeout(resolve, 20))",
    "JSON.stringify = () => 'garbage'; ({ a: 1 })",
    "Object.prototype.toJSON = Array.prototype.toJSON = () => { throw new Error('toJSON') }; [{}]",
    "delete Object.prototype.toJSON; delete Array.prototype.toJSON; String.prototype.toWellFormed = () => 5; 'a'",
    "Promise.prototype.then = () => { throw new Error('then') }; await new Promise((r) => setTimeout(r, 1))",
    "process.stdout.write = process.stderr.write = () => { throw new Error('write') }; Promise.reject(1); 1",
    "require('fs').writeSync = Buffer.from = () => { throw new Error('bytes') }; 1",
    "require('util').inspect = () => 5; [1]",
    "Object.keys = () => []; Array.isArray = () => true; ({ a: 1 })",
    "Error.prepareStackTrace = () => ({}); throw new Error('stack')",
]


def test_no_value_of_user_code_breaks_the_channel(js: Context) -> None:
    """What cannot be said becomes an error of its run; what is patched is not what the runner uses."""
    js.run("kept = 1")
    for code in HOSTILE:
        assert js.run(code).receipt["cause"] in ("ok", "error"), code
    assert js.value("kept") == "1"


def test_what_is_said_between_runs_comes_with_the_next(js: Context) -> None:
    js.run(
        "fs = require('fs'); timer = setInterval(() => { if (!fs.existsSync('/tmp/say')) return; clearInterval(timer);"
        " console.log('printed'); display(2, { displayId: 'x' }); fs.writeFileSync('/tmp/said', '') }, 5)"
    )
    wait = "touch /tmp/say; until [ -e /tmp/said ]; do sleep 0.01; done; rm /tmp/say /tmp/said"
    js.box.post("/command", json={"command": wait})
    assert js.run("3").order == ["printed", "=2", "=3"]


def test_code_that_waited_does_not_go_on_after_an_interrupt(js: Context) -> None:
    js.run("count = 0; tick = () => new Promise((resolve) => setTimeout(resolve, 50))")
    js.interrupted("for (;;) { await tick(); count += 1 }")
    before = js.value("count")
    assert js.value("await tick(); await tick(); await tick(); count") == before


def test_what_an_earlier_run_left_behind_can_be_interrupted(js: Context) -> None:
    js.run("kept = 1; setTimeout(() => { while (true) {} }, 200)")
    run = js.interrupted("await new Promise(() => {})")
    assert run.receipt["cause"] == "interrupted"
    events: list[dict[str, Any]] = []
    time.sleep(0.3)
    with js.box.stream("POST", "/code", json={"code": "1", "context": {"id": js.id}}) as answer:
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line))
            if events[-1]["type"] == "init":
                assert js.box.delete("/code", params={"id": js.id}).is_success
    assert Finished(events).receipt["cause"] == "interrupted"
    assert js.value("kept") == "1"


def test_a_run_whose_time_is_up_ends_and_keeps_the_state(js: Context) -> None:
    js.run("kept = 1")
    began = time.monotonic()
    assert js.run("while (true) {}", timeout=300).receipt["cause"] == "timeout"
    assert time.monotonic() - began < 4
    assert js.value("kept") == "1"


@pytest.mark.parametrize(
    ("code", "died_of", "exit_code"),
    [
        ("process.exit(3)", "exit", 3),
        ("await null; process.exit()", "exit", 0),
        ("process.kill(process.pid, 'SIGKILL')", "signal", 137),
    ],
)
def test_a_context_that_ends_says_how_and_begins_anew(js: Context, code: str, died_of: str, exit_code: int) -> None:
    run = js.run(f"console.log('last words'); {code}")
    receipt = run.receipt
    assert (receipt["cause"], receipt["died_of"], receipt.get("exit_code", 0)) == ("died", died_of, exit_code)
    assert run.printed() == "last words"
    assert js.box.post(f"/code/contexts/{js.id}/restart").json() == {"id": js.id, "language": "javascript"}
    assert js.value("1 + 1") == "2"


def test_input(js: Context) -> None:
    body = {
        "code": "const one = await input('name? '); one + await input('pin? ', { password: true })",
        "context": {"id": js.id},
        "allow_input": True,
    }
    events: list[dict[str, Any]] = []
    with js.box.stream("POST", "/code", json=body) as answer:
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line))
            if events[-1]["type"] == "input_request":
                assert js.box.post("/code/input", params={"id": js.id}, json={"text": events[-1]["prompt"]}).is_success
    asked = [(event["prompt"], event["password"]) for event in events if event["type"] == "input_request"]
    assert asked == [("name? ", False), ("pin? ", True)]
    assert Finished(events).value == "'name? pin? '"
    assert js.value("await input('nobody answers')") == "null"


def test_questions(js: Context) -> None:
    js.run(
        "longname = { inner: 1, get trap() { trapped = true } }; function greet(who, how = 'hi') { return how + who }"
    )

    def ask(what: str, **body: Any) -> dict[str, Any]:
        return dict(js.box.post(f"/code/contexts/{js.id}/{what}", json=body).json())

    assert ask("complete", code="f(longn)", cursor=7) == {"matches": ["longname"], "start": 2, "end": 7}
    assert ask("complete", code="'\U0001f355' + longname.in") == {"matches": ["inner"], "start": 15, "end": 17}
    assert "floor" in ask("complete", code="Math.")["matches"]
    assert "toUpperCase" in ask("complete", code="'x'.toU")["matches"]
    assert "greet(who, how = 'hi')" in ask("inspect", code="greet")["data"]["text/plain"]
    assert "return how + who" in ask("inspect", code="greet(1)", cursor=3, detail=True)["data"]["text/plain"]
    assert ask("inspect", code="zzz") == {"found": False, "data": {}}
    ask("complete", code="longname.trap.")
    assert js.value("typeof trapped") == "'undefined'"
