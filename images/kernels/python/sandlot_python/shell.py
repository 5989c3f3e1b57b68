"""IPython's InteractiveShell as a context. Results and displays go to the channel, output to descriptors 1 and 2."""

from __future__ import annotations

import builtins
import functools
import getpass
import importlib
import itertools
import linecache
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import IPython
from IPython.core.async_helpers import get_asyncio_loop
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

if TYPE_CHECKING:
    import asyncio  # loaded when code first awaits: the first context of a cold sandbox does not wait for it

from sandlot_python import figures
from sandlot_python.channel import Channel, Interrupts, TooLarge, handlers_held_back
from sandlot_python.plain import bundle_of, count_of, described, lines_of, name_of, text, text_of

_HERE = os.path.dirname(__file__) + os.sep
_IPYTHON = os.path.dirname(IPython.__file__) + os.sep

MAX_OUTER_FRAMES = 20  # of a traceback; the middle of an endless recursion is left out
MAX_INNER_FRAMES = 80
MAX_CODE_CHARS = 1000
MAX_LINE = 2**31  # more than any code has; an exception may say anything

ExcTuple = tuple[type[BaseException], BaseException, "TracebackType | None"]


def make_shell() -> ContextShell:
    """Create the one shell of this process, and warm it up. No file is written, and no thread is started."""
    config = Config()
    config.HistoryManager.enabled = False  # it would keep a database and a thread
    config.HistoryManager.hist_file = ":memory:"
    # Completion of live objects knows more than that of source code, and is immediate.
    config.Completer.use_jedi = False
    config.InteractiveShell.colors = "nocolor" if IPython.version_info >= (9,) else "NoColor"
    config.InteractiveShell.separate_in = ""
    warnings.filterwarnings("ignore", message="To exit: use")  # there is no prompt to leave
    warnings.filterwarnings("ignore", message="Output cache limit")  # it would appear in the middle of a run
    shell = ContextShell.instance(config=config)
    builtins.input = shell.ask
    getpass.getpass = lambda prompt="Password: ", stream=None: shell.ask(prompt, password=True)
    return shell


