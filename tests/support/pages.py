"""The pages of the documentation as their tests read them: fenced blocks, their marks, headings and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRANSLATIONS = (ROOT / "README.zh-CN.md", *sorted((ROOT / "docs" / "zh").glob("*.md")))
# docs/security.md and docs/keys.md hold the same kinds of blocks as all others.
PAGES = (ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md")))

FENCE = re.compile(r"^(```+)(\S*)[ \t]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
# A comment directly above a block: why the block is not run, which test runs it, or the file that it is.
MARK = re.compile(r"<!-- (not run|run by|file): (\S.*?) -->\s*\Z")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"(?<!\\)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    mark: str  # "not run", "run by", "file", or nothing
    note: str  # what the mark says: a reason, the id of a test, a file name

    @property
    def place(self) -> str:
        """Where the block stands, for messages."""
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        kind, note = mark.groups() if mark else ("", "")
        found.append(Block(page, line, fence[2], fence[3], kind, note))
    return found


def block(page: str, language: str, holding: str) -> str:
    """Return the text of the first block of that page and language that holds that text."""
    return next(one.text for one in blocks(ROOT / page) if one.language == language and holding in one.text)


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{anchor}-{n}" if n else anchor) not in found)
        found.add(f"{anchor}-{number}" if number else anchor)
    return found


def links(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    return LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))
