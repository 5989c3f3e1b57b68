"""`/files/upload` and `/files/download`: content, streamed both ways, at the pace of whichever end is slower."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.identity import as_asked
from controlplane.api.schema import UploadMetadata, clean_path, decode, integer, permission_bits, required
from controlplane.api.streaming import StreamResponse, copy_data
from controlplane.errors import InvalidRequest
from controlplane.link.stream import Stream
from execd.wire.messages import FileInfo, FileRead, FileWrite

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from controlplane.link.relay import Relay

MAX_METADATA_BYTES = 64 * 1024

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Transfers:
    """The endpoints."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def upload(self, request: Request) -> Response:
        """POST /files/upload: pairs of parts, `metadata` and `file`, written one after another.

        Each file is written whole or not at all. When one fails, those before it have been written and stay.
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

    async def download(self, request: Request) -> StreamResponse:
        """GET /files/download?path=: a file, a range of its bytes, or with offset and limit a window of its lines."""
        path = clean_path(required(request, "path"), code="request.query")
        first, count = integer(request, "offset", least=1), integer(request, "limit", least=1)
        by_lines = first is not None or count is not None
        wanted = _byte_range(request.headers.get("range"))
        if by_lines and wanted is not None:
            raise InvalidRequest("a Range header excludes offset and limit", code="request.query")
        offset, length = wanted or (0, None)
        message = FileRead(path, offset, length, (first or 1) if by_lines else None, count)
        stream = await self._relay.open(request.path_params["sandbox_id"], as_asked(request, message))
        try:
            size = max(0, (await stream.expect(FileInfo)).size)
        except BaseException:
            stream.close()
            raise
        headers = [(b"content-disposition", _disposition(path)), (b"accept-ranges", b"bytes")]
        if by_lines:
            headers.append((b"content-type", b"text/plain; charset=utf-8"))
            return StreamResponse(partial(copy_data, stream), close=stream.close, headers=headers)
        headers.append((b"content-type", b"application/octet-stream"))
        start = max(0, size + offset) if offset < 0 else offset
        stop = size if length is None else min(size, start + length)
        headers.append((b"content-length", b"%d" % (stop - start)))
        # An empty file has no range of bytes to show: it is answered whole.
        status = 206 if wanted is not None and size else 200
        if status == 206:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
        pump = partial(copy_data, stream, size=stop - start)
        return StreamResponse(pump, close=stream.close, status=status, headers=headers)


class _Upload:
    """The parts of one upload, as their bytes arrive."""

    def __init__(self, relay: Relay, request: Request, boundary: bytes) -> None:
        """Raises FormParserError for an impossible boundary, as `feed` does for what it cannot read."""
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
        """The body has ended. Raises InvalidRequest when something of it is missing."""
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
            self._stream = await self._relay.open(self._request.path_params["sandbox_id"], message, with_input=True)
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


def _byte_range(header: str | None) -> tuple[int, int | None] | None:
    """Return offset and length of a Range header, an offset from the end as a negative number.

    None without one, and for what HTTP lets a server ignore: other units, several ranges at once.
    """
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    match = _RANGE.fullmatch(header.replace(" ", ""))
    first, last = (match[1], match[2]) if match else ("", "")
    if first and (not last or int(first) <= int(last)):
        return int(first), int(last) - int(first) + 1 if last else None
    if last and not first and int(last):
        return -int(last), None
    raise InvalidRequest(f"Range: {header[:64]!r} cannot be satisfied", code="download.range")


def _disposition(path: str) -> bytes:
    name = path.rstrip("/").rpartition("/")[2]
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}".encode()
