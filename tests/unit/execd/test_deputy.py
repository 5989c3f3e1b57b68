"""The processes that serve files as somebody else: what is said of one that does not come."""

from __future__ import annotations

import socket

import pytest

from execd import deputy
from execd.errors import ExecdError
from execd.wire.messages import FileStat


async def refusal(ours: socket.socket) -> str:
    """What whoever asks it for something hears."""
    ours.setblocking(False)  # noqa: FBT003 - it has no name
    with pytest.raises(ExecdError) as error:
        await deputy._Deputy(ours, "1000:1000").open(FileStat(("/x",)))
    return error.value.message


async def test_one_that_is_not_there_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how long it was waited for."""
    monkeypatch.setattr(deputy, "START_TIMEOUT_S", 0.05)
    ours, theirs = socket.socketpair()
    with theirs:
        assert await refusal(ours) == "files cannot be used as 1000:1000: no answer within 0.05 s"


async def test_one_that_ends_is_not_waited_for() -> None:
    """However long the others may take."""
    ours, theirs = socket.socketpair()
    theirs.close()
    message = await refusal(ours)
    assert message.startswith("files cannot be used as 1000:1000: ")
    assert not message.endswith((": ", "60 s"))
