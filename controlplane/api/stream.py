"""`/sandboxes/{id}/stream`: one WebSocket for all that a client does in a sandbox. Its messages: `stream_messages.py`.

Each stream is a task that opens a stream to execd, says what comes of it in our messages, and ends. It waits for the
client's credit, where there is a window, and for the socket; then execd has to wait for it, and at last the program.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec.structs import replace
from starlette.websockets import WebSocket, WebSocketDisconnect

from controlplane.api import stream_messages as says
from controlplane.api.commands import process_start
from controlplane.api.problems import error_answer, problem_of
from controlplane.api.schema import (
    ContextReference,
    Receipt,
    RunCodeRequest,
    RunCommandRequest,
    clean_env,
    frames_of,
    receipt_of,
    receipt_of_lost,
)
from controlplane.api.stream_messages import Codec, ServerMessage
from controlplane.api.tape import KeptRun, KeptRuns, Tape
from controlplane.errors import AgentError, CapacityExhausted, InvalidRequest, LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextClose,
    ContextComplete,
    ContextCompletion,
    ContextDone,
    ContextError,
    ContextFork,
    ContextInput,
    ContextInspect,
    ContextInspection,
    ContextInterrupt,
    ContextList,
    ContextOpen,
    ContextPrompt,
    ContextRestart,
    ContextResult,
    ContextState,
    Done,
    FileInfo,
    FileRead,
    FileWrite,
    ProcessExited,
    ProcessSignal,
    ProcessStarted,
    PtyAttach,
    PtyClose,
    PtyList,
    PtyOpen,
    PtyResize,
    PtySignal,
    PtyState,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from controlplane.api.code import Codes, Run
    from controlplane.link.relay import Relay

log = structlog.get_logger()

OPERATION = "sandbox.stream"  # the name of the route
MAX_STREAMS = 64  # at once on one socket
CLIENT_WINDOW = 256 << 10  # bytes of a stream that a client may send ahead
MESSAGE_BYTES = 256  # what a message costs beside its content, on a tape
FRAME_BYTES = 64  # and each text of a traceback
MAX_BATCH_BYTES = 64 << 10

UNACCEPTABLE = 1008  # close code: the client broke a rule


class Streams:
    """The endpoint. `timeout_s` limits what sets no limit of its own."""

    def __init__(self, relay: Relay, codes: Codes, kept: KeptRuns[ServerMessage], timeout_s: float | None) -> None:
        self.relay = relay
        self.codes = codes
        self.kept = kept
        self.timeout_s = timeout_s

    async def serve(self, websocket: WebSocket) -> None:
        """WebSocket /sandboxes/{id}/stream. Without a subprotocol it is `sandlot.json.v1`."""
        sandbox_id = websocket.path_params["sandbox_id"]
        try:
            offered = websocket.scope.get("subprotocols") or []
            chosen = next((name for name in offered if name in (says.JSON, says.MSGPACK)), None)
            if offered and chosen is None:
                raise InvalidRequest(f"the subprotocols are {says.JSON} and {says.MSGPACK}")
            await self.relay.link(sandbox_id)
        except SandlotError as error:
            await websocket.send_denial_response(error_answer(error, OPERATION))
            return
        await websocket.accept(chosen)
        await _Connection(self, websocket, sandbox_id, Codec(chosen or says.JSON)).serve()


class _BrokenRule(Exception):
    """The client sent what it may not send."""


class _Connection:
    """One client's socket."""

    def __init__(self, endpoint: Streams, websocket: WebSocket, sandbox_id: str, codec: Codec) -> None:
        self.endpoint = endpoint
        self.sandbox_id = sandbox_id
        self.codec = codec
        self._websocket = websocket
        self._streams: dict[int, _Stream] = {}

    async def serve(self) -> None:
        """Serve the socket until the client leaves or breaks a rule; then all its streams are cancelled."""
        try:
            await self.send(says.Hello(self.sandbox_id, version("sandlot"), CLIENT_WINDOW))
            async with asyncio.TaskGroup() as group:
                try:
                    while True:
                        self._handle(await self._receive(), group)
                finally:
                    for stream in list(self._streams.values()):
                        stream.cancel()
        except* (WebSocketDisconnect, OSError):
            log.debug("stream.left")
        except* _BrokenRule as errors:
            with contextlib.suppress(RuntimeError, OSError):
                await self._websocket.close(UNACCEPTABLE, str(errors.exceptions[0])[:120])

    async def send(self, message: ServerMessage | says.Hello) -> None:
        """Send a message; waits while the client does not read. Raises WebSocketDisconnect, OSError."""
        frame = self.codec.encode(message)
        try:
            if self.codec.is_text:
                await self._websocket.send_text(frame.decode())
            else:
                await self._websocket.send_bytes(frame)
        except RuntimeError:  # another stream has just found out that the client has gone
            raise WebSocketDisconnect(1006) from None

    def forget(self, stream: _Stream) -> None:
        """The number of a stream is free."""
        if self._streams.get(stream.number) is stream:
            del self._streams[stream.number]

    async def _receive(self) -> says.FromClient:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        frame = message.get("text") if self.codec.is_text else message.get("bytes")
        if frame is None:
            raise _BrokenRule(f"frames must be {'text' if self.codec.is_text else 'binary'}")
        try:
            return self.codec.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _BrokenRule(str(error)) from None

    def _handle(self, message: says.FromClient, group: asyncio.TaskGroup) -> None:
        stream = self._streams.get(message.stream)
        if isinstance(message, says.Open):
            if stream is not None:
                raise _BrokenRule(f"stream {message.stream} is open already")
            stream = self._streams[message.stream] = _Stream(self, message)
            stream.task = group.create_task(stream.serve(is_one_too_many=len(self._streams) > MAX_STREAMS))
        elif stream is None:
            return  # it has ended, and our word of that has crossed this message
        elif isinstance(message, says.ClientData):
            stream.take(message.data or message.text.encode())
        elif isinstance(message, says.End):
            stream.take_end()
        elif isinstance(message, says.Credit):
            stream.credit(message.bytes)
        else:
            self.forget(stream)
            stream.cancel(by_client=True)


