"""What a line of the engine's event stream tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.runtime.docker import events
from controlplane.runtime.events import EventKind, RuntimeEvent


def line(action: str, attributes: dict[str, str] | None = None, **more: Any) -> bytes:
    attributes = {"sandlot.sandbox": "s", "image": "i"} if attributes is None else attributes
    actor = {"ID": "c", "Attributes": attributes}
    return json.dumps({"Type": "container", "Action": action, "Actor": actor, "time": 1, **more}).encode()


def test_died_with_its_exit_code() -> None:
    """The engine writes the code as text."""
    told = events.parse(line("die", {"sandlot.sandbox": "s", "exitCode": "137"}))

    assert told == RuntimeEvent(EventKind.DIED, "s", "c", 137)


@pytest.mark.parametrize("code", ["", "-1", "lots"])
def test_died_with_a_code_that_is_none(code: str) -> None:
    """It died all the same."""
    told = events.parse(line("die", {"sandlot.sandbox": "s", "exitCode": code}))

    assert told == RuntimeEvent(EventKind.DIED, "s", "c", None)


def test_oom_and_removal() -> None:
    """Neither has an exit code, whatever stands there."""
    assert events.parse(line("oom")) == RuntimeEvent(EventKind.OOM, "s", "c")
    assert events.parse(line("destroy", {"sandlot.sandbox": "s", "exitCode": "1"})) == RuntimeEvent(
        EventKind.REMOVED, "s", "c"
    )


@pytest.mark.parametrize(
    "useless",
    [
        line("start"),
        line("die", {"image": "of somebody else"}),
        b"",
        b"no json",
        b"[]",
        b'{"Action": "die"}',
        b'{"Action": "die", "Actor": {"ID": 7, "Attributes": {}}}',
        b"\xff\xfe",
    ],
)
def test_anything_else_is_nothing(useless: bytes) -> None:
    """Other events, other containers and garbage are passed over."""
    assert events.parse(useless) is None
