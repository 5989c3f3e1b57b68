"""JSON bodies of requests and answers: read with a bound, checked against a Struct, and written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.errors import InvalidRequest
from controlplane.listener.extensions import HOLD

MAX_JSON_BYTES = 1 << 20  # 1 MiB: lists of paths, environments
MAX_CODE_BYTES = (16 << 20) - (1 << 16)  # fits into one message of the link, with the other fields

T = TypeVar("T")


class Wire(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Base of what the lifecycle API sends and takes."""


# -- bodies ----------------------------------------


async def read_json(request: Request, kind: type[T], *, limit: int = MAX_JSON_BYTES, code: str = "request.body") -> T:
    """Return the body as a *kind*.

    Raises:
        InvalidRequest: larger than *limit* bytes, no JSON, or not of that shape; the message names the field.
    """
    return decode(await read_body(request, limit, code=code), kind, code=code)


async def read_optional_json(request: Request, kind: type[T]) -> T:
    """Return the body as a *kind*, all of whose fields have defaults; an empty one is `{}`. Raises as `read_json`."""
    body = await read_body(request, MAX_JSON_BYTES, code="request.body")
    return decode(body if body.strip() else b"{}", kind, code="request.body")


async def read_body(request: Request, limit: int, *, code: str) -> bytes:
    """Return the whole body. Raises InvalidRequest when it has more than *limit* bytes; the rest is not kept.

    Raises:
        ClientDisconnect: the client has gone, or the listener has ended the request: it was too slow, or the bodies of
            all clients together took too much memory.
    """
    hold = request.scope.get("extensions", {}).get(HOLD)
    body = bytearray()
    announced = request.headers.get("content-length", "0")
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit or int(announced) > limit:
            raise InvalidRequest(f"the body is larger than {limit} bytes", code=code)
        if hold is not None:
            hold(len(body))
    return bytes(body)


def decode(body: bytes, kind: type[T], *, code: str) -> T:
    """Decode JSON by type. Raises InvalidRequest with that code."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".")
        raise InvalidRequest(f"{field}: {text}" if field else text, code=code) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code=code) from error


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return *value* as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def utc(seconds: float) -> datetime:
    """Return a Unix time as an aware datetime; what no calendar holds (execd is not trusted) as the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def utc_moment(moment: datetime, name: str, *, code: str = "request.invalid") -> datetime:
    """Return a moment in UTC; one without a zone is UTC. Raises InvalidRequest: it is beyond all calendars."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"{name}: no such moment", code=code) from None
