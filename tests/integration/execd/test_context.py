"""Python contexts as users get them: execd from its own tree, PID 1 of a container made from sandlot/python."""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiodocker
import pytest
import pytest_asyncio

from controlplane.link.link import Link
from controlplane.link.stream import Data, Stream
from controlplane.sandbox import EXECD_DIR
from execd.wire.frames import Channel
from execd.wire.messages import (
    CodeFrame,
    ContextClose,
    ContextDone,
    ContextError,
    ContextInterrupt,
    ContextOpen,
    ContextPrepare,
    ContextResult,
    ContextRun,
    ContextState,
    Done,
    SandboxClaim,
    SandboxClaimed,
)
from tests.support.agent.execd_link import ControlPlaneEnd, note

# One container for nearly all: each test has contexts of its own.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

IMAGE = "sandlot/python"
COMMAND = [f"{EXECD_DIR}/bin/python3", "-I", "-S", f"{EXECD_DIR}/boot.pyc", "/run/sandlot/link.sock"]

PNG = b"\x89PNG\r\n"
LOOP = "while True: pass"


class Finished(NamedTuple):
    """What one run gave, in order."""

    items: list[Data | ContextResult | ContextError]
    done: ContextDone

    def printed(self, channel: Channel = Channel.STDOUT) -> str:
        return b"".join(i.data for i in self.items if isinstance(i, Data) and i.channel == channel).decode()

    @property
    def results(self) -> list[ContextResult]:
        return [item for item in self.items if isinstance(item, ContextResult)]

    @property
    def text(self) -> str:
        """The value of the last expression, as text."""
        (result,) = [item for item in self.results if item.kind == "result"]
        return result.data["text/plain"]

    @property
    def error(self) -> ContextError:
        (error,) = [item for item in self.items if isinstance(item, ContextError)]
        return error

    def order(self) -> list[str]:
        """What arrived, in short: printed text as it is, adjacent pieces joined; displays in <>, results in =."""
        words: list[str] = []
        for item in self.items:
            match item:
                case Data(_, data):
                    if words and words[-1][0] not in "<=!":
                        words[-1] += data.decode()
                    else:
                        words.append(data.decode())
                case ContextResult("display", data):
                    words.append(f"<{'png' if 'image/png' in data else data['text/plain']}>")
                case ContextResult(_, data):
                    words.append(f"={data['text/plain']}")
                case ContextError(name):
                    words.append(f"!{name}")
        return words


class Sandbox:
    """A link to execd in a container."""

    def __init__(self, end: ControlPlaneEnd, link: Link) -> None:
        self.end = end
        self.link = link
        self._contexts = 0

    async def open(self, language: str = "python", cwd: str = "") -> Context:
        self._contexts += 1
        request = ContextOpen(f"c{self._contexts}", language, cwd)
        async with asyncio.timeout(120):
            state = await self.link.call(request, ContextState)
        return Context(self, state)


class Context:
    """One context and short ways to use it."""

    def __init__(self, sandbox: Sandbox, state: ContextState) -> None:
        self._sandbox = sandbox
        self.id = state.id
        self.pid = state.pid  # as the container numbers it

    async def start(self, code: str, timeout_s: float | None = None) -> Stream:
        return await self._sandbox.link.open(ContextRun(self.id, code, timeout_s))

    async def run(self, code: str, timeout_s: float | None = None) -> Finished:
        async with asyncio.timeout(60), await self.start(code, timeout_s) as stream:
            return await finish(stream)

    async def interrupt(self) -> None:
        await self._sandbox.link.call(ContextInterrupt(self.id), Done)

    async def close(self) -> None:
        await self._sandbox.link.call(ContextClose(self.id), Done)


async def finish(stream: Stream) -> Finished:
    items: list[Data | ContextResult | ContextError] = []
    item = None
    try:
        while (item := await stream.receive()) is not None:
            if isinstance(item, ContextDone):
                assert await stream.receive() is None
                return Finished(items, item)
            assert isinstance(item, Data | ContextResult | ContextError)
            items.append(item)
        pytest.fail("the stream ended without context.done")
    finally:
        note(item, items)


async def printed(stream: Stream) -> None:
    """Wait until a run has printed something: it is in the middle of its code then."""
    async with asyncio.timeout(30):
        assert isinstance(await stream.receive(), Data)


