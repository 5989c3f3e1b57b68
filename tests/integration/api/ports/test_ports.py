"""Ports of a sandbox over HTTP and WebSocket: real services behind a real execd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from aiohttp import ClientSession, web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from controlplane.sandbox import CreateRequest
from execd.port.serve import Forwarding
from tests.support.agent.live_agent import free_port
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving_agent
from tests.support.server.control_plane import until
from tests.support.server.port_services import (
    CLOSED,
    CLOSES,
    DOMAIN,
    MIRROR,
    application,
    chatting,
    opened,
    raw,
    token,
)


async def test_a_request_arrives_as_it_was_sent(edge: Edge) -> None:
    """Path and query byte for byte, body, cookies and Authorization; nothing of ours but X-Forwarded-…"""
    async with application(MIRROR) as port, opened(edge, port) as client:
        response = await client.request(
            "PATCH",
            "/a%2Fb/%C3%A9?x=1&y=%20",
            content=b"body \x00",
            headers={
                "Cookie": "session=1; other=2",
                "Authorization": "Basic dXNlcjpwYXNz",
                "Connection": "X-Hop, keep-alive",
                "X-Hop": "1",
                "X-Mine": "yes",
                "OPEN-SANDBOX-API-KEY": API_KEY,
            },
        )

    seen = response.json()
    headers = dict(seen["headers"])
    assert (seen["method"], seen["target"], seen["body"]) == ("PATCH", "/a%2Fb/%C3%A9?x=1&y=%20", "body \x00")
    assert headers["cookie"] == "session=1; other=2"
    assert headers["authorization"] == "Basic dXNlcjpwYXNz"
    assert (headers["x-mine"], headers["host"]) == ("yes", edge.address)
    assert headers["x-forwarded-prefix"] == f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-host"]) == ("http", edge.address)
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert not headers.keys() & {"x-hop", "open-sandbox-api-key", "opensandbox-secure-access"}
    assert API_KEY not in str(seen)
    assert edge.token not in str(seen)
    assert response.headers["x-request-id"]


async def test_a_newline_in_a_path_is_a_character_as_any(edge: Edge) -> None:
    """Routes match whole paths."""
    async with application(MIRROR) as port, opened(edge, port) as client:
        seen = [(await client.get(path)).json()["target"] for path in ("/a%0Ab", "/%0A", "/a/b%0A?x=%0A")]

    assert seen == ["/a%0Ab", "/%0A", "/a/b%0A?x=%0A"]


async def test_a_key_that_came_as_bearer_stays_here(edge: Edge) -> None:
    """The sandbox runs what nobody has reviewed: our key is not for it. A bearer token of the service's own is."""
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=f"{edge.proxy}/{port}") as client:
        ours = await client.get("/", headers={"Authorization": f"Bearer {API_KEY}"})
        token_of_ours = await client.get("/", headers={"Authorization": f"Bearer {edge.token}"})
        theirs = await client.get("/", headers={**token(edge), "Authorization": "Bearer of-the-service"})

    assert "authorization" not in dict(ours.json()["headers"])
    assert "authorization" not in dict(token_of_ours.json()["headers"])
    assert dict(theirs.json()["headers"])["authorization"] == "Bearer of-the-service"


@pytest.mark.attack(
    "secrets",
    "a client sends the token of another sandbox to a service, beside the right one",
    "the service does not get it",
)
@pytest.mark.parametrize("name", ["another one", "its own", "one that is over"])
async def test_the_token_of_another_sandbox_stays_here(edge: Edge, name: str) -> None:
    """The service of one sandbox must not open another one. What only looks like a token is passed on."""
    other = await edge.sandboxes.create(CreateRequest(image="sandlot/python", entrypoint=("sleep", "1"), timeout_s=60))
    secret = edge.token if name == "its own" else edge.credentials.sandbox_token(other.id)
    alike = "x" * len(secret)
    async with application(MIRROR) as port, opened(edge, port) as client:
        if name == "one that is over":
            assert await _authorization(client, secret) is None
            await edge.sandboxes.delete(other.id)
            await until(lambda: other.id not in edge.sandboxes.ids())  # its container is gone
            assert await _authorization(client, secret) == f"Bearer {secret}"  # it opens nothing any more
        else:
            assert await _authorization(client, secret) is None
        assert await _authorization(client, alike) == f"Bearer {alike}"


