"""The invariants find each kind of loss and leak."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from tests.chaos.clients import Client
from tests.chaos.invariants import Remains, check
from tests.chaos.ledger import GONE, PAUSED, RUNNING, Facts, Ledger

WELL = Remains(
    listed={"a": "Running", "b": "Paused", "c": "Failed"},
    tags={"1": "a", "2": "b", "3": "c"},
    records={"a", "b", "c"},
    containers={"a": "running", "b": "paused", "w1": "running", "w2": "running"},
    directories={"a", "b", "w1", "w2"},
    warm=2,
    target=2,
    volumes={"v"},
    mounted={"v", "execd"},
    images={"sandlot-snapshots:s"},
    snapshots={"s": "Ready", "t": "Failed"},
)


def test_a_server_at_rest_has_no_complaints() -> None:
    assert WELL.complaints() == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"listed": {**WELL.listed, "a": "Pausing"}}, "a is Pausing"),
        ({"listed": {"a": "Running", "b": "Paused"}}, "the record of c is left"),
        ({"records": {"a", "b"}}, "c has no record"),
        ({"containers": {"b": "paused", "w1": "running", "w2": "running"}}, "the container of a is gone"),
        ({"containers": {**WELL.containers, "c": "exited"}}, "3 containers and 2 warm ones where 2 belong to nobody"),
        ({"containers": {**WELL.containers, "a": "paused"}}, "a is Running, and its container paused"),
        ({"directories": {"b", "w1", "w2"}}, "the socket of a is gone"),
        ({"directories": {*WELL.directories, "c"}}, "a directory of c is left"),
        ({"directories": {"a", "b", "w1"}}, "w2 has no socket"),
        ({"warm": 1}, "2 containers and 1 warm ones where 2 belong to nobody"),
        ({"volumes": {"v", "old"}}, "the volume old is left"),
        ({"images": {*WELL.images, "sandlot-snapshots:x"}}, "the image sandlot-snapshots:x is left"),
        ({"images": set()}, "the image sandlot-snapshots:s is gone"),
        ({"snapshots": {**WELL.snapshots, "t": "Creating"}}, "snapshot t is Creating"),
    ],
)
def test_each_kind_of_leak_is_found(changes: dict[str, Any], complaint: str) -> None:
    """One thing is changed, and one thing is said of it (or two, of its consequences)."""
    assert complaint in msgspec.structs.replace(WELL, **changes).complaints()


@pytest.fixture
def ledger() -> Ledger:
    """What fits to WELL: a and b live, c has ended; nobody looks inside."""
    ledger = Ledger()
    for name, state in (("a", PAUSED), ("b", PAUSED), ("c", "ended")):
        facts = ledger.sandboxes[name] = Facts(name)
        facts.may_be = {state}
    ledger.snapshots = {"s", "t"}
    return ledger


async def found(ledger: Ledger, remains: Remains) -> list[str]:
    """What is found wrong by comparing."""
    async with httpx.AsyncClient() as http:
        return await check(ledger, remains, Client("test", http, ledger, is_calm=lambda: False))


LOOKED = msgspec.structs.replace(WELL, listed={"a": "Paused", "b": "Paused", "c": "Failed"})


async def test_what_agrees_with_the_ledger(ledger: Ledger) -> None:
    assert await found(ledger, LOOKED) == []


async def test_each_kind_of_loss_is_found(ledger: Ledger) -> None:
    """A state that nobody brought about, one that is back, one that is nobody's, one too late, snapshots."""
    listed = {"a": "Paused", "c": "Failed", "x": "Paused"}
    remains = msgspec.structs.replace(LOOKED, listed=listed, tags={"9": "x"}, snapshots={"s": "Ready", "y": "Ready"})
    ledger.gone.add("x")
    assert sorted(await found(ledger, remains)) == [
        "1 snapshots that nobody asked for",
        "b is gone, and was to be Paused",
        "snapshot t is lost",
        "x is back",
    ]
    ledger.gone.clear()
    assert "x belongs to nobody" in await found(ledger, remains)


async def test_a_deadline_that_is_not_enforced_is_found(ledger: Ledger) -> None:
    facts = ledger.sandboxes["a"]
    facts.due, facts.deadlines, facts.may_be = 1000.0, {"then"}, {PAUSED, GONE}
    (complaint,) = await found(ledger, LOOKED)
    assert complaint.startswith("a should have ended ")


async def test_an_answer_that_was_lost_leaves_both_possible(ledger: Ledger) -> None:
    """A create may have made its sandbox; a delete may have ended it; afterwards the ledger knows."""
    ledger.unanswered_creates.add("9")
    ledger.sandboxes["a"].can_be(GONE, RUNNING)
    listed = {"b": "Paused", "c": "Failed", "x": "Failed"}
    assert await found(ledger, msgspec.structs.replace(LOOKED, listed=listed, tags={"9": "x"})) == []
    assert ledger.gone == {"a"}
    assert set(ledger.sandboxes) == {"b", "c", "x"}
