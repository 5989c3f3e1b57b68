"""Who gets in at the edge, and what becomes of whoever does not, or no longer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from msgspec.structs import replace
from starlette.types import Message, Receive, Scope, Send

from controlplane.access.attempts import Attempts
from controlplane.access.control import AccessControl
from controlplane.access.credentials import Credentials
from controlplane.access.key import Quotas
from controlplane.access.keys import Keys
from controlplane.access.scopes import Needs
from controlplane.api.edge import auth
from controlplane.api.edge.auth import Authentication
from controlplane.api.edge.operation import Operation
from controlplane.api.edge.tickets import Tickets
from tests.support.server.access import fixed_access
from tests.support.server.api_server import API_KEY, serving

FIXED = fixed_access({"key-1": API_KEY})


def limited(most: int) -> AccessControl:
    """The control of access with a bound for failed attempts."""
    return replace(FIXED, attempts=Attempts(most))


@pytest.mark.attack(
    "edge",
    "wrong keys, or none, are sent over and over from one address",
    "status 429 after a hundred in a minute, and a right key from the same address is still served",
)
async def test_failed_attempts_are_bounded_and_never_lock_out_a_right_key() -> None:
    """With the bound lifted, every attempt is answered as such."""
    async with serving(access=limited(5)) as edge, httpx.AsyncClient(base_url=edge.url) as client:
        wrong = [await client.get("/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": "no"}) for _ in range(5)]
        assert {response.status_code for response in wrong} == {401}
        for headers in ({"OPEN-SANDBOX-API-KEY": "no"}, {}):
            refused = await client.get("/v1/sandboxes", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_FAILED_ATTEMPTS")
            assert 0 < int(refused.headers["retry-after"]) <= 60
        right = await client.get("/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": API_KEY})
        assert right.status_code == 200
        assert (await client.get("/health")).status_code == 200
    async with serving(access=limited(0)) as edge, httpx.AsyncClient(base_url=edge.url) as client:
        assert {(await client.get("/v1/sandboxes")).status_code for _ in range(10)} == {401}


@pytest.mark.attack("edge", "thousands of keys are sent with one request", "eight of them are looked at")
async def test_a_bounded_number_of_secrets_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ninth is not, even if it is the right one; with a larger bound it is."""
    headers = [("OPEN-SANDBOX-API-KEY", "no")] * auth.MAX_SECRETS + [("OPEN-SANDBOX-API-KEY", API_KEY)]
    async with serving() as edge, httpx.AsyncClient(base_url=edge.url) as client:
        assert (await client.get("/v1/sandboxes", headers=headers)).status_code == 401
        assert (await client.get("/v1/sandboxes", headers=headers[1:])).status_code == 200
        monkeypatch.setattr(auth, "MAX_SECRETS", 9)
        assert (await client.get("/v1/sandboxes", headers=headers)).status_code == 200


# -- connections that outlive their key ----------------------------------------


