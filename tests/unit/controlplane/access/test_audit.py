"""The audit log: what is kept survives a restart, is bounded, and never stops anybody."""

from __future__ import annotations

import asyncio
import itertools
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from msgspec.structs import replace
from starlette.types import Scope
from structlog.testing import capture_logs

from controlplane.access import audit as audit_module
from controlplane.access.audit import MAX_QUEUED, MAX_STRANGERS_PER_MINUTE, MAX_TEXT_CHARS, Audit, Entry, Level
from controlplane.access.control import AccessControl
from controlplane.access.scopes import OPERATOR, caller_for_sandbox
from controlplane.api.edge import audit as audit_endpoint
from controlplane.api.edge.audit import VISIT_S, AuditLog
from controlplane.api.edge.guard import set_caller
from controlplane.api.ports.operations import PORT
from controlplane.api.routes import OPERATIONS
from controlplane.api.stream.messages import AnyOperation
from controlplane.api.stream.opened import OPENED
from execd.wire.aio import Stream
from execd.wire.messages import Done, ProcessSignal
from tests.support.server.access import fixed_access
from tests.support.server.api_server import API_KEY, SANDBOX_ID, serving, serving_agent
from tests.support.server.stream_client import streaming

FIXED = fixed_access({"ada": API_KEY})


def an_audit(path: Path, level: Level = "all", **options: Any) -> Audit:
    """A log in that directory."""
    path.mkdir(exist_ok=True)
    return Audit(path, level, **options)


def an_entry(audit: Audit, operation: str = "sandbox.create", **changes: Any) -> Entry:
    """An entry of a key."""
    return Entry(at=audit.now(), key_id="k", key_name="ada", operation=operation, outcome="done", **changes)


async def fill(audit: Audit, count: int, **changes: Any) -> None:
    """Write so many entries."""
    for _ in range(count):
        audit.record(an_entry(audit, **changes))
    await audit.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    """Everything that the files hold, the oldest first."""
    files = sorted((path / "audit").glob("audit.jsonl*"), reverse=True)  # fewer than ten
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# -- on the disk ----------------------------------------