@contextlib.asynccontextmanager
async def sandbox_in(volume: str, *, is_prepared: bool = True, **more: Any) -> AsyncIterator[Sandbox]:
    """Start a container; *more* is its configuration, with `HostConfig` merged into ours."""
    host = more.pop("HostConfig", {})
    with tempfile.TemporaryDirectory(prefix="sandlot-") as folder:
        os.chmod(folder, 0o755)
        socket_path = Path(folder) / "link.sock"
        async with ControlPlaneEnd(socket_path) as end, aiodocker.Docker() as engine:
            socket_path.chmod(0o666)
            mounts = [
                {"Type": "volume", "Source": volume, "Target": EXECD_DIR, "ReadOnly": True},
                {"Type": "bind", "Source": folder, "Target": "/run/sandlot", "ReadOnly": True},
            ]
            host = {"NetworkMode": "none", "Mounts": mounts, **host}
            config = {"Image": IMAGE, "Entrypoint": COMMAND, "Cmd": [], "NetworkDisabled": True, **more}
            container = await engine.containers.create({**config, "HostConfig": host})
            try:
                await container.start()
                sandbox = Sandbox(end, await end.next_link())
                if is_prepared:
                    await sandbox.link.call(ContextPrepare(), Done)
                yield sandbox
            finally:
                await container.delete(force=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(volume: str) -> AsyncIterator[Sandbox]:
    async with sandbox_in(volume) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def context(sandbox: Sandbox) -> AsyncIterator[Context]:
    context = await sandbox.open()
    yield context
    with contextlib.suppress(Exception):
        await context.close()  # unless the test has


# -- values and output


async def test_names_live_from_run_to_run(context: Context) -> None:
    first = await context.run("x = 20\ndef f(n): return n + 1")
    second = await context.run("f(x)")

    assert (first.items, first.done.cause, first.done.execution_count) == ([], "ok", 1)
    assert (second.text, second.done.cause, second.done.execution_count) == ("21", "ok", 2)
    assert second.results[0].execution_count == 2
    assert (await context.run("Out[2], _2, In[2]")).text == "(21, 21, 'f(x)')"


async def test_contexts_share_nothing(sandbox: Sandbox, context: Context) -> None:
    other = await sandbox.open()
    await context.run("x = 1; import sys; sys.flag = 1")

    assert (await other.run("x")).error.name == "NameError"
    assert (await other.run("import sys; hasattr(sys, 'flag')")).text == "False"
    await other.close()


async def test_a_semicolon_hides_the_value_and_none_has_none(context: Context) -> None:
    assert (await context.run("5;")).items == []
    assert (await context.run("None")).items == []


async def test_everything_arrives_in_the_order_in_which_it_happened(context: Context) -> None:
    """Python's streams, C's, a child's, displays and the value: nothing overtakes."""
    run = await context.run(
        "import ctypes, os, subprocess, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "for i in range(5):\n"
        "    print('python', i)\n"
        "    libc.puts(b'C')\n"
        "    subprocess.run(['echo', 'child'])\n"
        "    os.system('echo system')\n"
        "    display(i)\n"
        "    sys.stdout.write('partial')\n"
        "    display('shown')\n"
        "    print('no end', end=' ')\n"
        "    subprocess.run(['echo', 'child'])\n"
        "    print('no end', end=' ')\n"
        "    os.system('echo system')\n"
        "libc.printf(b'unfinished')\n"
        "print('end')\n"
        "6"
    )

    ends = "no end child\nno end system\n"
    lines = [f"{ends if i else ''}python {i}\nC\nchild\nsystem\n" for i in range(5)]
    expected = [word for i in range(5) for word in (lines[i], f"<{i}>", "partial", "<'shown'>")]
    assert run.order() == [*expected, f"{ends}unfinishedend\n", "=6"]


async def test_stdout_and_stderr_are_told_apart(context: Context) -> None:
    run = await context.run("import sys; print('out'); print('err', file=sys.stderr)\n!echo child >&2")

    assert run.printed() == "out\n"
    assert run.printed(Channel.STDERR) == "err\nchild\n"


async def test_a_partial_line_arrives_at_the_end_of_the_run_and_a_whole_one_at_once(context: Context) -> None:
    stream = await context.start("import time\nprint('line')\nprint('part', end='')\nwhile not go: time.sleep(0.01)")
    assert (await context.run("1")).done.cause == "ok"  # `go` is not defined: the first run has ended
    async with asyncio.timeout(30):
        run = await finish(stream)

    assert run.order() == ["line\npart", "!NameError"]


async def test_text_is_utf_8_whatever_it_holds(context: Context) -> None:
    run = await context.run("print('grün 🌍\\u2028x'); print('\\ud800'); 'é\\ud800'")

    assert run.printed() == "grün 🌍\u2028x\n\\ud800\n"
    assert run.text == "'é\\ud800'"


async def test_much_output_arrives_whole(context: Context) -> None:
    run = await context.run("for i in range(200_000): print(i)")

    assert run.printed() == "".join(f"{i}\n" for i in range(200_000))


async def test_what_is_printed_is_not_kept_in_memory(context: Context) -> None:
    """IPython's own history would keep all of it."""
    peak = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    before = int((await context.run(peak)).text)
    await context.run("for i in range(60): print('x' * 1_000_000)")

    assert int((await context.run(peak)).text) - before < 30_000  # KiB


async def test_user_code_may_do_anything_to_its_streams(context: Context) -> None:
    await context.run("import sys, io; kept = sys.stdout; sys.stdout = io.StringIO(); print('hidden')")
    assert (await context.run("sys.stdout.getvalue()")).text == "'hidden\\n'"
    await context.run("sys.stdout = kept; sys.stderr = None")
    assert (await context.run("print('seen')")).printed() == "seen\n"
    await context.run("sys.stdout.close()")
    assert (await context.run("1 + 1")).text == "2"


# -- rich values


@pytest.mark.parametrize(
    ("code", "mime", "text"),
    [
        ("from IPython.display import HTML; HTML('<b>x</b>')", "text/html", "<b>x</b>"),
        ("from IPython.display import Markdown; Markdown('*x*')", "text/markdown", "*x*"),
        ("from IPython.display import Latex; Latex('$x$')", "text/latex", "$x$"),
        ("from IPython.display import SVG; SVG('<svg/>')", "image/svg+xml", "<svg/>"),
        ("from IPython.display import JSON; JSON({'a': [1, None]})", "application/json", '{"a": [1, null]}'),
        ("from IPython.display import Javascript; Javascript('1')", "application/javascript", "1"),
        ("class A:\n def _repr_png_(self): return b'bytes'\nA()", "image/png", base64.b64encode(b"bytes").decode()),
        ("class A:\n def _repr_mimebundle_(self, **_): return {'x/y': {'z': 1}}\nA()", "x/y", '{"z": 1}'),
    ],
)
async def test_a_value_comes_in_every_form_that_it_has(context: Context, code: str, mime: str, text: str) -> None:
    (result,) = (await context.run(code)).results

    assert result.kind == "result"
    assert result.data[mime] == text


async def test_user_code_may_give_a_builtin_type_another_form(context: Context) -> None:
    code = (
        "html = get_ipython().display_formatter.formatters['text/html']; html.for_type(int, lambda n: f'<b>{n}</b>'); 5"
    )

    assert (await context.run(code)).results[0].data == {"text/plain": "5", "text/html": "<b>5</b>"}
    assert (await context.run("%precision 2\n3.14159")).order()[-1] == "=3.14"


async def test_a_table_is_text_and_html(context: Context) -> None:
    run = await context.run("import pandas as pd\npd.DataFrame({'name': ['x'], 'n': [1]})")

    (result,) = run.results
    assert result.data["text/plain"].split() == ["name", "n", "0", "x", "1"]
    assert "<table" in result.data["text/html"]


async def test_a_traceback_is_told_as_calls_too(context: Context) -> None:
    """Of the run's own code on, the innermost last: of functions, of earlier runs, of modules, of code that awaits."""
    await context.run("def inner(x):\n    return 1 / x\ndef outer():\n    return inner(0)")
    raised = (await context.run("a = 1\nouter()")).error
    assert raised.frames == (
        CodeFrame("Cell In[2]", 2, "<module>", "outer()"),
        CodeFrame("Cell In[1]", 4, "outer", "return inner(0)"),
        CodeFrame("Cell In[1]", 2, "inner", "return 1 / x"),
    )
    awaited = (await context.run("import asyncio\nawait asyncio.sleep(0)\nouter()")).error
    assert [frame.line for frame in awaited.frames] == [3, 4, 2]
    elsewhere = (await context.run("import json; json.loads('{')")).error
    assert elsewhere.frames[0] == CodeFrame("Cell In[4]", 1, "<module>", "import json; json.loads('{')")
    assert elsewhere.frames[-1].file.endswith("/json/decoder.py")
    syntax = (await context.run("b = 1\nc = = 2")).error
    assert syntax.frames == (CodeFrame("Cell In[5]", 2, "", "c = = 2"),)
    wild = (await context.run("raise SyntaxError('m', ('f', 10**30, 0, 't'))")).error
    assert (wild.frames[-1].file, wild.frames[-1].line) == ("f", 2**31)
    endless = (await context.run("def f(): f()\nf()")).error
    assert (endless.name, len(endless.frames)) == ("RecursionError", 100)
    assert endless.frames[0].function == "<module>"


async def test_update_display_shows_again(context: Context) -> None:
    """And says what it takes the place of, also from a later run."""
    run = await context.run("shown = display('a', display_id=True); shown.update('b'); display('c')")
    later = await context.run("shown.update('d'); display('e', display_id='mine');")

    assert run.order() == ["<'a'>", "<'b'>", "<'c'>"]
    name = run.results[0].display_id
    assert name
    shown = [(one.display_id, one.update) for one in (*run.results, *later.results)]
    assert shown == [(name, False), (name, True), ("", False), (name, True), ("mine", False)]


async def test_figures_are_shown_at_the_end_of_the_run_in_order_and_closed(context: Context) -> None:
    run = await context.run(
        "import matplotlib.pyplot as plt\n"
        "plt.figure(figsize=(1, 1)); plt.plot([1, 2])\n"
        "plt.figure(figsize=(2, 2)); plt.plot([2, 1]);\n"
        "print('drawn')"
    )

    assert run.order() == ["drawn\n", "<png>", "<png>"]
    first, second = (base64.b64decode(shown.data["image/png"]) for shown in run.results)
    assert first.startswith(PNG)
    assert second.startswith(PNG)
    assert int.from_bytes(first[16:20]) < int.from_bytes(second[16:20])  # the widths
    assert (await context.run("plt.get_fignums()")).text == "[]"
    assert (await context.run("1")).order() == ["=1"]


async def test_show_shows_where_it_stands(context: Context) -> None:
    run = await context.run(
        "%matplotlib inline\n"
        "import matplotlib.pyplot as plt\n"
        "print('a'); plt.plot([1]); plt.show(); print('b'); plt.plot([2]); plt.show(); print('c'); plt.show()"
    )

    assert run.order() == ["a\n", "<png>", "b\n", "<png>", "c\n"]


async def test_a_figure_that_is_the_value_is_shown_once(context: Context) -> None:
    run = await context.run("import matplotlib.pyplot as plt\nfig, ax = plt.subplots(); ax.plot([1])\nfig")

    assert [(shown.kind, "image/png" in shown.data) for shown in run.results] == [("result", True)]


async def test_a_figure_is_shown_although_the_code_failed_after_it(context: Context) -> None:
    run = await context.run("import matplotlib.pyplot as plt\nplt.plot([1])\n1/0")

    assert run.order() == ["!ZeroDivisionError", "<png>"]


async def test_a_figure_that_cannot_be_drawn_is_an_error_and_is_closed(context: Context) -> None:
    run = await context.run("import matplotlib.pyplot as plt; plt.title('$\\\\frac{$'); plt.show(); print('on')")

    assert run.error.name == "ValueError"
    assert run.printed() == "on\n"
    assert (await context.run("plt.get_fignums()")).text == "[]"


async def test_another_backend_that_the_code_chose_is_left_alone(context: Context) -> None:
    run = await context.run(
        "import matplotlib; matplotlib.use('Agg')\n"
        "import matplotlib.pyplot as plt; plt.plot([1]); plt.savefig('/tmp/x.png')\n"
        "open('/tmp/x.png', 'rb').read(4)"
    )

    assert run.order() == ["=b'\\x89PNG'"]


async def test_programs_started_from_a_context_see_nothing_of_our_backend(context: Context) -> None:
    code = "import matplotlib.pyplot as p; p.plot([1]); p.savefig('/tmp/y.png'); print(p.get_backend())"
    run = await context.run(f"import os; 'MPLBACKEND' in os.environ\n!python3 -c \"{code}\"")

    assert run.printed() == "agg\n"


async def test_what_is_too_large_to_show_is_told_and_ends_nothing(context: Context) -> None:
    run = await context.run("display({'text/plain': 'x' * 20_000_000}, raw=True); print('on')\n'y' * 20_000_000")

    shown, result = run.results
    assert shown.data["text/plain"].startswith("(not shown: 20000")
    assert "not shown" in result.data["text/plain"]
    assert run.printed() == "on\n"
    assert (await context.run("_")).done.cause == "ok"


# -- errors and ends


async def test_an_exception_is_told_with_its_traceback_in_plain_text(context: Context) -> None:
    run = await context.run("x = 1\ndef f():\n    return 1/0\nf()")

    assert (run.error.name, run.error.value, run.done.cause) == ("ZeroDivisionError", "division by zero", "error")
    traceback = "\n".join(run.error.traceback)
    assert "----> 4 f()" in traceback
    assert "Cell In[1], line 3, in f()" in traceback
    assert "\x1b" not in traceback
    assert run.printed(Channel.STDERR) == ""
    assert (await context.run("x")).text == "1"


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("def f(:", "SyntaxError", "invalid syntax"),
        (" x = 1\n  y = 2", "IndentationError", "unexpected indent"),
        ("return 1", "SyntaxError", "'return' outside function"),
        ("raise ExceptionGroup('several', [ValueError('one'), KeyError('two')])", "ExceptionGroup", "ValueError: one"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("%no_such_magic", "UsageError", "no_such_magic"),
        ("%load_ext no_such_extension", "ModuleNotFoundError", "no_such_extension"),
        ("class E(Exception):\n def __str__(self): raise ValueError\nraise E", "E", ""),
        ("class E(BaseException): pass\nraise E('odd')", "E", "odd"),
        ("input('name?')", "EOFError", "nobody can answer input()"),
    ],
)
async def test_every_kind_of_error_is_told_once_and_the_context_lives(
    context: Context, code: str, name: str, words: str
) -> None:
    run = await context.run(code)

    assert run.error.name == name
    assert words in "\n".join((run.error.value, *run.error.traceback))
    assert "sandlot_python" not in "\n".join(run.error.traceback)
    assert run.done.cause == ("interrupted" if name == "KeyboardInterrupt" else "error")
    assert (await context.run("1")).order() == ["=1"]


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "exit()", "quit()", "raise SystemExit('why')"])
async def test_exit_ends_the_run_and_not_the_context(context: Context, code: str) -> None:
    run = await context.run(f"x = 1\n{code}\nprint('not reached')")

    assert run.order() == ["!SystemExit"]  # and no advice how to leave IPython
    assert run.done.cause == "error"
    assert (await context.run("x")).text == "1"


