"""The handlers of the requests about terminals."""

from __future__ import annotations

import signal

from execd.dispatch import Handler
from execd.errors import ExecdError
from execd.launch.environment import Environment
from execd.process.limits import Limits
from execd.process.process import Witnesses, no_witness
from execd.process.reap import Reaper
from execd.process.spawn import check_arguments
from execd.terminal.terminal import Terminal
from execd.wire.aio import Stream
from execd.wire.messages import (
    Done,
    PtyAttach,
    PtyClose,
    PtyList,
    PtyOpen,
    PtyResize,
    PtySignal,
    Request,
)

MAX_TERMINALS = 64
MAX_REMEMBERED = 64  # terminals whose programs have ended
MAX_CELLS = 10_000


class Terminals:
    """The handlers of the requests about terminals. Create it inside the running event loop."""

    def __init__(self, reaper: Reaper, environment: Environment, witnesses: Witnesses = no_witness) -> None:
        self._reaper = reaper
        self._witnesses = witnesses
        self._environment = environment
        self._limits = Limits()
        self._terminals: dict[str, Terminal] = {}

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {
            PtyOpen: self._open,
            PtyAttach: self._attach,
            PtyResize: self._resize,
            PtySignal: self._signal,
            PtyList: self._list,
            PtyClose: self._close,
        }

    def shutdown(self) -> None:
        """Hang up all terminals."""
        for terminal in self._terminals.values():
            terminal.hang_up()

    async def _open(self, stream: Stream, request: PtyOpen) -> None:
        if not request.id or request.id in self._terminals:
            raise ExecdError("process.duplicate", f"terminal {request.id} exists already")
        if sum(terminal.is_running for terminal in self._terminals.values()) >= MAX_TERMINALS:
            raise ExecdError("pty.too_many", f"{MAX_TERMINALS} terminals may run at once; close one")
        _check_size(request.cols, request.rows)
        launch = self._environment.prepare(env=request.env, cwd=request.cwd, uid=request.uid, gid=request.gid)
        if request.command:
            check_arguments((request.command,))
        self._terminals[request.id] = Terminal(request, launch, self._reaper, self._limits, self._witnesses)
        ended = [terminal for terminal in self._terminals.values() if not terminal.is_running]
        for terminal in ended[:-MAX_REMEMBERED]:
            del self._terminals[terminal.id]
        await stream.send(Done())

    async def _attach(self, stream: Stream, request: PtyAttach) -> None:
        await self._find(request.id).attach(stream, request)

    async def _resize(self, stream: Stream, request: PtyResize) -> None:
        _check_size(request.cols, request.rows)
        self._find(request.id).resize(request.cols, request.rows)
        await stream.send(Done())

    async def _signal(self, stream: Stream, request: PtySignal) -> None:
        if not 1 <= request.signal < signal.NSIG:
            raise ExecdError("request.invalid", f"{request.signal} is not a signal")
        self._find(request.id).signal(request.signal)
        await stream.send(Done())

    async def _list(self, stream: Stream, request: PtyList) -> None:
        for terminal in [self._find(request.id)] if request.id else list(self._terminals.values()):
            await stream.send(terminal.state())

    async def _close(self, stream: Stream, request: PtyClose) -> None:
        terminal = self._find(request.id)
        del self._terminals[request.id]
        await terminal.close()
        await stream.send(Done())

    def _find(self, terminal_id: str) -> Terminal:
        try:
            return self._terminals[terminal_id]
        except KeyError:
            raise ExecdError("pty.not_found", f"terminal {terminal_id} does not exist") from None


def _check_size(cols: int, rows: int) -> None:
    if not (1 <= cols <= MAX_CELLS and 1 <= rows <= MAX_CELLS):
        raise ExecdError(
            "request.invalid",
            f"columns and rows must be from 1 to {MAX_CELLS}, not {cols} and {rows}",
        )
