"""POST /code and the contexts, before an agent that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx

from controlplane.api.app import ApiSettings
from controlplane.api.edge.bodies import MAX_CODE_BYTES
from execd.errors import ExecdError
from execd.wire.aio import Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    CodeFrame,
    ContextClose,
    ContextDone,
    ContextError,
    ContextInterrupt,
    ContextList,
    ContextOpen,
    ContextResult,
    ContextRun,
    ContextState,
    Done,
)
from tests.support.server.api_server import Edge, serving_agent


class Agent:
    """Contexts in memory. What a run says is the code's own business: see `run`."""

    def __init__(self) -> None:
        self.contexts: dict[str, str] = {}
        self.opened: Counter[str] = Counter()
        self.runs: list[ContextRun] = []
        self.interrupted: list[str] = []
        self.waiting = asyncio.Semaphore(0)  # released when a run begins to wait
        self.over = asyncio.Event()  # the client of a waiting run went away

    def handlers(self) -> dict[Any, Any]:
        """For the dispatcher."""
        return {
            ContextOpen: self.open,
            ContextList: self.list,
            ContextClose: self.close,
            ContextInterrupt: self.interrupt,
            ContextRun: self.run,
        }

    async def open(self, stream: Stream, request: ContextOpen) -> None:
        """Serve context.open; slow enough that two could overlap."""
        if request.id in self.contexts:
            raise ExecdError("context.duplicate", "exists")
        if request.language == "cobol":
            raise ExecdError("context.unsupported", "this image has no cobol")
        await asyncio.sleep(0)
        self.contexts[request.id] = request.language
        self.opened[request.id] += 1
        await stream.send(ContextState(request.id, request.language))

    async def list(self, stream: Stream, request: ContextList) -> None:
        """Serve context.list."""
        if request.id and request.id not in self.contexts:
            raise ExecdError("context.not_found", f"context {request.id} does not exist")
        for name, language in self.contexts.items():
            if request.id in ("", name) and request.language in ("", language):
                await stream.send(ContextState(name, language))

    async def close(self, stream: Stream, request: ContextClose) -> None:
        """Serve context.close."""
        if request.id and request.id not in self.contexts:
            raise ExecdError("context.not_found", "does not exist")
        for name, language in [*self.contexts.items()]:
            if name == request.id or language == request.language:
                del self.contexts[name]
        await stream.send(Done())

    async def interrupt(self, stream: Stream, request: ContextInterrupt) -> None:
        """Serve context.interrupt."""
        if request.id not in self.contexts:
            raise ExecdError("context.not_found", "does not exist")
        self.interrupted.append(request.id)
        await stream.send(Done())

    async def run(self, stream: Stream, request: ContextRun) -> None:
        """Serve context.run: say the replies that the code names."""
        if request.id not in self.contexts:
            raise ExecdError("context.not_found", f"context {request.id} does not exist")
        self.runs.append(request)
        if request.code == "wait":
            self.waiting.release()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.over.set()
        if request.code in ("late", "die"):
            del self.contexts[request.id]
        for reply in REPLIES[request.code]:
            if isinstance(reply, tuple):
                await stream.write(reply[1], reply[0])
            else:
                await stream.send(reply)