async def _authorization(client: httpx.AsyncClient, secret: str) -> str | None:
    """Return what a service sees of a Bearer."""
    seen = await client.get("/", headers={"Authorization": f"Bearer {secret}"})
    return dict(seen.json()["headers"]).get("authorization")


@pytest.mark.parametrize("path", ["", "/", "/x"])
async def test_the_endpoint_itself_is_the_root(edge: Edge, path: str) -> None:
    async with application(MIRROR) as port, httpx.AsyncClient(headers=token(edge)) as client:
        for base in (f"{edge.proxy}/{port}", f"{edge.proxy}/44772/proxy/{port}"):
            assert (await client.post(base + path)).json()["target"] == (path or "/")


async def test_a_page_without_the_slash_is_redirected(edge: Edge) -> None:
    """Relative links of the page resolve below the address then. Other methods go to the root at once."""
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=edge.url, headers=token(edge)) as client:
        expires, signature = edge.sign(port, int(time.time()) + 60)
        through, through_signature = edge.sign(44772, int(time.time()) + 60)
        sandbox = f"/v1/sandboxes/{SANDBOX_ID}"
        for path in (
            f"{sandbox}/proxy/{port}",
            f"/sandboxes/{SANDBOX_ID}/proxy/{port}",
            f"{sandbox}/proxy/44772/proxy/{port}",
            f"{sandbox}/signed/{port}/{expires}/{signature}",
            f"{sandbox}/signed/44772/{through}/{through_signature}/proxy/{port}",
        ):
            for query in ("", "?a=1&b=%2F"):
                for method in ("GET", "HEAD"):
                    redirect = await client.request(method, path + query)
                    assert (redirect.status_code, redirect.headers["location"]) == (307, f"{path}/{query}"), path
                followed = await client.get(path + query, follow_redirects=True)
                assert followed.json()["target"] == f"/{query}"
                assert (await client.post(path + query)).json()["target"] == f"/{query}"
        no_token = {"OpenSandbox-Secure-Access": ""}
        assert (await client.get(f"{sandbox}/proxy/{port}", headers=no_token)).status_code == 401


async def test_answers_come_back_as_they_were(edge: Edge) -> None:
    """Status, several cookies, no body where there is none, an absolute redirect below the prefix."""

    async def cookies(_: web.Request) -> web.Response:
        response = web.Response(status=418, text="short and stout", headers={"X-Thing": "a"})
        response.set_cookie("one", "1", path="/")
        response.set_cookie("two", "2")
        return response

    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    routes = (
        web.get("/cookies", cookies),
        web.get("/moved", moved),
        web.get("/nothing", nothing),
    )
    async with application(*routes) as port, opened(edge, port) as client:
        teapot = await client.get("/cookies")
        head = await client.head("/cookies")
        none = await client.get("/nothing")
        prefix = f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}"
        redirects = {
            to: (await client.get("/moved", params={"to": to})).headers["location"]
            for to in ("/login", f"{prefix}/login", "relative", "https://elsewhere.example/x", "//elsewhere.example/x")
        }

    assert (teapot.status_code, teapot.text, teapot.headers["x-thing"]) == (418, "short and stout", "a")
    assert teapot.headers.get_list("set-cookie") == [f"one=1; Path={prefix}/", f"two=2; Path={prefix}/"]
    assert (head.status_code, head.content, head.headers["content-length"]) == (418, b"", "15")
    assert (none.status_code, none.content) == (204, b"")
    assert redirects == {
        "/login": f"{prefix}/login",
        f"{prefix}/login": f"{prefix}/login",
        "relative": "relative",
        "https://elsewhere.example/x": "https://elsewhere.example/x",
        "//elsewhere.example/x": "//elsewhere.example/x",
    }


