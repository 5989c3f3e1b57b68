"""One isolated session: a live bash in namespaces of its own, which bubblewrap creates.

    execd ─▶ (stage: overlays) ─▶ bwrap ─▶ bwrap, process 1 of the session ─▶ bash, its jobs; deputies

The session ends with its shell, and all processes that the shell has left behind end with the session.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Sequence

from execd.dispatch import Replies
from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.kernel.kernel import Kernel
from execd.kernel.runner.manifest import Manifest
from execd.kernel.runner.process import Program, Runner, execute
from execd.kernel.runner.work import Work
from execd.launch.environment import Environment, Identity
from execd.process.limits import Limits
from execd.process.parents import first_child_of
from execd.process.reap import Reaper
from execd.session import bubblewrap
from execd.session.jobs import Jobs
from execd.wire.messages import Isolation, SessionState

_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes spaces and similar characters


class IsolatedRunner(Runner):
    """A runner whose process is bubblewrap, which waits outside of the session."""

    @property
    def code_pid(self) -> int:
        """The shell; 0 if it has ended."""
        return first_child_of(self._first_pid)

    @property
    def _first_pid(self) -> int:
        """Process 1 of the session, by its number outside; 0 if it has ended."""
        return first_child_of(self.pid)

    @property
    def _group(self) -> int:
        return self._first_pid

    def signal_group(self, number: int) -> None:
        """Send a signal to the shell and its programs.

        SIGKILL ends the session. Process 1 of the session ignores the others.
        """
        if number == signal.SIGKILL:
            super().signal_group(number)
        elif first := self._first_pid:
            try:
                os.killpg(first, number)
            except OSError:
                pass  # the group ended just now


class IsolatedSession:
    """An isolated session: create it, start it, close it. *on_idle* is called when it has been idle for too long."""

    def __init__(
        self,
        session_id: str,
        isolation: Isolation,
        memo: str,
        environment: Environment,
        limits: Limits,
        on_idle: Callable[[IsolatedSession], None],
    ) -> None:
        """Check what the client asks for.

        Raises:
            ExecdError: `request.invalid`.
        """
        _check_paths(isolation)
        uid, gid = (None, None) if isolation.only_called else (isolation.uid, isolation.gid)
        launch = environment.prepare(cwd="/", uid=uid, gid=gid)
        self.id = session_id
        self._isolation = isolation
        self._memo = memo
        self._launch = launch._replace(env=bubblewrap.environment(isolation, launch.env))
        self._limits = limits
        self._on_idle = on_idle
        self._timer: asyncio.TimerHandle | None = None
        self._kernel: Kernel | None = None
        self.jobs = Jobs(session_id, launch.identity)
        self._runner: Runner | None = None
        self._created_at = self._last_run_at = self._used_at = time.time()
        self._ended_at: float | None = None

    @property
    def identity(self) -> Identity | None:
        """The user that the session runs as. None: that of execd."""
        return self._launch.identity

    @property
    def directory(self) -> str:
        """The directory in which the session began."""
        return self._isolation.mounts[0].path

    @property
    def state(self) -> SessionState:
        """The state of the session, for the control plane."""
        return SessionState(
            self.id,
            alive=self._ended_at is None,
            created_at=self._created_at,
            last_run_at=self._last_run_at,
            idle_left_s=self._idle_left_s(),
            memo=self._memo,
        )

    # -- the life of a session

    async def start(self, shell: Manifest, reaper: Reaper, command: Sequence[str]) -> None:
        """Start the shell, and return when it can run code. *command* starts execd.

        Raises:
            ExecdError: `isolation.unsupported`: this container cannot isolate sessions, or not in the way asked for.
        """
        path = bubblewrap.find()
        if path is None:
            raise ExecdError("isolation.unsupported", "this sandbox has no bubblewrap")
        try:
            self.jobs.prepare()
        except OSError as error:
            raise ExecdError("isolation.unsupported", f"it cannot run as this user: {error.strerror}") from error
        overlaid = bubblewrap.overlaid(self._isolation)
        before = [*command, bubblewrap.OVERLAYS, *overlaid, "--"] if overlaid else []

        async def take() -> Runner:
            arguments = os.memfd_create("bwrap", 0)

            def wrap(program: Program) -> Program:
                options = bubblewrap.options(self._isolation, program.launch.env, self.jobs.directory)
                os.write(arguments, b"".join(os.fsencode(option) + b"\0" for option in options))
                os.lseek(arguments, 0, os.SEEK_SET)
                argv = [*before, path, "--args", str(arguments), "--", *program.argv]
                # Only the shell gets the variables: bubblewrap must not load a library that the sandbox chooses.
                launch = program.launch._replace(env={}, identity=self._launch.identity)
                return Program(argv, launch, (*program.fds, arguments))

            try:
                self._runner = execute(shell, self._launch, reaper, wrap, IsolatedRunner)
            finally:
                os.close(arguments)
            return self._runner

        start = self._launch._replace(cwd=self.directory)
        self._kernel = Kernel(self.id, shell, take, start, self._limits, Work(), self._has_ended)
        try:
            await asyncio.shield(self._kernel.started)
        except ExecdError as error:
            raise ExecdError("isolation.unsupported", error.message) from error
        self._watch_idleness()

    async def close(self, disk: Disk) -> None:
        """End the session, and remove its files."""
        if self._timer is not None:
            self._timer.cancel()
        if self._kernel is not None:
            await self._kernel.close("its session was deleted")
        await self.jobs.remove(disk)

    def _has_ended(self, _: Kernel) -> None:
        self._ended_at = time.time()

    # -- the use of a session

    def check_alive(self) -> Kernel:
        """Return the shell. Raises ExecdError, `session.ended`."""
        if self._kernel is None or self._ended_at is not None:
            why = self._kernel.gone if self._kernel else "it has not started"
            raise ExecdError("session.ended", f"isolated session {self.id} has ended: {why}")
        return self._kernel

    @property
    def ended_at(self) -> float | None:
        """When the shell ended, as Unix time in seconds. None: it is alive."""
        return self._ended_at

    async def run(
        self, code: str, timeout_s: float | None, stream: Replies, most_bytes: int, *, notice: str = ""
    ) -> None:
        """Run code in the shell, as `Kernel.run` does. Raises ExecdError, `session.ended`."""
        kernel = self.check_alive()
        self._last_run_at = time.time()
        try:
            await kernel.run(code, timeout_s, stream, most_bytes=most_bytes, notice=notice)
        finally:
            self._used_at = time.time()

    def find_process(self) -> int:
        """Return a process that sees the files of the session. Raises ExecdError, `session.ended`."""
        pid = self._runner.code_pid if self.check_alive() and self._runner is not None else 0
        if not pid:
            raise ExecdError("session.ended", f"isolated session {self.id} has ended")
        return pid

    # -- idleness

    def _watch_idleness(self) -> None:
        if (left_s := self._idle_left_s()) is not None:
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0.1), self._look)

    def _look(self) -> None:
        if self._idle_left_s() == 0:
            self._on_idle(self)
        else:
            self._watch_idleness()

    def _idle_left_s(self) -> int | None:
        if not self._isolation.idle_s:
            return None
        now, used_at = time.time(), self._used_at
        if self._kernel is not None and self._ended_at is None:
            used_at = now if self._kernel.state.busy else max(used_at, self.jobs.busy_until())
        return max(0, round(used_at + self._isolation.idle_s - now))


def first_mount_below(path: str) -> str:
    """Return the first mount point inside a directory; "" if there is none."""
    below = path.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ", 5)[4]) for line in file]
    return next((point for point in points if point.startswith(below) and point != path), "")


def _check_paths(isolation: Isolation) -> None:
    for mount in isolation.mounts:
        if not os.path.isdir(mount.path):
            raise ExecdError("request.invalid", f"{mount.path}: is not a directory of the sandbox")
        if mount.mode == "overlay" and (inner := first_mount_below(mount.path)):
            # The kernel lets nobody look under the mount, as an overlay would have to.
            problem = f"cannot be an overlay: {inner} is mounted in it"
            raise ExecdError("request.invalid", f"{mount.path}: {problem}")
    writable = [mount.path for mount in isolation.mounts if mount.mode != "ro"]
    for bind in isolation.binds:
        if not os.path.exists(bind.source):
            raise ExecdError("request.invalid", f"{bind.source}: does not exist in the sandbox")
        can_be_made = any(bind.target.startswith(f"{path.rstrip('/')}/") for path in (*writable, bubblewrap.OWN_TMP))
        if not (can_be_made or os.path.exists(bind.target)):
            raise ExecdError("request.invalid", f"{bind.target}: does not exist in the sandbox: nothing can cover it")