REPLIES: dict[str, list[Any]] = {
    "value": [
        (Channel.STDOUT, b"printed\nhalf "),
        ContextResult("result", {"text/plain": "4", "text/html": "<b>4</b>"}, execution_count=3),
        (Channel.STDOUT, b"a line"),
        ContextDone("ok", 3, wall_s=0.004),
    ],
    "raise": [
        (Channel.STDERR, b"warned\n"),
        ContextError("ZeroDivisionError", "division by zero", ("Traceback …", "1/0")),
        ContextDone("error", 4, wall_s=0.001),
    ],
    "timeout": [ContextError("KeyboardInterrupt", "", ()), ContextDone("timeout", 5, 1.0)],
    "interrupted": [ContextDone("interrupted", 6, 1.0)],
    "die": [ContextDone("died", 0, 1.0, "its process ended by signal 9", died_of="signal")],
    "late": [ContextDone("timeout", 0, 1.0, "it did not stop", died_of="killed", exit_code=137)],
    "oom": [ContextDone("oom", 7, 1.0, exit_code=137, limits_hit=("memory",))],
    "shown": [
        ContextResult("display", {"text/plain": "1"}, display_id="d"),
        ContextResult("display", {"text/plain": "2"}, display_id="d", update=True),
        ContextError("E", "v", ("t",), (CodeFrame("f.py", 3, "g", "h()"), CodeFrame("Cell In[1]", 1))),
        ContextDone("error"),
    ],
    "silent": [ContextDone("ok")],
}


async def run(edge: Edge, code: str, **context: str) -> list[dict[str, Any]]:
    """Run code to its end, return its events without times."""
    async with edge.execd() as client:
        response = await client.post("/code", json={"code": code, "context": context} if context else {"code": code})
    assert response.status_code == 200, response.text
    assert response.text.isascii()
    found = [json.loads(frame) for frame in response.text.split("\n\n")[:-1]]
    assert all(type(event.pop("timestamp")) is int for event in found)
    return found


def error(name: str, value: str, *traceback: str) -> dict[str, Any]:
    """An error event."""
    return {"type": "error", "error": {"ename": name, "evalue": value, "traceback": list(traceback)}}


async def test_a_value_is_output_count_result_and_complete() -> None:
    """Plain text under the name `text`, where the Python SDK looks for it. Half a line waits for the end of the run."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge:
        init, *found = await run(edge, "value")

    assert init["type"] == "init"
    assert found == [
        {"type": "stdout", "text": "printed"},
        {"type": "execution_count", "execution_count": 3},
        {"type": "result", "results": {"text": "4", "text/html": "<b>4</b>"}},
        {"type": "stdout", "text": "half a line"},
        {
            "type": "execution_complete",
            "execution_time": 4,
            "receipt": {"cause": "ok", "wall_s": 0.004, "cpu_s": 0.0, "peak_memory_bytes": 0, "output_bytes": 0},
        },
    ]
    assert agent.runs == [ContextRun("default-python", "value")]


async def test_ends_that_are_not_good_state_their_cause() -> None:
    """Exactly the code's own error, if it has one; else what was done to it; then complete."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge:
        ends = {code: await run(edge, code) for code in ("raise", "timeout", "interrupted", "oom", "late", "die")}
        again = await run(edge, "silent")

    errors = {code: [event for event in found if event["type"] == "error"] for code, found in ends.items()}
    assert errors["raise"] == [error("ZeroDivisionError", "division by zero", "Traceback …", "1/0")]
    assert errors["timeout"][-1] == error("TimeoutError", "the run was stopped")
    assert errors["interrupted"] == [error("KeyboardInterrupt", "the run was interrupted")]
    assert errors["oom"] == [error("CommandExecError", "137", "killed by the kernel: out of memory")]
    assert errors["late"] == [error("TimeoutError", "the run was stopped, and its context with it")]
    assert errors["die"] == [error("ContextDied", "its process ended by signal 9")]
    assert {found[-1]["type"] for found in ends.values()} == {"execution_complete"}
    assert [event["type"] for event in again] == ["init", "execution_complete"]
    assert agent.opened["default-python"] == 3, "a default context that died is made again"


async def test_what_is_ours_in_events_has_keys_of_its_own() -> None:
    """Which display is updated, and the calls of a traceback, without what is not known of them."""
    async with serving_agent(Agent().handlers()) as edge:
        _, *found = await run(edge, "shown")

    assert found[:-1] == [
        {"type": "result", "results": {"text": "1"}, "display_id": "d", "update": False},
        {"type": "result", "results": {"text": "2"}, "display_id": "d", "update": True},
        {
            "type": "error",
            "error": {
                "ename": "E",
                "evalue": "v",
                "traceback": ["t"],
                "frames": [
                    {"file": "f.py", "line": 3, "function": "g", "code": "h()"},
                    {"file": "Cell In[1]", "line": 1},
                ],
            },
        },
    ]


