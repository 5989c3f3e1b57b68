"""The relay's streams to an agent, by a real link."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.errors import AgentError, LinkLost
from controlplane.link.directory import Directory
from controlplane.link.relay import Relay
from controlplane.sandbox import State
from execd.errors import ExecdError
from execd.wire.aio import Stream
from execd.wire.messages import Done, ProcessList, ProcessStarted
from tests.support.agent.execd_link import control_plane_of


class Running:
    """As much of a sandbox as the relay looks at."""

    state = State.RUNNING


class Agent:
    """Answers with one reply, and waits; `over` is set when its stream ends."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.over = asyncio.Event()

    async def serve(self, stream: Stream, request: ProcessList) -> None:
        """Serve process.list."""
        if isinstance(self.reply, ExecdError):
            raise self.reply
        try:
            if self.reply is not None:
                await stream.send(self.reply)
            await asyncio.get_running_loop().create_future()
        finally:
            self.over.set()


@contextlib.asynccontextmanager
async def relaying(agent: Agent) -> AsyncIterator[Relay]:
    """Yield a relay to an agent."""
    directory = Directory()
    async with control_plane_of({ProcessList: agent.serve}) as end:
        link = await end.next_link()
        directory.put(link)
        yield Relay(lambda _: Running(), directory)  # type: ignore[arg-type, return-value]


async def test_begin_returns_the_first_reply_and_the_stream() -> None:
    """The stream goes on until the caller closes it."""
    agent = Agent(ProcessStarted(7))
    async with relaying(agent) as relay:
        stream, reply = await relay.begin("0123456789abcdef", ProcessList(), ProcessStarted)
        assert reply == ProcessStarted(7)
        assert not agent.over.is_set()
        stream.close()
        async with asyncio.timeout(5):
            await agent.over.wait()


async def test_begin_closes_the_stream_on_another_reply() -> None:
    """Else the agent would go on for a caller that has left."""
    agent = Agent(Done())
    async with relaying(agent) as relay:
        with pytest.raises(LinkLost, match="Done where ProcessStarted was due"):
            await relay.begin("0123456789abcdef", ProcessList(), ProcessStarted)
        async with asyncio.timeout(5):
            await agent.over.wait()


async def test_begin_closes_the_stream_when_it_is_cancelled() -> None:
    """The caller has no stream yet that it could close."""
    agent = Agent(None)
    async with relaying(agent) as relay:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await relay.begin("0123456789abcdef", ProcessList(), Done)
        async with asyncio.timeout(5):
            await agent.over.wait()


async def test_begin_raises_what_the_agent_says() -> None:
    """A refusal keeps its code."""
    agent = Agent(ExecdError("process.not_found", "no such process"))
    async with relaying(agent) as relay:
        with pytest.raises(AgentError) as refused:
            await relay.begin("0123456789abcdef", ProcessList(), Done)
    assert refused.value.code == "process.not_found"