class ContextShell(InteractiveShell):
    """The shell. `channel` is set once, in the process of the context; until then nothing is displayed."""

    channel: Channel | None = None
    interrupts = Interrupts()  # the runner sets its own
    interrupted = False  # top-level await was interrupted; its CancelledError is reported as KeyboardInterrupt
    may_ask = False  # a client answers input() in this run
    errors_shown = 0
    flush_c: Callable[[], object] = staticmethod(lambda: None)  # flushes the output of C code

    def init_ipython_dir(self, ipython_dir: object) -> None:
        """Create no directory: homes may be read-only, or missing."""

    def init_profile_dir(self, profile_dir: object) -> None:
        """Create no directory."""

    @property
    def db(self) -> dict[str, Any]:
        """The memory of magics such as %cd. It lives as long as the context."""
        if self._db is None:
            self._db = {}
        return self._db

    def init_display_formatter(self) -> None:
        """Set the formatter, and add pictures of figures to it, without importing matplotlib."""
        self.display_formatter = _Formatter(parent=self)
        self.configurables.append(self.display_formatter)
        png = self.display_formatter.formatters["image/png"]
        png.for_type_by_name("matplotlib.figure", "Figure", figures.as_png)

    def init_display_pub(self) -> None:
        """Set the publisher."""
        self.display_pub = _Publisher(parent=self, shell=self)

    def init_displayhook(self) -> None:
        """Set the displayhook."""
        self.displayhook_class = _ResultHook
        super().init_displayhook()

    def init_user_ns(self) -> None:
        """Fill the namespace; also after a reset, which removes the names that every module has."""
        super().init_user_ns()
        for name in ("__doc__", "__loader__", "__package__", "__spec__"):
            self.user_ns.setdefault(name, None)
            self.user_ns_hidden.setdefault(name, None)

    def warm_up(self, code: str) -> None:
        """Run code without output, so that what it touches is loaded (and, in a forked process, copied)."""
        self.run_cell(code, store_history=True)
        figures.show_open()
        self.reset(new_session=True)
        self.execution_count = 1
        self.errors_shown = 0

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        # IPython would keep everything that is ever printed.
        yield

    # -- what is sent to execd

    def begin_run(
        self, channel: Channel, interrupts: Interrupts, flush_c: Callable[[], object], *, may_ask: bool
    ) -> None:
        """Set the state in which a run begins, whatever an earlier run has left."""
        self.channel, self.interrupts, self.flush_c = channel, interrupts, flush_c
        self.may_ask, self.interrupted, self.errors_shown = may_ask, False, 0

    def flush(self) -> None:
        """Flush the output to the descriptors. A stream that user code has replaced is left to user code."""
        with handlers_held_back():  # an exception of a handler must not look like one of the streams
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                try:
                    stream.flush()
                except Exception:
                    pass  # None, closed, or an object of user code
        self.flush_c()

    def show(self, kind: str, data: dict[str, Any], *, in_order: bool, **fields: object) -> None:
        """Send a result or display with its MIME bundle."""
        if self.channel is None:
            return
        ContextShell.flush(self)
        try:
            self.channel.send({"type": kind, "data": bundle_of(data), **fields}, in_order=in_order)
        except TooLarge as error:
            data = {"text/plain": f"(not shown: {error})"}
            self.channel.send({"type": kind, "data": data, **fields}, in_order=in_order)

    def show_error(self, kind: type[BaseException], value: BaseException, lines: object) -> None:
        """Send an error with its traceback, each item of which holds one line or more."""
        if self.channel is None:
            return
        ContextShell.flush(self)  # this class's method, whatever user code has put in its place
        if not self.channel.is_ours:  # a child that the code forked: print as a program does
            print(*lines_of(lines), sep="\n", file=sys.stderr)
            self.errors_shown += 1
            return
        message = {"type": "error", "name": name_of(kind), "value": described(value), "traceback": lines_of(lines)}
        try:
            self.channel.send({**message, "frames": self._frames_of(value)})
        except TooLarge as error:
            self.channel.send({**message, "value": f"(not shown: {error})", "traceback": []})
        self.errors_shown += 1

    def _frames_of(self, value: BaseException) -> list[tuple[str, int, str, str]]:
        """Return file, line, function and code of each call that led to an exception, beginning with the run's code."""
        try:
            return self._find_frames(value)
        except Exception:  # user code has changed its exception, or the modules that describe it
            return []

    def _find_frames(self, value: BaseException) -> list[tuple[str, int, str, str]]:
        calls = ((frame.f_code, line) for frame, line in traceback.walk_tb(value.__traceback__))
        ours = itertools.dropwhile(lambda call: call[0].co_filename.startswith(_IPYTHON), calls)
        found = [(code.co_filename, line, code.co_name) for code, line in ours if line is not None]
        found = [*found[:MAX_OUTER_FRAMES], *found[MAX_OUTER_FRAMES:][-MAX_INNER_FRAMES:]]
        if isinstance(value, SyntaxError) and isinstance(value.filename, str) and isinstance(value.lineno, int):
            found.append((value.filename, max(0, min(value.lineno, MAX_LINE)), ""))
        return [
            (
                text(self._name_of_file(file)),
                count_of(line),
                text(function),
                text(linecache.getline(file, line).strip())[:MAX_CODE_CHARS],
            )
            for file, line, function in found
        ]

    def _name_of_file(self, file: str) -> str:
        """Return the name of a file in a traceback: `Cell In[3]` for the code of a run."""
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
        """Display the exception that just occurred, or the last one."""
        kind, value, frames = exc_tuple or sys.exc_info()
        try:
            self._show_traceback((kind, value, frames), filename, tb_offset, exception_only, running_compiled_code)
        except Exception:
            # IPython renders what the exception returns, and user code may make it return anything.
            if kind is None or value is None:
                raise
            self.show_error(kind, value, [f"{name_of(kind)}: {described(value)}"])

    def _show_traceback(
        self,
        exc_tuple: ExcTuple | tuple[None, None, None],
        filename: str | None,
        tb_offset: int | None,
        exception_only: bool,
        running_compiled_code: bool,
    ) -> None:
        kind, value, frames = exc_tuple
        _cut_own_frames(frames)
        if kind is None or value is None:
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)
        elif self.interrupted and kind.__name__ == "CancelledError":
            told = KeyboardInterrupt().with_traceback(frames)
            super().showtraceback((KeyboardInterrupt, told, frames), running_compiled_code=running_compiled_code)
        elif issubclass(kind, SystemExit):
            if self.channel is not None and not self.channel.is_ours:
                return  # the child of a fork ends; the runner reports how
            self._showtraceback(kind, value, [f"SystemExit: {described(value)}"])
        elif _is_group(value):
            # IPython would print these to stderr.
            self._get_exc_info((kind, value, frames))
            below = frames.tb_next if frames is not None else None  # the first frame is IPython's
            self._showtraceback(kind, value, traceback.format_exception(kind, value, below))
        else:
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: object) -> None:
        self.show_error(etype, evalue, stb)

    def show_usage_error(self, exc: BaseException) -> None:
        """Display a mistake in the use of a magic, as an error without a traceback."""
        self.show_error(UsageError, exc, [f"UsageError: {described(exc)}"])

    def _format_exception_for_storage(self, exception: BaseException, *_: object, **__: object) -> dict[str, Any]:
        # IPython keeps every traceback, formatted once more, for notebooks that do not exist here.
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    # -- what code asks of the shell

    def ask(self, prompt: object = "", *, password: bool = False) -> str:
        """Answer `input()` and `getpass()`: ask the client of the run, if it has said that it can answer.

        Raises:
            EOFError: Nobody can answer, or the client ends the input.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if self.channel is None or not (self.may_ask and in_main and self.channel.is_ours):
            raise EOFError("nobody can answer input() here: pass the value in the code")
        self.flush()
        self.channel.send({"type": "input_request", "prompt": text_of(prompt), "password": password})
        answer = self.channel.receive_input()
        if answer is None:
            raise EOFError("the end of input")
        return answer

    def system(self, cmd: str) -> None:
        """Run `!cmd` on the descriptors of this process: output arrives as it comes, and Ctrl-C reaches it."""
        self.flush()
        command = self.var_expand(cmd, depth=1)
        # In the process group of this process: an interrupt of a run must reach the programs of the run.
        code = subprocess.call(command, shell=True, executable=shutil.which("bash"))
        self.user_ns["_exit_code"] = code
        importlib.invalidate_caches()  # the command may have installed something
        if self.system_raise_on_error and code != 0:
            raise subprocess.CalledProcessError(code, cmd)

    system_raw = system_piped = system

    def ask_exit(self) -> None:
        """End the run on `exit()` and `quit()`, as sys.exit() does. The context stays."""
        raise SystemExit

    def enable_gui(self, gui: object = None) -> None:
        """Do nothing: there is no screen."""

    def enable_matplotlib(self, gui: object = None) -> tuple[str, str]:
        """Accept `%matplotlib` in any form. Figures are displayed as always."""
        figures.use_backend(self)
        return "inline", figures.BACKEND

    def loop_runner(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell that awaits. Tasks that it leaves behind go on while later such cells run, and between runs."""
        loop = get_asyncio_loop()
        task = loop.create_task(coroutine)
        self.interrupted = False

        def cancel(frame: FrameType | None = None) -> bool:
            """Cancel the cell if Ctrl-C interrupts code of the loop itself, which must not break off."""
            if frame is not None and not is_loop_code(frame):
                return False
            self.interrupted = True
            task.cancel()
            return True

        with self.interrupts.diverted(cancel), _woken_by_signals(loop):
            while True:
                try:
                    return loop.run_until_complete(task)
                except KeyboardInterrupt:  # in user code
                    if task.done():
                        raise
                    cancel()  # it interrupted a callback: otherwise the cell would go on in the next one
                except RuntimeError:
                    # User code has stopped the loop, or a task that exits has stopped it for the previous run.
                    if task.done() or loop.is_running() or loop.is_closed():
                        raise


