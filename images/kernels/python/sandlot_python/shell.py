"""IPython's InteractiveShell as a context: what it shows goes to the channel, what it prints to descriptors 1 and 2."""

from __future__ import annotations

import asyncio
import builtins
import getpass
import importlib
import itertools
import linecache
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import IPython
from IPython.core.async_helpers import get_asyncio_loop
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from sandlot_python import figures
from sandlot_python.channel import Channel, Interrupts, TooLarge

_HERE = os.path.dirname(__file__) + os.sep
_IPYTHON = os.path.dirname(IPython.__file__) + os.sep
_LOOP_CODE = (os.path.dirname(asyncio.__file__) + os.sep, selectors.__file__)

MAX_OUTER_FRAMES = 20  # of a traceback; what endless recursion leaves out are calls in its middle
MAX_INNER_FRAMES = 80
MAX_CODE_CHARS = 1000
MAX_LINE = 2**31  # of code that exists; an exception may say anything

ExcTuple = tuple[type[BaseException], BaseException, "TracebackType | None"]


def make_shell() -> ContextShell:
    """Make the one shell of this process, warm: no file is written, no thread is started."""
    config = Config()
    config.HistoryManager.enabled = False  # it would keep a database and a thread
    config.HistoryManager.hist_file = ":memory:"
    config.Completer.use_jedi = False  # what lives says more than what is written, and is there at once
    config.InteractiveShell.colors = "nocolor" if IPython.version_info >= (9,) else "NoColor"
    config.InteractiveShell.separate_in = ""
    warnings.filterwarnings("ignore", message="To exit: use")  # there is no prompt to leave
    warnings.filterwarnings("ignore", message="Output cache limit")  # what Out forgets, in the middle of a run
    shell = ContextShell.instance(config=config)
    builtins.input = shell.ask
    getpass.getpass = lambda prompt="Password: ", stream=None: shell.ask(prompt, password=True)
    return shell


