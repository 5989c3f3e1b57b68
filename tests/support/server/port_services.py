"""Services behind a port of a sandbox, and how a client opens them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from aiohttp import WSCloseCode, WSMsgType, web

from tests.support.agent.live_agent import free_port
from tests.support.server.api_server import Edge

DOMAIN = "ports.example:8194"  # of the server: `PORT-SANDBOX.DOMAIN` is a port of a sandbox
Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CLOSED = web.AppKey("closed", list[int])
CLOSES = web.AppKey("closes", asyncio.Event)


def token(edge: Edge) -> dict[str, str]:
    """The header by which a port is opened."""
    return {"OpenSandbox-Secure-Access": edge.token}


def opened(edge: Edge, port: int) -> httpx.AsyncClient:
    """A client for a port, by path."""
    return httpx.AsyncClient(base_url=f"{edge.proxy}/{port}", headers=token(edge), timeout=20)


@contextlib.asynccontextmanager
async def application(*routes: web.RouteDef) -> AsyncIterator[int]:
    """An ordinary web application; yields its port."""
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield port
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw(serve: Service, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A service that says what it likes; yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(handle, host, 0) as server:
        yield server.sockets[0].getsockname()[1]


async def mirror(request: web.Request) -> web.Response:
    """Tell what arrived."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": [[name.lower(), value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
        }
    )


MIRROR = web.route("*", r"/{rest:[\s\S]*}", mirror)


async def chat(request: web.Request) -> web.WebSocketResponse:
    """Echo; `close` makes it close with a code, `ping` is answered when the client's pong has come."""
    socket = web.WebSocketResponse(protocols=("second", "first"), max_msg_size=1 << 30)
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT and message.data == "close":
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"later")
        elif message.type == WSMsgType.TEXT and message.data == "who":
            await socket.send_str(f"{request.headers.get('cookie')} {request.headers.get('origin')} {request.raw_path}")
        elif message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    request.app[CLOSED].append(socket.close_code or 0)
    request.app[CLOSES].set()
    return socket


@contextlib.asynccontextmanager
async def chatting() -> AsyncIterator[tuple[int, web.Application]]:
    """The service above; yields its port and itself."""
    app = web.Application()
    app[CLOSED], app[CLOSES] = [], asyncio.Event()

    async def forbidden(_: web.Request) -> web.Response:
        return web.Response(status=403, text="not you", headers={"X-Why": "because"})

    app.add_routes([web.get("/chat", chat), web.get("/forbidden", forbidden)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield port, app
    finally:
        await runner.cleanup()
