"""A record of an activity: what was done in a sandbox, in order, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from controlplane.client.answers import Refused
from controlplane.client.names import find
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.errors import InvalidRequest, NotFound

PAGE = 1000
MAX_RECORD_BYTES = 256 << 20  # of a file

# Fields by what they hold. A record is hostile, as what its sandbox has told.
_TEXTS = frozenset(
    {"op", "actor", "what", "text", "language", "context", "cwd", "path", "channel", "name", "value", "prompt", "code"}
)
_NUMBERS = frozenset({"seq", "at", "cut_bytes"})
_OBJECTS = frozenset({"data", "receipt"})
_TYPES = frozenset({"begun", "output", "result", "raised", "prompt", "ended", "failed", "state", "skipped"})


class Record(NamedTuple):
    """The entries of an activity, and the image of the sandbox, if that is known."""

    entries: list[Json]
    image: str
    keep: str
    is_whole: bool  # nothing is missing


class Operation:
    """One operation of an activity, with all that was told of it."""

    def __init__(self, begun: Json) -> None:
        self.begun = begun
        self.op = str(begun["op"])
        self.what = str(begun.get("what", ""))
        self.output = {"stdout": "", "stderr": ""}
        self.results: list[Json] = []
        self.raised: list[Json] = []
        self.prompts: list[str] = []
        self.end: Json | None = None  # `ended` or `failed`; None if it went on
        self.is_whole = True

    def add(self, entry: Json) -> None:
        """Add what was told."""
        self.is_whole = self.is_whole and not entry.get("cut_bytes")
        match entry["type"]:
            case "output":
                channel = "stderr" if entry.get("channel") == "stderr" else "stdout"
                self.output[channel] += str(entry.get("text", ""))
            case "result":
                self.results.append(entry)
            case "raised":
                self.raised.append(entry)
            case "prompt":
                self.prompts.append(str(entry.get("prompt", "")))
            case "ended" | "failed":
                self.end = entry

    @property
    def title(self) -> str:
        """The operation in one line, hostile as its text is."""
        known = (self.begun.get(name) for name in ("text", "path", "context", "port"))
        text = str(next(filter(None, known), ""))
        first, _, rest = text.strip().partition("\n")
        language = f" ({self.begun['language']})" if self.what == "code" and self.begun.get("language") else ""
        return f"{self.what}{language}{': ' if first else ''}{first}{' …' if rest else ''}"


def operations(entries: Iterable[Json]) -> dict[str, Operation]:
    """Return the operations of an activity by their `op`, in the order in which they began."""
    found: dict[str, Operation] = {}
    for entry in entries:
        if entry["type"] == "begun":
            found[str(entry["op"])] = Operation(entry)
        elif (operation := found.get(str(entry.get("op", "")))) is not None:
            operation.add(entry)
    return found


def read_file(path: Path) -> Record:
    """Return the record in a file of JSON lines. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_RECORD_BYTES:
        raise InvalidRequest(f"{path}: is larger than {MAX_RECORD_BYTES >> 20} MiB")
    return read_lines(text.splitlines(), str(path))


def read_lines(lines: Sequence[bytes], name: str) -> Record:
    """Return the record in lines of JSON: entries, behind a line about the sandbox. Raises InvalidRequest."""
    entries: list[Json] = []
    head: Json = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not _is_entry(entry):
            raise InvalidRequest(f"{name}:{number}: is no entry of an activity")
        if entry["type"] == "record":
            head = entry
        elif entry["type"] in _TYPES:
            entries.append(entry)
    if not entries:
        raise InvalidRequest(f"{name}: has no entries of an activity (docs/activity.md)")
    return _record(entries, str(head.get("image", "")), str(head.get("keep", "")))


def of_sandbox(server: Server, text: str) -> Record:
    """Return the activity of a sandbox that lives, or the record of one that has ended. Raises SandlotError."""
    try:
        sandbox = find(server, text)
    except NotFound:
        try:
            kept = server.text(f"/v1/activities/{quote(text, safe='')}").text
        except Refused as refused:
            if refused.status == 404:
                raise NotFound(
                    f"there is no sandbox and no record {text[:80]}; [activity] keep_on_disk keeps records"
                ) from None
            raise
        return read_lines(kept.encode().splitlines(), text)
    entries, keep = activity(server, str(sandbox["id"]))
    return _record(entries, str((sandbox.get("image") or {}).get("uri", "")), keep)


def activity(server: Server, sandbox_id: str) -> tuple[list[Json], str]:
    """Return all entries that a sandbox keeps, and at which level. Raises SandlotError."""
    entries: list[Json] = []
    while True:
        after = entries[-1]["seq"] if entries else 0
        page = server.ask("GET", sandbox_path(sandbox_id, f"/activity?after={after}&limit={PAGE}"))
        entries += page["entries"]
        if not all(map(_is_entry, page["entries"])):
            raise InvalidRequest(f"sandbox {sandbox_id[:64]} tells what is no entry of an activity")
        if not page["entries"] or page["entries"][-1]["seq"] >= page["last"]:
            return entries, str(page["keep"])


def ending(end: Json | None) -> str:
    """Return how an operation ended, without what it cost."""
    if end is None:
        return "goes on"
    if end["type"] == "failed":
        return f"failed: {end.get('code', '')}"
    receipt = end.get("receipt") or {}
    words = [str(receipt.get("cause", "done"))]
    for key, name in (("exit_code", "exit code"), ("signal", "signal"), ("died_of", "died of")):
        if receipt.get(key):
            words.append(f"{name} {receipt[key]}")
    if "size" in end:
        words.append(f"{end['size']} bytes")
    return ", ".join(words)


def _is_entry(entry: object) -> bool:
    """Return whether the fields of an entry, or of a record's first line, hold what they should."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        return False
    if entry["type"] == "begun" and "op" not in entry:
        return False
    return all(_holds(name, value) for name, value in entry.items())


def _holds(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, str if name in _TEXTS else dict if name in _OBJECTS else object)


def _record(entries: list[Json], image: str, keep: str) -> Record:
    is_whole = entries[0].get("seq", 1) == 1 and not any(entry["type"] == "skipped" for entry in entries)
    has_output = any(entry["type"] in ("output", "result") for entry in entries)
    return Record(entries, image, keep or ("full" if has_output else ""), is_whole)
