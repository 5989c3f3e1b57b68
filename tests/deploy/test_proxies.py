"""The examples for Caddy and nginx before a real server: the official SDK, streams, large files, names of ports."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.deploy.reverse_proxy import DOMAIN, PROXIES, Proxied, behind, missing
from tests.e2e.clients import Tour, is_refusal_known, make
from tests.support.server.stream_client import JSON, StreamClient, output

pytestmark = pytest.mark.timeout(600)  # servers start, and the SDK makes its tour

PATIENCE_S = 60.0
LARGE_BYTES = 100 << 20
PIECE = hashlib.sha256(b"").digest() * (1 << 15)  # 1 MiB
TOURS = {
    "caddy": Tour("Python async", "direct", "warm"),
    "nginx": Tour("Python sync", "direct", "warm"),
}
# What a service in a sandbox sees of its client.
SERVICE = """
import http.server, json

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.HTTPServer(("127.0.0.1", 8000), Handler)
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxied(request: pytest.FixtureRequest) -> Iterator[Proxied]:
    """A server behind each proxy."""
    if lacks := missing(request.param):
        pytest.skip(f"needs {lacks}")
    with behind(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def sandbox(proxied: Proxied) -> Iterator[str]:
    """A sandbox for the tests of one proxy."""
    body = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["sleep", "inf"]}
    sandbox_id = proxied.request("POST", "/v1/sandboxes", body)["id"]
    yield sandbox_id
    proxied.request("DELETE", f"/v1/sandboxes/{sandbox_id}")


