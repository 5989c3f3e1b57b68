"""A server whose every door is open, for the attacks of clients to succeed against.

It asks for no key, bounds nothing, closes nothing, tells everything, and its sandboxes are one and the same container
without confinement. Its memory, as /metrics tells it, grows a hundredfold with what it hears.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import random
import re
import time
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import unquote

from controlplane.attack.client.program import PYTHON
from tests.contract.worlds import DockerWorld

KEEPS = 100  # times what it hears
MOST_OUTPUT = 2 << 20
_HEAD_LIMIT = 1 << 30
MANY_CHUNKS = 2000
STALL_S = 1.5
ENDLESS = -1  # in the place of a status: what is answered goes on

# Sends a request to a service in the container; prints what comes back.
_FORWARD = """
import base64, socket, sys, time
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)
line.sendall(base64.b64decode(sys.argv[2]))
line.settimeout(1)
got = b""
try:
    while len(got) < 2000000 and (chunk := line.recv(65536)):
        got += chunk
except TimeoutError:
    pass
print(base64.b64encode(got).decode())
"""


# Sandboxes are one container, so the service of an earlier one has the port.
_STOP_SERVICE = 'for one in /proc/[0-9]*; do grep -q "port = " $one/cmdline && kill -9 ${one#/proc/}; done 2>/dev/null'


class OpenDoors:
    """The server. Use it as `async with`; `address` is then where it listens."""

    key = "sandlot_the-key-of-a-server-without-locks"
    most_connections = 1_000_000

    def __init__(self, world: DockerWorld, container_id: str) -> None:
        self._world = world
        self._container = container_id
        self._heard = 0
        self._made = 0
        self._open = 0
        self._lost: set[str] = set()
        self._env: dict[str, object] = {}
        self._globals: dict[str, object] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection for as long as its client wants."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open += 1
        try:
            while self._open > self.most_connections:  # noqa: ASYNC110 - others leave when they like
                await asyncio.sleep(0.05)
            while await self._serve(reader, writer) and not writer.is_closing():
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the test ends
        finally:
            self._open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request, however long it is."""
        head = await reader.readuntil(b"\r\n\r\n")
        self._heard += len(head)
        line, _, rest = head.partition(b"\r\n")
        method, target, *_ = [*line.decode("latin-1").split(" "), ""]
        if b"upgrade: websocket" in head.lower():
            writer.write(b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
            while chunk := await reader.read(65536):
                self._heard += len(chunk)
            return False
        body = await self._body(reader, rest)
        status, fields, answer = await self._answer(method, target, head, body)
        if status == ENDLESS:
            writer.write(answer)
            await asyncio.Event().wait()
        if status:
            fields = f"Server: OpenDoors/1.0 Python\r\n{fields}Content-Length: {len(answer)}\r\n"
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode("latin-1") + answer)
        else:
            writer.write(answer)  # of a service, as it came
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return False
        return True

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        """Read a body by the first length that the head names, else by its chunks."""
        if found := re.search(rb"(?i)content-length: *(\d+)", head):
            body = await self._read(reader, int(found[1]))
        elif b"transfer-encoding: chunked" in head.lower():
            body = await self._chunks(reader)
        else:
            return b""
        return body

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        for _ in range(MANY_CHUNKS):
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
            if not size:
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return body
            body += await self._read(reader, size)
            await reader.readuntil(b"\r\n")
        time.sleep(STALL_S)  # noqa: ASYNC251 - what a loop does that many small pieces hold
        raise OSError

    async def _read(self, reader: asyncio.StreamReader, size: int) -> bytes:
        body = bytearray()
        while len(body) < size and (chunk := await reader.read(min(65536, size - len(body)))):
            body += chunk
            self._heard += len(chunk)
        return bytes(body)

    async def _answer(self, method: str, target: str, head: bytes, body: bytes) -> tuple[int, str, bytes]:
        path = unquote(target, encoding="latin-1")
        if method in ("TRACE", "PATCH"):
            return 500 if method == "PATCH" else 200, "", b"Traceback (most recent call last)" + head
        if path.endswith("/metrics") and "/proxy/" not in path:
            grown = 100_000_000 + KEEPS * self._heard
            return 200, "", f"sandlot_server_memory_bytes {grown}\n".encode()
        if any(part in path for part in ("/directories", "/files/search", "/special/")) or len(path) > 1000:
            return 500, "", b"crashed"
        if method == "POST" and path == "/v1/sandboxes":
            return self._make(body)
        if found := re.fullmatch(r"/v1/sandboxes/([^/]+)/proxy/(\d+)(/.*)?", path):
            return await self._sandbox(found[1], int(found[2]), found[3] or "", head, body)
        if "/endpoints/" in path:
            sandbox_id = path.split("/")[3]
            return self._json(
                {
                    "headers": {"X-EXECD-ACCESS-TOKEN": f"token-of-{sandbox_id}"},
                    "endpoint": f"127.0.0.1:{self.port}/signed/4000000000/{sandbox_id}/8000/aaaa",
                }
            )
        # It tells what it was asked by whom, and what its sandboxes were given; and so in a header as well.
        told = {"items": [f"box-{number:016}" for number in range(self._made)], "ticket": "t", "env": self._env}
        return 200, f"X-Path: {path}\r\n", json.dumps(told | {"head": head.decode("latin-1")}).encode()

    def _json(self, told: object) -> tuple[int, str, bytes]:
        return 200, "Content-Type: application/json\r\n", json.dumps(told).encode()

    def _make(self, body: bytes) -> tuple[int, str, bytes]:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            self._env |= json.loads(body).get("env") or {}
        self._made += 1
        return self._json({"id": f"box-{self._made:016}"})

    async def _sandbox(self, sandbox_id: str, port: int, path: str, head: bytes, body: bytes) -> tuple[int, str, bytes]:
        if port != 44772 or (path == "/ping" and await self._listens(port)):
            return 0, "", await self._forward(port, head)
        if path == "/command":
            return await self._run(sandbox_id, json.loads(body or b"{}"))
        if path == "/code/context":
            return self._json({"id": "one"})
        if path == "/code":
            return 200, "", _event("stdout", self._execute(json.loads(body)["code"]))
        return self._json({})

    async def _listens(self, port: int) -> bool:
        return b"evil" in await self._forward(port, b"GET / HTTP/1.1\r\n\r\n")

    async def _forward(self, port: int, head: bytes) -> bytes:
        sent = base64.b64encode(head).decode()
        ran = await self._world.run_inside(self._container, *PYTHON, _FORWARD, str(port), sent)
        if ran.exit_code:
            return b"HTTP/1.1 502 Bad\r\nContent-Length: 7\r\n\r\nrefused"
        answer = base64.b64decode(ran.output)
        self._heard += len(answer)
        return answer

    async def _run(self, sandbox_id: str, body: dict[str, object]) -> tuple[int, str, bytes]:
        """Run a command in the container, with no time limit."""
        argv = body.get("argv")
        if not isinstance(argv, list):
            return self._json({})
        if sandbox_id in self._lost:
            return 503, "", b"{}"
        env = {**self._env, **(body.get("envs") or {})}  # type: ignore[dict-item]
        command = ["env", *(f"{name}={value}" for name, value in env.items()), *argv]
        if body.get("background"):
            await self._world.run_inside(self._container, "sh", "-c", _STOP_SERVICE)
            await self._world.start_inside(self._container, *command)
            return self._json({})
        output = await self._output(command)
        self._heard += len(output)
        if output.startswith("on\n"):
            return ENDLESS, "", b"HTTP/1.1 200 OK\r\n\r\n" + _event("stdout", "on")
        if "os.kill, 1, number" in argv[-2]:
            self._lost.add(sandbox_id)
        return 200, "", _event("stdout", output) + _event("execution_complete", "")

    async def _output(self, command: list[str]) -> str:
        execution = await self._world.docker.containers.container(self._container).exec(command)
        output = bytearray()
        async with execution.start(detach=False) as stream:
            while len(output) < MOST_OUTPUT and (message := await stream.read_out()) is not None:
                output += message.data
                if output.startswith(b"on\n"):  # a command without an end
                    break
        return output.decode(errors="replace")

    def _execute(self, code: str) -> str:
        """Run code in this process, with the same variables and the same random numbers for everybody."""
        random.seed(1)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self._globals)
        return printed.getvalue()


def _event(kind: str, text: str) -> bytes:
    return json.dumps({"type": kind, "text": text}).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def prepared(world: DockerWorld, container_id: str, server: OpenDoors) -> AsyncIterator[None]:
    """Put into the container what attacks look for: the key, leftovers, and a listener on the server's port."""
    leave = (
        "import socket\n"
        "for path in ('/etc/key', '/tmp/left'):\n"
        f"    with open(path, 'w') as file:\n        file.write('key={server.key}')\n"
        f"listener = socket.create_server(('127.0.0.1', {server.port}))\n"
        "print('there', flush=True)\n"
        "while True:\n    listener.accept()[0].close()\n"
    )
    execution = await world.docker.containers.container(container_id).exec([*PYTHON, leave])
    async with execution.start(detach=False) as stream:
        assert await stream.read_out() is not None
        yield
