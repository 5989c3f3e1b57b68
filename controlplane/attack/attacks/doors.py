"""Attacks on the edge by who asks, and for what: wrong keys, other tokens, odd paths, hidden requests."""

from __future__ import annotations

import base64
import contextlib
import re

from controlplane.attack.client import raw
from controlplane.attack.client.api import KEY_HEADER, Unreachable
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable, unclear
from controlplane.attack.client.target import Target

# What a client may ask with a key: the method and the path, with ID for a sandbox's.
ROUTES = (
    ("GET", "/v1/sandboxes"),
    ("POST", "/v1/sandboxes"),
    ("GET", "/v1/sandboxes/ID"),
    ("DELETE", "/v1/sandboxes/ID"),
    ("POST", "/v1/sandboxes/ID/pause"),
    ("POST", "/v1/sandboxes/ID/resume"),
    ("POST", "/v1/sandboxes/ID/stop"),
    ("POST", "/v1/sandboxes/ID/renew-expiration"),
    ("POST", "/v1/sandboxes/ID/contexts"),
    ("POST", "/v1/contexts/execute"),
    ("POST", "/v1/sandboxes/ID/snapshots"),
    ("GET", "/v1/sandboxes/ID/endpoints/44772"),
    ("GET", "/v1/sandboxes/ID/diagnostics/logs"),
    ("GET", "/v1/sandboxes/ID/networkpolicy"),
    ("POST", "/v1/sandboxes/ID/stream/tickets"),
    ("GET", "/v1/snapshots"),
    ("GET", "/v1/keys"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/nothing"),
    ("POST", "/v1/sandboxes/ID/proxy/44772/command"),
    ("POST", "/v1/sandboxes/ID/proxy/44772/code"),
    ("POST", "/v1/sandboxes/ID/proxy/44772/session"),
    ("POST", "/v1/sandboxes/ID/proxy/44772/pty"),
    ("GET", "/v1/sandboxes/ID/proxy/44772/ping"),
    ("GET", "/v1/sandboxes/ID/proxy/44772/files/info?path=/etc"),
    ("GET", "/v1/sandboxes/ID/proxy/44772/files/download?path=/etc/passwd"),
    ("POST", "/v1/sandboxes/ID/proxy/44772/files/upload"),
    ("GET", "/v1/sandboxes/ID/proxy/44772/metrics"),
    ("GET", "/v1/sandboxes/ID/proxy/18080/policy"),
    ("GET", "/v1/sandboxes/ID/proxy/8000/"),
)
# The same without the version, and written so that a proxy and a server may read it differently.
SPELLINGS = (
    "/sandboxes",
    "//v1/sandboxes",
    "/v1//sandboxes",
    "/v1/./sandboxes",
    "/health/../v1/sandboxes",
    "/health/..%2fv1/sandboxes",
    "/%76%31/sandboxes",
    "/v1/sandboxes/",
    "/v1/sandboxes;x",
    "/V1/sandboxes",
    "/v1/sandboxes%00",
    "/health%2f..%2fv1%2fsandboxes",
)


async def _refuses_all(target: Target, headers: dict[str, str], sandbox_id: str, query: str = "") -> Outcome:
    """Ask every route; each must be refused."""
    for method, path in ROUTES:
        asked = path.replace("ID", sandbox_id)
        asked += ("&" if "?" in asked else "?") + query if query else ""
        answer = await target.api.request(method, asked, key="", headers=headers, json={} if method == "POST" else None)
        if answer.status not in (400, 401, 403, 404, 405, 429):
            return broken(f"{method} {path}: {answer.status}")
        if answer.status in (400, 404, 405) and path != "/v1/nothing" and "ID" not in path:
            return broken(f"{method} {path}: {answer.status}, before anybody asked for a key")
    return held(f"{len(ROUTES)} routes")


async def no_key(target: Target) -> Outcome:
    return await _refuses_all(target, {}, (await target.box()).id)


async def wrong_key(target: Target) -> Outcome:
    return await _refuses_all(target, {KEY_HEADER: f"{target.api.key}x"}, (await target.box()).id)


async def near_keys(target: Target) -> Outcome:
    """Send keys that are nearly right, in every place where a key may be looked for."""
    key = target.api.key
    swapped = key.swapcase()
    tries: list[dict[str, str]] = [
        *(
            {KEY_HEADER: near}
            for near in (key[:-1], key + "A", swapped, key + ",x", "*", "null", "undefined", "' OR 1=1--")
        ),
        {"Authorization": f"Basic {base64.b64encode(f'x:{key}'.encode()).decode()}"},
        {"Authorization": key},
        {"Authorization": "Bearer"},
        {"Cookie": f"{KEY_HEADER}={key}"},
        {"X-API-Key": "admin"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-User": "admin", "X-Real-IP": "127.0.0.1"},
        {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"},
        {"X-HTTP-Method-Override": "GET"},
    ]
    for headers in tries:
        answer = await target.api.request("GET", "/v1/sandboxes", key="", headers=headers)
        if answer.status not in (400, 401, 403, 429):
            return broken(f"{', '.join(headers)}: {answer.status}")
    for query in (f"{KEY_HEADER}={key}", f"api_key={key}", f"token={key}", f"access_token={key}"):
        answer = await target.api.request("GET", f"/v1/sandboxes?{query}", key="")
        if answer.status not in (400, 401, 403, 429):
            return broken(f"the key is taken from the query {query.partition('=')[0]}, where logs keep it")
    return held(f"{len(tries) + 4} ways")


async def spellings(target: Target) -> Outcome:
    """Write the path so that a check and a router may read it differently."""
    for path in SPELLINGS:
        data = raw.head(target.api, "GET", path, "Connection: close") + b"\r\n"
        reaction = await target.api.send_raw(data, patience_s=raw.ANSWER_S)
        if any(status < 300 for status in reaction.statuses) and b'"items"' in reaction.received:
            return broken(f"GET {path} lists sandboxes without a key")
        if any(status >= 500 for status in reaction.statuses):
            return broken(f"GET {path}: {reaction.statuses[0]}")
    return held(f"{len(SPELLINGS)} spellings")


async def other_token(target: Target) -> Outcome:
    """Use one sandbox's token at every route of another."""
    box, other = await target.box(), await target.neighbour()
    if not other.token:
        return not_applicable("this server gives no tokens")
    return await _refuses_all(target, {other.token_header: other.token}, box.id)


async def token_as_key(target: Target) -> Outcome:
    """Use a sandbox's token as an API key."""
    box = await target.box()
    if not box.token:
        return not_applicable("this server gives no tokens")
    for headers in ({KEY_HEADER: box.token}, {"Authorization": f"Bearer {box.token}"}, {box.token_header: box.token}):
        for method, path in ROUTES[:4]:
            answer = await target.api.request(method, path.replace("ID", box.id), key="", headers=headers)
            if answer.status not in (401, 403, 404, 429):
                return broken(f"{method} {path}: {answer.status} with a sandbox's token")
    return held()


async def sockets_without_key(target: Target) -> Outcome:
    """Open every WebSocket without a key, and from a foreign page."""
    box = await target.box()
    for path in (
        f"/v1/sandboxes/{box.id}/stream",
        f"/v1/sandboxes/{box.id}/stream?ticket=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        f"{box.agent}/pty/x/ws",
        box.port(8000) + "/",
    ):
        reaction = await target.api.send_raw(
            raw.handshake(target.api, path, "Origin: https://evil.example"), patience_s=raw.ANSWER_S
        )
        if 101 in reaction.statuses:
            return broken(f"{path.replace(box.id, 'ID')} opens without a key")
    return held()


async def ticket_twice(target: Target) -> Outcome:
    """Use a ticket for a stream twice, and one for another sandbox."""
    box, other = await target.box(), await target.neighbour()
    tickets = []
    for _ in range(2):
        answer = await target.api.request("POST", f"/v1/sandboxes/{box.id}/stream/tickets")
        found = re.search(r'"ticket":\s*"([^"]+)"', answer.text)
        if not found:
            return not_applicable("this server gives no tickets")
        tickets.append(found[1])
    uses = (
        (box, tickets[0], True, "the first use of a ticket"),
        (box, tickets[0], False, "the second use of a ticket"),
        (other, tickets[1], False, "a ticket for another sandbox"),
    )
    for which, ticket, opens, what in uses:
        data = raw.handshake(target.api, f"/v1/sandboxes/{which.id}/stream?ticket={ticket}")
        is_open = 101 in (await target.api.send_raw(data, patience_s=raw.OPEN_S)).statuses
        if is_open and not opens:
            return broken(f"{what} opens a stream")
        if opens and not is_open:
            return unclear(f"{what} opens no stream")
    return held()


async def signed_addresses(target: Target) -> Outcome:
    """Change the time, the port or the sandbox of a signed address."""
    box, other = await target.box(), await target.neighbour()
    answer = await target.api.request("GET", f"/v1/sandboxes/{box.id}/endpoints/8000?expires=4000000000")
    told = answer.json()
    address = str(told.get("endpoint", "")) if isinstance(told, dict) else ""
    path = "/" + address.split("://")[-1].partition("/")[2]
    if "/signed/" not in path and "signed" not in path:
        return not_applicable("this server signs no addresses by path")
    changed = (
        path.replace(box.id, other.id),
        path.replace("4000000000", "4000000001"),
        path.replace("8000", "8001", 1),
        path[:-2] + "aa",
    )
    for each in changed:
        if each != path and (answer := await target.api.request("GET", each, key="")).status not in (
            400,
            401,
            403,
            404,
            429,
        ):
            return broken(f"a changed address is answered with {answer.status}")
    return held()


async def methods(target: Target) -> Outcome:
    """Use methods that echo, tunnel or mean nothing."""
    tries = {
        "TRACE": raw.head(target.api, "TRACE", "/health", "X-Mark: attack") + b"\r\n",
        "TRACK": raw.head(target.api, "TRACK", "/health", "X-Mark: attack") + b"\r\n",
        "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
        "absolute": b"GET http://127.0.0.1:22/ HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
        "h2c": raw.head(
            target.api,
            "GET",
            "/health",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        )
        + b"\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "nonsense": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        "HTTP/0.9": b"GET /v1/sandboxes\r\n\r\n",
    }
    for name, data in tries.items():
        reaction = await target.api.send_raw(data, patience_s=raw.OPEN_S)
        if b"X-Mark: attack" in reaction.received or b"SSH-" in reaction.received or b'"items"' in reaction.received:
            return broken(f"{name}: the server echoes, tunnels or tells")
        if 101 in reaction.statuses or any(status >= 500 and status not in (501, 505) for status in reaction.statuses):
            return broken(f"{name}: {reaction.statuses[0]}")
    return held(f"{len(tries)} ways")


async def smuggling(target: Target) -> Outcome:
    """Send requests of which two programs may see different ends; a second one hides in the first one's body."""
    hidden = raw.head(target.api, "GET", "/version", "X-Hidden: 1") + b"\r\n"
    size = len(hidden)
    variants = {
        "two lengths": ["Content-Length: 0", f"Content-Length: {size}"],
        "length and chunks": [f"Content-Length: {size}", "Transfer-Encoding: chunked"],
        "chunks twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        "unknown coding": ["Transfer-Encoding: xchunked", f"Content-Length: {size}"],
        "space before colon": [f"Content-Length : {size}"],
        "folded line": ["X: 1", f" Content-Length: {size}"],
        "signed length": [f"Content-Length: +{size}"],
        "length in hex": [f"Content-Length: {size:#x}"],
        "length list": [f"Content-Length: {size}, {size + 1}"],
        "negative length": ["Content-Length: -1"],
        "bare line feed": ["X: 1\nTransfer-Encoding: chunked"],
        "nul": ["Transfer-Encoding: chun\0ked"],
    }
    for name, lines in variants.items():
        body = b"0\r\n\r\n" + hidden if "hunk" in " ".join(lines) else hidden
        reaction = await target.api.send_raw(
            raw.head(target.api, "POST", "/v1/sandboxes", *lines) + b"\r\n" + body, patience_s=raw.OPEN_S
        )
        if len(reaction.statuses) > 1 and 200 in reaction.statuses[1:]:
            return broken(f"{name}: a second request came out of the first one")
    return held(f"{len(variants)} variants")


async def header_injection(target: Target) -> Outcome:
    """Have the server write a header of the client's making."""
    box = await target.box()
    for path in (
        "/v1/sandboxes%0d%0aX-Injected:%201",
        f"/v1/sandboxes/{box.id}/endpoints/80%0d%0aX-Injected:1",
        f"{box.agent}/files/download?path=/etc/x%0d%0aX-Injected:1",
        "/v1/sandboxes?page=1%0d%0aX-Injected:1",
    ):
        answer = await target.api.request("GET", path)
        if "x-injected" in answer.headers:
            return broken(f"{path.replace(box.id, 'ID')} writes a header")
    for value in ("a\tb", "x" * 4000, "%0d%0aX-Injected: 1"):
        answer = await target.api.request("GET", "/health", headers={"X-Request-ID": value})
        if "x-injected" in answer.headers or len(answer.headers.get("x-request-id", [""])[0]) > 1000:
            return broken("X-Request-ID is repeated unseen")
    name = "/tmp/a\\r\\nX-Injected: 1"  # noqa: S108 - inside the sandbox
    with contextlib.suppress(Unreachable):
        await box.output_of(f"open('{name}', 'w').close()")
        answer = await target.api.request("GET", f"{box.agent}/files/download?path=/tmp/a%0d%0aX-Injected:%201")
        if "x-injected" in answer.headers:
            return broken("the name of a file writes a header")
    return held()


async def ports(target: Target) -> Outcome:
    """Name a port that is none, or that leads elsewhere."""
    box = await target.box()
    for port in ("0", "65536", "-1", "80@example.com", "127.0.0.1:22", "..", "%2e%2e", "1e3", "٨٠", "0x50", ""):
        answer = await target.api.request("GET", f"/v1/sandboxes/{box.id}/proxy/{_quoted(port)}/")
        if answer.status not in (400, 404, 405):
            return broken(f"port {port!r}: {answer.status}")
    return held()


def _quoted(text: str) -> str:
    return "".join(char if char.isascii() else "".join(f"%{byte:02x}" for byte in char.encode()) for char in text)


async def cross_site(target: Target) -> Outcome:
    """Call the API from a foreign page with the user's cookies."""
    headers = {"Origin": "https://evil.example", "Cookie": f"key={target.api.key}", "Sec-Fetch-Site": "cross-site"}
    answer = await target.api.request("GET", "/v1/sandboxes", key="", headers=headers)
    if answer.status not in (401, 403, 429):
        return broken(f"a page's cookies open the API: {answer.status}")
    for each in (
        answer,
        await target.api.request(
            "OPTIONS", "/v1/sandboxes", key="", headers={**headers, "Access-Control-Request-Method": "POST"}
        ),
    ):
        if each.headers.get("access-control-allow-credentials", [""])[0] == "true":
            return broken("foreign pages may send the user's credentials")
    return held()


async def metrics(target: Target) -> Outcome:
    """Read the metrics without a key."""
    answer = await target.api.request("GET", "/metrics", key="")
    return held() if answer.status in (401, 403, 404, 429) else broken("everybody may read the server's numbers")


async def clear_text(target: Target) -> Outcome:
    """Look whether keys cross a network unencrypted."""
    if target.api.is_tls:
        return held()
    if target.api.host in ("127.0.0.1", "localhost", "::1"):
        return not_applicable("the battery reaches the server by its loopback")
    return broken("keys and tokens cross the network in clear text")
