"""What user code may do to the runner of Python contexts, and what a context promises beyond its values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.agent.python_contexts import PATIENCE_S, PythonContext, PythonSandbox, python_sandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PythonSandbox]:
    async with python_sandbox(tmp_path_factory.mktemp("python"), []) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def context(sandbox: PythonSandbox) -> AsyncIterator[PythonContext]:
    context = await sandbox.open()
    yield context
    await context.close()


# -- values of user code reach execd only as what the protocol can say

NAN = "float('nan')"
FINE = [
    (f"display({{'text/plain': 'a'}}, raw=True, metadata={{'n': {NAN}}})", {"text/plain": "a"}),
    ("display({'text/plain': 'a'}, raw=True, metadata={1: object()})", {"text/plain": "a"}),
    ("display({'text/plain': 'a', 5: 'b'}, raw=True)", {"text/plain": "a", "5": "b"}),
    ("display({'text/plain': 'a', 'x/none': None}, raw=True)", {"text/plain": "a"}),
    ("display({'x/bytes': b'\\xff', 'x/number': 5}, raw=True)", {"x/bytes": "/w==", "x/number": "5"}),
    ("display({'text/plain': '\\ud800!'}, raw=True)", {"text/plain": "?!"}),
    ("display({'text/\\udfff': 'a'}, raw=True)", {"text/?": "a"}),
    ("class S(str):\n  def __str__(s): return 'other'\ndisplay({S('a/b'): S('x')}, raw=True)", {"a/b": "x"}),
    (
        "class R: _repr_mimebundle_ = lambda s, **k: ({'text/plain': 'r'}, {'image/png': {'w': float('nan')}})\nR()",
        {"text/plain": "r"},
    ),
    ("display({'a/b': {'d': [1, 2]}}, raw=True, transient={'display_id': 5})", {"a/b": '{"d": [1, 2]}'}),
    ("display({'a/b': 'x'}, raw=True, transient={'display_id': '\\udc00' * 300})", {"a/b": "x"}),
]


@pytest.mark.parametrize(("code", "data"), FINE)
async def test_what_is_shown_is_shown_as_text(context: PythonContext, code: str, data: dict[str, str]) -> None:
    run = await context.run(code)
    assert (run.done.cause, run.error, [one.data for one in run.results]) == ("ok", None, [data])
    assert (await context.run("1 + 1")).text == "2"


JSON_VALUES = [
    ("{'a': float('nan'), 'b': [float('inf'), -float('inf')], 'c': 1.5}", {"a": None, "b": [None, None], "c": 1.5}),
    (
        "{1: 'a', None: 'b', False: 'c', 1.5: 'd', (1, 2): 'e'}",
        {"1": "a", "null": "b", "false": "c", "1.5": "d", "(1, 2)": "e"},
    ),
    ("{'b': b'\\xff', 's': {3}, 't': (1, 2), 'n': 2**70}", {"b": "/w==", "s": [3], "t": [1, 2], "n": 2**70}),
    ("{'s': '\\ud800', 'o': object}", {"s": "?", "o": "<class 'object'>"}),
    ("{'f': __import__('fractions').Fraction(1, 2), 'd': __import__('decimal').Decimal('nan')}", {"f": 0.5, "d": None}),
    ("{float('nan'): 1}", {"nan": 1}),
]


@pytest.mark.parametrize(("value", "expected"), JSON_VALUES)
async def test_json_is_json(context: PythonContext, value: str, expected: object) -> None:
    """As other languages read it: no NaN, no lone surrogates."""

    def refuse(word: str) -> object:
        raise AssertionError(word)

    run = await context.run(f"from IPython.display import JSON\ndisplay(JSON({value}))")
    ((shown),) = run.results
    assert json.loads(shown.data["application/json"], parse_constant=refuse) == expected


async def test_numpy_s_numbers_are_numbers(context: PythonContext) -> None:
    run = await context.run(
        "import numpy as np\n"
        "class R: _repr_mimebundle_ = lambda s, **k: {'application/json': {'a': np.float64('nan'), 'b': np.int64(3),"
        " 'c': np.float32(0.5), 'd': np.bool_(True), 'e': np.array([1, 2])}}\nR()"
    )
    assert json.loads(run.results[0].data["application/json"]) == {"a": None, "b": 3, "c": 0.5, "d": True, "e": [1, 2]}


DEEP = "x = []\nfor _ in range(100_000): x = [x]\n"
REFUSED = [
    (f"{DEEP}display({{'a/b': x}}, raw=True)", "RecursionError"),
    ("x = []; x.append(x); display({'a/b': x}, raw=True)", "RecursionError"),
    ("display({'a/b': 10**5000}, raw=True)", "ValueError"),
    ("class B:\n  def __repr__(s): raise OSError('no')\ndisplay({'a/b': [B()]}, raw=True)", "OSError"),
    ("class B:\n  def __str__(s): raise OSError('no')\ndisplay({B(): 'a'}, raw=True)", "OSError"),
    (
        "class B:\n  def __str__(s): raise OSError('no')\n"
        "display({'a/b': 'a'}, raw=True, transient={'display_id': B()})",
        "OSError",
    ),
    ("display({f'a/{i}': '' for i in range(1001)}, raw=True)", "ValueError"),
    ("class E(Exception):\n  def __str__(s): raise OSError('no')\nraise E", "E"),
    ("class E(Exception):\n  def __str__(s): return 5\nraise E", "E"),
    ("class E(Exception):\n  def __str__(s): return '\\ud800'\nraise E", "E"),
    ("class E(Exception):\n  def _render_traceback_(s): return 5\nraise E", "E"),
    ("class E(Exception):\n  def _render_traceback_(s): return [5, None, '\\ud800']\nraise E", "E"),
    ("class E(Exception):\n  def _render_traceback_(s): return ['x'] * 200_000\nraise E", "E"),
    (
        "class M(type):\n  @property\n  def __name__(c): raise OSError('no')\n"
        "class E(Exception, metaclass=M): pass\nraise E",
        "OSError",
    ),
    ("class M(type):\n  @property\n  def __name__(c): return 5\nclass E(Exception, metaclass=M): pass\nraise E", "E"),
    ("class E(SystemExit):\n  def __str__(s): raise OSError('no')\nraise E", "E"),
    ("class E(Exception):\n  __class__ = property(lambda s: 1/0)\nraise E", "E"),
    ("import traceback\ntraceback.walk_tb = None\n1 / 0", "ZeroDivisionError"),
    ("exec(compile('\\n' * 5 + '1 / 0', '\\udcff', 'exec'))", "ZeroDivisionError"),
    (
        "f = lambda: 1 / 0\nf.__code__ = f.__code__.replace(co_name='\\ud800', co_firstlineno=2**31 - 1)\nf()",
        "ZeroDivisionError",
    ),
    ("e = SyntaxError('x'); e.lineno = 2**80; e.filename = 'f'; raise e", "SyntaxError"),
    (
        "e = SyntaxError('x'); e.lineno = -2**80; e.filename = '\\ud800'; e.text = 5; e.offset = 'a'; raise e",
        "SyntaxError",
    ),
]


@pytest.mark.parametrize(("code", "name"), REFUSED)
async def test_what_cannot_be_said_is_an_error_of_its_run(context: PythonContext, code: str, name: str) -> None:
    """And of no other."""
    await context.run("kept = 7")
    run = await context.run(code)
    assert (run.done.cause, run.error and run.error.name) == ("error", name)
    assert (await context.run("kept")).text == "7"


COUNTS = [("2**70", 2**63 - 1), ("-5", 0), ("True", 1), ("2**63 - 1", 2**63 - 1)]


@pytest.mark.parametrize(("count", "told"), COUNTS)
async def test_a_count_that_cannot_be_is_told_as_the_nearest_that_can(
    context: PythonContext, count: str, told: int
) -> None:
    await context.run(f"kept = 7; get_ipython().execution_count = {count}")
    run = await context.run("kept")
    assert (run.text, run.done.execution_count, run.results[0].execution_count) == ("7", told, told)


HOSTILE = [
    "import json; json.dumps = json.loads = json.JSONEncoder.encode = json.JSONDecoder.decode = None",
    "import json; json.JSONEncoder.default = lambda self, value: 1 / 0; json.encoder.encode_basestring = None",
    "import sys; sys.stdout = sys.stderr = None",
    "import sys; sys.stdout = sys.stderr = sys.__stdout__ = 5",
    "import builtins; builtins.print = None",
    "import sys; sys.displayhook = sys.excepthook = None",
    "import select, signal, socket, threading, os\n"
    "select.select = socket.socket = socket.socketpair = threading.current_thread = threading.main_thread = None",
    "import os, signal, time; os.getpid = signal.signal = signal.getsignal = time.sleep = time.time = None",
    "import threading; threading.Lock = threading.RLock = None",
    "import os; os.write = os.read = os.pipe = None",
    "get_ipython().channel = None",
    "get_ipython().channel = get_ipython().interrupts = get_ipython().may_ask = 5",
    "get_ipython().flush = None",
    "get_ipython().flush_c = 5",
    "get_ipython().errors_shown = 'x'",
    "get_ipython().interrupted = 'x'",
    "get_ipython().ask = None",
    "import gc; gc.collect = gc.freeze = None",
    "import IPython.display; IPython.display.display = None",
    "import asyncio; asyncio.new_event_loop = asyncio.get_running_loop = None",
    "import functools, traceback; traceback.format_exception = traceback.print_exc = None",
    "class D(dict): __missing__ = None\nget_ipython().user_ns_hidden = D()",
    "del get_ipython, display",
]


@pytest.mark.parametrize("code", HOSTILE)
async def test_a_context_outlives_what_is_put_in_the_place_of_its_parts(context: PythonContext, code: str) -> None:
    await context.run("kept = 7")
    await context.run(code)
    assert (await context.run("1 / 0")).error.name == "ZeroDivisionError"  # type: ignore[union-attr]
    run = await context.run("kept")
    assert (run.text, run.done.cause) == ("7", "ok")


BROKEN = [
    "import linecache; linecache.cache = None",
    "get_ipython().show = get_ipython().show_error = None",
    "get_ipython().run_cell = None",
    "get_ipython().run_cell = lambda *a, **k: None",
    "get_ipython().run_cell = lambda *a, **k: 1 / 0",
    "get_ipython().compile = None",
    "get_ipython().display_formatter = None",
    "get_ipython().displayhook = None",
    "get_ipython().showtraceback = None",
    "get_ipython()._showtraceback = None",
    "get_ipython().events = None",
    "get_ipython().history_manager = None",
    "get_ipython().input_transformer_manager = None",
    "get_ipython().InteractiveTB = None",
    "import sys; sys.modules.clear()",
]


@pytest.mark.parametrize("code", BROKEN)
async def test_a_broken_shell_makes_errors_of_runs_and_nothing_worse(context: PythonContext, code: str) -> None:
    """Who breaks it has a context that is of little use, but one that answers."""
    await context.run(code)
    for _ in range(2):
        run = await context.run("1 / 0")
        assert run.done.cause in ("ok", "error")
    assert (await context.run("2")).done.cause in ("ok", "error")


async def test_an_alarm_in_the_middle_of_a_message_breaks_no_message(context: PythonContext) -> None:
    """Timeouts are often made by a signal whose handler raises."""
    run = await context.run(
        "import signal\n"
        "def strike(*_): raise TimeoutError\n"
        "signal.signal(signal.SIGALRM, strike)\n"
        "struck = 0\n"
        "for number in range(60):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0001 * (number + 1))\n"
        "        while True: display({'a/b': 'x' * 1_000_000}, raw=True)\n"
        "    except TimeoutError:\n"
        "        struck += 1\n"
        "struck"
    )
    assert run.text == "60"
    assert all(one.data == {"a/b": "x" * 1_000_000} for one in run.results if one.kind == "display")


# -- __main__ is a module as any other

MODULE = (
    "__spec__, __doc__, __package__, __loader__, __name__, __import__('sys').modules['__main__'].__dict__ is globals()"
)


@pytest.mark.parametrize("before", ["", "%reset -f", "get_ipython().reset()", "x = 1\n%reset -f in out", "%reset -sf"])
async def test_main_is_a_fresh_module(context: PythonContext, before: str) -> None:
    await context.run(before)
    assert (await context.run(MODULE)).text == "(None, None, None, None, '__main__', True)"
    assert (await context.run("print(__doc__)")).printed() == "None\n"
    error = (await context.run("import importlib.util; importlib.util.find_spec('__main__')")).error
    assert error is not None
    assert (error.name, error.value) == ("ValueError", "__main__.__spec__ is None")


POOLS = [
    "with mp.get_context('{how}').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
    "with ProcessPoolExecutor(2, mp_context=mp.get_context('{how}')) as pool: print(list(pool.map(abs, [-1, -2])))",
    "mp.set_start_method('{how}')\nwith mp.Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
]


@pytest.mark.parametrize("how", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("pool", POOLS)
async def test_processes_can_be_started_in_every_way(context: PythonContext, pool: str, how: str) -> None:
    begin = "import multiprocessing as mp\nfrom concurrent.futures import ProcessPoolExecutor\n"
    run = await context.run(begin + pool.format(how=how))
    assert (run.printed(), run.done.cause) == ("[1, 2]\n", "ok")


async def test_spawned_processes_import_from_the_working_directory(
    sandbox: PythonSandbox, context: PythonContext
) -> None:
    run = await context.run(
        "from pathlib import Path\nPath('beside.py').write_text('def twice(x): return 2 * x')\n"
        "import beside, multiprocessing as mp\n"
        "with mp.get_context('spawn').Pool(1) as pool: print(pool.map(beside.twice, [21]))"
    )
    assert run.printed() == "[42]\n"


# -- copies that the code makes of its process

ENDS = [
    ("sys.exit(7)", 7, ""),
    ("sys.exit(0)", 0, ""),
    ("sys.exit()", 0, ""),
    ("sys.exit('text')", 1, "text\n"),
    ("sys.exit(2**8 + 3)", 3, ""),
    ("sys.exit(-1)", 255, ""),
    ("sys.exit(2**70)", 255, ""),
    ("sys.exit(True)", 1, ""),
    ("os._exit(9)", 9, ""),
    ("raise ValueError('in the child')", 1, "ValueError: in the child"),
    ("pass", 0, ""),
    ("exit()", 0, ""),
    ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    ("class E(SystemExit): code = property(lambda s: 1 / 0)\n    raise E", 1, ""),
    ("print('last', end='')", 0, ""),
]


@pytest.mark.parametrize(("end", "status", "said"), ENDS)
async def test_a_child_ends_as_a_program_would(context: PythonContext, end: str, status: int, said: str) -> None:
    run = await context.run(
        f"import os, sys\nif not (pid := os.fork()):\n    {end}\nelse:\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert run.printed() in (f"{status}\n", f"last{status}\n")
    assert said in run.stderr
    assert (run.done.cause, run.error) == ("ok", None)
    assert (await context.run("1 + 1")).text == "2"


# -- what goes on between runs

SERVER = """
import asyncio
async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()
server = await asyncio.start_server(answer, '127.0.0.1', 0)
server.sockets[0].getsockname()[1]
"""


async def appears(path: Path) -> None:
    """Wait for a file that another process makes."""
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)


async def ask(port: int, text: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def test_a_server_serves_between_runs(context: PythonContext) -> None:
    port = int((await context.run(SERVER)).text)
    assert await ask(port, b"one\n") == b"ONE\n"
    assert (await context.run("1 + 1")).text == "2"
    assert await ask(port, b"two\n") == b"TWO\n"


async def test_a_task_goes_on_between_runs_and_what_it_says_comes_with_the_next(
    context: PythonContext, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    await context.run(
        "import asyncio, os, pathlib\nasync def work():\n    await asyncio.sleep(0.01)\n    print('worked')\n"
        "    display('shown', display_id='x')\n    try: input()\n    except EOFError: print('nobody')\n"
        f"    pathlib.Path({str(done)!r}).touch()\n"
        "async def begin(): return asyncio.create_task(work())\ntask = await begin()"
    )
    await appears(done)
    run = await context.run("task.done()")
    assert (run.text, run.printed()) == ("True", "worked\nnobody\n")
    assert [(shown.data["text/plain"], shown.display_id) for shown in run.results[:-1]] == [("'shown'", "x")]


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise KeyboardInterrupt", "raise ValueError", "loop.stop()"])
async def test_no_task_ends_its_context(context: PythonContext, end: str) -> None:
    code = (
        f"import asyncio\nloop = asyncio.get_running_loop()\nasync def work():\n    {end}\n"
        "task = loop.create_task(work())\n"
        "await asyncio.sleep(0) if False else None"
    )
    await context.run(code)
    port = int((await context.run(SERVER)).text)
    assert await ask(port, b"one\n") == b"ONE\n"
    assert (await context.run("1 + 1")).text == "2"


async def test_a_cell_goes_on_when_something_stops_the_loop(context: PythonContext) -> None:
    run = await context.run(
        "import asyncio\nloop = asyncio.get_running_loop()\nloop.call_soon(loop.stop)\nawait asyncio.sleep(0.01, 5)"
    )
    assert run.text == "5"


async def test_a_closed_loop_costs_nothing(context: PythonContext) -> None:
    await context.run("import asyncio\nloop = asyncio.get_running_loop(); await asyncio.sleep(0)")
    await context.run("loop.close()")
    assert (await context.run("await asyncio.sleep(0, 5)")).text == "5"


async def test_a_run_behind_a_task_that_never_awaits_can_be_interrupted(context: PythonContext, tmp_path: Path) -> None:
    """The task is struck; the run that waited for it has not begun."""
    spins = tmp_path / "spins"
    await context.run(
        "import asyncio, pathlib\n"
        f"async def spin():\n    pathlib.Path({str(spins)!r}).touch()\n    while True: pass\n"
        "async def begin(): asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(spin()))\n"
        "await begin()"
    )
    await appears(spins)
    run = await context.run("begun = 1", timeout_s=0.5)
    assert run.done.cause == "timeout"
    assert (await context.run("'begun' in globals()")).text == "False"


async def test_an_interrupt_that_comes_late_strikes_no_task(context: PythonContext, tmp_path: Path) -> None:
    done = tmp_path / "done"
    await context.run(
        "import asyncio, os, pathlib, signal\nstruck = []\n"
        "async def work():\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        sum(range(1000))\n"
        "    except KeyboardInterrupt:\n        struck.append(1)\n"
        f"    pathlib.Path({str(done)!r}).touch()\n"
        "async def begin(): asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(work()))\n"
        "await begin()"
    )
    await appears(done)
    assert (await context.run("struck")).text == "[]"


async def test_a_child_that_a_task_forks_leaves_the_channel_alone(context: PythonContext) -> None:
    port = int((await context.run(SERVER)).text)
    await context.run(
        "import os\nasync def begin(): asyncio.get_running_loop().call_later(0.01, os.fork)\nawait begin()"
    )
    for _ in range(3):
        await ask(port, b"x\n")
        assert (await context.run("1 + 1")).text == "2"


# -- figures

FIGURES = [
    # Runs of one context, and how many pictures each shows.
    (
        (
            "matplotlib.use('Agg'); plt.plot([1, 2]); plt.savefig('x.png')",
            "%matplotlib inline",
            "plt.plot([5]); plt.show()",
        ),
        (0, 0, 1),
    ),
    (("matplotlib.use('Agg'); plt.plot([1, 2])", "%matplotlib inline", "1", "plt.plot([5])", "1"), (0, 0, 0, 1, 0)),
    (("matplotlib.use('svg'); plt.plot([1, 2])", "%matplotlib inline\nplt.plot([5])", "plt.get_fignums()"), (0, 1, 0)),
    (("plt.switch_backend('pdf'); plt.plot([1]); plt.figure(); plt.plot([2])", "%matplotlib\nplt.show()"), (0, 2)),
    (("matplotlib.use('Agg'); plt.plot([1])", "%matplotlib inline\nplt.figure(); plt.plot([2])", "1"), (0, 2, 0)),
    (("fig, ax = plt.subplots(); ax.plot([1])", "ax.plot([2])", "fig"), (1, 0, 1)),
    (("plt.plot([1]); matplotlib.use('Agg')", "1"), (1, 0)),
    (("%matplotlib inline\n%config InlineBackend.figure_format = 'retina'", "plt.plot([1])"), (0, 1)),
]


@pytest.mark.parametrize(("runs", "pictures"), FIGURES)
async def test_figures_of_other_backends_are_adopted(
    context: PythonContext, runs: tuple[str, ...], pictures: tuple[int, ...]
) -> None:
    await context.run("import matplotlib, matplotlib.pyplot as plt")
    shown = []
    for code in runs:
        run = await context.run(code)
        assert run.error is None
        shown.append(sum("image/png" in one.data for one in run.results))
    assert tuple(shown) == pictures


async def test_the_format_of_figures_can_be_chosen(context: PythonContext) -> None:
    await context.run("%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']")
    run = await context.run("import matplotlib.pyplot as plt\nplt.plot([1]);")
    ((picture),) = run.results
    assert "<svg" in picture.data["image/svg+xml"]
    assert "image/png" not in picture.data
