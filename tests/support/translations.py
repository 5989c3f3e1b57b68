"""Translated pages, and whether they follow their originals.

A translation begins with a comment that names its original and the digest of the original's text:
`<!-- follows docs/operations.md: 0123456789ab -->`; with `before "## Heading"` behind the path, it is the beginning of
a page. After a translation was brought up to date, write the digest by

    python -m tests.support.translations docs/zh/operations.md …
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.pages import FENCE, MARK, ROOT

HEADER = re.compile(r'<!-- follows (\S+)(?: before "([^"]+)")?: ?([0-9a-f]*) -->\n')
COMMENT = re.compile(r"<!--.*?-->\n", re.DOTALL)
KINDS = [
    (kind, re.compile(beginning))
    for kind, beginning in (
        ("h1", "# "),
        ("h2", "## "),
        ("h3", "### "),
        ("block", "```"),
        ("row", r"\|"),
        ("item", r" *(-|\d+\.) "),
        ("paragraph", r".*\S"),
    )
]


class Header(NamedTuple):
    """The first line of a translation."""

    original: str  # a path in the repository
    before: str  # the line of the original at which the translated part ends; empty: the whole page
    digest: str


def header(page: Path) -> Header:
    """Return what a translation says about its original. Raises ValueError if it says nothing."""
    found = HEADER.match(page.read_text())
    if found is None:
        raise ValueError(f"{page.name}: the first line must be a comment: <!-- follows PAGE: DIGEST -->")
    return Header(found[1], found[2] or "", found[3])


def original_text(page: Path) -> str:
    """Return the part of the original that a translation follows."""
    original, before, _ = header(page)
    text = (ROOT / original).read_text()
    if before and f"\n{before}\n" not in text:
        raise ValueError(f"{page.name}: {original} has no line {before!r}")
    return text.partition(f"\n{before}\n")[0] if before else text


def digest(text: str) -> str:
    """Return the digest of a text; how its lines are broken makes no difference."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


def is_current(page: Path) -> bool:
    """Whether the original is what it was when the translation was made."""
    return header(page).digest == digest(original_text(page))


def code(text: str) -> list[tuple[str, str, str]]:
    """Return language, text and mark of each fenced block."""
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        found.append((fence[2], fence[3], mark[0].strip() if mark else ""))
    return found


def messages(text: str) -> list[str]:
    """Return the headings that quote a message."""
    return re.findall(r"^### (`.+`)$", text, re.MULTILINE)


def outline(text: str) -> list[str]:
    """Return the kind of each heading, paragraph, item, table row and fenced block of a page, in order."""
    found: list[str] = []
    inside = False  # a paragraph or an item, of which the next line is more
    for line in FENCE.sub("```", COMMENT.sub("", text)).splitlines():
        kind = _kind(line)
        if kind and not (inside and kind == "paragraph"):
            found.append(kind)
        inside = kind in ("paragraph", "item")
    return found


def _kind(line: str) -> str:
    """Return what a line begins, or nothing."""
    return next((kind for kind, beginning in KINDS if beginning.match(line)), "")


def left_out(page: Path) -> list[str]:
    """Return what a translation lacks or has too much, against its original; a page of a part may add paragraphs."""
    expected, found = outline(original_text(page)), outline(page.read_text())
    changes = difflib.SequenceMatcher(None, expected, found, autojunk=False).get_opcodes()
    added = {"paragraph"} if header(page).before else set()
    return [
        f"{' '.join(expected[a:b]) or 'nothing'} became {' '.join(found[c:d]) or 'nothing'}, as block {c + 1}"
        for change, a, b, c, d in changes
        if change != "equal" and not (change == "insert" and added.issuperset(found[c:d]))
    ]


def confirm(page: Path) -> None:
    """Write the digest of today's original into a translation."""
    old = header(page)
    part = f' before "{old.before}"' if old.before else ""
    line = f"<!-- follows {old.original}{part}: {digest(original_text(page))} -->\n"
    page.write_text(HEADER.sub(lambda _: line, page.read_text(), count=1))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        confirm(Path(name).resolve())