class ContextShell(InteractiveShell):
    """Its `channel` is set once, in the process of the context; until then it shows nothing to anybody."""

    channel: Channel | None = None
    interrupts = Interrupts()  # the runner sets its own
    interrupted = False  # top-level await was; its CancelledError is told as the KeyboardInterrupt that it was
    may_ask = False  # somebody answers input(), in this run
    errors_shown = 0
    flush_c: Callable[[], object] = staticmethod(lambda: None)  # what C code has printed

    def init_ipython_dir(self, ipython_dir: object) -> None:
        """Have none: homes may be read-only, or missing."""

    def init_profile_dir(self, profile_dir: object) -> None:
        """Have none."""

    @property
    def db(self) -> dict[str, Any]:
        """What magics such as %cd remember: in memory, for as long as the context lives."""
        if self._db is None:
            self._db = {}
        return self._db

    def init_display_formatter(self) -> None:
        """Set our formatter, and add what a figure looks like, without importing matplotlib."""
        self.display_formatter = _Formatter(parent=self)
        self.configurables.append(self.display_formatter)
        png = self.display_formatter.formatters["image/png"]
        png.for_type_by_name("matplotlib.figure", "Figure", figures.as_png)

    def init_display_pub(self) -> None:
        """Set our publisher."""
        self.display_pub = _Publisher(parent=self, shell=self)

    def init_displayhook(self) -> None:
        """Set our displayhook."""
        self.displayhook_class = _ResultHook
        super().init_displayhook()

    def warm_up(self, code: str) -> None:
        """Run code that nobody sees, so that what it touches is loaded (and in a forked process: copied)."""
        self.run_cell(code, store_history=True)
        figures.show_open()
        self.reset(new_session=True)
        self.execution_count = 1
        self.errors_shown = 0

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        # IPython would keep all that is ever printed.
        yield

    # -- to execd

    def flush(self) -> None:
        """Bring what was printed to the descriptors. What user code did to its streams is its own business."""
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except Exception:
                pass  # None, closed, or somebody else's
        self.flush_c()

    def show(self, kind: str, data: dict[str, Any], *, in_order: bool, **fields: object) -> None:
        """Send a result or display with its MIME bundle."""
        if self.channel is None:
            return
        self.flush()
        bundle = {mime: _as_text(value) for mime, value in data.items() if value is not None}
        try:
            self.channel.send({"type": kind, "data": bundle, **fields}, in_order=in_order)
        except TooLarge as error:
            data = {"text/plain": f"(not shown: {error})"}
            self.channel.send({"type": kind, "data": data, **fields}, in_order=in_order)

    def show_error(self, kind: type[BaseException], value: BaseException, lines: list[str]) -> None:
        """Send an error with its traceback, a line or a few an item."""
        self.errors_shown += 1
        if self.channel is None:
            return
        self.flush()
        message = {"type": "error", "name": kind.__name__, "value": _text_of(value), "traceback": lines}
        try:
            self.channel.send({**message, "frames": self._frames_of(value)})
        except TooLarge as error:
            self.channel.send({**message, "value": f"(not shown: {error})", "traceback": []})

    def _frames_of(self, value: BaseException) -> list[tuple[str, int, str, str]]:
        """Return file, line, function and code of each call that led to an exception, from the run's code on."""
        calls = ((frame.f_code, line) for frame, line in traceback.walk_tb(value.__traceback__))
        ours = itertools.dropwhile(lambda call: call[0].co_filename.startswith(_IPYTHON), calls)
        found = [(code.co_filename, line, code.co_name) for code, line in ours if line is not None]
        found = [*found[:MAX_OUTER_FRAMES], *found[MAX_OUTER_FRAMES:][-MAX_INNER_FRAMES:]]
        if isinstance(value, SyntaxError) and isinstance(value.filename, str) and isinstance(value.lineno, int):
            found.append((value.filename, max(0, min(value.lineno, MAX_LINE)), ""))
        return [
            (self._name_of_file(file), line, function, linecache.getline(file, line).strip()[:MAX_CODE_CHARS])
            for file, line, function in found
        ]

    def _name_of_file(self, file: str) -> str:
        """Return what a traceback calls it: `Cell In[3]`, where it is the code of a run."""
        cell = self.compile.format_code_name(file)
        return " ".join(cell) if cell else file

    # -- errors

    def showtraceback(
        self,
        exc_tuple: ExcTuple | None = None,
        filename: str | None = None,
        tb_offset: int | None = None,
        exception_only: bool = False,
        running_compiled_code: bool = False,
    ) -> None:
        """Show the exception that just occurred, or the last one."""
        kind, value, frames = exc_tuple or sys.exc_info()
        _cut_own_frames(frames)
        if kind is None or value is None:
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)
        elif self.interrupted and issubclass(kind, asyncio.CancelledError):
            told = KeyboardInterrupt().with_traceback(frames)
            super().showtraceback((KeyboardInterrupt, told, frames), running_compiled_code=running_compiled_code)
        elif issubclass(kind, SystemExit):
            self._showtraceback(kind, value, [f"SystemExit: {value}"])
        elif _is_group(value):
            # IPython would print these to stderr.
            self._get_exc_info((kind, value, frames))
            below = frames.tb_next if frames is not None else None  # the first is IPython's
            self._showtraceback(kind, value, traceback.format_exception(kind, value, below))
        else:
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.show_error(etype, evalue, stb)

    def show_usage_error(self, exc: BaseException) -> None:
        """Show a mistake in the use of a magic: without a traceback, but as an error all the same."""
        self.show_error(UsageError, exc, [f"UsageError: {exc}"])

    def _format_exception_for_storage(self, exception: BaseException, *_: object, **__: object) -> dict[str, Any]:
        # IPython keeps every traceback, formatted once more, for notebooks that nobody writes here.
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    # -- what code asks of the shell

    def ask(self, prompt: object = "", *, password: bool = False) -> str:
        """`input()` and `getpass()`: whoever runs the code answers, if they said that they can.

        Raises:
            EOFError: nobody does, or they have nothing to say.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if self.channel is None or not (self.may_ask and in_main and self.channel.is_ours):
            raise EOFError("nobody can answer input() here: pass the value in the code")
        self.flush()
        self.channel.send({"type": "input_request", "prompt": str(prompt), "password": password})
        answer = self.channel.receive_input()
        if answer is None:
            raise EOFError("the end of input")
        return answer

    def system(self, cmd: str) -> None:
        """Run `!cmd` on our own descriptors: its output arrives as it comes, in order, and Ctrl-C reaches it."""
        self.flush()
        command = self.var_expand(cmd, depth=1)
        # In our process group on purpose: what interrupts a run must reach what it runs.
        code = subprocess.call(command, shell=True, executable=shutil.which("bash"))
        self.user_ns["_exit_code"] = code
        importlib.invalidate_caches()  # it may have installed something
        if self.system_raise_on_error and code != 0:
            raise subprocess.CalledProcessError(code, cmd)

    system_raw = system_piped = system

    def ask_exit(self) -> None:
        """`exit()` and `quit()` end the run, as sys.exit() does; the context stays."""
        raise SystemExit

    def enable_gui(self, gui: object = None) -> None:
        """There is no screen."""

    def enable_matplotlib(self, gui: object = None) -> tuple[str, str]:
        """`%matplotlib` in any form: figures are shown as they always are here."""
        figures.use_backend()
        return "inline", figures.BACKEND

    def loop_runner(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell that awaits. Tasks that it leaves behind go on while later such cells run."""
        loop = get_asyncio_loop()
        task = loop.create_task(coroutine)
        self.interrupted = False

        def cancel(frame: FrameType | None = None) -> bool:
            """Let the cell itself hear of Ctrl-C, when it strikes the loop's own code: that must not break off."""
            if frame is not None and not frame.f_code.co_filename.startswith(_LOOP_CODE):
                return False
            self.interrupted = True
            task.cancel()
            return True

        with self.interrupts.diverted(cancel), _woken_by_signals(loop):
            while True:
                try:
                    return loop.run_until_complete(task)
                except KeyboardInterrupt:  # in code of the user's
                    if task.done():
                        raise
                    cancel()  # it was a callback: the cell itself would go on in the next one


