"""One context: take runs from the channel, execute them in the shell, report how each has ended."""

from __future__ import annotations

import functools
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable
from os import _exit as exit_now
from os import getpid, kill
from typing import Any

from sandlot_python import assist, copying, figures
from sandlot_python.background import Background
from sandlot_python.channel import Channel, Interrupts, Message, TooLarge, set_handler
from sandlot_python.plain import count_of, described, name_of
from sandlot_python.shell import ContextShell

PROTOCOL = 1
IDLE_S = 0.003
FIRST_RUN = "None or 1"
OOM_SCORE = 200  # above the zygote, whose pages every context shares: one context must die before the zygote does


def enter(environment: dict[str, str], cwd: str) -> None:
    """Take over the variables and the directory of the sandbox.

    Raises:
        OSError: about the working directory.
    """
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    os.chdir(cwd)
    time.tzset()
    _search_path(environment)
    if "multiprocessing.process" in sys.modules:  # processes that code starts import modules from this directory
        sys.modules["multiprocessing.process"].ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]


def serve(channel: Channel, shell: ContextShell, interrupts: Interrupts) -> None:
    """Serve the channel until execd closes it."""
    _new_seeds()
    _raise_oom_score()
    channel.send({"type": "ready", "protocol": PROTOCOL})
    if not channel.wait(IDLE_S):
        shell.warm_up(FIRST_RUN)  # no run waits yet: the first one will be quick
    start = channel.receive()
    if start is None:
        return
    try:
        enter(start["env"], start["cwd"])
    except OSError as error:
        channel.send({"type": "failed", "message": f"{start['cwd']}: {error.strerror}"})
        return
    shell.interrupts = interrupts
    _flush_before_others(shell)
    channel.send({"type": "started"})
    while (copy := _serve_runs(channel, shell, interrupts)) is not None:
        channel.let_go()
        channel = copy
        channel.send({"type": "ready", "protocol": PROTOCOL})
        channel.send({"type": "started"})


def _serve_runs(channel: Channel, shell: ContextShell, interrupts: Interrupts) -> Channel | None:
    """Serve until execd closes the channel. In a copy of this process, return the channel of the copy."""
    shell.channel = channel
    runs = _Runs(channel, shell, interrupts)
    background = Background(channel, interrupts)
    while (message := background.receive()) is not None:
        match message["op"]:
            case "run":
                runs.run(message)
            case "complete" | "inspect":
                runs.answer(message)
            case "fork":
                if (copy := runs.fork(message)) is not None:
                    return copy
            # An unknown message was not meant for this version: execd waits for no answer to it.
    return None


