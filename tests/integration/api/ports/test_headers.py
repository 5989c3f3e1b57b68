"""Addresses in the answers of services: by path, signed, and by host name, through the real edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import httpx
import pytest
from websockets.utils import accept_key

from controlplane.api.edge.addresses import signed_label
from controlplane.listener.serve import ListenerSettings
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import SANDBOX_ID, Edge, serving
from tests.support.server.port_services import DOMAIN, raw

NAME = f"-{SANDBOX_ID}"
FORMS = ("token", "signed", "name", "signed name")


class Answering:
    """A service that answers each request with headers of the test's choice, and knows its own port."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.port = 0
        self.heard = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heard = head.decode("latin-1")
        host = next(line[6:].decode() for line in head.split(b"\r\n") if line.lower().startswith(b"host: "))
        lines = [f"{name}: {self.fill(value, host)}" for name, value in self.headers]
        writer.write("\r\n".join(["HTTP/1.1 200 OK", "Content-Length: 2", *lines, "", "ok"]).encode("latin-1"))
        await writer.drain()

    def fill(self, value: str, host: str) -> str:
        """Fill what the service knows into a header."""
        return value.replace("HOST", host).replace("HOSTNAME", host.partition(":")[0]).replace("PORT", str(self.port))


class Way:
    """One way to a port: what to send, and what stands before the service's paths."""

    def __init__(self, edge: Edge, form: str, port: int) -> None:
        expires, signature = edge.sign(port, int(time.time()) + 60)
        token = {"OpenSandbox-Secure-Access": edge.token}
        self.prefix, self.sent = {
            "token": (f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}", token),
            "signed": (f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{expires}/{signature}", {}),
            "name": ("", token | {"Host": f"{port}{NAME}.{DOMAIN}"}),
            "signed name": ("", {"Host": f"{signed_label(SANDBOX_ID, port, expires, signature)}.{DOMAIN}"}),
        }[form]
        self.host = self.sent.get("Host", edge.address)
        self.edge = edge

    async def get(self, path: str = "/dir/page", sent: Mapping[str, str] | None = None) -> httpx.Headers:
        """Return the headers of an answer."""
        async with httpx.AsyncClient(base_url=self.edge.url) as client:
            return (await client.get(self.prefix + path, headers=self.sent | dict(sent or {}))).headers

    async def handshake(self, status: int) -> httpx.Headers:
        """Return the headers of the answer to a WebSocket's handshake."""
        reader, writer = await asyncio.open_connection(*self.edge.address.split(":"))
        sent = {
            "Host": self.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **self.sent,
        }
        lines = [f"GET {self.prefix}/ws HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        first, *answered = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        writer.close()
        assert first.split(" ")[1] == str(status)
        return httpx.Headers(
            [(name, value.strip()) for name, _, value in (line.partition(":") for line in answered[:-2])]
        )


@pytest.mark.parametrize("form", FORMS)
async def test_addresses_of_the_service_become_the_client_s(edge: Edge, form: str) -> None:
    """Whole URLs of the host it was told, of its own loopback, paths that climb; another's host stays as it is."""
    service = Answering()
    async with raw(service.serve) as port:
        service.port = port
        way = Way(edge, form, port)
        told_name = way.host.partition(":")[0]
        below = way.prefix
        by_path = bool(below)

        async def seen(location: str) -> str:
            service.headers = [("Location", location)]
            return (await way.get())["location"]

        whole = f"http://{way.host}/login" if not by_path else f"{below}/login"
        assert await seen("http://HOST/login") == whole
        assert await seen("HTTP://HOST/login") == (whole if by_path else f"HTTP://{way.host}/login")
        assert await seen("https://HOST/login?a=//b#c") == (
            f"{below}/login?a=//b#c" if by_path else f"https://{way.host}/login?a=//b#c"
        )
        assert await seen("//HOST/login") == (f"{below}/login" if by_path else f"//{way.host}/login")
        for loopback in ("localhost", "127.0.0.1", "[::1]", "0.0.0.0", told_name):
            assert await seen(f"http://{loopback}:PORT/login") == f"{below}/login", loopback
            assert await seen(f"//{loopback}:PORT") == f"{below}/", loopback
            assert await seen(f"http://{loopback}:PORT?x=1") == f"{below}/?x=1", loopback
        assert await seen("/login") == f"{below}/login"
        assert await seen("login?next=/a/../b") == "login?next=/a/../b"
        assert await seen("?page=2") == "?page=2"
        assert await seen("#top") == "#top"
        if by_path:
            assert await seen(f"{below}/login") == f"{below}/login"
            assert await seen(f"http://HOST{below}/login") == f"{below}/login"
            assert await seen(f"{below}x/login") == f"{below}{below}x/login"
            for climbing in ("../../../up", "/../../up", "/a/../../up", "..%2e/../../up", "%2e%2E/../up", "/%2e%2e/up"):
                assert (await seen(climbing)).startswith(f"{below}/"), climbing
                assert ".." not in (await seen(climbing)).replace("..%2e", ""), climbing
        for foreign in (
            "https://elsewhere.example/x",
            "//elsewhere.example/x",
            "http://elsewhere.example:PORT/x",
            "http://user@HOST/x",
            "mailto:a@b.example",
            "http://[bad",
            "",
        ):
            assert await seen(foreign) == foreign.replace("PORT", str(port)).replace("HOST", way.host)


@pytest.mark.parametrize("form", FORMS)
async def test_another_port_of_the_sandbox_is_reached_where_the_token_opens_it(edge: Edge, form: str) -> None:
    """A signature opens one port: the rest stays as the service said it. Ours are no services."""
    service = Answering()
    async with raw(service.serve) as port:
        way = Way(edge, form, port)

        async def seen(location: str) -> str:
            service.headers = [("Location", location)]
            return (await way.get())["location"]

        expected = {
            "token": f"/v1/sandboxes/{SANDBOX_ID}/proxy/9000/x?y",
            "name": f"//9000{NAME}.{DOMAIN}/x?y",
        }.get(form, "http://localhost:9000/x?y")
        assert await seen("http://localhost:9000/x?y") == expected
        for untouched in ("http://localhost:44772/files", "http://localhost:0/", "https://localhost:9000/x"):
            assert await seen(untouched) == untouched


@pytest.mark.parametrize("form", FORMS)
async def test_every_header_with_an_address_is_translated(edge: Edge, form: str) -> None:
    service = Answering()
    async with raw(service.serve) as port:
        service.port = port
        way = Way(edge, form, port)
        service.headers = [
            ("Content-Location", "/a"),
            ("Refresh", "5; url=http://localhost:PORT/b"),
            ("Refresh", '0;URL="/c?d=e"'),
            ("Refresh", "30"),
            ("Link", "</style.css>; rel=preload, <http://localhost:PORT/next>; rel=next, <https://other.example/>"),
            ("SourceMap", "/app.js.map"),
            ("X-Accel-Redirect", "/internal/secret"),
            ("X-Sendfile", "/etc/passwd"),
            ("Alt-Svc", 'h2=":9999"'),
            ("Clear-Site-Data", '"cookies"'),
            ("Service-Worker-Allowed", "/"),
            ("Strict-Transport-Security", "max-age=1"),
            ("Public-Key-Pins", 'pin-sha256="x"; max-age=1'),
            ("NEL", "{}"),
            ("Report-To", "{}"),
            ("Origin-Agent-Cluster", "?1"),
            ("Access-Control-Allow-Origin", "https://page.example"),
        ]
        headers = await way.get()

        below = way.prefix
        assert headers["content-location"] == f"{below}/a"
        assert headers.get_list("refresh") == [f"5; url={below}/b", f'0;URL="{below}/c?d=e"', "30"]
        assert headers["link"] == (
            f"<{below}/style.css>; rel=preload, <{below}/next>; rel=next, <https://other.example/>"
        )
        assert headers["sourcemap"] == f"{below}/app.js.map"
        assert not headers.keys() & {"x-accel-redirect", "x-sendfile", "alt-svc", "clear-site-data"}
        assert headers["access-control-allow-origin"] == "https://page.example"
        of_the_origin = {"service-worker-allowed", "strict-transport-security", "public-key-pins", "nel", "report-to"}
        of_the_origin |= {"origin-agent-cluster"}
        assert headers.keys() & of_the_origin == (set() if below else of_the_origin)


@pytest.mark.parametrize("form", FORMS)
async def test_a_cookie_is_for_its_service_alone(edge: Edge, form: str) -> None:
    """Its path lies below the prefix, and it has no domain, which would reach the services beside it."""
    service = Answering()
    async with raw(service.serve) as port:
        way = Way(edge, form, port)
        given = [
            "a=1; Path=/",
            "b=2; path=/app; HttpOnly",
            "c=3",
            "d=x=y; Domain=ports.example; Secure; SameSite=Lax",
            "e=5; Path=relative",
            "f=6; Path=/../../x",
            "g=7; Path=",
        ]
        service.headers = [("Set-Cookie", cookie) for cookie in given]
        cookies = (await way.get("/dir/page")).get_list("set-cookie")

    below = way.prefix
    if below:
        assert cookies == [
            f"a=1; Path={below}/",
            f"b=2; HttpOnly; Path={below}/app",
            f"c=3; Path={below}/dir",
            f"d=x=y; Secure; SameSite=Lax; Path={below}/dir",
            f"e=5; Path={below}/dir",
            f"f=6; Path={below}/x",
            f"g=7; Path={below}/dir",
        ]
    else:
        assert cookies == [cookie.replace(" Domain=ports.example;", "") for cookie in given]


@pytest.mark.attack(
    "network",
    "a service asks for a password in the name of another one, or its answers speak of the whole origin: "
    "its cookies, its service workers, its storage, its certificates",
    "at a path address the password, the cookies and the rest are of that service alone, by WebSocket too",
)
@pytest.mark.parametrize("form", FORMS)
async def test_a_password_is_for_its_service_alone(edge: Edge, form: str) -> None:
    """At one origin, a browser sends it to whoever names the realm."""
    service = Answering()
    async with raw(service.serve) as port:
        way = Way(edge, form, port)
        given = ['Basic realm="app"', "Basic realm=app", 'Digest realm="app", nonce="x"', 'Bearer realm="", scope="a"']
        service.headers = [("WWW-Authenticate", challenge) for challenge in given]
        asked = (await way.get()).get_list("www-authenticate")

    if way.prefix:
        own = f'Basic realm="app {way.prefix}/"'
        assert asked == [own, own, given[2], f'Bearer realm=" {way.prefix}/", scope="a"']
    else:
        assert asked == given


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [101, 403])
async def test_the_answer_to_a_handshake_is_translated_too(edge: Edge, form: str, status: int) -> None:
    """One that accepts, and one that refuses."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        lines = [
            f"HTTP/1.1 {status} Said",
            *("Set-Cookie: a=1; Path=/; Domain=ports.example", 'Clear-Site-Data: "*"', "Alt-Svc: clear"),
            *("Service-Worker-Allowed: /", "Location: /there", "X-Own: yes"),
        ]
        if status == 101:
            accept = accept_key(key.decode())
            lines += ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
        else:
            lines.append("Content-Length: 0")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await reader.read(1)

    async with raw(serve) as port:
        way = Way(edge, form, port)
        headers = await way.handshake(status)

    assert headers["x-own"] == "yes"
    assert headers["set-cookie"] == f"a=1; Path={way.prefix}/" if way.prefix else "a=1; Path=/"
    assert headers["location"] == f"{way.prefix}/there"
    assert not headers.keys() & {"clear-site-data", "alt-svc"}
    assert ("service-worker-allowed" in headers) is (not way.prefix)


@pytest.mark.parametrize("form", FORMS)
async def test_a_signed_address_is_told_to_no_other_site(edge: Edge, form: str) -> None:
    """Browsers send other sites the origin of a page by default, and the signed host name is in that."""
    service = Answering()
    async with raw(service.serve) as port:
        way = Way(edge, form, port)
        is_signed = form.startswith("signed")
        assert (await way.get()).get("referrer-policy") == ("same-origin" if is_signed else None)
        service.headers = [("Referrer-Policy", "origin")]
        assert (await way.get()).get_list("referrer-policy") == ["origin"]


@pytest.mark.attack(
    "edge",
    "Tell a service another client, scheme or host by X-Forwarded headers and their spellings",
    "The service hears the true ones; the headers count from trusted proxies alone, and of -For the client alone",
)
@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)], ids=["a client", "a trusted proxy"])
async def test_who_tells_where_a_request_comes_from(proxies: tuple[str, ...]) -> None:
    """`X-Forwarded-Host` is a name of ours as well, if a proxy of the operator's tells it."""
    forwarded = {
        "X-Forwarded-Host": "box.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "127.0.0.1, 192.0.2.1, 192.0.2.7",
        "X-Forwarded-Prefix": "/mine",
        "X-Forwarded-Port": "1",
        "X_Forwarded_For": "192.0.2.1",
        "X-Real-IP": "192.0.2.1",
        "Forwarded": "for=192.0.2.1;host=bank.example",
    }
    service = Answering()
    service.headers = [("Location", "https://box.example/login")]
    trusting = ListenerSettings(trusted_proxies=proxies)
    async with (
        LiveAgent() as agent,
        serving(agent.link, listener_settings=trusting) as edge,
        raw(service.serve) as port,
    ):
        way = Way(edge, "token", port)
        assert (await way.get())["location"] == "https://box.example/login"
        told = (await way.get(sent=forwarded))["location"]
    seen = sorted(line for line in service.heard.lower().split("\r\n") if "forwarded" in line or "real" in line)
    host, scheme, client = ("box.example", "https", "192.0.2.7") if proxies else (edge.address, "http", "127.0.0.1")
    assert seen == [
        f"x-forwarded-for: {client}",
        f"x-forwarded-host: {host}",
        f"x-forwarded-prefix: {way.prefix}",
        f"x-forwarded-proto: {scheme}",
    ]
    assert told == (f"{way.prefix}/login" if proxies else "https://box.example/login")


async def test_one_port_by_way_of_another_has_that_prefix(edge: Edge) -> None:
    """The official agent's own `/proxy/{port}`, by path, signed, and by host name."""
    service = Answering()
    service.headers = [("Location", "/login"), ("Set-Cookie", "a=1; Path=/")]
    async with raw(service.serve) as port:
        for form in FORMS:
            way = Way(edge, form, 44772)
            headers = await way.get(f"/proxy/{port}/dir/page")
            below = f"{way.prefix}/proxy/{port}"
            assert headers["location"] == f"{below}/login", form
            assert headers["set-cookie"] == f"a=1; Path={below}/", form