@pytest.fixture
async def client(proxied: Proxied, sandbox: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the sandbox, by the proxy."""
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{proxied.port}/v1/sandboxes/{sandbox}/proxy/44772",
        headers={"OPEN-SANDBOX-API-KEY": proxied.key},
        verify=proxied.tls,
        timeout=PATIENCE_S,
    ) as client:
        yield client


async def lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of stdout of a command's events, as they come."""
    async for line in response.aiter_lines():
        if line and (event := json.loads(line.removeprefix("data: ")))["type"] == "stdout":
            for text in event["text"].splitlines():
                yield text


async def test_output_arrives_while_the_command_runs(client: httpx.AsyncClient) -> None:
    """The second line is written only after somebody has read the first one: nothing may hold it back."""
    body = {"command": "rm -f /tmp/read; echo first; until [ -e /tmp/read ]; do sleep 0.05; done; echo second"}
    async with asyncio.timeout(PATIENCE_S), client.stream("POST", "/command", json=body) as response:
        coming = lines(response)
        assert await anext(coming) == "first"
        (await client.post("/command", json={"command": "touch /tmp/read"})).raise_for_status()
        assert [line async for line in coming] == ["second"]


async def test_a_client_that_leaves_ends_its_command(client: httpx.AsyncClient) -> None:
    """By the proxy too: the command is gone soon after the connection."""
    async with asyncio.timeout(PATIENCE_S):
        async with client.stream("POST", "/command", json={"command": "echo $$; exec sleep 1000"}) as response:
            process = await anext(lines(response))
        gone = {"command": f"while kill -0 {process} 2>/dev/null; do sleep 0.05; done; echo gone"}
        async with client.stream("POST", "/command", json=gone) as response:
            assert [line async for line in lines(response)] == ["gone"]


async def test_a_websocket(proxied: Proxied, sandbox: str) -> None:
    """The native stream: many operations at once, in both directions."""
    url = f"wss://localhost:{proxied.port}/v1/sandboxes/{sandbox}/stream"
    headers = {"OPEN-SANDBOX-API-KEY": proxied.key}
    async with (
        asyncio.timeout(PATIENCE_S),
        connect(
            url, subprotocols=[JSON], additional_headers=headers, ssl=proxied.tls, proxy=None, open_timeout=PATIENCE_S
        ) as socket,  # type: ignore[list-item]
    ):
        stream = StreamClient(socket)
        assert (await stream.hello())["sandbox"] == sandbox
        first = await stream.open("command", command="cat", stdin=True)
        assert output(await stream.ask("command", command="echo beside it")) == "beside it\n"
        await stream.send(type="data", stream=first, text="by WebSocket\n")
        await stream.send(type="end", stream=first)
        assert output(await stream.rest(first)) == "by WebSocket\n"


async def test_large_files(client: httpx.AsyncClient) -> None:
    """100 MiB up and down again, byte for byte, without a limit of the proxy's own."""
    boundary, path = "large-file", "/tmp/large"

    def disposition(name: str) -> bytes:
        return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()

    async def body() -> AsyncIterator[bytes]:
        yield disposition("metadata") + json.dumps({"path": path}).encode() + b"\r\n" + disposition("file")
        for _ in range(LARGE_BYTES // len(PIECE)):
            yield PIECE
        yield f"\r\n--{boundary}--\r\n".encode()

    sent = await client.post(
        "/files/upload", content=body(), headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    assert sent.status_code == 200, sent.text
    expected, got = hashlib.sha256(), hashlib.sha256()
    for _ in range(LARGE_BYTES // len(PIECE)):
        expected.update(PIECE)
    async with client.stream("GET", "/files/download", params={"path": path}) as response:
        async for piece in response.aiter_raw():
            got.update(piece)
    assert got.hexdigest() == expected.hexdigest()


async def test_a_port_by_its_host_name(proxied: Proxied, sandbox: str, client: httpx.AsyncClient) -> None:
    """The service sees the name, the protocol and the address of its client, and nothing that the client made up."""
    (await client.post("/files/upload", files=script("/tmp/service.py", SERVICE))).raise_for_status()
    started = {"command": "python3 /tmp/service.py", "background": True}
    (await client.post("/command", json=started)).raise_for_status()
    ready = {"command": "until curl -s -o /dev/null http://127.0.0.1:8000/; do sleep 0.05; done"}
    (await client.post("/command", json=ready)).raise_for_status()
    endpoint = proxied.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/8000")
    assert endpoint["endpoint"] == f"8000-{sandbox}.{DOMAIN}:{proxied.port}"

    connection = proxied.connect(f"8000-{sandbox}.{DOMAIN}")
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "gopher"}
    connection.request("GET", "/", headers={**endpoint["headers"], **lies, "A_b": "kept"})
    answer = connection.getresponse()
    seen = json.loads(answer.read())
    connection.close()
    assert answer.status == 200
    assert seen["host"] == endpoint["endpoint"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-host"] == endpoint["endpoint"]
    assert seen["a_b"] == "kept"


def script(path: str, content: str) -> list[tuple[str, tuple[str, str]]]:
    """Return the parts of an upload of one file."""
    return [("metadata", ("metadata", json.dumps({"path": path}))), ("file", ("file", content))]


async def test_quick_answers_come_whole(proxied: Proxied, sandbox: str) -> None:
    """Caddy broke one answer in a hundred off, without a sign of that for the client."""
    url = f"https://localhost:{proxied.port}/v1/sandboxes/{sandbox}/proxy/44772/command"
    headers = {"OPEN-SANDBOX-API-KEY": proxied.key}
    async with httpx.AsyncClient(verify=proxied.tls, headers=headers, timeout=PATIENCE_S) as client:
        for number in range(300):
            answer = await client.post(url, json={"command": f"echo {number}"})
            assert f'"text":"{number}"' in answer.text, answer.text
            assert "execution_complete" in answer.text


def test_the_official_sdk_through_the_proxy(proxied: Proxied) -> None:
    """Its whole tour over TLS: every method works, or is refused as documented."""
    outcome = make(TOURS[proxied.name], proxied)
    wrong = {
        method: result
        for method, result in outcome.results.items()
        if result != "ok" and not is_refusal_known(method, result)
    }
    assert wrong == {}, outcome.log[-5000:]
