"""Where two runs of the same thing differ; times, addresses and the like are no difference."""

from __future__ import annotations

import difflib
import hashlib
import re
from typing import NamedTuple

from controlplane.client.record import Operation, ending
from controlplane.client.server import Json

CONTEXT_LINES = 2
OUTPUT = ("stdout", "stderr", "results")

# What changes from run to run → what stands for it. The order matters: long forms come first.
_DAY, _MONTH = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*", r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DATE = rf"\b{_DAY},? +(?:{_MONTH} +\d+|\d+ +{_MONTH})[ ,\d:.]*(?:[AP]M)?(?: ?[A-Z]{{3,4}})?(?: \d{{4}})?"
VOLATILE = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (_DATE, "<time>"),
        (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?Z|[+-]\d\d:?\d\d)?)?", "<time>"),
        (r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<id>"),
        (r"\b0x[0-9a-fA-F]{6,16}\b", "<address>"),
        (r"\b[0-9a-f]{32,}\b", "<id>"),
        (r"\b1[5-9]\d{8}(?:\d{3}|\.\d+)?\b", "<time>"),  # Unix time, s or ms, of these decades
        (r"/tmp/(?:tmp|pip-|npm-)[\w.-]{6,}", "<temporary>"),  # noqa: S108 - looked for, not used
        (r"\b\d+(?:\.\d+)? ?(?:ns|[µu]s|ms|s|secs?|seconds?|mins?|minutes?)\b", "<duration>"),
    )
)


class Difference(NamedTuple):
    """A part of an operation that is not as it was, as lines of a diff."""

    part: str  # stdout, stderr, results, error, end
    lines: list[str]


def normal(text: str) -> str:
    """Return a text with names in the place of what changes from run to run."""
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def compare(before: Operation, after: Operation, *, exact: bool, with_output: bool = True) -> list[Difference]:
    """Return the differences of an operation and its repetition. Without output, only errors and ends are compared."""
    differences = []
    for part, old, new in _parts(before, after):
        if not with_output and part in OUTPUT:
            continue
        pairs = [[line.rstrip("\r\n") for line in lines] for lines in (old, new)]
        compared = pairs if exact else [[normal(line) for line in lines] for lines in pairs]
        if compared[0] != compared[1]:
            diff = list(
                difflib.unified_diff(compared[0], compared[1], "recorded", "repeated", lineterm="", n=CONTEXT_LINES)
            )
            differences.append(Difference(part, diff[2:]))
    return differences


def _parts(before: Operation, after: Operation) -> list[tuple[str, list[str], list[str]]]:
    parts = [
        (channel, before.output[channel].splitlines(), after.output[channel].splitlines())
        for channel in ("stdout", "stderr")
    ]
    parts.append(("results", _results(before.results), _results(after.results)))
    parts.append(("error", _errors(before.raised), _errors(after.raised)))
    if before.end is not None:
        parts.append(("end", [ending(before.end)], [ending(after.end)]))
    return parts


def _results(results: list[Json]) -> list[str]:
    lines: list[str] = []
    for result in results:
        for mime, text in sorted(result.get("data", {}).items()):
            if mime.startswith("text/") or mime.endswith(("json", "xml")):
                lines += [f"{mime}:", *str(text).splitlines()]
            else:
                lines.append(
                    f"{mime}: {hashlib.sha256(str(text).encode()).hexdigest()[:16]}, {len(str(text))} characters"
                )
    return lines


def _errors(raised: list[Json]) -> list[str]:
    return [line for each in raised for line in f"{each.get('name', '')}: {each.get('value', '')}".splitlines()]