async def test_entries_are_lines_of_json_for_the_owner_alone(tmp_path: Path) -> None:
    """With a number each; nobody else may read them."""
    audit = an_audit(tmp_path)
    await fill(audit, 2, sandbox_id="s", status=202)
    first, second = lines(tmp_path)
    assert (first["id"], second["id"]) == (1, 2)
    assert (first["keyName"], first["operation"], first["sandboxId"]) == ("ada", "sandbox.create", "s")
    assert first["at"].endswith("Z")
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "audit" / "audit.jsonl").stat().st_mode) == 0o600


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    """Also where a kill left half a line, which goes."""
    await fill(an_audit(tmp_path), 3)
    file = tmp_path / "audit" / "audit.jsonl"
    file.write_bytes(file.read_bytes() + b'{"id":4,"at":"20')
    again = an_audit(tmp_path)
    await fill(again, 1)
    assert [line["id"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    file.write_bytes(b'{"id":5,"a')
    await fill(an_audit(tmp_path), 1)
    assert len(lines(tmp_path)) == 1


@pytest.mark.attack("resources", "an endless number of operations is done", "the audit log stays as large as it may be")
async def test_the_files_are_bounded(tmp_path: Path) -> None:
    """The oldest go; with more files allowed, there are more."""
    for name, most in (("small", 3), ("large", 6)):
        audit = an_audit(tmp_path / name, max_bytes=2000, max_files=most)
        for _ in range(100):
            await fill(audit, 2)
        sizes = [file.stat().st_size for file in (tmp_path / name / "audit").iterdir()]
        assert len(sizes) == most
        assert max(sizes) < 3000
        ids = [line["id"] for line in lines(tmp_path / name)]
        assert ids == list(range(ids[0], 201))


async def test_one_file_alone(tmp_path: Path) -> None:
    """It is begun anew."""
    audit = an_audit(tmp_path, max_bytes=1000, max_files=1)
    for _ in range(20):
        await fill(audit, 1)
    assert [file.name for file in (tmp_path / "audit").iterdir()] == ["audit.jsonl"]
    assert lines(tmp_path)[-1]["id"] == 20


async def test_a_disk_that_cannot_be_written_stops_nobody_and_is_said_once(tmp_path: Path) -> None:
    """What is lost meanwhile is counted, and said in the log when it can be written again."""
    audit = an_audit(tmp_path)
    (tmp_path / "audit").write_text("in the way")
    with capture_logs() as logged:
        await fill(audit, 2)
        await fill(audit, 3)
    assert [event["event"] for event in logged] == ["audit.cannot_write"]
    assert audit.lost == 5
    (tmp_path / "audit").unlink()
    await fill(audit, 1)
    assert [(line["operation"], line.get("lost", 0)) for line in lines(tmp_path)] == [
        ("sandbox.create", 0),
        ("audit.lost", 5),
    ]
    await fill(audit, 1)
    assert len(lines(tmp_path)) == 3


@pytest.mark.attack(
    "resources", "operations come faster than the disk takes them", "ten thousand entries wait, the others are counted"
)
async def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a larger bound, more wait."""
    for most, lost in ((MAX_QUEUED, 5), (MAX_QUEUED + 5, 0)):
        monkeypatch.setattr(audit_module, "MAX_QUEUED", most)
        audit = an_audit(tmp_path)
        for _ in range(MAX_QUEUED + 5):
            audit.record(an_entry(audit))
        assert audit.lost == lost


@pytest.mark.attack("resources", "requests without a key fill the audit log", "a bounded number a minute is written")
async def test_strangers_push_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who have a key, all; without the bound, of strangers too."""
    moment = 1000.0
    for most in (MAX_STRANGERS_PER_MINUTE, 10_000):
        monkeypatch.setattr(audit_module, "MAX_STRANGERS_PER_MINUTE", most)
        audit = Audit(tmp_path, "all", timer=lambda: moment)
        stranger = Entry(at=audit.now(), outcome="refused", status=401)
        before = len(lines(tmp_path))
        for _ in range(500):
            audit.record(stranger)
        audit.record(an_entry(audit))
        await audit.flush()
        written = lines(tmp_path)[before:]
        assert sum("keyName" not in line for line in written) == min(most, 500)
        assert sum(line.get("lost", 0) for line in written) == max(0, 500 - most)
    moment += 60
    audit.record(stranger)
    await audit.flush()
    assert "keyName" not in lines(tmp_path)[-1]


async def test_entries_are_written_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording waits for nothing."""
    monkeypatch.setattr(audit_module, "FLUSH_S", 0)
    audit = an_audit(tmp_path)
    running = asyncio.ensure_future(audit.run())
    audit.record(an_entry(audit))
    async with asyncio.timeout(10):
        while not (tmp_path / "audit" / "audit.jsonl").exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither whoever records, nor the end of the server; what was under way comes before what follows."""
    monkeypatch.setattr(audit_module, "CLOSE_S", 0.05)
    audit = an_audit(tmp_path)
    hangs, written = threading.Event(), audit_module._write_whole

    def hang(*arguments: Any) -> None:
        hangs.wait(20)
        written(*arguments)

    monkeypatch.setattr(audit_module, "_write_whole", hang)
    audit.record(an_entry(audit))
    await audit.aclose()
    audit.record(an_entry(audit))
    hangs.set()
    await audit.aclose()
    async with asyncio.timeout(20):
        await audit.flush()
        await asyncio.to_thread(audit._files.write, [])  # type: ignore[union-attr]
    assert [line["id"] for line in lines(tmp_path)] == [1, 2]


async def test_a_bug_in_a_write_does_not_end_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the server's log, and the next entries are written."""
    monkeypatch.setattr(audit_module, "FLUSH_S", 0)
    audit = an_audit(tmp_path)
    running = asyncio.ensure_future(audit.run())
    with capture_logs() as logged:
        audit.record(an_entry(audit, target=object()))
        async with asyncio.timeout(20):
            while not logged:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.001)
    assert logged[0]["event"] == "audit.broken"
    await fill(audit, 1)
    assert len(lines(tmp_path)) == 1
    running.cancel()
    await asyncio.wait([running])


async def test_nothing_is_written_at_the_level_off(tmp_path: Path) -> None:
    """Nor without a directory."""
    for audit in (an_audit(tmp_path, "off"), Audit(None, "all")):
        await fill(audit, 1)
        assert (await audit.read(0, 10)).entries == []
    assert not (tmp_path / "audit").exists()


# -- reading ----------------------------------------


async def test_reading_on_gives_every_entry_once(tmp_path: Path) -> None:
    """Over all files, from any place on, with any size of page."""
    audit = an_audit(tmp_path, max_bytes=10_000, max_files=4)
    for _ in range(60):
        await fill(audit, 10)
    ids = [line["id"] for line in lines(tmp_path)]
    assert ids[0] > 1  # the log has rotated
    for after in (0, ids[0], ids[0] + 1, 300, 599, 600, 10_000):
        expected = [each for each in ids if each > after]
        for size in (1000, 7):
            found: list[int] = []
            position = after
            while (page := await audit.read(position, size)).entries:
                assert len(page.entries) <= size
                found += [entry.id for entry in page.entries]
                assert page.next == found[-1]
                position = page.next
            assert found == expected


async def test_the_last_entries_are_read_without_a_place(tmp_path: Path) -> None:
    """And what waits is written before."""
    audit = an_audit(tmp_path)
    await fill(audit, 20)
    audit.record(an_entry(audit))
    page = await audit.read(None, 5)
    assert [entry.id for entry in page.entries] == [17, 18, 19, 20, 21]
    assert (await audit.read(page.next, 5)).entries == []


async def test_a_filter_looks_at_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where to go on."""
    monkeypatch.setattr(audit_module, "MAX_SCANNED", 30)
    audit = an_audit(tmp_path)
    await fill(audit, 50, sandbox_id="a")
    await fill(audit, 2, sandbox_id="b")
    page = await audit.read(0, 10, sandbox_id="b")
    assert (page.entries, page.next) == ([], 30)
    page = await audit.read(page.next, 10, sandbox_id="b")
    assert ([entry.id for entry in page.entries], page.next) == ([51, 52], 52)
    assert (await audit.read(0, 10, key="other")).entries == []
    assert len((await audit.read(0, 10, key="k", sandbox_id="a")).entries) == 10
    assert len((await audit.read(0, 10, key="ada")).entries) == 10


async def test_the_last_entries_of_one_key_are_read_without_a_place(tmp_path: Path) -> None:
    """By its id or name, also when others have written more since."""
    audit = an_audit(tmp_path)
    for _ in range(4):
        audit.record(an_entry(audit, operation="command.run"))
    await audit.flush()
    for _ in range(20):
        audit.record(replace(an_entry(audit), key_id="other", key_name="bob"))
    for key in ("k", "ada"):
        page = await audit.read(None, 3, key=key)
        assert ([entry.id for entry in page.entries], page.next) == ([2, 3, 4], 24)


async def test_a_clock_that_is_set_back_loses_no_stranger(tmp_path: Path) -> None:
    """Their minute is measured by time that nobody sets."""
    wall, passed = 1e9, 0.0
    audit = Audit(tmp_path, "all", clock=lambda: wall, timer=lambda: passed)
    stranger = Entry(at=audit.now(), outcome="refused", status=401)
    for _ in range(MAX_STRANGERS_PER_MINUTE + 1):
        audit.record(stranger)
    assert audit.lost == 1
    wall, passed = 1e9 - 86400, 61.0
    audit.record(stranger)
    assert audit.lost == 1


# -- at the edge ----------------------------------------


def audited(audit: Audit) -> AccessControl:
    """The control of access with that log."""
    return replace(FIXED, audit=audit)


CREATE = {"image": {"uri": "sandlot/python"}, "resourceLimits": {}, "entrypoint": ["sleep"], "env": {"A": "hidden-env"}}


async def test_who_did_what(tmp_path: Path) -> None:
    """What changes or is refused, by whom, from where, to which sandbox, and how it ended; no reading."""
    audit = an_audit(tmp_path, "changes")
    async with serving(access=audited(audit)) as edge, edge.client() as client:
        created = (await client.post("/sandboxes", json=CREATE)).json()["id"]
        await client.get("/sandboxes")
        await client.get(f"/sandboxes/{created}/endpoints/8080")
        await client.get(f"/sandboxes/{created}/endpoints/99999")
        await client.delete(f"/sandboxes/{created}")
        async with httpx.AsyncClient() as stranger:
            refused = await stranger.get(f"{edge.url}/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": "no-such-secret"})
        answer = (await client.get("/audit")).json()
    found = [
        (each.get("operation"), each["outcome"], each["status"], each.get("sandboxId"), each.get("target"))
        for each in answer["entries"]
    ]
    assert found == [
        ("sandbox.create", "done", 202, created, None),
        ("sandbox.endpoint", "done", 200, created, "8080"),
        ("sandbox.endpoint", "refused", 400, created, "99999"),
        ("sandbox.delete", "done", 204, created, None),
        (None, "refused", 401, None, None),
    ]
    first, *_, last = answer["entries"]
    assert (first["keyId"], first["keyName"]) == ("ada", "ada")
    assert first["client"].startswith("127.0.0.1:")
    assert first["ms"] >= 0
    assert last["requestId"] == refused.headers["x-request-id"]
    assert last["code"] == "INVALID_API_KEY"
    assert "keyName" not in last
    text = "".join(file.read_text() for file in (tmp_path / "audit").iterdir())
    for secret in (API_KEY, "hidden-env", "no-such-secret", edge.token):
        assert secret not in text


async def test_the_level_all(tmp_path: Path) -> None:
    """What only reads, too."""
    audit = an_audit(tmp_path, "all")
    async with serving(access=audited(audit)) as edge, edge.client() as client:
        await client.get("/sandboxes")
        await client.get("/health")
        answer = (await client.get("/audit?after=0&limit=1")).json()
        assert [each["operation"] for each in answer["entries"]] == ["sandbox.list"]
        answer = (await client.get(f"/audit?after={answer['next']}&key=ada")).json()
    assert [each["operation"] for each in answer["entries"]] == ["audit.read"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "after=-1", "after=x"])
async def test_a_wrong_page_is_refused(query: str, tmp_path: Path) -> None:
    """As in the other lists."""
    async with serving(access=audited(an_audit(tmp_path))) as edge, edge.client() as client:
        assert (await client.get(f"/audit?{query}")).status_code == 400


async def test_a_log_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """With a status of its own, and nothing of the path on the server."""
    audit = an_audit(tmp_path)
    (tmp_path / "audit" / "audit.jsonl").mkdir(parents=True)
    async with serving(access=audited(audit)) as edge, edge.client() as client:
        with capture_logs():
            answer = await client.get("/audit")
    assert (answer.status_code, answer.json()["code"]) == (503, "AUDIT_UNREADABLE")
    assert "[paths] state_dir" in answer.json()["message"]
    assert str(tmp_path) not in answer.text


async def visits(audit: Audit, clock: Callable[[], float], requests: int) -> list[tuple[str, str, str | None]]:
    """Let a key and the holder of a token ask a port so often; return what is told of it."""
    log = AuditLog(audit, clock)
    for _ in range(requests):
        for caller in (caller_for_sandbox("s", "token"), OPERATOR):
            scope: Scope = {"type": "http", "path_params": {"sandbox_id": "s", "port": "80", "rest": "secret-path"}}
            set_caller(scope, caller)
            log.note(scope, PORT, 200, 0.0)
    page = await audit.read(0, 1000)
    assert "secret-path" not in str(page)
    return [(entry.operation, entry.key_name, entry.target) for entry in page.entries]


@pytest.mark.attack(
    "resources",
    "a visitor of a signed address sends requests without end to push others out of the audit log",
    "one line a minute is written of them",
)
async def test_a_visit_of_a_port_is_one_line(tmp_path: Path) -> None:
    """Of each caller. At the level `all`, and after a minute, there is another one."""
    once = [("port.forward", "token", "80"), ("port.forward", "server", "80")]
    assert await visits(an_audit(tmp_path / "changes", "changes"), lambda: 0.0, 5) == once
    assert await visits(an_audit(tmp_path / "all", "all"), lambda: 0.0, 5) == once * 5
    minutes = itertools.count(step=VISIT_S / 2)
    assert len(await visits(an_audit(tmp_path / "slow", "changes"), lambda: next(minutes), 5)) == 10


def test_remembered_visits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten."""
    monkeypatch.setattr(audit_endpoint, "MAX_VISITS", 10)
    log = AuditLog(Audit(None, "off"))
    for number in range(100):
        scope: Scope = {"type": "http", "path_params": {"sandbox_id": "s", "port": str(number)}}
        assert log._is_new_visit(scope, OPERATOR)
    assert len(log._visits) == 10


async def kill(stream: Stream, _: ProcessSignal) -> None:
    """An agent that sends any signal."""
    await stream.send(Done())


async def test_what_is_done_on_a_stream_is_told_by_operation(tmp_path: Path) -> None:
    """The socket when it is opened, then each operation, by the name that it has as a request."""
    audit = an_audit(tmp_path, "changes")
    async with serving_agent({ProcessSignal: kill}, access=audited(audit)) as edge, edge.client() as client:
        url = f"{edge.url.replace('http', 'ws')}/v1/sandboxes/{SANDBOX_ID}/stream"
        async with streaming(url, headers={"OPEN-SANDBOX-API-KEY": API_KEY}) as stream:
            await stream.hello()
            await stream.ask("signal", id="x", signal="TERM")
            await stream.ask("command", command="echo secret-words")
            await stream.ask("list_contexts")
        entries = (await client.get("/audit")).json()["entries"]
    found = [(each["operation"], each["outcome"], each["status"], each["keyName"]) for each in entries]
    assert found == [
        ("sandbox.stream", "done", 101, "ada"),
        ("command.interrupt", "done", 200, "ada"),
        ("command.run", "failed", 500, "ada"),
    ]
    assert {each["sandboxId"] for each in entries} == {SANDBOX_ID}
    assert "secret-words" not in json.dumps(entries)


async def test_texts_of_clients_are_cut(tmp_path: Path) -> None:
    """A path may be as long as it likes; an entry is short."""
    audit = an_audit(tmp_path, "changes")
    async with serving(access=audited(audit)) as edge, edge.client() as client:
        await client.post(f"/sandboxes/{'x' * 5000}/pause")
        (entry,) = (await client.get("/audit")).json()["entries"]
    assert entry["sandboxId"] == "x" * MAX_TEXT_CHARS


def test_every_operation_of_a_stream_has_a_name_in_the_audit_log() -> None:
    """One that is known."""
    assert set(OPENED) == set(get_args(AnyOperation))
    assert {each.name for each in OPENED.values()} <= {each.name for each in OPERATIONS}
