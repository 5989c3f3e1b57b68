"""`sandlot gc` shows before it removes, and removes no more than it has shown."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.cli.sandboxes import gc
from controlplane.client.answers import Refused
from controlplane.client.server import Server
from controlplane.errors import InvalidRequest

NOW = datetime.now(UTC)
OLD, NEW = (NOW - timedelta(days=40)).isoformat(), (NOW - timedelta(days=1)).isoformat()
IMAGE = {"size_bytes": 5_000_000, "created_at": OLD, "is_ours": False, "pooled": False, "sandboxes": 0}
VOLUME = {"created_at": OLD, "in_use_by": [], "size_bytes": 2_000_000}


class FakeServer(Server):
    """Has one thing of each sort that may go, and others that may not."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "key")
        self.removed: list[str] = []
        self.refused = ""

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Answer as the API does."""
        if self.refused and path.startswith(self.refused):
            raise Refused(self.address, 403, "INSUFFICIENT_SCOPE", "the key may not")
        if method == "DELETE":
            self.removed.append(path)
            return None
        if path.startswith("/v1/sandboxes"):
            ended = {"state": "Failed", "reason": "OOM\x1b", "lastTransitionAt": NEW}
            items: list[dict[str, Any]] = [{"id": "a" * 32, "status": ended, "createdAt": OLD}]
        elif path.startswith("/v1/snapshots"):
            ready = {"status": {"state": "Ready"}, "sandboxId": "s"}
            making = {"status": {"state": "Creating"}, "createdAt": OLD, "id": "m"}
            items = [{"id": "old", "createdAt": OLD} | ready, {"id": "new", "createdAt": NEW} | ready, making]
        elif path.startswith("/v1/volumes"):
            used = VOLUME | {"name": "used", "in_use_by": ["x"]}
            items = [VOLUME | {"name": "free"}, used, VOLUME | {"name": "fresh", "created_at": NEW}]
        else:
            others = ({"is_ours": True}, {"pooled": True}, {"sandboxes": 2}, {"created_at": NEW})
            items = [IMAGE | {"name": f"kept{index}"} | each for index, each in enumerate(others)]
            items.append(IMAGE | {"name": "org/old:1"})
        return {"items": items, "pagination": {"hasNextPage": False}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(gc, "server_of", lambda options: fake)
    return fake


def collect(*only: str, **options: Any) -> tuple[int, list[str]]:
    """Run the command; return its status and what it prints."""
    said: list[str] = []
    given = {"only": list(only), "older": "30d", "dry_run": False, "yes": False, "json": False} | options

    def say(text: str, end: str = "\n") -> None:
        said.append(text)

    return gc.run(argparse.Namespace(**given), say), said


def test_what_is_old_and_unused_is_shown(server: FakeServer) -> None:
    """With sizes where the server tells them; the reason of an end is safe to look at."""
    status, (shown,) = collect(dry_run=True)
    assert [line.split()[:2] for line in shown.splitlines()[1:-1]] == [
        ["ended", "aaaaaaaaaaaa"],
        ["snapshots", "old"],
        ["volumes", "free"],
        ["images", "org/old:1"],
    ]
    assert shown.splitlines()[-1] == "7.0 MB in all, where the server tells a size"
    assert "OOM\\x1b" in shown
    assert (status, server.removed) == (0, [])


def test_what_was_shown_is_removed(server: FakeServer) -> None:
    status, said = collect(*gc.KINDS, yes=True)
    assert (status, said[-1]) == (0, "removed 4, 7.0 MB")
    assert server.removed == [
        f"/v1/sandboxes/{'a' * 32}",
        "/v1/snapshots/old",
        "/v1/volumes/free",
        "/v1/images/org/old%3A1",
    ]


def test_nothing_is_removed_unasked(server: FakeServer) -> None:
    """Without a terminal nobody can be asked; --yes needs the kinds."""
    with pytest.raises(InvalidRequest, match="say --yes"):
        collect()
    with pytest.raises(InvalidRequest, match="name what is to go by --only"):
        collect(yes=True)
    assert server.removed == []


def test_a_key_that_may_see_less(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """What it may not see is left out, and that is said; what is named is an error."""
    server.refused = "/v1/volumes"
    _, (shown,) = collect(dry_run=True)
    assert "volumes" not in shown
    assert "volumes are left out: the key may not" in capsys.readouterr().err
    with pytest.raises(Refused):
        collect("volumes", dry_run=True)


def test_some_are_refused(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.refused = "/v1/snapshots/old"
    status, said = collect("ended", "snapshots", yes=True)
    assert (status, said[-1]) == (1, "removed 1")
    assert "old: http://127.0.0.1:1 answers 403" in capsys.readouterr().err
