"""The receipt of a run: the cause of its end and the resources that it used, the same in every contract."""

from __future__ import annotations

import time

import msgspec

from controlplane.link.stream import Stream
from execd.wire.messages import ContextDone, ContextError, ProcessExited


class CodeFrameView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call in a traceback. `file` is a path, or the language's name for the code of a run."""

    file: str
    line: int = 0
    function: str = ""
    code: str = ""


def frames_of(error: ContextError) -> tuple[CodeFrameView, ...]:
    """Return the calls that led to an error, the innermost last; none if the language does not report them."""
    return tuple(CodeFrameView(frame.file, frame.line, frame.function, frame.code) for frame in error.frames)


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The resources that a run or command used, and the cause of its end. Fields without a value are omitted."""

    # Commands: exit, signal, timeout, oom, killed. Runs: ok, error, interrupted, timeout, oom, died. Both: link_lost.
    cause: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    output_bytes: int
    exit_code: int = 0
    signal: int = 0
    died_of: str = ""  # runs whose context died: exit, signal, oom, killed, protocol
    limits_hit: tuple[str, ...] = ()  # memory, pids
    notice: str = ""  # a version that the sandbox does not have; that a default context died between runs


def receipt_of(done: ContextDone | ProcessExited) -> Receipt:
    """Return the receipt of a run or a command."""
    return Receipt(
        cause=done.cause,
        wall_s=round(done.wall_s, 6),
        cpu_s=round(done.cpu_s, 6),
        peak_memory_bytes=done.peak_memory_bytes,
        output_bytes=done.output_bytes,
        exit_code=done.exit_code,
        signal=done.signal if isinstance(done, ProcessExited) else 0,
        died_of=done.died_of if isinstance(done, ContextDone) else "",
        limits_hit=done.limits_hit,
        notice=done.notice,
    )


def receipt_of_lost(stream: Stream) -> Receipt:
    """Return the receipt of a run or a command whose sandbox was lost, with the output until then."""
    return Receipt("link_lost", round(time.monotonic() - stream.opened_at, 6), 0.0, 0, stream.data_bytes)