class Open:
    """A connection that stays open behind authentication, driven by hand."""

    def __init__(self, access: AccessControl, kind: str, key: str, *, begins: bool) -> None:
        self.sent: list[Message] = []
        self.inside = asyncio.Event()
        self.ended = asyncio.Event()
        self._begins = begins
        middleware = Authentication(
            self._serve,
            Credentials(b"secret"),
            access,
            Tickets(lambda _: None),
            operations=(),
            console=True,
            open_metrics=False,  # type: ignore[arg-type,return-value]
        )
        scope: Scope = {
            "type": kind,
            "path": "/v1/sandboxes",
            "raw_path": b"/v1/sandboxes",
            "query_string": b"",
            "headers": [(b"open-sandbox-api-key", key.encode())],
        }
        self.task = asyncio.ensure_future(middleware(scope, self._receive, self._send))

    async def _serve(self, scope: Scope, _: Receive, send: Send) -> None:
        if self._begins:
            beginning = "websocket.accept" if scope["type"] == "websocket" else "http.response.start"
            await send({"type": beginning})
        self.inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def _receive(self) -> Message:
        return {"type": "http.request"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(
    ("kind", "begins", "last"),
    [
        ("websocket", True, {"type": "websocket.close", "code": 1008, "reason": "the API key has ended"}),
        ("http", True, {"type": "http.response.start"}),
        ("http", False, None),
    ],
)
@pytest.mark.attack(
    "edge", "a stream or WebSocket is kept open after its key is withdrawn", "it ends at once, and others go on"
)
async def test_connections_end_with_their_key(kind: str, begins: bool, last: Message | None) -> None:
    """A WebSocket is closed, an answer breaks off, a request that is not answered yet gets 401."""
    keys = Keys({"key-1": API_KEY}, on_narrowed=FIXED.connections.end)
    access = replace(FIXED, keys=keys)
    key, text = keys.create("bot", ("create",), Quotas())
    one, other = Open(access, kind, text, begins=begins), Open(access, kind, API_KEY, begins=begins)
    await asyncio.wait_for(asyncio.gather(one.inside.wait(), other.inside.wait()), 5)
    keys.withdraw(key.id)
    await asyncio.wait_for(one.task, 5)
    assert one.ended.is_set()
    if last is not None:
        assert one.sent[-1] == last
    else:
        assert one.sent[0]["status"] == 401
    assert not other.ended.is_set()
    other.task.cancel()
    await asyncio.wait([other.task])


async def test_without_the_ends_of_keys_a_connection_would_stay() -> None:
    """The test above can fail."""
    keys = Keys({})
    key, text = keys.create("bot", ("create",), Quotas())
    one = Open(replace(FIXED, keys=keys), "http", text, begins=True)
    await asyncio.wait_for(one.inside.wait(), 5)
    keys.withdraw(key.id)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not one.ended.is_set()
    one.task.cancel()
    await asyncio.wait([one.task])


async def test_a_connection_ends_when_its_key_expires() -> None:
    """Without anybody doing anything."""
    keys = Keys({})
    _, text = keys.create("bot", ("create",), Quotas(), expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    one = Open(replace(FIXED, keys=keys), "websocket", text, begins=True)
    await asyncio.wait_for(one.task, 5)
    assert one.ended.is_set()
    assert one.sent[-1]["type"] == "websocket.close"


async def test_a_timeout_of_the_request_itself_is_none_of_the_key() -> None:
    """What is raised inside comes out as it is."""

    async def fail(*_: object) -> None:
        raise TimeoutError("of something else")

    middleware = Authentication(
        fail,
        Credentials(b""),
        FIXED,
        Tickets(lambda _: None),
        operations=(),
        console=True,
        open_metrics=False,  # type: ignore[arg-type,return-value]
    )
    scope = {
        "type": "http",
        "path": "/x",
        "raw_path": b"/x",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {API_KEY}".encode())],
    }
    with pytest.raises(TimeoutError, match="of something else"):
        await middleware(scope, None, None)  # type: ignore[arg-type]


# -- what needs no key ----------------------------------------


@pytest.mark.parametrize(("open_metrics", "served"), [(True, {"/health", "/metrics"}), (False, {"/health"})])
async def test_open_metrics_opens_the_metrics_alone(open_metrics: bool, served: set[str]) -> None:
    """Not what else is told of the whole server to who may watch it."""
    rows = [
        Operation("health", "GET", "/health", None, Needs.NOTHING),
        Operation("metrics", "GET", "/metrics", None, Needs.WATCH),
        Operation("server.read", "GET", "/server", None, Needs.WATCH),
    ]
    seen: set[str] = set()

    async def serve(scope: Scope, *_: object) -> None:
        seen.add(scope["path"])

    async def send(_: Message) -> None:
        """Take the refusals."""

    middleware = Authentication(
        serve,
        Credentials(b""),
        FIXED,
        Tickets(lambda _: None),  # type: ignore[arg-type,return-value]
        operations=rows,
        console=False,
        open_metrics=open_metrics,
    )
    for row in rows:
        scope = {
            "type": "http",
            "method": "GET",
            "path": row.path,
            "raw_path": row.path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await middleware(scope, None, send)  # type: ignore[arg-type]
    assert seen == served