async def test_a_fork_that_comes_to_the_end_of_the_run_says_nothing_in_its_parent_s_name(context: Context) -> None:
    run = await context.run(
        "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')"
    )

    assert sorted(run.printed().split()) == ["child", "parent"]
    assert (await context.run("1")).order() == ["=1"]


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("import os; os._exit(7)", "its process exited with status 7", ""),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("import os; os.abort()", "killed by SIGABRT", "Fatal Python error: Aborted"),
    ],
)
async def test_a_crash_is_told_with_its_cause_and_others_live_on(
    sandbox: Sandbox, context: Context, code: str, message: str, said: str
) -> None:
    other = await sandbox.open()

    run = await context.run(f"print('before')\n{code}")

    assert (run.done.cause, run.done.died_of) == ("died", "exit" if "_exit" in code else "signal")
    assert message in run.done.message
    assert run.printed() == "before\n"
    assert said in run.printed(Channel.STDERR)
    assert (await other.run("1")).order() == ["=1"]
    await other.close()


async def test_a_context_that_outlives_its_zygote_still_ends_with_its_cause(sandbox: Sandbox) -> None:
    """Its process is execd's own child then; and a new context gets a new zygote."""
    orphan = await sandbox.open()
    await orphan.run("import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nwhile os.getppid() != 1: pass")

    run = await orphan.run("import ctypes; ctypes.string_at(0)")

    assert (run.done.cause, run.done.died_of, run.done.exit_code) == ("died", "signal", 139)
    assert "killed by SIGSEGV" in run.done.message
    other = await sandbox.open()
    assert (await other.run("6 * 7")).text == "42"
    await other.close()


