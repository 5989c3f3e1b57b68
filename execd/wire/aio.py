"""The streams of the multiplexer for asyncio, over anything that carries messages of bytes. Both ends use them.

Only this file of the package awaits. `Endpoint` feeds one `Connection` and owns its streams. `execd/server.py` and
`controlplane/link/link.py` decide who dials and what runs on a stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol

from .connection import MAX_MESSAGE_BYTES, Connection
from .errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError, WireError
from .events import DataReceived, EndReceived, Event, HelloReceived, MessageReceived, ResetReceived, StreamOpened
from .frames import MAX_PAYLOAD_BYTES, Channel
from .messages import Hello, Problem, Reply, Request, RequestBy, encode_message

# Both ends refuse larger WebSocket messages. The writer puts as many whole frames into one message as fit.
MAX_CHUNK_BYTES = 512 * 1024

# What may wait for the socket. Credit bounds each stream, and this bounds all of them together when the peer has
# stopped reading (a paused sandbox, a hostile one). Then requests and data wait, and nothing piles up.
MAX_UNSENT_BYTES = 1024 * 1024

# After so much input other tasks run: a peer that never pauses shares the process with others.
TURN_BYTES = 64 * 1024
MESSAGE_OVERHEAD_BYTES = 256  # what a WebSocket message costs beside its bytes


class StreamReset(WireError):
    """The peer has ended the stream with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code}: {problem.message}")
        self.problem = problem


class StreamClosed(WireError):
    """This side has reset the stream."""


class StreamLost(WireError):
    """The link of the stream is gone."""


# Nobody listens on the stream any more, whichever side has ended it.
BROKEN = (StreamReset, StreamLost, StreamClosed)


class Data(NamedTuple):
    """Bytes as they arrived on a stream."""

    channel: int
    data: bytes


class Carrier(Protocol):
    """What an Endpoint runs over: a WebSocket of the `websockets` library, at either end."""

    def __aiter__(self) -> AsyncIterator[bytes | str]: ...

    async def send(self, message: bytes) -> None: ...

    async def close(self) -> None: ...


