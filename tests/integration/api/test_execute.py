"""Code run by one request with one answer, in the bash of a real execd."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server.api_server import SANDBOX_ID, Edge


@pytest.fixture
async def client(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the API key."""
    async with edge.client() as opened:
        yield opened


async def execute(client: httpx.AsyncClient, code: str, **more: Any) -> dict[str, Any]:
    """Run and return the answer."""
    response = await client.post("/contexts/execute", json={"sandbox_id": SANDBOX_ID, "code": code, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_context_is_made_and_code_is_run_in_it(client: httpx.AsyncClient) -> None:
    """Its state lasts, and another one's is another."""
    made = await client.post(f"/sandboxes/{SANDBOX_ID}/contexts", json={"language": "bash"})
    context = made.json()
    assert (made.status_code, context["language"]) == (200, "bash")
    await execute(client, "x=1", context_id=context["id"])
    answer = await execute(client, "echo $x; echo e >&2; (exit 4)", context_id=context["id"])
    receipt = answer.pop("receipt")
    assert answer == {
        "context_id": context["id"], "stdout": "1\n", "stderr": "e\n", "results": [], "execution_count": 2
    }  # fmt: skip
    assert (receipt["cause"], receipt["exit_code"], receipt["output_bytes"]) == ("error", 4, 4)
    assert (await execute(client, "echo [$x]", language="bash"))["stdout"] == "[]\n"


async def test_how_a_run_ended_is_in_its_receipt(client: httpx.AsyncClient) -> None:
    late = await execute(client, "echo begun; sleep 60", language="bash", timeout=1000)
    died = await execute(client, "kill -9 $$", language="bash")
    after = await execute(client, "echo alive", language="bash")
    assert (late["stdout"], late["receipt"]["cause"]) == ("begun\n", "timeout")
    assert (died["receipt"]["cause"], died["receipt"]["died_of"]) == ("died", "signal")
    assert "SIGKILL" in died["message"]
    assert after["stdout"] == "alive\n"


async def test_a_default_context_that_died_between_runs_is_not_replaced_without_a_word(
    client: httpx.AsyncClient,
) -> None:
    """The next run says so before all else, once; clients that know no receipts show what is on stderr."""
    pid = int((await execute(client, "x=1; echo $$", language="bash"))["stdout"])
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    first = await execute(client, "echo [$x]; echo own >&2", language="bash")
    assert first["stdout"] == "[]\n"
    said = first["receipt"]["notice"]
    assert said.startswith("context default-bash has begun anew, without what it held: its process ")
    assert first["stderr"] == f"[sandlot: {said}]\nown\n"
    assert first["receipt"]["output_bytes"] == len("[]\nown\n")
    assert first["execution_count"] == 1
    assert (await execute(client, "echo [$x]", language="bash"))["stderr"] == ""


async def test_a_flood_is_cut_and_the_answer_says_so(client: httpx.AsyncClient) -> None:
    answer = await execute(client, "head -c 3000000 /dev/zero | tr '\\0' x; echo small >&2", language="bash")
    assert (len(answer["stdout"]), answer["stderr"], answer["truncated"]) == (1 << 20, "small\n", ["stdout"])
    cut = await execute(client, "yes 日本語 | head -c 3000000", language="bash")
    assert "\ufffd" not in cut["stdout"]
    just_full = await execute(client, "head -c 1048576 /dev/zero | tr '\\0' x", language="bash")
    assert (len(just_full["stdout"]), "truncated" in just_full) == (1 << 20, False)


async def test_a_caller_that_goes_interrupts_its_run(client: httpx.AsyncClient) -> None:
    """The next run in that context does not wait for it."""
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            "/contexts/execute", json={"sandbox_id": SANDBOX_ID, "code": "sleep 60", "language": "bash"}, timeout=0.5
        )
    async with asyncio.timeout(10):
        assert (await execute(client, "echo next", language="bash"))["stdout"] == "next\n"


async def test_of_a_run_whose_sandbox_is_lost_the_answer_has_what_was_seen(
    client: httpx.AsyncClient, edge: Edge, tmp_path: Path
) -> None:
    """The code may have done its work: what it said until then is not thrown away."""
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    running = asyncio.ensure_future(execute(client, f"echo begun; : > {begun}; sleep 60", language="bash"))
    await asyncio.to_thread(begun.read_bytes)
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    await link.aclose()
    answer = await running
    receipt = answer["receipt"]
    assert receipt["cause"] == "link_lost"
    assert answer["stdout"] in ("", "begun\n")  # it may still have been on its way
    assert receipt["output_bytes"] == len(answer["stdout"])
    assert receipt["wall_s"] > 0
    assert answer["message"]


async def test_what_is_refused(client: httpx.AsyncClient) -> None:
    for body, status in (
        ({"code": "1"}, 400),
        ({"sandbox_id": SANDBOX_ID}, 400),
        ({"sandbox_id": SANDBOX_ID, "code": "1", "context_id": "x", "language": "bash"}, 400),
        ({"sandbox_id": SANDBOX_ID, "code": "1", "context_id": "never"}, 404),
        ({"sandbox_id": "nobody", "code": "1", "language": "bash"}, 404),
        ({"sandbox_id": SANDBOX_ID, "code": "1", "language": "cobol"}, 400),
    ):
        response = await client.post("/contexts/execute", json=body)
        assert (response.status_code, response.json().keys()) == (status, {"code", "message"}), (body, response.text)


async def test_an_agent_that_went_before_is_a_bad_gateway(edge: Edge, client: httpx.AsyncClient) -> None:
    """Which is what the specification says of both."""
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    await link.aclose()
    for path, body in (
        ("/contexts/execute", {"sandbox_id": SANDBOX_ID, "code": "1", "language": "bash"}),
        (f"/sandboxes/{SANDBOX_ID}/contexts", {"language": "bash"}),
    ):
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["code"]) == (502, "BACKEND_CONNECTION_FAILED")
