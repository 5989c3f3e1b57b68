"""JSON of large values, made in pieces: 16 MiB may become 96 MiB, which stop the event loop for a third of a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii

import msgspec

from controlplane.turns import Turn

LARGE_CHARS = 64 * 1024  # in the texts of a value: what has more is encoded in pieces of about that size


def json_pieces(value: object) -> Iterator[bytes]:
    """Yield a value of dictionaries, lists, texts and numbers as ASCII JSON, in pieces."""
    parts: list[str] = []
    size = 0
    for part in _parts(value):
        parts.append(part)
        size += len(part)
        if size >= LARGE_CHARS:
            yield "".join(parts).encode()
            parts.clear()
            size = 0
    yield "".join(parts).encode()


async def encode(value: msgspec.Struct, chars: int) -> bytes:
    """Return a value with *chars* characters in its texts as JSON. With many, others are served meanwhile."""
    if chars <= LARGE_CHARS:
        return msgspec.json.encode(value)
    turn, pieces = Turn(), []
    for piece in json_pieces(msgspec.to_builtins(value)):
        pieces.append(piece)
        await turn.spend(len(piece))
    return b"".join(pieces)


def _parts(value: object) -> Iterator[str]:
    match value:
        case str() if len(value) > LARGE_CHARS:
            yield '"'
            for at in range(0, len(value), LARGE_CHARS):
                yield encode_basestring_ascii(value[at : at + LARGE_CHARS])[1:-1]
            yield '"'
        case dict():
            for number, (key, each) in enumerate(value.items()):
                yield f"{',' if number else '{'}{encode_basestring_ascii(key)}:"
                yield from _parts(each)
            yield "}" if value else "{}"
        case list() | tuple():
            for number, each in enumerate(value):
                yield "," if number else "["
                yield from _parts(each)
            yield "]" if value else "[]"
        case _:
            yield json.dumps(value)