class Stream:
    """One stream, at either end. One task reads it, one task writes it."""

    __slots__ = (
        *("_endpoint", "_error", "_inbox", "_on_broken", "_readable", "_writable"),
        *("actor", "ended", "id", "local_done"),
    )

    def __init__(self, endpoint: Endpoint, stream_id: int, actor: str = "") -> None:
        self.id = stream_id
        self.actor = actor  # at execd: whom the request is carried out for; "" if that was not said
        self.ended = False  # the peer's END has been read
        self.local_done = False
        self._endpoint = endpoint
        self._inbox: deque[tuple[Reply | Data | None, int]] = deque()
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._error: WireError | None = None
        self._on_broken: Callable[[], object] | None = None

    @property
    def is_broken(self) -> bool:
        """Whether either end has reset the stream, or its link has broken."""
        return self._error is not None

    @property
    def is_lost(self) -> bool:
        """Whether the link of the stream has broken."""
        return isinstance(self._error, StreamLost)

    # -- reading

    async def receive(self) -> Reply | Data | None:
        """Return the next message or data; None after the peer's END.

        What is returned counts as consumed, and the peer gets its credit back. Cancelling is safe and loses nothing.

        Raises:
            StreamReset, StreamLost: Everything that arrived before has been returned.
            StreamClosed: This side has reset the stream.
        """
        while not self._inbox:
            if self.ended:
                return None
            if self._error is not None:
                raise self._error
            if self._readable is not None:
                raise LocalProtocolError(f"two tasks read stream {self.id}")
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        return self._pop()

    def receive_nowait(self) -> Reply | Data | None:
        """Return what `receive()` would return without waiting, or None if nothing is there."""
        return self._pop() if self._inbox else None

    def _pop(self) -> Reply | Data | None:
        item, cost = self._inbox.popleft()
        if item is None:
            self.ended = True
            return None
        self._endpoint.consumed(self.id, cost)
        return item

    # -- writing

    async def send(self, message: Request | Reply) -> None:
        """Send a message, and wait for credit. A large message travels in pieces.

        Cancelling is safe before anything was sent. In the middle of a large message it resets the stream.

        Raises:
            MessageTooLarge: Nothing was sent.
            StreamReset, StreamLost, StreamClosed: Nobody listens any more.
        """
        payload = encode_whole(message)
        if len(payload) > MAX_PAYLOAD_BYTES:
            await self._send_pieces(memoryview(payload))
            return
        await self._wait_for_room(len(payload))
        self._endpoint.connection.send_message(self.id, payload)
        self._endpoint.flush()

    async def _send_pieces(self, view: memoryview, *, begun: bool = False) -> None:
        try:
            while view:
                piece, view = view[:MAX_PAYLOAD_BYTES], view[MAX_PAYLOAD_BYTES:]
                await self._wait_for_room(len(piece))
                self._endpoint.connection.send_message(self.id, piece, more=bool(view))
                self._endpoint.flush()
                begun = True
        except BaseException:
            if begun:
                self.reset("stream.abandoned", "a message was not sent whole")
            raise

    async def write(self, data: bytes | memoryview, channel: Channel) -> None:
        """Send all of *data*, and wait for credit.

        A cancelled call may have sent a part. Errors are those of `send()`.
        """
        view = memoryview(data)
        while True:
            view = view[self.write_nowait(view, channel) :]
            if not view:
                return
            await self._wait_for_room(1)

    def write_nowait(self, data: bytes | memoryview, channel: Channel) -> int:
        """Send as much of *data* as there is room for.

        Return how many bytes were sent. Errors are those of `send()`.
        """
        self._check()
        view = memoryview(data)
        while view and (room := self._endpoint.sendable(self.id)):
            piece, view = view[:room], view[room:]
            self._endpoint.connection.send_data(self.id, piece, channel)
        self._endpoint.flush()
        return len(data) - len(view)

    async def wait_writable(self) -> None:
        """Return when at least one byte of data can be sent. Errors are those of `send()`."""
        await self._wait_for_room(1)

    def end(self) -> None:
        """Send END: nothing more will be sent. Do nothing if the stream has ended already."""
        if self.local_done or self._error is not None:
            return
        self._endpoint.connection.send_end(self.id)
        self.local_done = True
        self._endpoint.flush()
        self._endpoint.forget_if_closed(self.id)

    def reset(self, code: str, message: str) -> None:
        """End the stream at once, in both directions, and drop what was not read.

        Do nothing if it has ended already.
        """
        if self._error is None:
            self._endpoint.connection.send_reset(self.id, Problem(code, message))
            self._endpoint.flush()
            self._endpoint.forget_if_closed(self.id)
            self._error = StreamClosed("this side has closed the stream")
            _wake(self._readable)
            _wake(self._writable)
        if self._inbox:
            self._inbox.clear()
            self._endpoint.connection.discard(self.id)

    def on_broken(self, callback: Callable[[], object]) -> None:
        """Call *callback* once when the peer resets the stream, or the link is lost; at once if that has happened."""
        if self._error is not None:
            callback()
        else:
            self._on_broken = callback

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait_for_room(self, size: int) -> None:
        self._check()
        while self._endpoint.sendable(self.id) < size:
            if self._writable is not None:
                raise LocalProtocolError(f"two tasks write stream {self.id}")
            if not self._endpoint.connection.is_open(self.id):
                raise LocalProtocolError(f"stream {self.id} has ended")
            self._writable = asyncio.get_running_loop().create_future()
            try:
                await self._endpoint.wait_for_socket(self._writable)
            finally:
                self._writable = None
            self._check()

    # -- called by the endpoint

    def _arrived(self, item: Reply | Data | None, cost: int) -> None:
        self._inbox.append((item, cost))
        _wake(self._readable)

    def _credited(self) -> None:
        _wake(self._writable)

    def _broke(self, error: WireError) -> None:
        if self._error is None:
            self._error = error
            _wake(self._readable)
            _wake(self._writable)
            if self._on_broken is not None:
                self._on_broken()


