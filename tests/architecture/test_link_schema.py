"""The link as specs/ describe it is the link that runs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from execd.wire.messages import GENERATION
from specs.generate.link import (
    ASYNCAPI,
    EVERY,
    FROZEN,
    MARKER,
    REPLIES,
    REQUESTS,
    SPECS,
    asyncapi,
    breaks,
    exchanges,
    frozen,
    tag_of,
)

ADDED = (
    "The link's messages grew in a way that older peers understand. Run `make specs` "
    "and commit the two files it writes."
)
BROKEN = (
    "execd of this generation already runs in containers and does not understand the change. Either undo it, or raise "
    "GENERATION in execd/wire/messages.py, serve both generations where it matters, run `python -m "
    "specs.generate.link`, and commit the new file; the old one stays as it is."
)


def test_this_generation_means_what_it_meant() -> None:
    """Containers that run are not asked again: what changes a message for them is a new generation."""
    before = json.loads(FROZEN.read_text())
    now = json.loads(json.dumps(frozen()))
    assert breaks(before, now) == [], BROKEN
    assert before == now, ADDED


ADDED_BY = {2: ("run.record", "run.resume", "run.find", "run.end"), 3: ("activity.read", "activity.note", "request.by")}


@pytest.mark.parametrize("earlier", range(1, GENERATION))
def test_a_generation_only_adds_to_the_earlier_ones(earlier: int) -> None:
    """Their agents are served as they were: what they know is the same, and what is new is never sent to them."""
    before = json.loads((SPECS / f"link-generation-{earlier}.json").read_text())
    now = json.loads(json.dumps(frozen()))
    added = [tag for generation in range(earlier + 1, GENERATION + 1) for tag in ADDED_BY[generation]]
    assert sorted(breaks(before, now)) == sorted(
        ["generation changed", *(f"{tag} is new in requests" for tag in added)]
    )


def test_every_generation_has_its_file() -> None:
    """None is skipped and none is ahead."""
    found = sorted(path.name for path in SPECS.glob("link-generation-*.json"))
    assert found == sorted(f"link-generation-{number}.json" for number in range(1, GENERATION + 1))


def _grown(change: str) -> dict[str, Any]:
    document = copy.deepcopy(frozen())
    started = document["messages"]["ProcessStarted"]
    match change:
        case "a new field with a default":
            started["prefixItems"].append({"title": "at", "type": "number", "default": 0.0})
        case "a new reply":
            document["messages"]["PortOpen"] = {"type": "array", "prefixItems": [{"enum": ["port.open"]}]}
            document["replies"].append("port.open")
        case "a new request":
            document["messages"]["PortOpen"] = {"type": "array", "prefixItems": [{"enum": ["port.open"]}]}
            document["requests"].append("port.open")
        case "a new field without a default":
            started["prefixItems"].append({"title": "at", "type": "number"})
            started["minItems"] += 1
        case "another type":
            started["prefixItems"][1]["type"] = "string"
        case "another name":
            started["prefixItems"][1]["title"] = "process_id"
        case "a field gone":
            started["prefixItems"].pop()
        case "a message gone":
            del document["messages"]["ProcessStarted"]
            document["replies"].remove("process.started")
        case "another frame":
            document["frame"]["kinds"]["DATA"] = 9
    return document


@pytest.mark.parametrize("change", ["a new field with a default", "a new reply"])
def test_growing_breaks_nothing(change: str) -> None:
    """Older agents skip the field, and the reply meets no older control plane."""
    assert breaks(frozen(), _grown(change)) == []


@pytest.mark.parametrize(
    "change",
    [
        "a new field without a default",
        "another type",
        "another name",
        "a field gone",
        "a message gone",
        "another frame",
        "a new request",
    ],
)
def test_other_changes_are_seen(change: str) -> None:
    """Each would be misread by a container that runs."""
    assert breaks(frozen(), _grown(change)) != []


def test_the_asyncapi_document_is_up_to_date() -> None:
    """Its lower half comes from the code; `make specs` writes it."""
    head, marker, generated = ASYNCAPI.read_text().partition(MARKER)
    assert marker, "the line between prose and generated text is gone"
    assert head.startswith("asyncapi: 3.0.0\n")
    assert f'version: "{GENERATION}"' in head
    assert generated.strip() == asyncapi().strip(), "run `make specs`"


def test_every_request_has_an_exchange_and_every_reply_belongs_to_one() -> None:
    """The table in messages.py, from which the operations are made, is whole."""
    table = exchanges()
    assert set(table) == {tag_of(cls) for cls in REQUESTS}
    assert {reply for replies in table.values() for reply in replies} == {tag_of(cls) for cls in REPLIES}
    assert all(table.values())


def test_names_are_one_word_for_one_thing() -> None:
    """The tag `process.start` is the Struct ProcessStart."""
    for cls in EVERY:
        assert "".join(part.capitalize() for part in tag_of(cls).split(".")) == cls.__name__
