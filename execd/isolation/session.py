"""One isolated session: a live bash in namespaces of its own, put together by bubblewrap.

    execd ─▶ (stage: overlays) ─▶ bwrap ─▶ bwrap, process 1 of the session ─▶ bash, its jobs; deputies

It is dead when its shell ends, and whatever it has left behind dies with it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Sequence

from execd.environment import Environment, Identity
from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.isolation import bubblewrap
from execd.isolation.jobs import Jobs
from execd.kernel.kernel import Kernel
from execd.kernel.manifest import Manifest
from execd.kernel.runner import Program, Runner, execute
from execd.process.limits import Limits
from execd.process.parents import first_child_of
from execd.process.reap import Reaper
from execd.wire.aio import Stream
from execd.wire.messages import Isolation, SessionState

_OCTAL = re.compile(r"\\([0-7]{3})")  # how spaces and their like stand in mountinfo


class IsolatedRunner(Runner):
    """Its process is bubblewrap, which waits outside."""

    @property
    def code_pid(self) -> int:
        """The shell; 0 when it has ended."""
        return first_child_of(self._first_pid)

    @property
    def _first_pid(self) -> int:
        """Process 1 of the session, by our number; 0 when it has ended."""
        return first_child_of(self.pid)

    def signal_group(self, number: int) -> None:
        """Send a signal to the shell and what it runs, to which process 1 is deaf; SIGKILL is the end of all."""
        if number == signal.SIGKILL:
            super().signal_group(number)
        elif first := self._first_pid:
            try:
                os.killpg(first, number)
            except OSError:
                pass  # it ended just now


class IsolatedSession:
    """Made, then started, then closed. *on_idle* is told when it has been idle for as long as it may be."""

    def __init__(
        self,
        session_id: str,
        isolation: Isolation,
        memo: str,
        environment: Environment,
        limits: Limits,
        on_idle: Callable[[IsolatedSession], None],
    ) -> None:
        """Look at what it asks for.

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
        """Whose rights it has; None: execd's."""
        return self._launch.identity

    @property
    def directory(self) -> str:
        """Where it began."""
        return self._isolation.mounts[0].path

    @property
    def state(self) -> SessionState:
        """As the control plane sees it."""
        return SessionState(
            self.id,
            alive=self._ended_at is None,
            created_at=self._created_at,
            last_run_at=self._last_run_at,
            idle_left_s=self._idle_left_s(),
            memo=self._memo,
        )

    # -- its life

    async def start(self, shell: Manifest, reaper: Reaper, command: Sequence[str]) -> None:
        """Start its shell, and return when it can run code. *command* is what starts execd.

        Raises:
            ExecdError: `isolation.unsupported`: it cannot be had here, or not so.
        """
        path = bubblewrap.find()
        if path is None:
            raise ExecdError("isolation.unsupported", "there is no bubblewrap in this sandbox")
        try:
            self.jobs.prepare()
        except OSError as error:
            raise ExecdError("isolation.unsupported", f"it cannot be that user's: {error.strerror}") from error
        overlaid = bubblewrap.overlaid(self._isolation)
        before = [*command, bubblewrap.OVERLAYS, *overlaid, "--"] if overlaid else []

        async def take() -> Runner:
            arguments = os.memfd_create("bwrap", 0)

            def wrap(program: Program) -> Program:
                options = bubblewrap.options(self._isolation, program.launch.env, self.jobs.directory)
                os.write(arguments, b"".join(os.fsencode(option) + b"\0" for option in options))
                os.lseek(arguments, 0, os.SEEK_SET)
                argv = [*before, path, "--args", str(arguments), "--", *program.argv]
                # The variables are the shell's alone: bubblewrap must load no library of the sandbox's choosing.
                launch = program.launch._replace(env={}, identity=self._launch.identity)
                return Program(argv, launch, (*program.fds, arguments))

            try:
                self._runner = execute(shell, self._launch, reaper, wrap, IsolatedRunner)
            finally:
                os.close(arguments)
            return self._runner

        start = self._launch._replace(cwd=self.directory)
        self._kernel = Kernel(self.id, shell, take, start, self._limits, self._has_ended)
        try:
            await asyncio.shield(self._kernel.started)
        except ExecdError as error:
            raise ExecdError("isolation.unsupported", error.message) from error
        self._watch_idleness()

    async def close(self, disk: Disk) -> None:
        """End it, and remove what is left of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._kernel is not None:
            await self._kernel.close("its session was deleted")
        await self.jobs.remove(disk)

    def _has_ended(self, _: Kernel) -> None:
        self._ended_at = time.time()

    # -- what is done in it

    def check_alive(self) -> Kernel:
        """Return its shell. Raises ExecdError, `session.ended`."""
        if self._kernel is None or self._ended_at is not None:
            why = self._kernel.gone if self._kernel else "it has not started"
            raise ExecdError("session.ended", f"isolated session {self.id} has ended: {why}")
        return self._kernel

    @property
    def ended_at(self) -> float | None:
        """When its shell did, if so. Unix time, s."""
        return self._ended_at

    async def run(self, code: str, timeout_s: float | None, stream: Stream, most_bytes: int) -> None:
        """Run code in its shell. As `Kernel.run`; raises ExecdError, `session.ended`."""
        kernel = self.check_alive()
        self._last_run_at = time.time()
        try:
            await kernel.run(code, timeout_s, stream, most_bytes=most_bytes)
        finally:
            self._used_at = time.time()

    def find_process(self) -> int:
        """Return a process that sees what it sees. Raises ExecdError, `session.ended`."""
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
    """Return where in a directory something else is mounted; "" when nothing is."""
    below = path.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ", 5)[4]) for line in file]
    return next((point for point in points if point.startswith(below) and point != path), "")


def _check_paths(isolation: Isolation) -> None:
    for mount in isolation.mounts:
        if not os.path.isdir(mount.path):
            raise ExecdError("request.invalid", f"{mount.path}: there is no such directory in the sandbox")
        if mount.mode == "overlay" and (inner := first_mount_below(mount.path)):
            # The kernel lets nobody look behind it, as it would have to for the overlay.
            problem = f"it cannot be an overlay: {inner} is mounted in it"
            raise ExecdError("request.invalid", f"{mount.path}: {problem}")
    writable = [mount.path for mount in isolation.mounts if mount.mode != "ro"]
    for bind in isolation.binds:
        if not os.path.exists(bind.source):
            raise ExecdError("request.invalid", f"{bind.source}: does not exist in the sandbox")
        can_be_made = any(bind.target.startswith(f"{path.rstrip('/')}/") for path in (*writable, bubblewrap.OWN_TMP))
        if not (can_be_made or os.path.exists(bind.target)):
            raise ExecdError("request.invalid", f"{bind.target}: does not exist in the sandbox, to be covered")