def encode_whole(message: Request | Reply) -> bytes:
    """Return the message as msgpack. Raises MessageTooLarge."""
    payload = encode_message(message)
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"a message has {len(payload)} bytes, more than {MAX_MESSAGE_BYTES}")
    return payload


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class Endpoint:
    """One end of a link. It feeds the multiplexer from a carrier, and the carrier from the multiplexer.

    At execd, `on_open` is called for each stream that the control plane opens.
    """

    def __init__(self, connection: Connection, on_open: Callable[[Stream, Request], None] | None = None) -> None:
        self.connection = connection
        self.bytes_in = 0
        self.bytes_out = 0
        self._on_open = on_open
        self._streams: dict[int, Stream] = {}
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._outgoing = asyncio.Event()
        self._blocked: dict[asyncio.Future[None], None] = {}  # writers that wait for the socket, in order
        self._carrier: Carrier | None = None
        self._over = False

    async def run(self, carrier: Carrier) -> None:
        """Carry bytes both ways until the carrier ends. Then all streams are lost, however it ended.

        Raises:
            RemoteProtocolError: The peer has broken the rules; close the carrier.
            Whatever the carrier raises when it breaks.
        """
        self._carrier = carrier
        self.flush()  # the hello of this side
        writer = asyncio.ensure_future(self._write(carrier))
        try:
            await self._read(carrier)
        finally:
            self._end()
            writer.cancel()
            await asyncio.wait([writer])
            failure = None if writer.cancelled() else writer.exception()
        if failure is not None:
            raise failure

    async def wait_hello(self) -> Hello:
        """Return the peer's hello once it has arrived. Cancelling is safe.

        Raises:
            StreamLost: The link was lost before.
        """
        return await asyncio.shield(self._hello)

    async def open(self, request: Request) -> Stream:
        """Open a stream with a request (control plane only). A cancelled call leaves no stream behind.

        Raises:
            StreamLost: The link is gone.
            TooManyStreams: Close a stream first.
            MessageTooLarge: Nothing was sent.
        """
        payload = encode_whole(request)
        while self._is_full() and not self._over:
            await self.wait_for_socket(asyncio.get_running_loop().create_future())
        if self._over:
            raise StreamLost("the link is gone")
        if self.connection.worn_out and self._carrier is not None:
            await self._carrier.close()  # the peer dials again, and numbers its streams from one
            raise StreamLost("the link is worn out")
        if len(payload) <= MAX_PAYLOAD_BYTES:
            return self._add(self.connection.open(payload))
        view = memoryview(payload)
        stream = self._add(self.connection.open(view[:MAX_PAYLOAD_BYTES], more=True))
        await stream._send_pieces(view[MAX_PAYLOAD_BYTES:], begun=True)
        return stream

    @property
    def stream_count(self) -> int:
        """The number of streams that are open now."""
        return self.connection.stream_count

    # -- called by the streams

    def flush(self) -> None:
        """Have the writer send what the multiplexer has to say."""
        if self.connection.unsent_bytes:
            self._outgoing.set()

    def sendable(self, stream_id: int) -> int:
        """Return how many bytes fit into one frame of a stream now."""
        return 0 if self._is_full() else self.connection.sendable(stream_id)

    async def wait_for_socket(self, future: asyncio.Future[None]) -> None:
        """Wait for a future. Wake it also when the socket has taken the surplus."""
        if not self._is_full():
            await future
            return
        self._blocked[future] = None
        try:
            await future
        finally:
            self._blocked.pop(future, None)

    def consumed(self, stream_id: int, cost: int) -> None:
        """Give the peer its credit back."""
        self.connection.consumed(stream_id, cost)
        self.flush()

    def forget_if_closed(self, stream_id: int) -> None:
        """Drop a stream that has ended on both sides."""
        if not self.connection.is_open(stream_id):
            self._streams.pop(stream_id, None)

    # -- inside

    def _is_full(self) -> bool:
        return self.connection.unsent_bytes >= MAX_UNSENT_BYTES

    def _add(self, stream_id: int, actor: str = "") -> Stream:
        stream = self._streams[stream_id] = Stream(self, stream_id, actor)
        self.flush()
        return stream

    async def _read(self, carrier: Carrier) -> None:
        turn = TURN_BYTES
        async for chunk in carrier:
            if isinstance(chunk, str) or not chunk:
                raise RemoteProtocolError("a message is text, or is empty")
            self.bytes_in += len(chunk)
            try:
                for _ in self.connection.receive_in_steps(chunk):
                    self._dispatch_all()
                    await asyncio.sleep(0)
            finally:
                self._dispatch_all()
            turn -= len(chunk) + MESSAGE_OVERHEAD_BYTES
            if turn < 0:
                turn = TURN_BYTES
                await asyncio.sleep(0)

    async def _write(self, carrier: Carrier) -> None:
        # One writer: everything that was said in one turn of the loop leaves as one WebSocket message, and a peer that
        # does not read stops it here.
        try:
            while True:
                await self._outgoing.wait()
                self._outgoing.clear()
                while data := self.connection.data_to_send(MAX_CHUNK_BYTES):
                    self.bytes_out += len(data)
                    self._wake_blocked()
                    await carrier.send(data)
        except Exception:
            await carrier.close()  # so that the reader ends too, after it has read what had arrived
            raise

    def _wake_blocked(self) -> None:
        if self._blocked and not self._is_full():
            for future in self._blocked:
                _wake(future)
            self._blocked.clear()

    def _end(self) -> None:
        self._over = True
        if not self._hello.done():
            self._hello.set_exception(StreamLost("the link is gone"))
            self._hello.exception()  # asyncio would log an exception that nobody retrieves
        for stream in list(self._streams.values()):
            stream._broke(StreamLost("the link is gone"))
        self._streams.clear()
        for future in self._blocked:
            _wake(future)
        self._blocked.clear()

    def _dispatch_all(self) -> None:
        for event in self.connection.events_received():
            self._dispatch(event)
        self.flush()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, HelloReceived):
            self._hello.set_result(event.hello)
            return
        if isinstance(event, StreamOpened):
            whole, request, actor = event.request, event.request, ""
            if isinstance(whole, RequestBy):
                request, actor = whole.request, whole.actor
            stream = self._add(event.stream_id, actor)
            self.consumed(event.stream_id, event.cost)
            if self._on_open is not None:
                self._on_open(stream, request)
            return
        known = self._streams.get(event.stream_id)
        if known is None:  # this side has reset it in this very turn
            self.connection.discard(event.stream_id)
        elif isinstance(event, DataReceived):
            known._arrived(Data(event.channel, event.data), event.cost)
        elif isinstance(event, MessageReceived):
            known._arrived(event.message, event.cost)
        elif isinstance(event, EndReceived):
            known._arrived(None, 0)
            if known.local_done:  # not "if it is closed": a reset may be the next event
                del self._streams[known.id]
        elif isinstance(event, ResetReceived):
            del self._streams[known.id]
            known._broke(StreamReset(event.problem))
        else:
            known._credited()