async def test_out_of_memory_is_named_as_the_cause_and_others_live_on(volume: str) -> None:
    limit = 400 << 20
    async with sandbox_in(volume, HostConfig={"Memory": limit, "MemorySwap": limit}) as sandbox:
        greedy, other = await sandbox.open(), await sandbox.open()
        await other.run("x = 1")

        run = await greedy.run("kept = [bytearray(10 << 20) for _ in range(100)]")

        assert (run.done.cause, run.done.died_of, run.done.exit_code) == ("died", "oom", 137)
        assert run.done.limits_hit == ("memory",)
        assert run.done.message.endswith("SIGKILL (Killed): the sandbox was out of memory")
        assert (await other.run("x")).text == "1"
        assert (await (await sandbox.open()).run("2")).text == "2"


# -- interrupts


@pytest.mark.parametrize(
    "code",
    [
        LOOP,
        "import time; time.sleep(60)",
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio\nwhile True: await asyncio.sleep(0)",
        "!sleep 60",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "import threading; threading.Event().wait()",
        "get_ipython().run_cell_magic('bash', '', 'sleep 60')",
        "while True: print('x' * 1000)",
        "while True: display(1)",
    ],
)
async def test_an_interrupt_ends_the_run_and_keeps_the_state(context: Context, code: str) -> None:
    await context.run("x = 1")
    stream = await context.start(f"print('go')\n{code}")
    await printed(stream)

    await context.interrupt()

    async with asyncio.timeout(30):
        run = await finish(stream)
    assert run.done.cause == "interrupted"
    assert run.error.name == "KeyboardInterrupt"
    assert "sandlot_python" not in "\n".join(run.error.traceback)
    after = await context.run("import asyncio; await asyncio.sleep(0)\nx")
    assert after.order() == ["=1"]


