"""The entries of an activity as lines for people."""

from __future__ import annotations

from datetime import UTC, datetime

from controlplane.client.record import Operation, ending
from controlplane.client.server import Json
from controlplane.client.text import safe, safe_lines, size


def lines_of(entry: Json) -> list[str]:
    """Return an entry of an activity as lines that are safe for a terminal; none for what says nothing."""
    match entry.get("type"):
        case "begun":
            actor = str(entry.get("actor", "")) or "the server"
            return [f"{_time(entry)} {safe(actor)} {safe(Operation(entry).title)}"]
        case "output":
            mark = "!" if entry.get("channel") == "stderr" else "|"
            return _indented(mark, str(entry.get("text", "")))
        case "result":
            return _indented("=", _result(entry.get("data", {})))
        case "raised":
            return _indented("!", f"{entry.get('name', '')}: {entry.get('value', '')}")
        case "prompt":
            return _indented("?", str(entry.get("prompt", "")))
        case "ended" | "failed":
            return [f"  → {safe(ending(entry))}"]
        case "state":
            reason = f" ({safe(str(entry['reason']))})" if entry.get("reason") else ""
            return [f"{_time(entry)} {safe(str(entry.get('state', '')))}{reason}"]
        case "skipped":
            return [f"  … entries {entry.get('from', '?')} to {entry.get('to', '?')} are missing"]
    return []


def _time(entry: Json) -> str:
    try:
        return f"{datetime.fromtimestamp(float(entry['at']), UTC).astimezone():%H:%M:%S}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "--:--:--"


def _result(data: dict[str, str]) -> str:
    others = [f"{mime} ({size(len(text))})" for mime, text in data.items() if mime != "text/plain"]
    return "\n".join([*([str(data["text/plain"])] if "text/plain" in data else []), *others])


def _indented(mark: str, text: str) -> list[str]:
    return [f"  {mark} {line}" for line in safe_lines(text).splitlines()]
