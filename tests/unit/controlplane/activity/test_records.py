"""Records of activities: whole or not there, bounded, and the state of the sandbox as it was told."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from controlplane.activity import records as folder
from controlplane.activity.activities import Page
from controlplane.activity.feed import Entry
from controlplane.activity.keeping import Keeping
from controlplane.activity.records import Records, RecordView
from controlplane.errors import LinkLost
from controlplane.sandbox import State
from execd.wire.messages import ActivityItem, ActivityState
from tests.support.server.parts import a_record

KB = "x" * 1022  # with its quotes a line of 1024 bytes


def head(sandbox: str, **fields: Any) -> RecordView:
    known: dict[str, Any] = {
        "owner": "admin",
        "image": "image",
        "created_at": 1.0,
        "kept_at": 2.0,
        "state": "Stopping",
    }
    return RecordView(sandbox=sandbox, **(known | fields))


async def opened(records: Records, name: str) -> tuple[RecordView, bytes] | None:
    """Return a record: its head, and all its lines."""
    found = await records.open(name)
    if found is None:
        return None
    with found[1] as file:
        return found[0], file.read()


async def write_in_order(records: Records, path: Path, names: list[str], entries: list[Any]) -> None:
    """Write records, each a second later than the one before."""
    for at, name in enumerate(names):
        await records.write(head(name), entries)
        if (file := path / "activities" / f"{name}.jsonl").exists():
            os.utime(file, (at, at))


async def test_a_record_comes_back(tmp_path: Path) -> None:
    """With what its sandbox was; only the server's user may read it."""
    records = Records(tmp_path, 10, 1 << 20)
    await records.write(head("one", reason="DELETED"), [{"seq": 1}, {"seq": 2}])
    found = await opened(records, "one")
    assert found is not None
    assert (found[0].reason, found[0].size_bytes) == ("DELETED", 20)
    assert list(map(json.loads, found[1].splitlines()))[1:] == [{"seq": 1}, {"seq": 2}]
    place = tmp_path / "activities"
    assert stat.S_IMODE((place / "one.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    await records.write(head("one", reason="EXPIRED"), [{}])
    assert [each.reason for each in await records.heads()] == ["EXPIRED"]
    assert os.listdir(tmp_path / "activities") == ["one.jsonl"]


async def test_a_record_that_is_being_read_stays_as_it_is(tmp_path: Path) -> None:
    """Also when a later one takes its place."""
    records = Records(tmp_path, 10, 1 << 20)
    await records.write(head("one"), ["first"])
    found = await records.open("one")
    assert found is not None
    await records.write(head("one"), ["second", "third"])
    with found[1] as file:
        assert file.read().splitlines()[1:] == [b'"first"']


@pytest.mark.parametrize("name", ["", "..", "other", "../one", "a/b", "x" * 300])
async def test_what_is_no_record_is_not_found(tmp_path: Path, name: str) -> None:
    """No path leads out of the folder, and a file that is no record is none."""
    (tmp_path / "activities").mkdir()
    (tmp_path / "activities" / "b.jsonl").write_text("no record\n")
    (tmp_path / "one.jsonl").write_bytes(b"secret")
    assert await opened(Records(tmp_path, 10, 1 << 20), name) is None


async def test_the_number_of_records_is_bounded(tmp_path: Path) -> None:
    """The oldest make room."""
    records = Records(tmp_path, 2, 1 << 20)
    await write_in_order(records, tmp_path, ["a", "b", "c"], [{}])
    assert {each.sandbox for each in await records.heads()} == {"b", "c"}


async def test_the_size_of_all_records_is_bounded(tmp_path: Path) -> None:
    """The oldest make room; the newest stays."""
    records = Records(tmp_path, 100, 5000)
    await write_in_order(records, tmp_path, ["a", "b", "c"], [KB, KB])
    assert {each.sandbox for each in await records.heads()} == {"b", "c"}
    await write_in_order(records, tmp_path, ["d"], [KB] * 10)
    assert {each.sandbox for each in await records.heads()} == {"d"}


@pytest.mark.attack(
    "resources",
    "The list of records is asked for a hundred times at once",
    "The files are read by one after the other, and what was read is shared",
)
async def test_a_flood_of_lists_reads_the_files_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path, 100, 1 << 20)
    await records.write(head("a"), ["x"])
    opened_files = 0
    really = folder._open

    def counted(path: Path) -> Any:
        nonlocal opened_files
        opened_files += 1
        return really(path)

    monkeypatch.setattr(folder, "_open", counted)
    found = await asyncio.gather(*(records.heads() for _ in range(100)))
    assert {tuple(each.sandbox for each in heads) for heads in found} == {("a",)}
    assert opened_files == 2


async def test_one_record_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is kept."""
    monkeypatch.setattr(folder, "MAX_RECORD_BYTES", 2060)
    records = Records(tmp_path, 100, 1 << 20)
    await records.write(head("a"), ["first", KB, KB, "last"])
    found = await opened(records, "a")
    assert found is not None
    assert list(map(json.loads, found[1].splitlines()))[1:] == [KB, KB, "last"]


async def test_a_full_disk_ends_no_sandbox_otherwise(tmp_path: Path) -> None:
    """The log has it."""
    (tmp_path / "activities").write_text("a file is in the way")
    await Records(tmp_path, 1, 1).write(head("a"), [{}])


class Told:
    """Stands for the activities of an agent that answers, or does not."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.answers = True
        self.breaks = self.watched = False

    def is_watched(self, _sandbox_id: str) -> bool:
        return self.watched

    async def note(self, _sandbox_id: str, state: str, reason: str = "") -> bool:
        if self.answers:
            self.notes.append((state, reason))
        return self.answers

    async def read_out(self, _sandbox_id: str, _most_bytes: int) -> Page:
        if self.breaks:
            raise LinkLost("gone")
        item = ActivityItem(1, 0.0, "", ActivityState("claimed"))
        return Page("full", 1, 1, [Entry(item, lambda item, _: {"seq": item.number})])


async def test_a_sandbox_that_ends_leaves_a_record(tmp_path: Path) -> None:
    """With the reason."""
    told = Told()
    records = Records(tmp_path, 10, 1 << 20)
    keeping = Keeping(told, records)  # type: ignore[arg-type]
    await keeping.before_end(a_record(State.STOPPING, reason="EXPIRED"))
    found = await opened(records, "one")
    assert found is not None
    assert (found[0].reason, found[0].last, found[0].image) == ("EXPIRED", 1, "fake/image")
    assert told.notes == [("ending", "EXPIRED")]


async def test_a_paused_sandbox_has_left_its_record_before(tmp_path: Path) -> None:
    """Its agent does not answer any more, and is not waited for."""
    told = Told()
    records = Records(tmp_path, 10, 1 << 20)
    keeping = Keeping(told, records)  # type: ignore[arg-type]
    await keeping.before_pause(a_record(State.PAUSING))
    assert await opened(records, "one") is not None
    await keeping.before_end(a_record(State.STOPPING, reason="DELETED"))
    assert told.notes == [("pausing", "")]
    await keeping.before_pause(a_record(State.PAUSING))
    await keeping.after_resume("one")
    await keeping.before_end(a_record(State.STOPPING, reason="DELETED"))
    assert [state for state, _ in told.notes] == ["pausing", "pausing", "resumed", "ending"]


@pytest.mark.parametrize(("answers", "breaks"), [(False, False), (True, True)])
async def test_an_agent_that_is_gone_leaves_none(tmp_path: Path, *, answers: bool, breaks: bool) -> None:
    """And delays the end of its sandbox no longer."""
    told = Told()
    told.answers, told.breaks = answers, breaks
    records = Records(tmp_path, 10, 1 << 20)
    async with asyncio.timeout(60):
        await Keeping(told, records).before_end(a_record(State.FAILED))  # type: ignore[arg-type]
    assert await records.heads() == []


async def test_without_the_setting_nothing_is_read() -> None:
    """And no end waits for an agent whose last word nobody reads. Watchers hear of it."""
    told = Told()
    told.breaks = True
    await Keeping(told, None).before_end(a_record(State.STOPPING, reason="DELETED"))  # type: ignore[arg-type]
    assert told.notes == []
    told.watched = True
    await Keeping(told, None).before_end(a_record(State.STOPPING, reason="IDLE"))  # type: ignore[arg-type]
    assert told.notes == [("ending", "IDLE")]