async def test_first_runs_at_once_share_one_default_context() -> None:
    """Each language has its own, made once, whoever comes first."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge:
        await asyncio.gather(*(run(edge, "silent", language=language) for language in ("python", "Bash") * 5))

    assert agent.opened == {"default-python": 1, "default-bash": 1}
    assert agent.contexts == {"default-python": "python", "default-bash": "bash"}


async def test_a_default_context_that_is_there_already_is_used() -> None:
    """Made by a control plane before this one, or gone without our knowing: the run goes on all the same."""
    agent = Agent()
    agent.contexts["default-python"] = "python"
    async with serving_agent(agent.handlers()) as edge:
        await run(edge, "silent")
        agent.contexts.clear()
        found = await run(edge, "silent")

    assert [event["type"] for event in found] == ["init", "execution_complete"]
    assert agent.opened == {"default-python": 1}


async def test_what_cannot_run_is_an_error_before_the_stream() -> None:
    """An unknown context or language is a 400, not a stream that ends badly."""
    async with serving_agent(Agent().handlers()) as edge, edge.execd() as client:
        unknown = await client.post("/code", json={"code": "1", "context": {"id": "nope"}})
        language = await client.post("/code", json={"code": "1", "context": {"language": "cobol"}})
        strange = await client.post("/code", json={"code": "1", "context": {"language": "../x"}})
        missing = await client.post("/code", json={"context": {"language": "python"}})

    assert [response.status_code for response in (unknown, language, strange, missing)] == [400] * 4
    assert [response.json()["code"] for response in (unknown, language, strange, missing)] == [
        "CONTEXT_NOT_FOUND",
        "NOT_SUPPORTED",
        "INVALID_REQUEST_BODY",
        "INVALID_REQUEST_BODY",
    ]


async def test_a_context_that_went_behind_our_back_ends_its_run_with_an_error() -> None:
    """It was known a moment ago, so the stream has begun: the error is an event."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge, edge.execd() as client:
        context = (await client.post("/code/context", json={"language": "python"})).json()
        agent.contexts.clear()
        found = await run(edge, "silent", id=context["id"])
        after = await client.post("/code", json={"code": "silent", "context": context})

    assert found[1]["error"]["ename"] == "AgentError"
    assert "does not exist" in found[1]["error"]["evalue"]
    assert after.status_code == 400


async def test_code_may_be_large_and_not_too_large() -> None:
    """What fits a message of the link passes, the next byte is a 400."""
    agent = Agent()
    REPLIES["x" * MAX_CODE_BYTES] = REPLIES["silent"]
    async with serving_agent(agent.handlers()) as edge, edge.execd() as client:
        fits = await client.post("/code", json={"code": "x" * MAX_CODE_BYTES})
        too_large = await client.post("/code", json={"code": "x" * MAX_CODE_BYTES + "x"})

    assert "execution_complete" in fits.text
    assert (too_large.status_code, too_large.json()["code"]) == (400, "INVALID_REQUEST_BODY")