async def test_an_interrupt_ends_a_callback_that_keeps_the_loop_busy(context: Context) -> None:
    """It strikes the callback, while the cell itself awaits."""
    stream = await context.start("""
import asyncio
def busy():
    print("go")
    while True: pass
asyncio.get_running_loop().call_soon(busy)
await asyncio.sleep(60)""")
    await printed(stream)

    await context.interrupt()

    async with asyncio.timeout(30):
        assert (await finish(stream)).done.cause == "interrupted"


async def test_an_interrupt_wakes_an_await_that_the_signal_itself_does_not_wake(context: Context) -> None:
    """As when it comes just before the loop falls asleep: here, another thread is the one that it breaks off."""
    stream = await context.start("""
import asyncio, signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
asyncio.get_running_loop().call_soon(print, "go")
await asyncio.sleep(60)""")
    await printed(stream)

    for _ in range(2):  # the first may find the loop awake
        await context.interrupt()

    async with asyncio.timeout(30):
        assert (await finish(stream)).done.cause == "interrupted"


async def test_an_interrupt_right_after_the_start_of_a_run_is_never_lost(context: Context) -> None:
    for _ in range(20):
        stream = await context.start("import time; time.sleep(60)")
        await context.interrupt()
        async with asyncio.timeout(30):
            assert (await finish(stream)).done.cause == "interrupted"


