"""Records of activities, which are as hostile as the sandboxes that they are of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.client.record import Operation, operations, read_lines
from controlplane.errors import InvalidRequest

BEGUN = {"type": "begun", "op": "1", "what": "command", "text": "echo"}


@pytest.mark.attack(
    "edge",
    "A record whose fields hold something else than they should is replayed",
    "The command names the line, and exits with 2",
)
@pytest.mark.parametrize(
    "entry",
    [
        [],
        "x",
        None,
        {},
        {"type": ["x"]},
        {"type": "begun"},
        BEGUN | {"what": 5},
        BEGUN | {"at": "x"},
        BEGUN | {"at": None},
        BEGUN | {"at": float("nan")},
        BEGUN | {"at": float("inf")},
        BEGUN | {"seq": "\x1b[31m"},
        {"type": "result", "op": "1", "data": ["x"]},
        {"type": "ended", "op": "1", "receipt": "x"},
        {"type": "output", "op": {}, "text": ""},
    ],
)
def test_what_is_no_entry_is_named(entry: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^record:2: is no entry"):
        read_lines([json.dumps(BEGUN).encode(), json.dumps(entry).encode()], "record")


def test_a_line_of_brackets_is_no_entry() -> None:
    """However many."""
    with pytest.raises(InvalidRequest, match=r"^record:1: is no entry"):
        read_lines([b"[" * 100_000], "record")


def test_fields_that_nobody_knows_are_no_error() -> None:
    """They are of a later release, as are types."""
    record = read_lines([json.dumps(each).encode() for each in (BEGUN | {"new": []}, {"type": "new"})], "record")
    assert list(operations(record.entries)) == ["1"]


@pytest.mark.parametrize(
    ("begun", "title"),
    [
        ({"what": "command", "text": "ls\npwd"}, "command: ls …"),
        ({"what": "code", "text": "1", "language": "python"}, "code (python): 1"),
        ({"what": "file.write", "path": "/a"}, "file.write: /a"),
        ({"what": "port", "port": 8000}, "port: 8000"),
        ({"what": "input"}, "input"),
    ],
)
def test_an_operation_in_one_line(begun: dict[str, Any], title: str) -> None:
    assert Operation({"type": "begun", "seq": 1, "op": "a", **begun}).title == title
