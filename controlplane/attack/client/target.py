"""What is attacked: the server, and sandboxes of the battery's own, which always end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from controlplane.attack.client.api import Answer, Api, Unreachable
from controlplane.attack.client.outcome import Outcome
from controlplane.attack.client.program import command, judge

METADATA = {"made-by": "sandlot-attack"}
LIFETIME_S = 900  # a battery that is killed leaves its sandboxes for no longer
CREATE_TIMEOUT_S = 120.0
END_TIMEOUT_S = 30.0
ALIVE_S = 10.0  # after this silence, a sandbox counts as dead
COMMAND_GRACE_S = 10.0  # a command that has reached its time limit must have ended so long afterwards
MAX_OUTPUT_BYTES = 4 << 20
LEAST_MEMORY = "128Mi"
LEAST_CPU = "250m"


class Refused(Exception):
    """The server refused what an attack needs."""


class Ran(msgspec.Struct, frozen=True):
    """How a command in a sandbox ended: `exit_code` -1 is a signal, a timeout or a lost sandbox, as `error` says."""

    exit_code: int
    output: str
    error: str = ""


class Box:
    """One sandbox of the battery."""

    def __init__(self, api: Api, sandbox_id: str) -> None:
        self.api = api
        self.id = sandbox_id
        self.token = ""
        self.token_header = ""

    @property
    def agent(self) -> str:
        """The path of the agent's contract."""
        return f"/v1/sandboxes/{self.id}/proxy/44772"

    def port(self, number: int) -> str:
        """Return the path of a port."""
        return f"/v1/sandboxes/{self.id}/proxy/{number}"

    async def run(
        self,
        argv: Sequence[str],
        *,
        uid: int | None = None,
        timeout_s: float = 30.0,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a program; return how it ended. Raises Unreachable when nothing can be run."""
        body: dict[str, object] = {"argv": list(argv), "timeout": int(timeout_s * 1000)}
        if uid is not None:
            body |= {"uid": uid, "gid": uid}
        if env:
            body["envs"] = dict(env)
        answer = await self.api.request(
            "POST", f"{self.agent}/command", json=body, timeout_s=timeout_s + COMMAND_GRACE_S
        )
        if answer.status != 200:
            raise Unreachable(f"the sandbox ran nothing: {answer.status} {answer.text[:200]}")
        return read_events(answer.body)

    async def start(self, source: str) -> None:
        """Start a Python program that goes on in the background."""
        argv = [*command(source)[0]]
        answer = await self.api.request(
            "POST", f"{self.agent}/command", json={"argv": argv, "background": True, "timeout": LIFETIME_S * 1000}
        )
        if answer.status != 200:
            raise Unreachable(f"the sandbox ran nothing: {answer.status} {answer.text[:200]}")

    async def attack(self, source: str, *, uid: int | None = None, timeout_s: float = 30.0) -> Outcome:
        """Run a program of an attack; return its verdict."""
        argv, mark = command(source)
        ran = await self.run(argv, uid=uid, timeout_s=timeout_s)
        return judge(ran.output, mark, ran.error)

    async def output_of(self, source: str, *, timeout_s: float = 30.0) -> str:
        """Run a Python program; return what it printed. Raises Unreachable if it failed."""
        ran = await self.run(command(source)[0], timeout_s=timeout_s)
        if ran.exit_code:
            raise Unreachable(f"a program failed: {ran.error or ran.output[-200:]}")
        return ran.output

    async def answers(self) -> bool:
        """Return whether the sandbox still runs commands."""
        with contextlib.suppress(Unreachable):
            return (await self.run(command("print(6 * 7)")[0], timeout_s=ALIVE_S)).output.strip() == "42"
        return False


class Target:
    """The server with its key, and the sandboxes that attacks share."""

    def __init__(self, api: Api, image: str) -> None:
        self.api = api
        self.image = image
        self._shared: dict[str, Box] = {}
        self._making = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Target:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def box(self) -> Box:
        """Return the sandbox that attacks share which harm nothing in it. Raises Refused, Unreachable."""
        return await self._share("box")

    async def neighbour(self) -> Box:
        """Return the sandbox that is to notice nothing of what goes on in others. Raises Refused, Unreachable."""
        return await self._share("neighbour")

    async def _share(self, name: str) -> Box:
        async with self._making:
            if name not in self._shared or not await self._shared[name].answers():
                self._shared[name] = await self._stack.enter_async_context(self.sandbox())
            return self._shared[name]

    @contextlib.asynccontextmanager
    async def sandbox(
        self, *, memory: str = "", cpu: str = "", env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Box]:
        """Make a sandbox, which ends with the block. *memory* and *cpu* are its limits, such as "128Mi" and "250m".

        Raises:
            Refused: the server makes none: its answer is in the message.
            Unreachable
        """
        limits = {name: value for name, value in (("memory", memory), ("cpu", cpu)) if value}
        body: dict[str, object] = {
            "image": {"uri": self.image},
            "entrypoint": ["/opt/execd/bin/python3", "-I", "-S", "-c", "import time; time.sleep(1e6)"],
            "timeout": LIFETIME_S,
            "metadata": METADATA,
        }
        body |= {name: value for name, value in (("resourceLimits", limits), ("env", dict(env or {}))) if value}
        answer = await self.api.request("POST", "/v1/sandboxes", json=body, timeout_s=CREATE_TIMEOUT_S)
        made = answer.json()
        if answer.status not in (200, 201, 202) or not isinstance(made, dict):
            raise Refused(f"the server makes no sandbox: {answer.status} {answer.text[:300]}")
        box = Box(self.api, made["id"])
        try:
            await self._wait_running(box)
            yield box
        finally:
            await self._remove(box)

    async def _wait_running(self, box: Box) -> None:
        async with asyncio.timeout(CREATE_TIMEOUT_S):
            while (await self.api.request("GET", f"{box.agent}/ping")).status != 200:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.1)
        endpoint = await self.api.request("GET", f"/v1/sandboxes/{box.id}/endpoints/44772")
        told = endpoint.json()
        headers = told.get("headers") or {} if isinstance(told, dict) else {}
        box.token_header, box.token = next(iter(headers.items()), ("", ""))

    async def _remove(self, box: Box) -> None:
        """Delete a sandbox, however often it must be asked."""
        deadline = asyncio.get_running_loop().time() + END_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(Unreachable):
                if await self._deletes(box):
                    return
            await asyncio.sleep(0.5)

    async def _deletes(self, box: Box) -> bool:
        answer: Answer = await self.api.request("DELETE", f"/v1/sandboxes/{box.id}", timeout_s=END_TIMEOUT_S)
        return answer.status in (200, 202, 204, 404)


def read_events(body: bytes) -> Ran:
    """Read the event stream of a command."""
    output: list[str] = []
    code, error = -1, "the stream ended early"
    for line in body.splitlines():
        text = line.removeprefix(b"data:").strip()
        if not text.startswith(b"{"):
            continue
        event = msgspec.json.decode(text)
        kind = event.get("type")
        if kind in ("stdout", "stderr"):
            output.append(event.get("text", ""))
        elif kind == "execution_complete":
            code, error = 0, ""
        elif kind == "error":
            told = event.get("error", {})
            value, cause = str(told.get("evalue", "")), str(event.get("receipt", {}).get("cause", ""))
            code = int(value) if value.isdigit() else -1
            error = f"{cause} {told.get('ename', '')} {value}".strip()
    return Ran(code, "\n".join(output), error)