async def test_an_interrupt_between_runs_hurts_nothing(context: Context) -> None:
    for i in range(20):
        await context.interrupt()
        assert (await context.run(f"{i}")).order() == [f"={i}"]


async def test_code_may_handle_the_interrupt(context: Context) -> None:
    stream = await context.start(
        "import time\ntry:\n    print('go')\n    time.sleep(60)\nexcept KeyboardInterrupt: print('caught')\n1"
    )
    await printed(stream)
    await context.interrupt()

    async with asyncio.timeout(30):
        assert (await finish(stream)).order() == ["caught\n", "=1"]


async def test_a_handler_that_code_left_behind_does_not_stop_the_next_interrupt(context: Context) -> None:
    await context.run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")

    assert (await context.run(LOOP, timeout_s=0.2)).done.cause == "timeout"


async def test_a_timeout_is_told_as_such_and_keeps_the_state(context: Context) -> None:
    run = await context.run("x = 1\nprint('before')\nwhile True: pass", timeout_s=0.3)

    assert (run.printed(), run.error.name, run.done.cause) == ("before\n", "KeyboardInterrupt", "timeout")
    assert 0.3 <= run.done.wall_s < 5
    assert (await context.run("x")).text == "1"


# -- what IPython brings


async def test_top_level_await_and_tasks_that_go_on(context: Context) -> None:
    run = await context.run(
        "import asyncio\n"
        "async def later():\n"
        "    await asyncio.sleep(0.01); print('task')\n"
        "    return 5\n"
        "task = asyncio.ensure_future(later())\n"
        "await asyncio.sleep(0)\n"
        "print('first')"
    )
    second = await context.run("await task")

    assert run.order() == ["first\n"]
    assert second.order() == ["task\n", "=5"]
    assert (await context.run("asyncio.run(later())")).order() == ["task\n", "=5"]