class _Stream:
    """One stream of a connection."""

    def __init__(self, connection: _Connection, opening: says.Open) -> None:
        self.number = opening.stream
        self.task: asyncio.Task[None]
        self._connection = connection
        self._endpoint = connection.endpoint
        self._operation = opening.operation
        self._window = opening.window  # None: as much as the socket takes
        self._credited = asyncio.Event()
        self._input: asyncio.Queue[bytes] = asyncio.Queue()  # b"": its end
        self._input_bytes = 0  # sent by the client, and not taken yet
        self._kept: KeptRun[ServerMessage] | None = None

    async def serve(self, *, is_one_too_many: bool) -> None:
        """Carry the operation out, and say how it ended."""
        try:
            ending = await self._operate_if(not is_one_too_many)
        except SandlotError as error:
            ending = _failed(error)
        finally:
            self._connection.forget(self)
        await self._connection.send(replace(ending, stream=self.number))

    def cancel(self, *, by_client: bool = False) -> None:
        """End it. What is kept goes on, unless that is what the client wants."""
        self.task.cancel()
        if by_client and self._kept is not None:
            self._kept.end()

    # -- what the client sends

    def take(self, data: bytes) -> None:
        """Take a piece of input. Raises _BrokenRule when it is more than may wait."""
        self._input_bytes += len(data)
        if self._input_bytes > CLIENT_WINDOW:
            raise _BrokenRule(f"stream {self.number}: more than {CLIENT_WINDOW} bytes without credit")
        if data:
            self._input.put_nowait(data)

    def take_end(self) -> None:
        """The input has ended."""
        self._input.put_nowait(b"")

    def credit(self, count: int) -> None:
        """The client takes so many more bytes."""
        if self._window is not None:
            self._window += count
            self._credited.set()

    async def _feed(self, stream: Stream) -> None:
        """Pass input on, as fast as it is taken."""
        while data := await self._input.get():
            await stream.write(data)
            self._input_bytes -= len(data)
            await self._connection.send(says.ServerCredit(self.number, bytes=len(data)))
        stream.end()

    # -- what the client hears

    async def _say(self, message: ServerMessage) -> None:
        if isinstance(message, says.ServerData) and self._window is not None:
            while self._window <= 0:
                self._credited.clear()
                await self._credited.wait()
            self._window -= len(message.data) + len(message.text.encode())
        await self._connection.send(replace(message, stream=self.number))

    # -- operations

    async def _operate_if(self, is_allowed: bool) -> ServerMessage:
        if not is_allowed:
            raise CapacityExhausted(f"more than {MAX_STREAMS} streams at once")
        return await self._operate(self._operation) or says.Finished(0)

    async def _operate(self, operation: says.AnyOperation) -> ServerMessage | None:
        """Carry one out; returns its last message, where that is more than `done`. Raises SandlotError."""
        match operation:
            case says.Command():
                return await self._run_command(operation)
            case says.Run():
                return await self._run_code(operation)
            case says.Resume():
                self._kept = self._endpoint.kept.get(self._connection.sandbox_id, operation.id)
                return await self._play(self._kept, operation.after)
            case says.Signal():
                await self._signal(operation)
            case says.AttachPty():
                return await self._attach(operation)
            case says.ReadFile(path=path, offset=offset, length=length):
                _check_path(path)
                await self._tell(FileRead(path, offset, length), as_text=False)
            case says.WriteFile():
                _check_path(operation.path)
                mode = int(operation.mode, 8) if operation.mode else None
                writing = FileWrite(operation.path, mode=mode, owner=operation.owner, group=operation.group)
                await self._tell(writing, with_input=True)
            case says.OpenPty():
                opening = _pty(operation)
                await self._endpoint.relay.call(self._connection.sandbox_id, opening, Done)
                await self._say(says.Pty(0, id=opening.id, running=False))
            case _:
                await self._tell(_request(operation))
        return None

    async def _run_command(self, command: says.Command) -> ServerMessage | None:
        body = RunCommandRequest(
            command=command.command or None,
            argv=command.argv or None,
            cwd=command.cwd,
            envs=command.env,
            uid=command.uid,
            gid=command.gid,
            timeout=None if command.timeout_s is None else round(command.timeout_s * 1000),
        )
        start = replace(process_start(body, self._endpoint.timeout_s), stdin=command.stdin)
        if command.stdin and command.keep_s:
            raise InvalidRequest("stdin and keep_s exclude each other: input cannot be resumed")
        stream = await self._endpoint.relay.open(self._connection.sandbox_id, start, with_input=command.stdin)
        replies = _replies(stream, is_text=self._connection.codec.is_text, run_id=start.id)
        replies = _whole(replies, lambda: receipt_of_lost(stream))
        return await self._carry(start.id, stream.close, replies, command.keep_s, stream if command.stdin else None)

    async def _run_code(self, wanted: says.Run) -> ServerMessage | None:
        if wanted.context and wanted.language:
            raise InvalidRequest("context and language exclude each other")
        body = RunCodeRequest(
            code=wanted.code,
            context=ContextReference(wanted.language or None, wanted.context or None),
            timeout=None if wanted.timeout_s is None else round(wanted.timeout_s * 1000),
            allow_input=wanted.allow_input,
        )
        run = await self._endpoint.codes.begin(self._connection.sandbox_id, body)
        replies = _whole(self._code_replies(run), lambda: receipt_of_lost(run.stream))
        return await self._carry(run.id, lambda: self._endpoint.codes.end(run), replies, wanted.keep_s)

    async def _code_replies(self, run: Run) -> AsyncIterator[ServerMessage]:
        yield says.Started(0, id=run.id, context=run.context_id)
        while True:
            try:
                async for message in _replies(run.stream, is_text=self._connection.codec.is_text):
                    yield message
            except SandlotError as error:
                if await self._endpoint.codes.is_restarted(run, error):
                    continue
                raise
            return

    async def _carry(
        self,
        run_id: str,
        close: Callable[[], None],
        replies: AsyncIterator[ServerMessage],
        keep_s: int,
        stream: Stream | None = None,
    ) -> ServerMessage | None:
        """Say what a command or run says: at once, or by way of a tape. *stream* takes input, where it does."""
        if not keep_s:
            try:
                async with _feeding(self._feed, stream):
                    return await _pass_on(replies, self._say)
            finally:
                close()

        async def record(tape: Tape[ServerMessage]) -> None:
            try:
                ending = await _pass_on(replies, lambda message: tape.write(message, _size(message)))
            except SandlotError as error:
                ending = _failed(error)
            if ending is not None:
                await tape.write(ending, MESSAGE_BYTES)

        self._kept = self._endpoint.kept.start(self._connection.sandbox_id, run_id, keep_s, record, close)
        return await self._play(self._kept, 0)

    async def _play(self, kept: KeptRun[ServerMessage], after: int) -> ServerMessage | None:
        with kept.reading() as read:
            while items := await read(after):
                for number, message, _ in items:
                    numbered = replace(message, seq=number)
                    if isinstance(message, says.Finished | says.Failed):
                        return numbered
                    await self._say(numbered)
                after = items[-1].number
        raise LinkLost("the run ended without saying how")

    async def _attach(self, wanted: says.AttachPty) -> ServerMessage | None:
        attaching = PtyAttach(id=wanted.id, since=wanted.since, takeover=wanted.takeover)
        opened = await self._endpoint.relay.open(self._connection.sandbox_id, attaching, with_input=True)
        async with opened as stream, _feeding(self._feed, stream):
            return await _pass_on(_replies(stream, is_text=self._connection.codec.is_text), self._say)

    async def _signal(self, wanted: says.Signal) -> None:
        name = wanted.signal.upper()
        try:
            number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise InvalidRequest(f"signal: {wanted.signal!r} is not a signal") from None
        call, sandbox_id = self._endpoint.relay.call, self._connection.sandbox_id
        try:
            await call(sandbox_id, ProcessSignal(wanted.id, number), Done)
        except AgentError as error:
            if error.code != "process.not_found":
                raise
            await call(sandbox_id, PtySignal(wanted.id, number), Done)

    async def _tell(self, request: Request, *, with_input: bool = False, as_text: bool = True) -> None:
        """Send a request, and say all that is answered."""
        is_text = as_text and self._connection.codec.is_text
        opened = await self._endpoint.relay.open(self._connection.sandbox_id, request, with_input=with_input)
        async with opened as stream, _feeding(self._feed, stream if with_input else None):
            await _pass_on(_replies(stream, is_text=is_text), self._say)