async def test_contexts_are_made_listed_and_ended() -> None:
    """The whole life of two contexts, by the contract's paths."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge, edge.execd() as client:
        python = (await client.post("/code/context", json={"language": "python"})).json()
        bash = (await client.post("/code/context", json={"language": "bash"})).json()
        everything = (await client.get("/code/contexts")).json()
        some = (await client.get("/code/contexts", params={"language": "bash"})).json()
        one = await client.get(f"/code/contexts/{python['id']}")
        deleted = await client.delete(f"/code/contexts/{python['id']}")
        gone = [
            await client.get(f"/code/contexts/{python['id']}"),
            await client.delete(f"/code/contexts/{python['id']}"),
        ]
        all_of = await client.delete("/code/contexts", params={"language": "bash"})
        without = await client.delete("/code/contexts")
        left = (await client.get("/code/contexts")).json()

    assert (python["language"], everything, some, one.json()) == ("python", [python, bash], [bash], python)
    assert (deleted.status_code, all_of.status_code, without.status_code, left) == (200, 200, 400, [])
    assert {(response.status_code, response.json()["code"]) for response in gone} == {(404, "CONTEXT_NOT_FOUND")}


async def start(client: httpx.AsyncClient, code: str, ids: asyncio.Queue[str]) -> list[dict[str, Any]]:
    """Run code in the default context; the run's id goes to *ids* as soon as it is known."""
    found = []
    async with client.stream("POST", "/code", json={"code": code}) as response:
        async for line in response.aiter_lines():
            if line:
                found.append(json.loads(line))
                if found[-1]["type"] == "init":
                    ids.put_nowait(found[-1]["run_id"])
    return found


async def test_the_id_of_init_is_that_of_the_context() -> None:
    """The official clients take it for both: to go on in the same state, and to interrupt, also after the end."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge:
        init, *_ = await run(edge, "silent")
        again, *_ = await run(edge, "silent", id=init["text"], language="python")
        async with edge.execd() as client:
            interrupted = await client.delete("/code", params={"id": init["text"]})
        agent.contexts.clear()  # a default context that is gone is made again, by its id as well
        *_, last = await run(edge, "silent", id=init["text"], language="python")

    assert init["text"] == again["text"] == "default-python"
    assert init["run_id"] != again["run_id"]
    assert interrupted.status_code == 200
    assert agent.interrupted == ["default-python"]
    assert last["type"] == "execution_complete"


async def test_an_interrupt_hits_the_run_that_is_meant() -> None:
    """A run that goes on is interrupted in its context; one that waits for its turn ends alone."""
    agent = Agent()
    ids: asyncio.Queue[str] = asyncio.Queue()
    async with serving_agent(agent.handlers()) as edge, edge.execd() as client:
        first = asyncio.ensure_future(start(client, "wait", ids))
        first_id = await ids.get()
        second = asyncio.ensure_future(start(client, "wait", ids))
        second_id = await ids.get()

        assert (await client.delete("/code", params={"id": second_id})).status_code == 200
        assert agent.interrupted == []
        ended = await second
        assert (await client.delete("/code", params={"id": first_id})).status_code == 200
        assert (await client.delete("/code", params={"id": "default-python"})).status_code == 200
        assert agent.interrupted == ["default-python", "default-python"]
        unknown = await client.delete("/code", params={"id": "nope"})
        first.cancel()

    assert ended[-1]["error"] == {
        "ename": "KeyboardInterrupt",
        "evalue": "the run was interrupted while it waited for its turn",
        "traceback": [],
    }
    assert ended[-1]["receipt"]["cause"] == "interrupted"
    assert (unknown.status_code, unknown.json()["code"]) == (400, "CONTEXT_NOT_FOUND")


async def test_a_client_that_goes_away_ends_its_run() -> None:
    """Closing the connection resets the stream, which interrupts the run."""
    agent = Agent()
    async with serving_agent(agent.handlers()) as edge, edge.execd() as client:
        task = asyncio.ensure_future(start(client, "wait", asyncio.Queue()))
        await agent.waiting.acquire()
        task.cancel()
        async with asyncio.timeout(5):
            await agent.over.wait()


async def test_time_limits() -> None:
    """The server's holds for runs that name none."""
    agent = Agent()
    async with serving_agent(agent.handlers(), ApiSettings(run_timeout_s=30)) as edge, edge.execd() as client:
        await run(edge, "silent")
        await client.post("/code", json={"code": "silent", "timeout": 250})

    assert [run.timeout_s for run in agent.runs] == [30, 0.25]
