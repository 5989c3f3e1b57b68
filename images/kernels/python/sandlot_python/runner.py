"""One context: take runs from the channel, execute them in the shell, say how each ended."""

from __future__ import annotations

import functools
import os
import site
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from sandlot_python import assist, copying, figures
from sandlot_python.channel import Channel, Interrupts, Message
from sandlot_python.shell import ContextShell

PROTOCOL = 1
IDLE_S = 0.003
FIRST_RUN = "None or 1"
OOM_SCORE = 200  # above the zygote, whose pages every context shares: one context dies before all lose their source


def enter(environment: dict[str, str], cwd: str) -> None:
    """Become what a program started in the sandbox would be.

    Raises:
        OSError: the working directory.
    """
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    os.chdir(cwd)
    time.tzset()
    _search_path(environment)


def serve(channel: Channel, shell: ContextShell, interrupts: Interrupts) -> None:
    """Serve the channel until execd closes it."""
    _new_seeds()
    _raise_oom_score()
    channel.send({"type": "ready", "protocol": PROTOCOL})
    if not channel.wait(IDLE_S):
        shell.warm_up(FIRST_RUN)  # nobody needs us yet: be quick when somebody does
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
    """Serve until execd closes the channel. In a copy of this process: return the channel of the copy."""
    shell.channel = channel
    runs = _Runs(channel, shell, interrupts)
    while (message := channel.receive()) is not None:
        match message["op"]:
            case "run":
                runs.run(message)
            case "complete" | "inspect":
                runs.answer(message)
            case "fork":
                if (copy := runs.fork(message)) is not None:
                    return copy
            # What we do not know was not meant for us: execd waits for no answer to it.
    return None


class _Runs:
    def __init__(self, channel: Channel, shell: ContextShell, interrupts: Interrupts) -> None:
        self._channel = channel
        self._shell = shell
        self._interrupts = interrupts

    def run(self, message: Message) -> None:
        """Execute one cell. Whatever happens in it, `done` is said last, once."""
        self._interrupts.install()
        self._channel.forget_inputs()
        self._shell.may_ask = message.get("input", False)
        count = self._shell.execution_count
        try:
            try:
                self._interrupts.armed = True
                self._hear_interrupt(message["id"])
                status = self._execute(message["code"])
            finally:
                self._interrupts.armed = False
        except KeyboardInterrupt:  # it struck outside of user code
            self._interrupts.armed = False
            status = "interrupted"
            self._shell.show_error(KeyboardInterrupt, KeyboardInterrupt(), ["KeyboardInterrupt"])
        self._shell.flush()
        if not self._channel.is_ours:
            os._exit(status != "ok")  # a child that the cell forked came to the end of the cell
        self._channel.send({"type": "done", "id": message["id"], "status": status, "count": count})

    def answer(self, message: Message) -> None:
        """Say what completes the code, or what is known of a name in it."""
        number, code, cursor = message["id"], message["code"], message["cursor"]
        self._interrupts.install()
        try:
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
        except Exception as error:
            answer = {"type": "refused", "message": f"{type(error).__name__}: {error}"}
        self._channel.send({**answer, "id": number})

    def fork(self, message: Message) -> Channel | None:
        """Copy this process. Return the copy's channel in the copy, None in the original."""
        fds = self._channel.receive_fds()
        try:
            copying.check_forkable()
            self._shell.flush()  # or both would print it
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
        """A signal that came before we were armed struck nothing; what was said with it is here by now."""
        self._channel.take_what_is_there()
        if self._channel.interrupted_run == number:
            raise KeyboardInterrupt

    def _execute(self, code: str) -> str:
        shell = self._shell
        shell.errors_shown = 0
        result = shell.run_cell(code, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        try:
            figures.show_open()
        except Exception as failed:
            shell.showtraceback()
            error = error or failed
        if error is None:
            return "ok"
        if not shell.errors_shown:
            shell.show_error(type(error), error, [f"{type(error).__name__}: {error}"])
        struck = isinstance(error, KeyboardInterrupt) or shell.interrupted
        return "interrupted" if struck else "error"


def _flush_before_others(shell: ContextShell) -> None:
    """Have an unfinished line come before what another program prints that is started meanwhile."""

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
    """Modules come from the working directory first, and from what PYTHONPATH says now."""
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    others = [path for path in sys.path if path and path not in named]
    user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    if user and user not in others:
        others.append(user)  # `pip install` makes it when it may not write elsewhere
    sys.path[:] = ["", *named, *others]


def _new_seeds() -> None:
    """No two contexts draw the same random numbers. (Python's own generator sees to itself after a fork.)"""
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