# -- from execd's words to ours ----------------------------------------


async def _pass_on(
    replies: AsyncIterator[ServerMessage], say: Callable[[ServerMessage], Awaitable[None]]
) -> ServerMessage | None:
    """Say all messages but the last, where that is an end, and return that one."""
    async for message in replies:
        if isinstance(message, says.Finished | says.Failed):
            return message
        await say(message)
    return None


def _failed(error: SandlotError, receipt: Receipt | None = None) -> says.Failed:
    return says.Failed(0, code=problem_of(error).code, message=error.message, receipt=receipt)


async def _whole(replies: AsyncIterator[ServerMessage], receipt: Callable[[], Receipt]) -> AsyncIterator[ServerMessage]:
    """Yield what a command or run says. Where its sandbox is lost on the way, the last message has a receipt too."""
    try:
        async for message in replies:
            yield message
    except LinkLost as error:
        yield _failed(error, receipt())


async def _replies(stream: Stream, *, is_text: bool, run_id: str = "") -> AsyncIterator[ServerMessage]:
    """Yield what execd says, in our messages, which are still of no stream. Raises SandlotError."""
    output = _Output(is_text=is_text)
    held: Reply | Data | None = None
    while True:
        item = held if held is not None else await stream.receive()
        held = None
        if isinstance(item, Data):
            channel, pieces, size = item.channel, [item.data], len(item.data)
            while size < MAX_BATCH_BYTES and (more := stream.receive_nowait()) is not None:
                if not isinstance(more, Data) or more.channel != channel:
                    held = more
                    break
                pieces.append(more.data)
                size += len(more.data)
            for message in output.feed(channel, b"".join(pieces)):
                yield message
            continue
        if item is None or not isinstance(item, ProcessStarted | ContextResult | ContextError | ContextPrompt):
            for message in output.flush():
                yield message
        if item is None:
            return
        if (said := _translate(item, run_id)) is not None:
            yield said


