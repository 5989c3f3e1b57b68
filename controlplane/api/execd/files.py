"""`/files` and `/directories`: what is there and what becomes of it. Content is `transfer.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer, read_json, utc
from controlplane.api.edge.parameters import (
    clean_path,
    flag,
    integer,
    mode_digits,
    no_nul,
    permission_bits,
    required,
    sandbox_id_of,
)
from controlplane.api.edge.responses import while_connected
from controlplane.api.execd.identity import as_asked
from controlplane.api.execd.schema import FileView, Move, Permissions, Replacement
from controlplane.errors import InvalidRequest, LinkLost
from execd.wire.messages import (
    DirectoryMake,
    DirectoryRemove,
    Done,
    FileAttributes,
    FileChange,
    FileInfo,
    FileList,
    FileMove,
    FileRemove,
    FileReplace,
    FileReplaced,
    FileReplacement,
    FileRequest,
    FileSearch,
    FileStat,
)

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

# A listing is answered whole or not at all, so that an error in its middle is still an error with a status.
MAX_LISTING_BYTES = 32 << 20


class Files:
    """The endpoints."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def info(self, request: Request) -> Response:
        """Describe files, all of which must exist."""
        paths = _paths(request)
        sandbox_id = sandbox_id_of(request)
        found = {}
        async with await self._relay.open(sandbox_id, as_asked(request, FileStat(paths))) as stream:
            for path in paths:
                found[path] = _view(await stream.expect(FileInfo))
        return json_answer(found)

    async def search(self, request: Request) -> Response:
        """Find files by a glob on their names."""
        pattern = no_nul(request.query_params.get("pattern") or "*", "pattern", code="request.query")
        return await while_connected(request, self._listing(request, FileSearch(_path(request), pattern)))

    async def list(self, request: Request) -> Response:
        """List a directory, down to `depth`."""
        depth = integer(request, "depth")
        # The contract allows a depth of 0; like 1, it means the entries of the directory.
        wanted = FileList(_path(request), max(1, 1 if depth is None else depth))
        return await while_connected(request, self._listing(request, wanted))

    async def remove(self, request: Request) -> Response:
        """Remove files."""
        return await self._do(request, FileRemove(_paths(request)))

    async def remove_directories(self, request: Request) -> Response:
        """Remove directories with their contents."""
        return await self._do(request, DirectoryRemove(_paths(request)))

    async def move(self, request: Request) -> Response:
        """Rename or move files and directories."""
        moves = await read_json(request, list[Move])
        pairs = tuple((clean_path(move.src, "src"), clean_path(move.dest, "dest")) for move in moves)
        return await while_connected(request, self._do(request, FileMove(pairs)))

    async def change(self, request: Request) -> Response:
        """Set the modes and owners of files."""
        return await self._do(request, FileChange(await _read_attributes(request)))

    async def make_directories(self, request: Request) -> Response:
        """Create directories."""
        return await self._do(request, DirectoryMake(await _read_attributes(request)))

    async def replace(self, request: Request) -> Response:
        """Replace text in files. With `verbose`, return the number of replacements."""
        is_verbose = flag(request, "verbose") or "session_id" in request.path_params  # whose clients cannot ask for it
        body = await read_json(request, dict[str, Replacement])
        files = []
        for path, wanted in body.items():
            if not wanted.old:
                raise InvalidRequest(f"{path}.old: must not be empty", code="request.body")
            files.append(FileReplacement(clean_path(path), wanted.old, wanted.new))
        # A client that has gone must not leave work behind that fills the disk.
        counts = await while_connected(request, self._replace(request, FileReplace(tuple(files))))
        return json_answer(counts) if is_verbose else Response()

    # -- inside

    async def _replace(self, request: Request, message: FileReplace) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        async with await self._relay.open(sandbox_id_of(request), as_asked(request, message)) as stream:
            while (replaced := await stream.receive()) is not None:
                if not isinstance(replaced, FileReplaced) or len(counts) > len(message.files):
                    raise LinkLost("the agent did not say what it replaced")
                counts[replaced.path] = {"replacedCount": replaced.count}
        return counts

    async def _do(self, request: Request, message: FileRequest) -> Response:
        await self._relay.call(sandbox_id_of(request), as_asked(request, message), Done)
        return Response()

    async def _listing(self, request: Request, message: FileRequest) -> Response:
        encoder = msgspec.json.Encoder()
        listing = bytearray(b"[")
        async with await self._relay.open(sandbox_id_of(request), as_asked(request, message)) as stream:
            while (info := await stream.receive()) is not None:
                if not isinstance(info, FileInfo):
                    raise LinkLost(f"the agent sent {type(info).__name__} among files")
                listing += encoder.encode(_view(info)) + b","
                if len(listing) > MAX_LISTING_BYTES:
                    raise InvalidRequest("the answer would be too large: begin further down, or ask for less")
        listing[len(listing) - (len(listing) > 1) :] = b"]"
        return Response(bytes(listing), media_type="application/json")


def _path(request: Request) -> str:
    return clean_path(required(request, "path"), code="request.query")


def _paths(request: Request) -> tuple[str, ...]:
    paths = request.query_params.getlist("path")
    if not paths:
        raise InvalidRequest("query parameter 'path' is missing", code="request.query")
    return tuple(clean_path(path, code="request.query") for path in paths)


async def _read_attributes(request: Request) -> tuple[FileAttributes, ...]:
    body = await read_json(request, dict[str, Permissions])
    return tuple(
        FileAttributes(
            clean_path(path), permission_bits(wanted.mode, f"{path}.mode"), wanted.owner or "", wanted.group or ""
        )
        for path, wanted in body.items()
    )


def _view(info: FileInfo) -> FileView:
    return FileView(
        path=info.path,
        type=info.kind if info.kind in ("file", "directory", "symlink") else "other",
        size=info.size,
        mode=mode_digits(info.mode),
        modified_at=utc(info.modified_at),
        created_at=utc(info.created_at),
        owner=info.owner,
        group=info.group,
    )