class _Formatter(DisplayFormatter):
    """Asks a dozen formatters only about values that may have more than a text: that is half the time of `1+1`."""

    PLAIN = frozenset({bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple})

    def format(
        self, obj: object, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the MIME bundle of a value, and its metadata."""
        if type(obj) in self.PLAIN and not (include or exclude) and not self._has_more(type(obj)):
            return {"text/plain": self.formatters["text/plain"](obj)}, {}
        return super().format(obj, include, exclude)

    def _has_more(self, kind: type) -> bool:
        """Return whether user code has given a builtin type another representation."""
        others = (one for mime, one in self.formatters.items() if mime != "text/plain")
        special = (self.ipython_display_formatter, self.mimebundle_formatter)
        return any(kind in one.type_printers for one in (*others, *special))


class _ResultHook(DisplayHook):
    """The hook for the value of a run's last expression."""

    def write_output_prompt(self) -> None:
        """Write no prompt."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Send the value. No user code runs after it, unless every expression is displayed."""
        in_order = not self.shell.ast_node_interactivity.startswith("last_expr")
        self.shell.show("result", format_dict, in_order=in_order, count=count_of(self.shell.execution_count - 1))

    def compute_format_data(self, result: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Render a value. A figure that is displayed as a value is not displayed again at the end of the run."""
        formats = super().compute_format_data(result)
        figures.close(result)
        return formats

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Keep no second copy of everything that is displayed."""

    def finish_displayhook(self) -> None:
        """Print nothing."""
        self._is_active = False


class _Publisher(DisplayPublisher):
    """The publisher behind display(), update_display() and everything that uses them."""

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
        """Send a MIME bundle. What is printed later arrives later."""
        fields: dict[str, object] = {}
        if display_id := (transient or {}).get("display_id"):
            fields = {"display_id": text_of(display_id), "update": bool(update)}
        self.shell.show("display", data, in_order=True, **fields)

    def clear_output(self, wait: bool = False) -> None:
        """Do nothing: what has been sent cannot be removed."""


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake the loop when a signal arrives.

    A signal just before the loop falls asleep, or in another thread, does not wake the loop. Its handler runs in this
    thread, and would wait until something else wakes it.
    """
    if (others := signal.set_wakeup_fd(-1)) != -1:  # handlers of user code in a loop wake it already
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


@functools.cache
def _loop_code() -> tuple[str, ...]:
    import asyncio
    import selectors

    return (os.path.dirname(asyncio.__file__) + os.sep, selectors.__file__)


def is_loop_code(frame: FrameType) -> bool:
    """Return whether a frame belongs to the event loop itself, and not to what the loop calls."""
    return frame.f_code.co_filename.startswith(_loop_code())


def _cut_own_frames(frames: TracebackType | None) -> None:
    """Cut the frames of this package from the end of a traceback: of input(), or of Ctrl-C."""
    while frames is not None:
        following = frames.tb_next
        if following is not None and following.tb_frame.f_code.co_filename.startswith(_HERE):
            frames.tb_next = None
        frames = frames.tb_next


def _is_group(value: BaseException | None) -> bool:
    group = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.11
    while value is not None and group is not None:
        if isinstance(value, group):
            return True
        value = value.__context__
    return False
