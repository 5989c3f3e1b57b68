"""Many clients of the official SDKs, for so many seconds, as JSON. Runs in the SDKs' own virtual environment.

usage: sdk_clients.py SECONDS CLIENTS LIVE COMMANDS SEED

First the clients work, each with a sandbox after the other: code in all languages, commands, files, a port, a pause.
Then LIVE sandboxes are alive at once, and are asked for COMMANDS commands at once. Printed is, by operation, how many
milliseconds each one took, what failed, and in which order first values came.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig

IMAGE = "sandlot/code-interpreter"
SMALL_IMAGE = "sandlot/base"
# What a user sets who knows that the server is busy.
PATIENT = ConnectionConfig(request_timeout=timedelta(seconds=300))
READY = timedelta(seconds=300)
CREATES_AT_ONCE = 20
LANGUAGES = {
    "python": ("x = 20", "x + 22"),
    "javascript": ("let x = 20", "x + 22"),
    "typescript": ("let x: number = 20", "x + 22"),
    "java": ("int x = 20;", "x + 22"),
    "go": ("x := 20", "x + 22"),
    "bash": ("x=20", "echo $((x + 22))"),
}
# Python is what most ask for; of each of the others a few.
WEIGHTS = (6, 2, 1, 1, 1, 1)


class Log:
    """What took how long, and what failed."""

    def __init__(self) -> None:
        self.took_ms: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.firsts: list[tuple[float, float]] = []  # asked and answered, of the first value of a sandbox, in seconds

    async def time(self, operation: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do it; what it raises is a failure, and is raised."""
        began = time.monotonic()
        try:
            result = await work()
        except Exception as error:
            self.failures.append(f"{operation} after {time.monotonic() - began:.1f} s: {error!r}"[:500])
            raise
        self.took_ms[operation].append(1000 * (time.monotonic() - began))
        return result


class User:
    """One client."""

    def __init__(self, log: Log, rng: random.Random, until: float) -> None:
        self.log = log
        self.rng = rng
        self.until = until

    async def work(self) -> None:
        """Use one sandbox after the other until the time is over."""
        while time.monotonic() < self.until:
            try:
                sandbox = await self.log.time("create", create)
            except Exception:
                continue  # it is noted
            try:
                await self._use(sandbox)
            except Exception:
                pass  # it is noted; the next sandbox is another chance
            try:
                await self.log.time("kill", sandbox.kill)
                await sandbox.close()
            except Exception:
                pass  # noted as well

    async def _use(self, sandbox: Sandbox) -> None:
        interpreter = await CodeInterpreter.create(sandbox)
        parts = [
            partial(self._code, interpreter),
            partial(self._commands, sandbox),
            partial(self._files, sandbox),
            partial(self._port, sandbox),
            partial(self._pause, sandbox),
        ]
        asked = time.monotonic()
        await self._value(interpreter, "first value", "1+41", context=None)
        self.log.firsts.append((asked, time.monotonic()))
        for part in self.rng.sample(parts, len(parts)):
            if time.monotonic() < self.until:
                await part()

    async def _value(self, interpreter: CodeInterpreter, operation: str, code: str, context: Any) -> None:
        run = await self.log.time(operation, lambda: interpreter.codes.run(code, context=context))
        said = "".join(result.text for result in run.result) + "".join(line.text for line in run.logs.stdout)
        if run.error is not None or said.strip() != "42":
            self.log.failures.append(f"{operation}: gave {said!r}, {run.error}"[:500])

    async def _code(self, interpreter: CodeInterpreter) -> None:
        language = self.rng.choices(list(LANGUAGES), weights=WEIGHTS)[0]
        leave, show = LANGUAGES[language]
        create_context = partial(interpreter.codes.create_context, language)
        context = await self.log.time(f"context {language}", create_context)
        await interpreter.codes.run(leave, context=context)
        for _ in range(3):
            await self._value(interpreter, f"code {language}", show, context)

    async def _commands(self, sandbox: Sandbox) -> None:
        for number in range(5):
            await command(self.log, sandbox, str(number))

    async def _files(self, sandbox: Sandbox) -> None:
        text = str(self.rng.random()) * 1000
        await self.log.time("write a file", lambda: sandbox.files.write_file("/tmp/soak", text))
        if await self.log.time("read a file", lambda: sandbox.files.read_file("/tmp/soak")) != text:
            self.log.failures.append("read a file: gave another text")

    async def _port(self, sandbox: Sandbox) -> None:
        await sandbox.commands.run(
            "mkdir -p /tmp/www && echo served > /tmp/www/page && cd /tmp/www && "
            "(setsid python3 -m http.server 8123 >/dev/null 2>&1 &) && "
            "for i in $(seq 600); do (exec 3<>/dev/tcp/127.0.0.1/8123) 2>/dev/null && break; sleep 0.1; done"
        )
        endpoint = await self.log.time("ask for an endpoint", lambda: sandbox.get_endpoint(8123))
        async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
            fetch = partial(http.get, f"http://{endpoint.endpoint}/page", headers=endpoint.headers or {})
            answer = await self.log.time("fetch from a port", fetch)
        if (answer.status_code, answer.text) != (200, "served\n"):
            self.log.failures.append(f"fetch from a port: {answer.status_code} {answer.text!r}"[:500])

    async def _pause(self, sandbox: Sandbox) -> None:
        await self.log.time("pause", sandbox.pause)

        async def resume() -> Sandbox:
            return await Sandbox.resume(sandbox.id, connection_config=PATIENT)

        resumed = await self.log.time("resume", resume)
        await command(self.log, resumed, "awake")
        await resumed.close()


async def create(image: str = IMAGE) -> Sandbox:
    """Create a sandbox, ready, as users do."""
    return await Sandbox.create(image, timeout=timedelta(hours=1), ready_timeout=READY, connection_config=PATIENT)


async def command(log: Log, sandbox: Sandbox, text: str, operation: str = "command") -> None:
    """Run a command and look at what it printed."""
    done = await log.time(operation, lambda: sandbox.commands.run(f"echo {text}"))
    said = "".join(line.text for line in done.logs.stdout).strip()
    if said != text:
        log.failures.append(f"{operation}: gave {said!r} and not {text!r}")


async def crowd(log: Log, live: int, commands: int) -> None:
    """Have so many sandboxes at once, and ask them for so many commands at once."""
    slots = asyncio.Semaphore(CREATES_AT_ONCE)

    async def one() -> Sandbox:
        async with slots:
            return await log.time("create, of a crowd", partial(create, SMALL_IMAGE))

    made = await asyncio.gather(*(one() for _ in range(live)), return_exceptions=True)
    sandboxes = [each for each in made if isinstance(each, Sandbox)]
    if sandboxes:
        asked = [
            command(log, sandboxes[number % len(sandboxes)], str(number), "command, of a crowd")
            for number in range(commands)
        ]
        await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.gather(*(log.time("kill, of a crowd", each.kill) for each in sandboxes), return_exceptions=True)
    for sandbox in sandboxes:
        await sandbox.close()


async def main() -> None:
    """Do what the command line says."""
    seconds, clients, live, commands, seed = map(int, sys.argv[1:])
    log, until = Log(), time.monotonic() + seconds
    users = [User(log, random.Random(f"{seed}/{number}"), until) for number in range(clients)]
    await asyncio.gather(*(user.work() for user in users))
    print("the crowd comes", flush=True)
    await crowd(log, live, commands)
    print(json.dumps({"took_ms": log.took_ms, "failures": log.failures, "firsts": log.firsts}))


asyncio.run(main())