def _translate(item: Reply, run_id: str) -> ServerMessage | None:
    match item:
        case ProcessStarted(pid=pid):
            return says.Started(0, id=run_id, pid=pid)
        case ProcessExited():
            return says.Finished(0, receipt=receipt_of(item))
        case ContextDone():
            return says.Finished(0, receipt=receipt_of(item), message=item.message)
        case ContextResult():
            return says.Result(
                0,
                kind=item.kind,
                data=item.data,
                execution_count=item.execution_count,
                display_id=item.display_id,
                update=item.update,
            )
        case ContextError(name=name, value=value, traceback=traceback):
            return says.Raised(0, name=name, value=value, traceback=traceback, frames=frames_of(item))
        case ContextPrompt(prompt=prompt, password=password):
            return says.Prompt(0, prompt=prompt, password=password)
        case ContextState(id=id, language=language, busy=busy):
            return says.Context(0, id=id, language=language, busy=busy)
        case ContextCompletion(matches=matches, start=start, end=end):
            return says.Completion(0, matches=tuple(matches), start=start, end=end)
        case ContextInspection(data=data):
            return says.Inspection(0, data=data)
        case PtyState():
            return says.Pty(
                0, id=item.id, running=item.running, output_start=item.output_start, output_end=item.output_end
            )
        case FileInfo():
            return says.File(
                0,
                path=item.path,
                kind=item.kind,
                size=item.size,
                mode=f"{item.mode & 0o7777:o}",
                modified_at=item.modified_at,
                owner=item.owner,
                group=item.group,
            )
        case Done():
            return None
    raise LinkLost(f"execd said {type(item).__name__}, which was not asked for")