@pytest.mark.parametrize(
    ("code", "order"),
    [
        ("!echo hi", ["hi\n"]),
        ("word = 'hi'\n!echo {word} $word", ["hi hi\n"]),
        ("lines = !printf 'a\\nb\\n'\nlines", ["=['a', 'b']"]),
        ("!exit 3\n_exit_code", ["=3"]),
        ("%%bash\necho one; echo two", ["one\ntwo\n"]),
        ("%cd /tmp\nimport os; os.getcwd()", ["/tmp\n", "='/tmp'"]),
        ("%env SANDLOT_TEST=1\n!echo $SANDLOT_TEST", ["env: SANDLOT_TEST=1\n1\n"]),
        ("%%writefile /tmp/made.py\nvalue = 7\n", ["Writing /tmp/made.py\n"]),
        ("%load_ext autoreload\n%autoreload 2", []),
        ("%config InlineBackend.figure_format = 'svg'\n1", ["=1"]),
    ],
)
async def test_magics_and_shell_commands_work(context: Context, code: str, order: list[str]) -> None:
    await context.run("import os; os.path.exists('/tmp/made.py') and os.remove('/tmp/made.py')")

    run = await context.run(code)

    assert [word for word in run.order() if "Config" not in word] == order
    assert run.done.cause == "ok"


async def test_modules_come_from_the_working_directory_as_it_is_now(context: Context) -> None:
    run = await context.run(
        "import os, tempfile; os.chdir(tempfile.mkdtemp())\n"
        "open('shell.py', 'w').write('mine = 1')\n"
        "import shell\n"
        "shell.mine"
    )

    assert run.text == "1"


async def test_background_threads_and_pickles_of_what_was_defined_here_work(context: Context) -> None:
    run = await context.run(
        "import multiprocessing, pickle, threading\n"
        "class Point: pass\n"
        "def square(n): return n * n\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: squares = pool.map(square, range(4))\n"
        "squares, type(pickle.loads(pickle.dumps(Point()))) is Point"
    )

    assert run.order() == ["thread\n", "=([0, 1, 4, 9], True)"]


# -- the fork


async def test_contexts_draw_different_random_numbers(sandbox: Sandbox) -> None:
    contexts = [await sandbox.open() for _ in range(3)]
    sources = "random.random(), numpy.random.rand(), numpy.random.default_rng().random(), uuid.uuid4()"
    code = f"import random, numpy, uuid\n[str(number) for number in ({sources})]"

    drawn = [(await context.run(code)).text for context in contexts]

    numbers = [ast.literal_eval(text) for text in drawn]
    assert [len(set(column)) for column in zip(*numbers, strict=True)] == [3, 3, 3, 3]
    for context in contexts:
        await context.close()


async def test_the_zygote_has_one_thread_and_its_children_compute_with_many(context: Context) -> None:
    run = await context.run(
        "import os, numpy\n"
        "zygote = os.listdir(f'/proc/{os.getppid()}/task')\n"
        "one = numpy.random.rand(700, 700)\n"
        "exact = numpy.allclose(one @ one, numpy.einsum('ij,jk', one, one))\n"
        "inverse = numpy.allclose(numpy.linalg.inv(one) @ one, numpy.eye(700), atol=1e-6)\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "len(zygote), exact, inverse, threads == len(os.sched_getaffinity(0)) or threads"
    )

    assert run.text == "(1, True, True, True)"


