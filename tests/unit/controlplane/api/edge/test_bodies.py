"""Bounds on the size of bodies, of texts in them, and of answers."""

from __future__ import annotations

import json

import pytest

from controlplane.api.edge.bodies import MAX_JSON_BYTES
from controlplane.api.edge.parameters import MAX_PATH_BYTES
from controlplane.api.execd import files
from controlplane.api.execd.schema import MAX_INPUT_CHARS, MAX_SCRIPT_BODY_BYTES
from execd.wire.aio import Stream
from execd.wire.messages import ContextInput, Done, FileInfo, FileList, ProcessExited, ProcessStart, ProcessStarted
from tests.support.server.api_server import serving_agent


async def heard(stream: Stream, _: ContextInput) -> None:
    """Serve context.input."""
    await stream.send(Done())


async def started(stream: Stream, _: ProcessStart) -> None:
    """Serve process.start."""
    await stream.send(ProcessStarted(7))
    await stream.send(ProcessExited("exit", 0))


async def ten_files(stream: Stream, request: FileList) -> None:
    """Serve file.list."""
    for number in range(10):
        await stream.send(FileInfo(f"{request.path}/{number}", "file", 0, 0o644, 0.0, 0.0, "root", "root"))


def padded(body: object, size: int) -> bytes:
    """Return *body* as JSON of exactly *size* bytes."""
    return json.dumps(body).encode().ljust(size)


async def test_a_body_is_bounded() -> None:
    async with serving_agent({ContextInput: heard}) as edge, edge.execd() as client:
        for more, status in ((0, 200), (1, 400)):
            content = padded({"text": "a"}, MAX_JSON_BYTES + more)
            assert (await client.post("/code/input?id=c", content=content)).status_code == status


async def test_the_body_of_a_script_is_bounded() -> None:
    async with serving_agent({ProcessStart: started}) as edge, edge.execd() as client:
        for more, status in ((0, 200), (1, 400)):
            content = padded({"command": "true"}, MAX_SCRIPT_BODY_BYTES + more)
            assert (await client.post("/command", content=content)).status_code == status


async def test_a_line_of_input_is_bounded() -> None:
    async with serving_agent({ContextInput: heard}) as edge, edge.execd() as client:
        for more, status in ((0, 200), (1, 400)):
            answer = await client.post("/code/input?id=c", json={"text": "x" * (MAX_INPUT_CHARS + more)})
            assert answer.status_code == status


async def test_a_path_is_bounded() -> None:
    async with serving_agent({FileList: ten_files}) as edge, edge.execd() as client:
        for more, status in ((0, 200), (1, 400)):
            path = "/".ljust(MAX_PATH_BYTES + more, "x")
            assert (await client.get("/directories/list", params={"path": path})).status_code == status


@pytest.mark.parametrize(("most", "status"), [(10_000, 200), (1000, 400)])
async def test_a_listing_is_bounded(most: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LISTING_BYTES", most)
    async with serving_agent({FileList: ten_files}) as edge, edge.execd() as client:
        answer = await client.get("/directories/list", params={"path": "/d"})
    assert answer.status_code == status
