"""Every route of the application, asked with every scope: as the table of docs/keys.md says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any, NamedTuple

import pytest
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope

from controlplane.access.key import Quotas
from controlplane.access.keys import Keys
from controlplane.access.scopes import Needs, caller_of_key
from controlplane.api.console.operations import CONSOLE
from controlplane.api.edge.guard import Guard, Guarded
from controlplane.api.edge.operation import ON_STREAM, Operation
from controlplane.api.routes import OPERATIONS, Routes
from controlplane.sandbox import Sandbox, SnapshotState
from controlplane.server.composition import ControlPlane
from tests.architecture.sources import ROOT
from tests.support.server.api_routes import BY_NAME, all_routes_of, make_any_app, routes_of, sockets_of
from tests.support.server.application import application
from tests.support.server.control_plane import a_request, until

NOWHERE = "00000000-0000-4000-8000-000000000000"  # an id that was never given out
VALUES = {"port": "8080", "rest": "x", "kind": "events", "run_id": "r", "uid": "0", "gid": "0", "key_id": "key-1"}
QUERY = b"path=/x&id=x&pattern=*&language=python"
# Bodies that are right. Without one, a request is refused as such, which is an answer to whoever may ask.
BODIES: dict[str, Any] = {"context.execute": {"sandbox_id": "{sandbox_id}", "code": "1"}}


class Answer(NamedTuple):
    """What came first."""

    status: int  # 101 is an accepted WebSocket
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error."""
        try:
            return str(json.loads(self.body)["code"])
        except (ValueError, KeyError, TypeError):
            return ""


class Question(NamedTuple):
    """One way to ask one operation."""

    operation: str
    method: str
    path: str


def questions() -> list[Question]:
    """Return every method of every route, and every WebSocket."""
    app = make_any_app()
    found = [
        Question(route.name, method, path)
        for path, route in routes_of(app)
        for method in sorted((route.methods or {"GET", "POST"}) - {"HEAD"})
    ]
    return found + [Question(route.name, "WEBSOCKET", path) for path, route in sockets_of(app)]


QUESTIONS = questions()


async def ask(app: ASGIApp, question: Question, key: str, **values: str) -> Answer:
    """Ask, and return what comes first; what goes on after that is cancelled."""
    path = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1]) or VALUES.get(match[1], "x"), question.path)
    is_socket = question.method == "WEBSOCKET"
    body = json.dumps(BODIES.get(question.operation, {})).replace("{sandbox_id}", values.get("sandbox_id", "")).encode()
    scope: Scope = {
        "type": "websocket" if is_socket else "http",
        "path": f"/v1{path}",
        "raw_path": f"/v1{path}".encode(),
        "query_string": QUERY,
        "scheme": "ws" if is_socket else "http",
        "headers": [(b"host", b"here"), *([(b"open-sandbox-api-key", key.encode())] if key else [])],
        "client": ("127.0.0.1", 1),
        "server": ("here", 80),
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [],
    } | ({} if is_socket else {"method": question.method})
    said: asyncio.Queue[Message] = asyncio.Queue()
    said.put_nowait({"type": "websocket.connect"} if is_socket else {"type": "http.request", "body": body})
    came: asyncio.Queue[Message] = asyncio.Queue()

    async def send(message: Message) -> None:
        came.put_nowait(message)

    task = asyncio.ensure_future(app(scope, said.get, send))
    try:
        async with asyncio.timeout(20):
            first = await came.get()
            if first["type"] == "websocket.accept":
                return Answer(101, b"")
            content = b"" if first["status"] < 400 else (await came.get())["body"]
            return Answer(first["status"], content)
    finally:
        task.cancel()
        await asyncio.wait([task])


class World:
    """An application before a control plane with agents of the test, a sandbox and a snapshot of it."""

    def __init__(self, app: ASGIApp, plane: ControlPlane) -> None:
        self.app = app
        self.plane = plane
        self.sandbox: Sandbox
        self.snapshot_id = ""
        self._owner, self.owners_text = self.key("create")

    def key(self, *scopes: str, owner: str = "") -> tuple[str, str]:
        """Make a key; return its id and its text."""
        keys = self.plane.access.keys
        key, text = keys.create(f"k{len(keys.list())}", scopes, Quotas(), owner=owner)
        return key.id, text

    @property
    def owner(self) -> str:
        """Whose the sandbox is."""
        return self._owner

    async def fill(self) -> None:
        """Make the sandbox and the snapshot anew, if they are gone."""
        caller = caller_of_key(self.plane.access.keys.get(self._owner))
        if not any(each.owner == self._owner for each in self.plane.sandboxes.list()):
            self.sandbox = await self.plane.sandboxes.create(a_request(), by=caller)
        present = {(each.owner, each.sandbox_id) for each in self.plane.snapshots.list()}
        if (self._owner, self.sandbox.id) not in present:
            snapshot = self.plane.snapshots.create(self.sandbox.id, "", by=caller)
            await until(lambda: self.plane.snapshots.get(snapshot.id).state is SnapshotState.READY)
            self.snapshot_id = snapshot.id

    async def ask(self, question: Question, key: str) -> Answer:
        """Ask of the sandbox and the snapshot."""
        await self.fill()
        return await ask(self.app, question, key, sandbox_id=self.sandbox.id, snapshot_id=self.snapshot_id)


@pytest.fixture
async def world(plane: ControlPlane) -> World:
    return World(application(plane), plane)


def table() -> dict[str, dict[str, str]]:
    """Return the table of docs/keys.md: operation → scope → cell."""
    _, _, text = (ROOT / "docs" / "keys.md").read_text().partition("\n## Operations\n")
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {row[0]: dict(zip(rows[0][2:], row[2:], strict=True)) for row in rows[2:]}


