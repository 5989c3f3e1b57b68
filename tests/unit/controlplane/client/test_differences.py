"""What counts as a difference between two runs, and what a record may look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.client import record as module
from controlplane.client.differences import compare, normal
from controlplane.client.record import operations, read_file, read_lines
from controlplane.errors import InvalidRequest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Sun Nov 29 03:52:12 UTC 2026", "Mon Jan  4 11:00:59 CET 2027"),
        ("at 2026-11-29T03:52:12.123Z", "at 2027-01-01 10:00:00+01:00"),
        ("[12:00:01.5] x", "[9:59:59] x"),
        ("<A object at 0x7f2d9c03e1d0>", "<A object at 0x55aa12345678>"),
        ("took 1.25 s", "took 17s"),
        ("in 3 ms", "in 250 ms"),
        ("1764400000.123", "1795927121"),
        ("id 0f593fd3577d421086baa91f3e01b3bc", "id 33f4f53903e64e5199e0aab10eac4538"),
        ("e0524fcc-b183-4feb-8a5a-c332468273c7", "478e8992-f670-4c7d-b4d2-13caf58b6534"),
        ("/tmp/tmpab12cd34/x", "/tmp/tmpzz99yy88/x"),
    ],
)
def test_what_changes_from_run_to_run_is_no_difference(one: str, other: str) -> None:
    assert one != other
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("42", "43"),
        ("v1.2.3", "v1.2.4"),
        ("3 files", "4 files"),
        ("0x1", "0x2"),
        ("May 5", "May 6"),
        ("10 s.", "10 m."),
    ],
)
def test_other_numbers_are_differences(one: str, other: str) -> None:
    """Also short hexadecimal ones, and versions."""
    assert normal(one) != normal(other)


def operation(*more: dict[str, Any]) -> Any:
    begun = {"type": "begun", "op": "1", "what": "code", "seq": 1, "at": 1.0}
    return operations([begun, *({"op": "1", **each} for each in more)])["1"]


def test_parts_are_compared_each() -> None:
    """Output in pieces is output; what a run cost is no part of it."""
    before = operation(
        {"type": "output", "channel": "stdout", "text": "a\nb"},
        {"type": "output", "channel": "stdout", "text": "c\n"},
        {"type": "result", "data": {"text/plain": "1", "image/png": "AAAA"}},
        {"type": "ended", "receipt": {"cause": "ok", "wall_s": 1.0}},
    )
    same = operation(
        {"type": "output", "channel": "stdout", "text": "a\nbc\n"},
        {"type": "result", "data": {"image/png": "AAAA", "text/plain": "1"}},
        {"type": "ended", "receipt": {"cause": "ok", "wall_s": 9.0}},
    )
    other = operation(
        {"type": "output", "channel": "stderr", "text": "a\n"},
        {"type": "result", "data": {"text/plain": "1", "image/png": "BBBB"}},
        {"type": "raised", "name": "E", "value": "v"},
        {"type": "ended", "receipt": {"cause": "error"}},
    )
    assert compare(before, same, exact=True) == []
    assert [each.part for each in compare(before, other, exact=False)] == [
        "stdout",
        "stderr",
        "results",
        "error",
        "end",
    ]
    assert [each.part for each in compare(before, other, exact=False, with_output=False)] == ["error", "end"]


def test_exact_means_exact() -> None:
    one = operation({"type": "output", "text": "took 1 s\n"}, {"type": "ended"})
    other = operation({"type": "output", "text": "took 2 s\n"}, {"type": "ended"})
    assert compare(one, other, exact=False) == []
    assert compare(one, other, exact=True)[0].lines == ["@@ -1 +1 @@", "-took 1 s", "+took 2 s"]


def test_a_record_has_a_head_and_entries() -> None:
    lines = [b'{"type":"record","image":"i","keep":"outline"}', b"", b'{"type":"state","seq":5,"state":"claimed"}']
    record = read_lines(lines, "r")
    assert (record.image, record.keep, record.is_whole, len(record.entries)) == ("i", "outline", False, 1)


@pytest.mark.parametrize("line", [b"{", b"[]", b'"x"', b"{}", b"\xff"])
def test_lines_that_are_none(line: bytes, tmp_path: Path) -> None:
    """The error says which line."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"type":"state","seq":1}\n' + line + b"\n")
    with pytest.raises(InvalidRequest, match=r"r\.jsonl:2: is no entry"):
        read_file(path)


def test_a_record_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1 << 20)
    (tmp_path / "r").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InvalidRequest, match="is larger than 1 MiB"):
        read_file(tmp_path / "r")
