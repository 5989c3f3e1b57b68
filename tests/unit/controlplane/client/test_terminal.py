"""The keys that leave a shell, and what the shell gets of them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from controlplane.client.terminal import Escapes, read_input, write_output


def typed(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """Return what a shell gets of pieces, and whether the user leaves."""
    escapes, passed = Escapes(), b""
    for piece in pieces:
        keys = escapes.take(piece)
        passed += keys.data
        if keys.is_leaving:
            return passed, True
    return passed, False


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize(
    ("text", "passed", "is_leaving"),
    [
        (b"ls\r", b"ls\r", False),
        (b"ls\r\x10\x11more", b"ls\r", True),
        (b"\x10\x10\x11", b"\x10", True),
        (b"\x10a", b"\x10a", False),
        (b"~.", b"", True),
        (b"ls\r~.", b"ls\r", True),
        (b"ls ~.", b"ls ~.", False),
        (b"cd ~\r", b"cd ~\r", False),
        (b"~/x\r", b"~/x\r", False),
        (b"~~.\r", b"~.\r", False),
        (b"a\x03~.", b"a\x03", True),
        ("é~.".encode(), "é~.".encode(), False),
    ],
)
def test_keys_that_leave(text: bytes, passed: bytes, is_leaving: bool, is_split: bool) -> None:
    """In one piece as when it is pasted, or key by key. `~~` is one tilde."""
    pieces = [bytes((number,)) for number in text] if is_split else [text]
    assert typed(pieces) == (passed, is_leaving)


async def test_files_and_pipes_are_read_and_written(tmp_path: object) -> None:
    """A regular file cannot be watched by the loop, and is always ready."""
    reading, writing = os.pipe()
    path = os.path.join(str(tmp_path), "file")
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        await write_output(writing, b"through a pipe")
        os.close(writing)
        assert b"".join([data async for data in read_input(reading)]) == b"through a pipe"
        await write_output(file, b"x" * 100_000)
        os.lseek(file, 0, os.SEEK_SET)
        assert len(b"".join([data async for data in read_input(file)])) == 100_000
    finally:
        os.close(file)
        os.close(reading)