TABLE = table()


def test_every_operation_is_served_and_in_the_table() -> None:
    """The operations that only the native stream has are in neither."""
    served = {operation.name for operation in OPERATIONS if operation.method != ON_STREAM}
    assert served == {question.operation for question in QUESTIONS} == set(TABLE)


def test_every_route_is_guarded() -> None:
    """Also below /v1, and each with the needs of its own operation."""
    routes = [*all_routes_of(make_any_app())]
    assert len(routes) > 80
    for path, route in routes:
        assert isinstance(route, Route | WebSocketRoute), path
        assert isinstance(route.app, Guarded), path
        assert route.app._operation in OPERATIONS
        assert (route.name, route.app._operation.full_path.replace(":path}", "}")) == (route.app._operation.name, path)


def test_an_operation_that_nobody_serves_is_found_at_the_start() -> None:
    """Its endpoint is a method of an object that the application does not have."""
    operation = BY_NAME["sandbox.get"]
    routes = Routes([], Guard(None, None), lambda _: contextlib.nullcontext())  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"Lifecycle\.get"):
        routes.make([operation])


@pytest.mark.parametrize("operation", [pytest.param(each, id=f"{each.name} {each.path}") for each in OPERATIONS])
def test_what_only_looks_is_no_change(operation: Operation) -> None:
    """The scope `read` is enough for no change but that of one's own sign-in."""
    is_for_readers = operation.needs in {Needs.NOTHING, Needs.KEY, Needs.READ, Needs.WATCH}
    assert operation in CONSOLE or not (operation.is_change and is_for_readers)


def refusal(answer: Answer) -> str:
    """Return what the guard said, if it was the guard."""
    if answer.status == 401:
        return "no key"
    if answer.code in ("DOCKER::SANDBOX_NOT_FOUND", "SNAPSHOT::NOT_FOUND"):
        return "not found"
    return "scope" if (answer.status, answer.code) == (403, "INSUFFICIENT_SCOPE") else ""


SCOPES = ("admin", "create", "read", "sandbox:ID")


@pytest.mark.attack(
    "edge", "every operation is asked with a key whose scopes do not allow it", "status 403, and nothing is done"
)
@pytest.mark.parametrize("scope", SCOPES)
async def test_every_operation_with_every_scope(scope: str, world: World) -> None:
    """What the table allows is not refused, and what it does not allow is refused for the scope."""
    await world.fill()
    for question in QUESTIONS:
        await world.fill()
        _, text = world.key(scope.replace("ID", world.sandbox.id), owner=world.owner)
        expected = "scope" if TABLE[question.operation][scope] == "–" else ""
        assert refusal(await world.ask(question, text)) == expected, question


@pytest.mark.attack(
    "secrets",
    "every operation is asked of a sandbox and a snapshot of another owner",
    "each answers byte for byte as for an id that was never given out, and no list contains them",
)
@pytest.mark.parametrize("scope", SCOPES[1:])
async def test_what_belongs_to_another_does_not_exist(scope: str, world: World) -> None:
    """An administrator is told otherwise, so the comparison can fail."""
    _, text = world.key(scope.replace("ID", "another"))
    admin = world.key("admin")[1]
    told_apart = 0
    for question in QUESTIONS:
        await world.fill()
        is_of_one = "{sandbox_id}" in question.path or "{snapshot_id}" in question.path or question.operation in BODIES
        if not is_of_one:
            continue
        foreign = await world.ask(question, text)
        nothing = await ask(world.app, question, text, sandbox_id=NOWHERE, snapshot_id=NOWHERE)
        hidden = foreign.body.replace(world.sandbox.id.encode(), b"ID").replace(world.snapshot_id.encode(), b"ID")
        assert (foreign.status, hidden) == (nothing.status, nothing.body.replace(NOWHERE.encode(), b"ID")), question
        if BY_NAME[question.operation].needs is not Needs.KEY:
            is_refused_before = scope == "read" and question.operation in BODIES
            assert refusal(foreign) == ("scope" if is_refused_before else "not found"), question
            told_apart += refusal(await world.ask(question, admin)) == ""
    assert told_apart > 80
    await world.fill()
    for path in ("/sandboxes", "/snapshots"):
        page = await read(world, path, text)
        assert page["pagination"]["totalItems"] == 0
        assert (await read(world, path, admin))["pagination"]["totalItems"] >= 1
        assert (await read(world, path, world.owners_text))["pagination"]["totalItems"] >= 1


async def read(world: World, path: str, key: str) -> Any:
    """Return a list as JSON."""
    done: list[Message] = []

    async def send(message: Message) -> None:
        done.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": f"/v1{path}",
        "raw_path": f"/v1{path}".encode(),
        "query_string": b"",
        "headers": [(b"open-sandbox-api-key", key.encode())],
    }
    await world.app(scope, receive, send)
    return json.loads(done[-1]["body"])


@pytest.mark.attack("edge", "every operation is asked with a wrong key, or none", "status 401, but for the open ones")
@pytest.mark.parametrize("key", ["", "sandlot_" + "x" * 43])
async def test_without_a_key_nothing_is_open(key: str, world: World) -> None:
    """Health, readiness and version are for everybody."""
    keys: Keys = world.plane.access.keys
    assert keys.caller(key) is None
    world.plane.access.attempts._most = 0  # thousands in a minute are answered as one is
    for question in QUESTIONS:
        expected = "" if BY_NAME[question.operation].needs is Needs.NOTHING else "no key"
        assert refusal(await world.ask(question, key)) == expected, question