async def test_preloaded_libraries_are_there_and_imported_at_once(sandbox: Sandbox) -> None:
    await sandbox.link.call(ContextPrepare("python"), Done)  # another test has killed what has them
    context = await sandbox.open()
    run = await context.run("import sys, time; {'numpy', 'pandas', 'matplotlib.pyplot'} <= set(sys.modules)")

    assert run.text == "True"
    await context.close()


LOADED = "import sys\n'pandas' in sys.modules, 'asyncio' in sys.modules"


async def test_the_first_context_of_a_cold_sandbox_waits_for_no_library(volume: str) -> None:
    """It imports by itself what it needs; later ones have it, once it has been loaded behind the first."""
    async with sandbox_in(volume, is_prepared=False) as sandbox:
        first = await sandbox.open()
        assert (await first.run(LOADED)).text == "(False, False)"
        assert (await first.run("import pandas\npandas.Series([1, 2]).sum()")).text == "np.int64(3)"
        assert (await first.run("import asyncio\nawait asyncio.sleep(0, 5)")).text == "5"
        await sandbox.link.call(ContextPrepare("python"), Done)
        second = await sandbox.open()
        assert (await second.run(LOADED)).text == "(True, True)"
        assert (await first.run("1 + 1")).text == "2"


async def test_a_sandbox_with_no_room_for_the_libraries_has_contexts(volume: str) -> None:
    """Nothing is loaded behind them: contexts come from a zygote without the libraries."""
    limits = {"Memory": 64 << 20, "MemorySwap": 64 << 20}
    async with sandbox_in(volume, is_prepared=False, HostConfig=limits) as sandbox:
        first = await sandbox.open()
        await first.run("kept = 7")
        await sandbox.link.call(ContextPrepare("python"), Done)
        assert (await first.run("kept")).text == "7"
        second = await sandbox.open()
        assert (await second.run("import sys; 1 + 1, 'pandas' in sys.modules")).text == "(2, False)"


async def test_a_context_leaves_no_file_and_no_thread_of_its_own(context: Context) -> None:
    run = await context.run(
        "import os, threading\nhome = os.path.expanduser('~')\n"
        "os.path.exists(f'{home}/.ipython'), threading.active_count(), sorted(os.listdir('/proc/self/fd'))[:3]"
    )

    assert run.text == "(False, 1, ['0', '1', '2'])"
    assert (await context.run("!ls -l /proc/$$/fd | grep -c socket")).printed() == "0\n"


async def test_the_claim_reaches_contexts_although_the_zygote_was_there_before(volume: str) -> None:
    async with sandbox_in(volume) as sandbox:
        early = await sandbox.open()
        env = {"FROM_CLAIM": "1", "TZ": "Asia/Tokyo", "PYTHONPATH": "/tmp/modules", "HOME": "/tmp/home"}
        async with await sandbox.link.open(SandboxClaim("s1", env=env, cwd="/tmp")) as claim:
            await claim.expect(SandboxClaimed)
        late = await sandbox.open()

        seen = "os.environ.get('FROM_CLAIM'), os.getcwd(), time.tzname[0], '/tmp/modules' in sys.path"
        code = f"import os, sys, time; {seen}"
        assert (await late.run(code)).text == "('1', '/tmp', 'JST', True)"
        assert (await early.run(code)).text.startswith("(None, ")
        assert (await late.run("!echo $FROM_CLAIM $SANDLOT_ZYGOTE_FD$SANDLOT_PRELOAD")).printed() == "1\n"


async def test_it_works_without_a_home_an_account_or_a_writable_root(volume: str) -> None:
    host = {
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Tmpfs": {"/tmp": "rw,mode=1777"},
    }
    async with sandbox_in(volume, User="4242:4242", Env=["HOME=/nowhere"], HostConfig=host) as sandbox:
        context = await sandbox.open(cwd="/tmp")
        run = await context.run(
            "import os, matplotlib.pyplot as plt\nplt.plot([1]); plt.show()\nprint(os.getuid())\n!echo child\n1"
        )

        assert run.order() == ["<png>", "4242\nchild\n", "=1"]


async def test_contexts_outlive_the_control_plane(sandbox: Sandbox, context: Context) -> None:
    await context.run("x = 1")

    await sandbox.link.aclose()
    sandbox.link = await sandbox.end.next_link()

    assert (await context.run("x")).text == "1"
