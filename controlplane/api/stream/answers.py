"""What a run or the agent says, as messages of a stream."""

from __future__ import annotations

import codecs

from controlplane.api.runs.receipt import frames_of, receipt_of
from controlplane.api.runs.replies import Ended, Lost, Output, Prompt, Raised, Result, Started, receive_batch
from controlplane.api.runs.run import Run
from controlplane.api.stream import messages as says
from controlplane.api.stream.messages import ServerMessage
from controlplane.api.stream.stream import ClientStream, failed
from controlplane.errors import LinkLost
from controlplane.link.stream import Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextCompletion,
    ContextInspection,
    ContextLanguage,
    ContextState,
    Done,
    FileInfo,
    ProcessExited,
    PtyState,
    Reply,
)


async def tell(run: Run, client: ClientStream) -> ServerMessage:
    """Tell a run, from where its reader stands; return the last message.

    Raises:
        SandlotError: what broke the run off; a broken link only where the agent has ended the run without saying how.
    """
    number = client.number
    if run.kind == "context" and run.is_from_start:
        # Of a recorded run it is the first item, which says that the run has begun and nothing else.
        started = says.Started(number, seq=int(run.stream.is_recorded), id=run.id, context=run.place)
        await client.say(started)
    messages = _OutputMessages(number, is_text=client.is_text, is_whole=run.stream.is_recorded)
    while True:
        output, said = await run.replies.receive()
        seq = run.stream.number
        for each in output:
            if (message := messages.of(each, seq)) is not None:
                await client.say(message)
        match said:
            case Started(pid=int(pid)):
                await client.say(says.Started(number, seq=seq, id=run.id, pid=pid))
            case Result():
                await client.say(_result(number, seq, said))
            case Raised():
                await client.say(_raised(number, seq, said))
            case Prompt():
                await client.say(says.Prompt(number, seq=seq, prompt=said.prompt, password=said.password))
            case Ended():
                for message in messages.rest():
                    await client.say(message)
                return says.Finished(number, seq=seq, receipt=said.receipt, message=said.message)
            case Lost(error=error, receipt=receipt):
                if receipt is None:
                    raise error
                return failed(number, error, receipt)


async def pass_on(stream: Stream, client: ClientStream, *, is_text: bool) -> ServerMessage | None:
    """Tell all that is answered on a stream which is not that of a run; return the last message, where it is an end.

    Raises:
        SandlotError: what the agent refused, or a broken link.
    """
    messages = _OutputMessages(client.number, is_text=is_text)
    while True:
        output, reply = await receive_batch(stream)
        for each in output:
            if (message := messages.of(each)) is not None:
                await client.say(message)
        if reply is None and output:
            continue
        for message in messages.rest():
            await client.say(message)
        if reply is None:
            return None
        if isinstance(reply, ProcessExited):
            return says.Finished(client.number, receipt=receipt_of(reply))
        if not isinstance(reply, Done):
            await client.say(_answer(client.number, reply))


class _OutputMessages:
    """Makes messages of output: bytes, or text, whose characters may come in pieces unless each output is whole."""

    def __init__(self, number: int, *, is_text: bool, is_whole: bool = False) -> None:
        self._number = number
        self._is_text = is_text
        self._is_whole = is_whole
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def of(self, output: Output, seq: int = 0) -> says.ServerData | None:
        """Return the message of some output, where there is something to tell yet."""
        channel = "stderr" if output.channel == Channel.STDERR else "stdout"
        if not self._is_text:
            return says.ServerData(self._number, seq=seq, channel=channel, data=output.data)
        if self._is_whole:
            text = output.data.decode(errors="replace")
            return says.ServerData(self._number, seq=seq, channel=channel, text=text)
        decoder = self._decoders.get(channel)
        if decoder is None:
            decoder = self._decoders[channel] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(output.data)
        return says.ServerData(self._number, channel=channel, text=text) if text else None

    def rest(self) -> list[says.ServerData]:
        """Return the messages of what was held back."""
        ends = {channel: decoder.decode(b"", final=True) for channel, decoder in self._decoders.items()}
        return [says.ServerData(self._number, channel=channel, text=text) for channel, text in ends.items() if text]


def _result(number: int, seq: int, result: Result) -> says.Result:
    return says.Result(
        number,
        seq=seq,
        kind=result.kind,
        data=result.data,
        execution_count=result.execution_count,
        display_id=result.display_id,
        update=result.update,
    )


def _raised(number: int, seq: int, raised: Raised) -> says.Raised:
    frames = frames_of(raised)
    return says.Raised(number, seq=seq, name=raised.name, value=raised.value, traceback=raised.traceback, frames=frames)


def _answer(number: int, reply: Reply) -> ServerMessage:
    match reply:
        case ContextState(id=id, language=language, busy=busy):
            return says.Context(number, id=id, language=language, busy=busy)
        case ContextLanguage(language=name, aliases=aliases, version=version, problem=problem):
            return says.Language(number, name=name, aliases=aliases, version=version, problem=problem)
        case ContextCompletion(matches=matches, start=start, end=end):
            return says.Completion(number, matches=tuple(matches), start=start, end=end)
        case ContextInspection(data=data):
            return says.Inspection(number, data=data)
        case PtyState(id=id, running=running, output_start=start, output_end=end):
            return says.Pty(number, id=id, running=running, output_start=start, output_end=end)
        case FileInfo():
            return says.File(
                number,
                path=reply.path,
                kind=reply.kind,
                size=reply.size,
                mode=f"{reply.mode & 0o7777:o}",
                modified_at=reply.modified_at,
                owner=reply.owner,
                group=reply.group,
            )
    raise LinkLost(f"execd said {type(reply).__name__}, which was not asked for")
