"""One stream of a client's socket: what the client sends on it, and what the client hears.

A stream waits for the client's credit, where there is a window, and for the socket; then execd has to wait for the
stream, and at last the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
from starlette.types import Scope

from controlplane.api.edge.problems import problem_of
from controlplane.api.stream import messages as says
from controlplane.api.stream.messages import ServerMessage
from controlplane.errors import SandlotError
from controlplane.telemetry.tracing import SILENT, Tracer

if TYPE_CHECKING:
    from controlplane.api.edge.audit import AuditLog
    from controlplane.api.edge.operation import Operation
    from controlplane.api.runs.receipt import Receipt
    from controlplane.link.stream import Stream

CLIENT_WINDOW = 256 << 10  # bytes of a stream that a client may send ahead
INPUT_BYTES = 64 << 10  # of input that are passed on at once


class BrokenRule(Exception):
    """The client sent what it may not send."""


class Socket(Protocol):
    """The socket of a stream."""

    sandbox_id: str
    scope: Scope
    is_text: bool  # output is told as text

    async def send(self, message: ServerMessage) -> None:
        """Send a message; waits while the client does not read."""

    def keep(self, size: int) -> None:
        """Tell the listener that *size* bytes more (less, if negative) wait for a sandbox to take them."""

    def forget(self, stream: ClientStream) -> None:
        """Note that the number of a stream is free."""


# Carries out the operation of a stream; returns the last message, where that is more than `done`. Raises SandlotError.
Operate = Callable[["ClientStream", says.AnyOperation], Awaitable[ServerMessage | None]]


def failed(number: int, error: SandlotError, receipt: Receipt | None = None) -> says.Failed:
    """Return the last message of a stream that an error has ended."""
    return says.Failed(number, code=problem_of(error).code, message=error.public, receipt=receipt)


class Input:
    """Input that the client has sent and the sandbox has not taken, as one piece: bytes cost what they weigh."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._is_ended = False
        self._changed = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Add a piece. After the end it is dropped."""
        if not self._is_ended:
            self._data += data
            self._changed.set()

    def end(self) -> None:
        """Note that nothing follows."""
        self._is_ended = True
        self._changed.set()

    async def get(self) -> bytes:
        """Return what there is, waiting for some, at most INPUT_BYTES; b"" at the end."""
        while not self._data and not self._is_ended:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._data[:INPUT_BYTES])
        del self._data[:INPUT_BYTES]
        return data


class ClientStream:
    """One stream of a socket. `recorded_id` is the id of the run that goes on without the stream."""

    def __init__(self, socket: Socket, opening: says.Open, row: Operation, audit: AuditLog) -> None:
        """Begin a stream. *row* is the operation in the audit log."""
        self.number = opening.stream
        self.task: asyncio.Task[None]
        self.recorded_id = ""
        self._socket = socket
        self._operation = opening.operation
        self._window = opening.window  # None: as much as the socket takes
        self._credited = asyncio.Event()
        self._input = Input()
        self._input_bytes = 0  # sent by the client, and not taken yet
        self._row = row
        self._audit = audit
        self._began = time.perf_counter()
        self._is_noted = False  # in the audit log
        self._is_over = False

    @property
    def sandbox_id(self) -> str:
        """The sandbox that the operation is for."""
        return self._socket.sandbox_id

    @property
    def is_text(self) -> bool:
        """Whether output is told as text."""
        return self._socket.is_text

    async def serve(self, operate: Operate, tracer: Tracer = SILENT) -> None:
        """Carry the operation out, and say how it ended."""
        try:
            with tracer.inside(self._row.name, {"sandlot.sandbox": self.sandbox_id}):
                ending = await operate(self, self._operation) or says.Finished(self.number)
            self._note(200)
        except SandlotError as error:
            ending = failed(self.number, error)
            problem = problem_of(error)
            self._note(problem.status, problem.code)
        finally:
            self._note(0)
            self._socket.forget(self)
            self._socket.keep(-self._input_bytes)
            self._is_over = True
        await self._socket.send(ending)

    def cancel(self) -> None:
        """End the stream. A recorded run goes on."""
        self.task.cancel()

    # -- what the client sends

    def take(self, data: bytes) -> None:
        """Take a piece of input. Raises BrokenRule when it is more than may wait."""
        if self._is_over:
            return
        self._input_bytes += len(data)
        self._socket.keep(len(data))
        if self._input_bytes > CLIENT_WINDOW:
            raise BrokenRule(f"stream {self.number}: more than {CLIENT_WINDOW} bytes without credit")
        self._input.put(data)

    def take_end(self) -> None:
        """Note that the input has ended."""
        self._input.end()

    def credit(self, count: int) -> None:
        """Note that the client takes *count* more bytes."""
        if self._window is not None:
            self._window += count
            self._credited.set()

    @contextlib.asynccontextmanager
    async def feeding(self, stream: Stream | None) -> AsyncIterator[None]:
        """Pass the input on to a stream, where there is one, inside of the block."""
        if stream is None:
            yield
            return
        feeding = asyncio.ensure_future(self._feed(stream))
        try:
            yield
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])

    async def _feed(self, stream: Stream) -> None:
        """Pass input on, as fast as it is taken. That it is not taken any more is no error."""
        with contextlib.suppress(SandlotError):
            while data := await self._input.get():
                await stream.write(data)
                self._input_bytes -= len(data)
                self._socket.keep(-len(data))
                await self._socket.send(says.ServerCredit(self.number, bytes=len(data)))
            stream.end()

    # -- what the client hears

    async def say(self, message: ServerMessage) -> None:
        """Send a message of this stream; data waits for the client's credit."""
        self._note(200)
        if self._window is not None and (size := _size(message)):
            while self._window <= 0:
                self._credited.clear()
                await self._credited.wait()
            self._window -= size
        await self._socket.send(message)

    def _note(self, status: int, code: str = "") -> None:
        """Write the operation into the audit log, once: when its answer begins."""
        if not self._is_noted:
            self._is_noted = True
            self._audit.note(self._socket.scope, self._row, status, self._began, code=code)


def _size(message: ServerMessage) -> int:
    """Return how much credit a message takes: what is data, and the entries of an activity."""
    match message:
        case says.ServerData(data=data, text=text):
            return len(data) + len(text.encode())
        case says.Activity(entry=msgspec.Raw() as entry):
            return len(memoryview(entry))
    return 0
