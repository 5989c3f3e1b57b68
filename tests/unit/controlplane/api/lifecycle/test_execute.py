"""Code run by one request with one answer: the bound on all results together."""

from __future__ import annotations

import pytest

from controlplane.api.lifecycle import execute
from execd.wire.aio import Stream
from execd.wire.messages import ContextDone, ContextOpen, ContextResult, ContextRun, ContextState
from tests.support.server.api_server import SANDBOX_ID, serving_agent


async def opened(stream: Stream, request: ContextOpen) -> None:
    """Serve context.open."""
    await stream.send(ContextState(request.id, request.language))


async def three_results(stream: Stream, _: ContextRun) -> None:
    """Serve context.run."""
    for _ in range(3):
        await stream.send(ContextResult("result", {"text/plain": "x" * 100}))
    await stream.send(ContextDone("ok"))


@pytest.mark.parametrize(("room", "kept"), [(3, 3), (2, 2)])
async def test_all_results_together_are_bounded(room: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = execute.RESULT_CHARS + len("text/plain") + 100
    monkeypatch.setattr(execute, "MAX_RESULT_CHARS", room * size)
    async with serving_agent({ContextOpen: opened, ContextRun: three_results}) as edge, edge.client() as client:
        answer = (await client.post("/contexts/execute", json={"sandbox_id": SANDBOX_ID, "code": "1"})).json()
    assert len(answer["results"]) == kept
    assert ("results" in answer.get("truncated", [])) is (kept < 3)
