"""`/files/upload` and `/files/download`: content, streamed both ways, at the pace of whichever end is slower."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import decode
from controlplane.api.edge.parameters import (
    HUGE,
    clean_path,
    integer,
    permission_bits,
    required,
    sandbox_id_of,
    whole_number,
)
from controlplane.api.edge.problems import error_answer
from controlplane.api.edge.responses import Headers, StreamResponse, copy_data
from controlplane.api.execd.identity import as_asked
from controlplane.api.execd.schema import UploadMetadata
from controlplane.errors import InvalidRequest, SandlotError
from controlplane.link.stream import Stream
from execd.wire.messages import FileInfo, FileRead, FileWrite

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from controlplane.link.relay import Relay

MAX_METADATA_BYTES = 64 * 1024
UNSATISFIABLE = frozenset(("download.range", "file.range"))  # codes of errors

_RANGE = re.compile(r"([0-9]*)[ \t]*-[ \t]*([0-9]*)")


class Transfers:
    """The endpoints."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def upload(self, request: Request) -> Response:
        """Write files from pairs of parts, `metadata` and `file`, one after another.

        Each file is written completely or not at all. If a file fails, the files before it stay written.
        """
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("the body must be multipart/form-data with a boundary", code="upload.content")
        try:
            upload = _Upload(self._relay, request, boundary)
            try:
                async for chunk in request.stream():
                    await upload.feed(chunk)
                upload.finish()
            finally:
                upload.close()
        except FormParserError as error:
            raise InvalidRequest(
                f"the body is not valid multipart/form-data: {error}", code="upload.content"
            ) from error
        return Response()

    async def download(self, request: Request) -> Response | StreamResponse:
        """Return a file, a range of its bytes, or with `offset` and `limit` a range of its lines."""
        path = clean_path(required(request, "path"), code="request.query")
        first, count = integer(request, "offset", least=1), integer(request, "limit", least=1)
        if first is None and count is None:
            return await self._download_bytes(request, path)
        if _byte_range(request.headers) is not None:
            raise InvalidRequest("a Range header excludes offset and limit", code="request.query")
        stream, _ = await self._open(request, FileRead(path, first_line=first or 1, lines=count))
        headers = [*_headers(path), (b"content-type", b"text/plain; charset=utf-8")]
        return StreamResponse(partial(copy_data, stream), close=stream.close, headers=headers)

    async def _download_bytes(self, request: Request, path: str) -> Response | StreamResponse:
        try:
            wanted = _byte_range(request.headers)
            offset, length = wanted or (0, None)
            stream, size = await self._open(request, FileRead(path, offset, length))
        except SandlotError as error:
            if error.code not in UNSATISFIABLE:
                raise
            return await self._refuse_range(request, path, error)
        headers = [*_headers(path), (b"content-type", b"application/octet-stream")]
        start = max(0, size + offset) if offset < 0 else offset
        stop = size if length is None else min(size, start + length)
        headers.append((b"content-length", b"%d" % (stop - start)))
        # An empty file has no range of bytes to show: it is answered whole.
        status = 206 if wanted is not None and size else 200
        if status == 206:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
        pump = partial(copy_data, stream, size=stop - start)
        return StreamResponse(pump, close=stream.close, status=status, headers=headers)

    async def _refuse_range(self, request: Request, path: str, error: SandlotError) -> Response:
        """Answer 416 with the size of the file, as RFC 9110 wants it. Raises what reading the file raises."""
        stream, size = await self._open(request, FileRead(path, 0, 0))
        stream.close()
        answer = error_answer(error, request.scope)
        answer.headers["content-range"] = f"bytes */{size}"
        return answer

    async def _open(self, request: Request, message: FileRead) -> tuple[Stream, int]:
        """Return the stream of a file's content, and the file's size."""
        sandbox_id = sandbox_id_of(request)
        stream, info = await self._relay.begin(sandbox_id, as_asked(request, message), FileInfo)
        return stream, max(0, info.size)