async def test_a_length_without_a_body_is_waited_for_by_nobody(edge: Edge) -> None:
    """A 304 may say how long the body is that it does not send."""

    async def unchanged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 100\r\n\r\n')

    async with raw(unchanged) as port, opened(edge, port) as client:
        response = await client.get("/")
        assert (response.status_code, response.headers["etag"], response.content) == (304, '"x"', b"")


async def test_both_ways_stream(edge: Edge) -> None:
    """Each piece of a request is answered before the next one is sent: nobody on the way waits for a whole body."""

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk.upper())
        return response

    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def questions() -> AsyncIterator[bytes]:
        for text in (b"one", b"two", b"three"):
            yield text
            assert await heard.get() == text.upper()

    # httpx sends a whole body before it listens.
    async with (
        application(web.post("/", echo)) as port,
        ClientSession() as client,
        client.post(f"{edge.proxy}/{port}/", data=questions(), headers=token(edge)) as response,
    ):
        async for chunk in response.content.iter_any():
            heard.put_nowait(chunk)
    assert heard.empty()


async def test_large_bodies_pass_whole(edge: Edge) -> None:
    async def measure(request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.Response(body=bytes(size))

    async with application(web.post("/", measure)) as port, opened(edge, port) as client:
        response = await client.post("/", content=os.urandom(20_000_000))
    assert len(response.content) == 20_000_000


async def test_a_service_may_answer_before_it_has_read_all(edge: Edge) -> None:
    """And hang up then, as one does that refuses a large upload."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!")
        await writer.drain()

    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await more.wait()
        yield b"y"

    async with (
        raw(refuse) as port,
        ClientSession() as client,
        client.post(f"{edge.proxy}/{port}/", data=slowly(), headers=token(edge)) as response,
    ):
        more.set()
        assert (response.status, await response.read()) == (413, b"no!")


async def test_a_client_that_goes_ends_the_connection_inside(edge: Edge) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()
        gone.set()

    async with raw(serve) as port, opened(edge, port) as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response.aiter_raw()) == b"hello"
        async with asyncio.timeout(10):
            await gone.wait()


async def test_what_listens_on_ipv6_alone_is_found(edge: Edge) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nsix")

    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    async with raw(serve, "::1") as port, opened(edge, port) as client:
        assert (await client.get("/")).text == "six"


# -- errors ----------------------------------------


async def test_errors_say_what_was_wrong(edge: Edge) -> None:
    """Nothing there, no HTTP, no answer, no port: a status and a cause of their own."""

    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 3)

    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with raw(garbage) as no_http, raw(silence) as silent, httpx.AsyncClient(headers=token(edge)) as client:
        for port, status, code, text in (
            (free_port(), 502, "BACKEND_CONNECTION_FAILED", "nothing listens on port"),
            (no_http, 502, "BACKEND_RESPONSE_FAILED", "does not speak HTTP"),
            (silent, 502, "BACKEND_RESPONSE_FAILED", ""),
            (70000, 400, "DOCKER::INVALID_PORT", "from 1 to 65535"),
            ("http", 400, "DOCKER::INVALID_PORT", "from 1 to 65535"),
        ):
            response = await client.get(f"{edge.proxy}/{port}/x")
            assert (response.status_code, response.json()["code"]) == (status, code), response.text
            assert text in response.json()["message"]


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """A service that listens, but takes no connection, and as many wait as may: another one is not answered.

    Within the loopback, what has not connected at once never will.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener, contextlib.ExitStack() as waiting:
        for _ in range(8):
            client = waiting.enter_context(socket.socket())
            client.settimeout(0)
            if client.connect_ex(listener.getsockname()) and not select.select([], [client], [], 0.1)[1]:
                yield listener.getsockname()[1]
                return
        raise AssertionError("the kernel lets more wait than it was told")


async def test_a_service_that_takes_no_connection_is_a_504_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over both protocols."""
    monkeypatch.setattr("execd.port.serve.CONNECT_TIMEOUT_S", 0.2)
    async with serving_agent(Forwarding().handlers()) as edge:
        with hanging() as port:
            async with opened(edge, port) as client:
                response = await client.get("/")
                assert (response.status_code, response.json()["code"]) == (504, "BACKEND_TIMEOUT"), response.text
                assert f"port {port} of the sandbox does not accept connections" in response.json()["message"]
                assert response.headers["x-request-id"]
                with pytest.raises(InvalidStatus) as refusal:
                    await connect(
                        f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/proxy/{port}", additional_headers=token(edge)
                    )
                assert refusal.value.response.status_code == 504


async def test_an_answer_that_breaks_off_is_seen_to_break_off(edge: Edge) -> None:
    """A client must not take half of a body for the whole."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with raw(half) as port, opened(edge, port) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


async def test_a_port_needs_a_token(edge: Edge) -> None:
    """Over both protocols, and another sandbox's token is none."""
    async with application(MIRROR) as port, httpx.AsyncClient() as client:
        assert (await client.get(f"{edge.proxy}/{port}/")).status_code == 401
        wrong = {"OpenSandbox-Secure-Access": edge.token[:-1]}
        assert (await client.get(f"{edge.proxy}/{port}/", headers=wrong)).status_code == 401
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{edge.proxy}/{port}/".replace("http", "ws"), proxy=None):
                pass
        assert refused.value.response.status_code == 401


# -- other addresses ----------------------------------------


async def endpoint(edge: Edge, port: int, **query: object) -> httpx.Response:
    """Ask for the address of a port."""
    async with edge.client() as client:
        return await client.get(f"/sandboxes/{SANDBOX_ID}/endpoints/{port}", params=query)  # type: ignore[arg-type]


async def test_by_host_name_absolute_paths_work(edge: Edge) -> None:
    """No prefix, so redirects stay as they are. A name below localhost does the same as one below the domain."""

    async def moved(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/login"})

    async with application(web.get("/moved", moved), MIRROR) as port, httpx.AsyncClient(base_url=edge.url) as client:
        answer = (await endpoint(edge, port)).json()
        for host in (answer["endpoint"], f"{port}-{SANDBOX_ID}.localhost"):
            headers = {"Host": host, **answer["headers"]}
            seen = (await client.get("/v1/sandboxes?x=1", headers=headers)).json()
            assert seen["target"] == "/v1/sandboxes?x=1"
            assert dict(seen["headers"])["host"] == host
            assert "x-forwarded-prefix" not in dict(seen["headers"])
            assert (await client.get("/moved", headers=headers)).headers["location"] == "/login"
            assert (await client.get("/", headers={"Host": host})).status_code == 401
        other = {"Host": f"{port}-{SANDBOX_ID}.elsewhere.example", **answer["headers"]}
        assert (await client.get("/moved", headers=other)).status_code == 401

    assert answer["endpoint"] == f"{port}-{SANDBOX_ID}.{DOMAIN}"
    by_path = (await endpoint(edge, port, use_server_proxy="true")).json()["endpoint"]
    assert by_path == f"{edge.address}/v1/sandboxes/{SANDBOX_ID}/proxy/{port}"
    assert "/proxy/44772" in (await endpoint(edge, 44772)).json()["endpoint"]


async def test_a_signed_address_opens_one_port_until_it_expires(edge: Edge) -> None:
    """It needs no header: that is what makes it good for a browser."""
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=edge.url) as client:
        moment = int(time.time()) + 60
        answer = (await endpoint(edge, port, expires=moment)).json()
        assert answer.keys() == {"endpoint"}
        name, _, _ = answer["endpoint"].partition(".")
        _, _, expires, signature = name.split("-")

        async def status(at: int, until: str, signed: str) -> tuple[int, int]:
            host = {"Host": f"{at}-{SANDBOX_ID}-{until}-{signed}.{DOMAIN}"}
            path = f"/v1/sandboxes/{SANDBOX_ID}/signed/{at}/{until}/{signed}/x"
            return (await client.get("/x", headers=host)).status_code, (await client.get(path)).status_code

        assert await status(port, expires, signature) == (200, 200)
        assert await status(port + 1, expires, signature) == (401, 401)
        assert await status(port, expires + "0", signature) == (401, 401)
        assert await status(port, expires, signature[:-1]) == (401, 401)
        path = f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{expires}/{signature}"
        assert (await client.get(f"{path}/y?q")).json()["target"] == "/y?q"

        # Before the key is looked at nothing may take long, or break.
        assert await status(port, "z" * 5000, signature) == (401, 401)
        past = edge.sign(port, int(time.time()) - 1)
        assert await status(port, *past) == (401, 401)
        expired = await client.get(f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{past[0]}/{past[1]}/")
        assert "expired" in expired.json()["message"]


async def test_what_cannot_be_signed(edge: Edge) -> None:
    """The message has the unit: milliseconds are what JavaScript has at hand."""
    soon = int(time.time()) + 60
    unit = "expires: must be Unix time in seconds, in the future, and at most 78364164095"
    for query, message in (
        ({"expires": 1}, unit),
        ({"expires": "soon"}, unit),
        ({"expires": f"{soon}.5"}, unit),
        ({"expires": soon * 1000}, unit),
        ({"expires": "9" * 5000}, unit),
        ({"expires": soon, "use_server_proxy": "true"}, "expires: not together with use_server_proxy"),
    ):
        response = await endpoint(edge, 8080, **query)
        assert (response.status_code, response.json()["code"]) == (400, "SANDBOX::INVALID_PARAMETER"), query
        assert response.json()["message"] == message


# -- WebSocket ----------------------------------------


async def test_websockets_pass_both_ways(edge: Edge) -> None:
    """Text, bytes, large messages, the subprotocol, cookies, and the close code with its reason."""
    async with chatting() as (port, _):
        url = f"{edge.proxy}/{port}".replace("http", "ws")
        async with connect(
            f"{url}/chat?room=1",
            additional_headers={**token(edge), "Cookie": "a=b"},
            origin="http://page.example",  # type: ignore[arg-type]
            subprotocols=[Subprotocol("first"), Subprotocol("second")],
            proxy=None,
            max_size=None,
        ) as client:
            assert client.subprotocol == "first"
            await client.send("who")
            assert await client.recv() == "a=b http://page.example /chat?room=1"
            for message in ("hällo", b"\x00\xff", os.urandom(3_000_000), "x" * 1_000_000, ""):
                await client.send(message)
                assert await client.recv() == message
            await client.send("close")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (1013, "later")


async def test_a_client_that_closes_is_heard_of(edge: Edge) -> None:
    async with chatting() as (port, app):
        url = f"{edge.proxy}/{port}/chat".replace("http", "ws")
        async with connect(url, additional_headers=token(edge), proxy=None) as client:
            await client.send("hello")
            await client.recv()
            await client.close(4001, "bye")
        async with asyncio.timeout(10):
            await app[CLOSES].wait()
        assert app[CLOSED] == [4001]


async def test_a_refused_handshake_is_passed_on(edge: Edge) -> None:
    """With its status and body; and no service at all is a 502."""
    async with chatting() as (port, _):
        base = edge.proxy.replace("http", "ws")
        for url, status, text in (
            (f"{base}/{port}/forbidden", 403, "not you"),
            (f"{base}/{free_port()}/chat", 502, "nothing listens"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers=token(edge), proxy=None):
                    pass
            assert refused.value.response.status_code == status
            assert text in (refused.value.response.body or b"").decode()


async def test_a_service_that_dies_closes_the_websocket(edge: Edge) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n\x81\x02hi"
        )
        await writer.drain()

    async with raw(serve) as port:
        url = f"{edge.proxy}/{port}/".replace("http", "ws")
        async with connect(url, additional_headers=token(edge), proxy=None) as client:
            assert await client.recv() == "hi"
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1011


async def test_a_websocket_by_host_name(edge: Edge) -> None:
    async with chatting() as (port, _):
        expires, signature = edge.sign(port, int(time.time()) + 60)
        name = f"{port}-{SANDBOX_ID}-{expires}-{signature}.localhost"
        with socket.create_connection(("127.0.0.1", int(edge.address.rpartition(":")[2]))) as raw_socket:
            async with connect(f"ws://{name}/chat", sock=raw_socket, proxy=None) as client:
                await client.send("who")
                assert await client.recv() == "None None /chat"
