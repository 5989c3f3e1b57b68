"""Pipes of a process: output into a sink that may be full, input from a writer that may be slow."""

from __future__ import annotations

import asyncio
import fcntl
import os
import weakref

import pytest

from execd.process.pipes import DRAIN_S, InputPipe, OutputPipes
from execd.wire.frames import Channel


class Bucket:
    """A sink that is full after so many pieces."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.taken: list[tuple[bytes, Channel]] = []
        self.changed = asyncio.Event()

    def take(self, data: bytes, channel: Channel) -> bool:
        self.taken.append((data, channel))
        self.room -= 1
        self.changed.set()
        return self.room > 0

    @property
    def text(self) -> bytes:
        return b"".join(data for data, _ in self.taken)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.text) < count:
                self.changed.clear()
                await self.changed.wait()


def pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing


async def drained(pipes: OutputPipes) -> None:
    done = asyncio.get_running_loop().create_future()
    pipes.drain(lambda: done.set_result(None))
    async with asyncio.timeout(10):
        await done


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_written_arrives_on_its_channel_until_eof() -> None:
    (out, out_w), (err, err_w) = pipe(), pipe()
    bucket = Bucket()
    pipes = OutputPipes({out: Channel.STDOUT, err: Channel.STDERR}, bucket.take)
    pipes.resume()
    os.write(out_w, b"out")
    await bucket.until(3)
    os.write(err_w, b"err\xff")
    await bucket.until(7)
    os.close(out_w)
    os.close(err_w)
    await drained(pipes)

    assert bucket.taken == [(b"out", Channel.STDOUT), (b"err\xff", Channel.STDERR)]
    assert pipes.total_bytes == 7
    for fd in (out, err):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_nothing_is_read_before_resume_nor_while_the_sink_is_full() -> None:
    reading, writing = pipe()
    bucket = Bucket(room=1)
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take)
    os.write(writing, b"1")
    await turns()
    assert bucket.text == b""

    pipes.resume()
    await bucket.until(1)
    os.write(writing, b"2")
    await turns()
    assert bucket.text == b"1"

    bucket.room = 5
    pipes.resume()
    await bucket.until(2)
    os.close(writing)
    await drained(pipes)


async def test_a_pipe_that_others_hold_open_is_given_up_after_the_drain_time() -> None:
    """What was in it by then has arrived; what comes later goes to the late sink, and the writer lives on."""
    reading, writing = pipe()
    bucket, late = Bucket(), Bucket()
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take, late_sink=late.take)
    pipes.resume()
    os.write(writing, b"before")
    await drained(pipes)
    assert bucket.text == b"before"

    os.write(writing, b"after")
    await late.until(5)
    assert bucket.text == b"before"
    assert late.taken == [(b"after", Channel.STDOUT)]
    os.close(writing)
    await turns()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


async def test_a_full_sink_gets_all_that_was_written_however_late() -> None:
    """The drain time may be over long before a slow client has taken what the process wrote before its end."""
    reading, writing = pipe()
    size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 256 * 1024)
    bucket = Bucket(room=1)
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take)
    pipes.resume()
    os.write(writing, b"x")
    await bucket.until(1)
    os.write(writing, b"y" * size)  # all that fits, more than one read; the pipe stays open
    done = asyncio.Event()
    pipes.drain(done.set)
    drain_time_over = asyncio.Event()
    asyncio.get_running_loop().call_later(DRAIN_S * 1.5, drain_time_over.set)
    await drain_time_over.wait()
    assert not done.is_set()

    bucket.room = 1 << 30
    pipes.resume()
    async with asyncio.timeout(10):
        await done.wait()
    assert bucket.text == b"x" + b"y" * size
    pipes.close()
    os.close(writing)


async def test_the_sink_is_let_go_when_all_has_been_delivered() -> None:
    """A remembered process must not keep its client's stream in memory."""
    reading, writing = pipe()
    bucket = Bucket()
    gone = weakref.ref(bucket)
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take)
    pipes.resume()
    del bucket
    os.close(writing)
    assert gone() is not None
    await drained(pipes)

    assert gone() is None


async def test_discard_reads_all_into_nowhere() -> None:
    """A writer whose reader has gone is not blocked for ever."""
    reading, writing = pipe()
    bucket = Bucket(room=1)
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take)
    pipes.resume()
    os.write(writing, b"x")
    await bucket.until(1)
    pipes.discard()
    os.write(writing, b"y" * 65536)
    os.close(writing)
    await drained(pipes)

    assert bucket.text == b"x"


async def test_input_waits_for_the_pipe_and_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stdin = InputPipe(writing)
    sent = os.urandom(300_000)
    task = asyncio.ensure_future(stdin.write(sent))
    await turns()
    assert not task.done()

    bucket = Bucket()
    os.set_blocking(reading, False)
    pipes = OutputPipes({reading: Channel.STDOUT}, bucket.take)
    pipes.resume()
    async with asyncio.timeout(10):
        await task
    stdin.close()
    stdin.close()
    await drained(pipes)
    assert bucket.text == sent


async def test_input_that_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stdin = InputPipe(writing)
    task = asyncio.ensure_future(stdin.write(b"x" * 300_000))
    await turns()
    os.close(reading)
    async with asyncio.timeout(10):
        await task
        await stdin.write(b"more")


async def test_closing_input_ends_a_writer_that_waits() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stdin = InputPipe(writing)
    task = asyncio.ensure_future(stdin.write(b"x" * 300_000))
    await turns()
    stdin.close()
    async with asyncio.timeout(10):
        await task
    os.close(reading)


async def test_a_cancelled_writer_leaves_the_loop_clean() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stdin = InputPipe(writing)
    task = asyncio.ensure_future(stdin.write(b"x" * 300_000))
    await turns()
    task.cancel()
    await asyncio.wait([task])

    assert not asyncio.get_running_loop().remove_writer(writing)
    stdin.close()
    os.close(reading)
