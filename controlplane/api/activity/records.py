"""Records of the activities of sandboxes that have ended: `/activities`."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import BinaryIO

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.activity.records import Records, RecordView
from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.responses import Sink, StreamResponse
from controlplane.errors import NotFound

LINES = "application/x-ndjson"
PIECE_BYTES = 256 << 10


class RecordPage(msgspec.Struct, frozen=True):
    """The records that the caller sees, the newest first."""

    records: tuple[RecordView, ...]


class RecordReading:
    """The endpoints. Without a setting, there are no records."""

    def __init__(self, records: Records | None) -> None:
        self._records = records

    async def list(self, request: Request) -> Response:
        """List the kept activities of sandboxes that have ended; `[activity] keep_on_disk` keeps them."""
        caller = caller_of(request.scope)
        heads = [] if self._records is None else await self._records.heads()
        return json_answer(RecordPage(tuple(head for head in heads if caller.sees(head.owner, head.sandbox))))

    async def read(self, request: Request) -> StreamResponse:
        """Return the kept activity of a sandbox as lines of JSON: what the sandbox was, then its entries."""
        sandbox_id: str = request.path_params["record_id"]
        found = None if self._records is None else await self._records.open(sandbox_id)
        if found is not None and not caller_of(request.scope).sees(found[0].owner, found[0].sandbox):
            found[1].close()
            found = None
        if found is None:
            text = f"there is no record of the activity of sandbox {sandbox_id[:64]}"
            raise NotFound(text, code="activity.no_record")
        file = found[1]
        size = str(os.fstat(file.fileno()).st_size).encode()
        headers = ((b"content-type", LINES.encode()), (b"content-length", size))
        return StreamResponse(partial(_send, file), close=file.close, headers=headers)


async def _send(file: BinaryIO, sink: Sink) -> None:
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        await sink.write(piece)
    await sink.finish()