class _Runs:
    """Runs code in the shell. Every run ends with `done`, whatever user code has done to the shell."""

    def __init__(self, channel: Channel, shell: ContextShell, interrupts: Interrupts) -> None:
        self._channel = channel
        self._shell = shell
        self._interrupts = interrupts
        self._flush_c = shell.flush_c

    def run(self, message: Message) -> None:
        """Execute one cell. Whatever happens in it, `done` is sent last, and once."""
        self._channel.forget_inputs()
        self._shell.begin_run(self._channel, self._interrupts, self._flush_c, may_ask=message.get("input", False))
        count = count_of(self._shell.execution_count)
        self._channel.acknowledges = True
        try:
            status = self._run_armed(message)
        except KeyboardInterrupt:  # it interrupted code of the runner
            status = "interrupted"
            self._tell(KeyboardInterrupt())
        except BaseException as error:  # user code has replaced a part of the shell
            status = "error"
            self._tell(error)
        self._channel.acknowledges = self._shell.may_ask = False
        self._flush()
        if not self._channel.is_ours:
            exit_now(status != "ok")  # a child that the cell forked, in a shell that cannot report how the cell ended
        self._channel.send({"type": "done", "id": message["id"], "status": status, "count": count})

    def _run_armed(self, message: Message) -> str:
        self._interrupts.install()
        try:
            self._interrupts.armed = True
            self._hear_interrupt(message["id"])
            return self._execute(message["code"])
        finally:
            self._interrupts.armed = False

    def _tell(self, error: BaseException) -> None:
        """Send an error without the help of the shell."""
        name, value = name_of(type(error)), described(error)
        try:
            self._channel.send({"type": "error", "name": name, "value": value, "traceback": [f"{name}: {value}"]})
        except TooLarge as large:
            self._channel.send({"type": "error", "name": name, "value": f"(not shown: {large})", "traceback": []})

    def _flush(self) -> None:
        try:
            ContextShell.flush(self._shell)
        except BaseException:
            pass  # streams of user code, which may raise anything

    def answer(self, message: Message) -> None:
        """Answer what completes the code, or what is known of a name in it."""
        number, code, cursor = message["id"], message["code"], message["cursor"]
        try:
            self._interrupts.install()
            self._interrupts.armed = True
            try:
                if message["op"] == "complete":
                    answer = {"type": "completion", **assist.complete(self._shell, code, cursor)}
                else:
                    data = assist.inspect(self._shell, code, cursor, detail=message["detail"])
                    answer = {"type": "inspection", "data": data}
            finally:
                self._interrupts.armed = False
        except KeyboardInterrupt:
            answer = {"type": "refused", "message": "interrupted"}
        except BaseException as error:  # attributes that are examined may raise anything
            answer = {"type": "refused", "message": f"{name_of(type(error))}: {described(error)}"}
        try:
            self._channel.send({**answer, "id": number})
        except TooLarge as error:
            self._channel.send({"type": "refused", "message": str(error), "id": number})

    def fork(self, message: Message) -> Channel | None:
        """Copy this process. Return the copy's channel in the copy, None in the original."""
        fds = self._channel.receive_fds()
        try:
            copying.check_forkable()
            self._shell.flush()  # otherwise both processes would print it
            pid = copying.fork()
        except (copying.NotForkable, OSError) as error:
            self._channel.send({"type": "refused", "id": message["id"], "message": str(error)})
            pid = -1
        if pid == 0:
            copying.forget_loop()
            _new_seeds()
            return copying.take_over(fds, self._interrupts)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._channel.send({"type": "forked", "id": message["id"], "pid": pid})
        return None

    def _hear_interrupt(self, number: int) -> None:
        """Handle an interrupt whose signal came too early to have an effect. Its message has arrived by now."""
        self._channel.take_what_is_there()
        if self._channel.interrupted_run == number:
            raise KeyboardInterrupt

    def _execute(self, code: str) -> str:
        shell = self._shell
        result = shell.run_cell(code, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if not self._channel.is_ours:
            self._end_child(error)
        try:
            figures.show_open(at_end=True)
        except Exception as failed:
            shell.showtraceback()
            error = error or failed
        if error is None:
            return "ok"
        if not shell.errors_shown:
            ContextShell.show_error(shell, type(error), error, [f"{name_of(type(error))}: {described(error)}"])
        struck = issubclass(type(error), KeyboardInterrupt) or shell.interrupted is True
        return "interrupted" if struck else "error"

    def _end_child(self, error: BaseException | None) -> None:
        """End a child that the cell forked, as a program ends. Its traceback is on stderr already. Never return."""
        status = int(error is not None)
        try:
            if issubclass(type(error), SystemExit):
                status = _exit_status(error)
            self._flush()
            if issubclass(type(error), KeyboardInterrupt):
                set_handler(signal.SIGINT, signal.SIG_DFL)
                kill(getpid(), signal.SIGINT)
        finally:
            exit_now(status)


def _exit_status(error: Any) -> int:
    """Return the status of a program that raises this SystemExit.

    Print a value that is not a number, as Python does.
    """
    try:
        code = error.code
    except Exception:
        return 1
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF if -(2**63) <= code < 2**63 else 0xFF
    print(described(code), file=sys.stderr)
    return 1


def _flush_before_others(shell: ContextShell) -> None:
    """Flush an unfinished line before another program that is started meanwhile prints."""

    def flushing(start: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(start)
        def flush_and_start(*arguments: Any, **options: Any) -> Any:
            shell.flush()
            return start(*arguments, **options)

        return flush_and_start

    os.register_at_fork(before=shell.flush)
    popen: Any = subprocess.Popen
    popen._execute_child = flushing(popen._execute_child)
    for name in ("system", "posix_spawn", "posix_spawnp"):
        setattr(os, name, flushing(getattr(os, name)))


def _search_path(environment: dict[str, str]) -> None:
    """Import modules from the working directory first, and from the present PYTHONPATH."""
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    others = [path for path in sys.path if path and path not in named]
    user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    if user and user not in others:
        others.append(user)  # `pip install` creates this directory if it may not write elsewhere
    sys.path[:] = ["", *named, *others]


def _new_seeds() -> None:
    """Seed the generators anew, so that no two contexts draw the same numbers. Python's own does so after a fork."""
    if "numpy.random" in sys.modules:
        numpy_random: Any = sys.modules["numpy.random"]
        numpy_random.seed(list(os.urandom(32)))


def _raise_oom_score() -> None:
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = min(int(file.read()) + OOM_SCORE, 1000)
            file.seek(0)
            file.write(str(score))
    except (OSError, ValueError):
        pass  # without /proc the kernel chooses by size alone