class _Upload:
    """The parts of one upload, as their bytes arrive."""

    def __init__(self, relay: Relay, request: Request, boundary: bytes) -> None:
        """Read parts between *boundary*. Raises FormParserError for an invalid one, as `feed` for invalid parts."""
        self._relay = relay
        self._request = request
        # The parser calls back from inside `write`, where nothing can be awaited: what it found is queued.
        self._found: list[tuple[str, bytes]] = []
        callbacks = {
            f"on_{event}": partial(self._found.append, (event, b""))
            for event in ("part_begin", "header_end", "headers_finished", "part_end", "end")
        } | {f"on_{event}": partial(self._find, event) for event in ("header_field", "header_value", "part_data")}
        self._parser = MultipartParser(boundary, cast("MultipartCallbacks", callbacks))
        self._field = self._value = b""  # of the header that arrives
        self._part = ""  # name of the part that arrives
        self._metadata: FileWrite | None = None  # of the file that must come next
        self._json = bytearray()
        self._stream: Stream | None = None
        self._files = 0
        self._is_whole = False

    async def feed(self, chunk: bytes) -> None:
        """Take a piece of the body in; returns when the sandbox has taken what of it is content."""
        self._parser.write(chunk)
        for event, data in self._found:
            await self._handle(event, data)
        self._found.clear()

    def finish(self) -> None:
        """Check that the body has ended completely. Raises InvalidRequest if not."""
        if not self._is_whole:
            raise InvalidRequest("the body ends in the middle of a part", code="upload.content")
        if self._metadata is not None:
            raise InvalidRequest("a metadata part without a file part after it", code="upload.file")
        if not self._files:
            raise InvalidRequest("there is no file part", code="upload.file")

    def close(self) -> None:
        """Give up a file that has not been written whole."""
        if self._stream is not None:
            self._stream.close()

    def _find(self, event: str, data: bytes, start: int, end: int) -> None:
        self._found.append((event, data[start:end]))

    async def _handle(self, event: str, data: bytes) -> None:
        match event:
            case "part_data":
                await self._take(data)
            case "part_begin":
                self._part = ""
            case "header_field":
                self._field += data
            case "header_value":
                self._value += data
            case "header_end":
                if self._field.lower() == b"content-disposition":
                    name = parse_options_header(self._value)[1].get(b"name", b"")
                    self._part = name.decode("latin-1")
                self._field = self._value = b""
            case "headers_finished":
                await self._begin()
            case "part_end":
                await self._end()
            case "end":
                self._is_whole = True

    async def _begin(self) -> None:
        if self._part == "metadata" and self._metadata is None:
            self._json.clear()
        elif self._part == "file" and self._metadata is not None:
            message = as_asked(self._request, self._metadata)
            self._stream = await self._relay.open(sandbox_id_of(self._request), message, with_input=True)
            self._metadata = None
        elif self._part == "file":
            raise InvalidRequest("a file part without a metadata part before it", code="upload.metadata")
        else:
            raise InvalidRequest(
                f"part {self._part[:64]!r}: parts must be metadata and file in turn", code="upload.content"
            )

    async def _take(self, data: bytes) -> None:
        if self._stream is not None:
            await self._stream.write(data)
            return
        self._json += data
        if len(self._json) > MAX_METADATA_BYTES:
            raise InvalidRequest(f"metadata is larger than {MAX_METADATA_BYTES} bytes", code="upload.metadata")

    async def _end(self) -> None:
        if self._stream is None:
            self._metadata = _file_write(decode(bytes(self._json), UploadMetadata, code="upload.metadata"))
            return
        self._stream.end()
        await self._stream.expect_only(FileInfo)
        self._stream = None
        self._files += 1


def _file_write(metadata: UploadMetadata) -> FileWrite:
    return FileWrite(
        path=clean_path(metadata.path, code="upload.metadata"),
        mode=permission_bits(metadata.mode, "mode", code="upload.metadata"),
        owner=metadata.owner or "",
        group=metadata.group or "",
    )


def _headers(path: str) -> Headers:
    return (b"content-disposition", _disposition(path)), (b"accept-ranges", b"bytes")


def _byte_range(headers: Mapping[str, str]) -> tuple[int, int | None] | None:
    """Return offset and length of what a request's Range header (RFC 9110, 14.2) asks for.

    An offset from the end is negative. None without the header, and for what a server may ignore: other units, and
    several ranges. A file has no validator here, so that a range under a condition (If-Range) is ignored too.

    Raises:
        InvalidRequest: `download.range`, it is not a range of bytes.
    """
    unit, equals, wanted = headers.get("range", "").partition("=")
    ranges = [each for part in wanted.split(",") if (each := part.strip(" \t"))]
    if unit.lower() != "bytes" or not equals or "if-range" in headers or len(ranges) > 1:
        return None
    match = _RANGE.fullmatch(ranges[0]) if ranges else None
    first, last = (whole_number(match[1]), whole_number(match[2])) if match else (None, None)
    if first is not None and (last is None or first <= last):
        return first, None if last is None else min(last - first + 1, HUGE)
    if first is None and last:
        return -last, None
    raise InvalidRequest(f"Range: {wanted[:64]!r} is not a range of bytes, such as 0-99 or -100", code="download.range")


def _disposition(path: str) -> bytes:
    name = path.rstrip("/").rpartition("/")[2]
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}".encode()