class _Formatter(DisplayFormatter):
    """Asks a dozen formatters only about values that may have more than a text: that is half the time of `1+1`."""

    PLAIN = frozenset({bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple})

    def format(
        self, obj: object, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a value's MIME bundle and its metadata."""
        if type(obj) in self.PLAIN and not (include or exclude) and not self._has_more(type(obj)):
            return {"text/plain": self.formatters["text/plain"](obj)}, {}
        return super().format(obj, include, exclude)

    def _has_more(self, kind: type) -> bool:
        """Whether user code has given a builtin type another form."""
        others = (one for mime, one in self.formatters.items() if mime != "text/plain")
        special = (self.ipython_display_formatter, self.mimebundle_formatter)
        return any(kind in one.type_printers for one in (*others, *special))


class _ResultHook(DisplayHook):
    """The value of a run's last expression."""

    def write_output_prompt(self) -> None:
        """Have none."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Send the value. Nothing of the user's runs after it, unless every expression is shown."""
        in_order = not self.shell.ast_node_interactivity.startswith("last_expr")
        self.shell.show(
            "result", format_dict, in_order=in_order, metadata=_plain(md_dict), count=self.shell.execution_count - 1
        )

    def compute_format_data(self, result: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Render a value; a figure that is shown as one is not shown again at the end of the run."""
        formats = super().compute_format_data(result)
        figures.close(result)
        return formats

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Keep no second copy of everything that was shown."""

    def finish_displayhook(self) -> None:
        """Print nothing."""
        self._is_active = False


class _Publisher(DisplayPublisher):
    """display(), update_display() and whatever builds on them."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: object = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: object,
    ) -> None:
        """Send a MIME bundle; what is printed afterwards arrives afterwards."""
        fields: dict[str, object] = {"metadata": _plain(metadata)}
        if display_id := (transient or {}).get("display_id"):
            fields.update(display_id=str(display_id), update=update)
        self.shell.show("display", data, in_order=True, **fields)

    def clear_output(self, wait: bool = False) -> None:
        """Nothing: what has been sent cannot be taken back."""


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake the loop when a signal comes.

    One that comes just before the loop falls asleep, or to another thread, does not wake it: its handler, which runs in
    this thread, would wait until something else does.
    """
    if (others := signal.set_wakeup_fd(-1)) != -1:  # the user's own handlers in a loop: it is woken already
        signal.set_wakeup_fd(others)
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    loop.add_reader(reading, os.read, reading, 4096)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        present = signal.set_wakeup_fd(-1)
        if present not in (-1, writing):
            signal.set_wakeup_fd(present)
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)


def _cut_own_frames(frames: TracebackType | None) -> None:
    """Let a traceback end where user code does, when one of our functions raised: input(), or Ctrl-C."""
    while frames is not None:
        following = frames.tb_next
        if following is not None and following.tb_frame.f_code.co_filename.startswith(_HERE):
            frames.tb_next = None
        frames = frames.tb_next


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return _json(value)


def _json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str)


def _plain(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Metadata that JSON can say, whatever an object's `_repr_mimebundle_` gave."""
    import json

    return json.loads(_json(metadata)) if metadata else {}


def _text_of(value: BaseException) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} without a text>"


def _is_group(value: BaseException | None) -> bool:
    group = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.11
    while value is not None and group is not None:
        if isinstance(value, group):
            return True
        value = value.__context__
    return False