class _Output:
    """Data as messages: bytes, or text, whose characters may come in pieces."""

    def __init__(self, *, is_text: bool) -> None:
        self._decoders: dict[str, codecs.IncrementalDecoder] | None = {} if is_text else None

    def feed(self, channel: int, data: bytes) -> list[ServerMessage]:
        """Return the messages of some output."""
        name = "stderr" if channel == Channel.STDERR else "stdout"
        if self._decoders is None:
            return [says.ServerData(0, channel=name, data=data)]
        decoder = self._decoders.setdefault(name, codecs.getincrementaldecoder("utf-8")("replace"))
        text = decoder.decode(data)
        return [says.ServerData(0, channel=name, text=text)] if text else []

    def flush(self) -> list[ServerMessage]:
        """Return the messages of what was held back."""
        ends = {name: decoder.decode(b"", final=True) for name, decoder in (self._decoders or {}).items()}
        return [says.ServerData(0, channel=name, text=text) for name, text in ends.items() if text]


def _request(operation: says.AnyOperation) -> Request:
    """Return what to ask of execd for an operation that needs nothing else. Raises InvalidRequest."""
    match operation:
        case says.Input(context=context, text=text):
            return ContextInput(context, text)
        case says.OpenContext(language=language, cwd=cwd):
            return ContextOpen(uuid.uuid4().hex, language.lower(), _clean(cwd))
        case says.ListContexts(language=language):
            return ContextList(language)
        case says.CloseContext(id=id):
            return ContextClose(_named(id))
        case says.InterruptContext(id=id):
            return ContextInterrupt(id)
        case says.RestartContext(id=id):
            return ContextRestart(id)
        case says.ForkContext(id=id, count=count):
            return ContextFork(id, tuple(uuid.uuid4().hex for _ in range(count)))
        case says.Complete(id=id, code=code, cursor=cursor):
            return ContextComplete(id, code, len(code) if cursor is None else min(cursor, len(code)))
        case says.Inspect(id=id, code=code, cursor=cursor, detail=detail):
            return ContextInspect(id, code, len(code) if cursor is None else min(cursor, len(code)), detail)
        case says.ResizePty(id=id, cols=cols, rows=rows):
            return PtyResize(id, cols, rows)
        case says.ListPtys():
            return PtyList()
        case says.ClosePty(id=id):
            return PtyClose(id)
    raise InvalidRequest(f"{type(operation).__name__} is no operation")


def _pty(wanted: says.OpenPty) -> PtyOpen:
    return PtyOpen(
        id=uuid.uuid4().hex,
        command=_clean(wanted.command),
        env=clean_env(wanted.env, "env"),
        cwd=_clean(wanted.cwd),
        uid=wanted.uid,
        gid=wanted.gid,
        cols=wanted.cols,
        rows=wanted.rows,
    )


@contextlib.asynccontextmanager
async def _feeding(feed: Callable[[Stream], Awaitable[None]], stream: Stream | None) -> AsyncIterator[None]:
    """Inside, input is passed on to a stream, where there is one; that it is not taken any more is no error."""
    if stream is None:
        yield
        return

    async def carry() -> None:
        with contextlib.suppress(SandlotError):
            await feed(stream)

    feeding = asyncio.ensure_future(carry())
    try:
        yield
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])


def _size(message: ServerMessage) -> int:
    content = 0
    match message:
        case says.ServerData():
            content = len(message.text) + len(message.data)
        case says.Result():
            content = sum(len(mime) + len(text) for mime, text in message.data.items())
        case says.Raised():
            texts = [message.name, message.value, *message.traceback]
            for frame in message.frames:
                texts += (frame.file, frame.function, frame.code)
            content = sum(map(len, texts)) + FRAME_BYTES * len(texts)
        case says.Prompt():
            content = len(message.prompt)
    return content + MESSAGE_BYTES


def _check_path(path: str) -> None:
    if not path or "\0" in path:
        raise InvalidRequest("path: must not be empty, nor contain NUL")


def _clean(text: str) -> str:
    if "\0" in text:
        raise InvalidRequest("must not contain NUL")
    return text


def _named(name: str) -> str:
    if not name:
        raise InvalidRequest("id: must not be empty")
    return name
