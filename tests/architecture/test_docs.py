"""The documentation points to what exists, and each of its blocks is run, or says why not."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from controlplane.api.edge.problems import FIELDS
from controlplane.errors import ConfigError
from controlplane.settings.load import load
from controlplane.settings.table import settings_table
from execd.kernel.runner import manifest
from execd.launch import declared
from execd.launch.versions import Declaration
from tests.architecture.sources import MODULES
from tests.support.pages import PAGES, ROOT, TRANSLATIONS, Block, anchors, blocks, links, name_of, prose

# What tests/e2e/test_docs.py runs or reads; `text` is output or a drawing.
RUN = {"python", "js", "console", "sh", "toml", "json", "text"}
TOP = ("controlplane", "execd", "images", "specs", "deploy", "docs", "tests", r"\.ci")
# A path in the repository, in full, as it stands in prose: with a folder, and without a placeholder.
NAMED_PATH = re.compile(rf"`((?:{'|'.join(TOP)})/[^`\s…{{}}<>]*)`")
# A path of a file, in full or not.
NAMED_FILE = re.compile(r"`([\w.-]+/[\w./-]+\.(?:py|yaml|json|bash|toml|md))`")
NAMED_MODULE = re.compile(r"`(\w+\.(?:py|bash))`")
SECTIONS = sorted({row.section for row in settings_table()})
NAMED_SETTING = re.compile(rf"`?\[({'|'.join(SECTIONS)})\] ?`? ?`?([a-z][a-z_]+)\b")
# This page names the settings of another server; `settings/test_config.py` knows ours in it.
OTHER_SETTINGS = "docs/migrating-from-opensandbox.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


def is_accounted_for(block: Block) -> bool:
    """Whether something runs a block, or a mark says what does or why nothing does."""
    return bool(block.mark) or block.language in RUN


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """A block of a language that nobody runs needs a mark above it; see docs/development.md, "Documentation"."""
    unmarked = [f"{one.place}: {one.language or 'no language'}" for one in blocks(page) if not is_accounted_for(one)]
    assert unmarked == [], "give the block a language that is run, or a mark: docs/development.md, Documentation"


def test_a_block_without_a_mark_is_found(tmp_path: Path) -> None:
    """The test above can fail."""
    page = tmp_path / "page.md"
    page.write_text("```nginx\nlisten 80;\n```\n\n<!-- not run: needs nginx -->\n```nginx\nlisten 80;\n```\n")
    assert [is_accounted_for(one) for one in blocks(page)] == [False, True]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_marks_name_what_exists(page: Path) -> None:
    """A test that runs a block exists; a file that a block is, is used by a later command of the page."""
    found = blocks(page)
    wrong = []
    for index, one in enumerate(found):
        if one.mark == "run by":
            file, _, test = one.note.partition("::")
            path = ROOT / file
            defined = path.is_file() and re.search(
                rf"^(async )?def {re.escape(test)}\(", path.read_text(), re.MULTILINE
            )
            if not defined:
                wrong.append(f"{one.place}: there is no test {one.note}")
        name = one.note.removesuffix(".py")  # a module is imported without its suffix
        if one.mark == "file" and not any(name in later.text for later in found[index + 1 :]):
            wrong.append(f"{one.place}: no later block uses {one.note}")
    assert wrong == []


def read(one: Block, directory: Path) -> None:
    """Read a block of data with the reader that it is meant for. Raises if it cannot be read."""
    if one.language == "json":
        json.loads(one.text)
        return
    content = tomllib.loads(one.text)
    file = directory / "block.toml"
    file.write_text(one.text)
    if "variable" in content:
        declared.convert(content, Declaration)
    elif "language" in content:
        found = manifest.load(str(directory))
        if found.problems:
            raise ValueError(found.problems)
    else:
        load(file, {"HOME": str(directory)}, {})


DATA = [one for page in PAGES for one in blocks(page) if one.language in {"json", "toml"} and not one.mark]


@pytest.mark.parametrize("one", DATA, ids=lambda one: one.place)
def test_data_can_be_read(one: Block, tmp_path: Path) -> None:
    """JSON is JSON; TOML is settings, a manifest or a declaration of versions."""
    read(one, tmp_path)


@pytest.mark.parametrize("text", ["[server]\nprot = 1\n", 'language = "x"\n', 'variable = "X"\n', "["])
def test_bad_data_is_found(text: str, tmp_path: Path) -> None:
    """The test above can fail."""
    with pytest.raises((ValueError, declared.Wrong, ConfigError)):
        read(Block(ROOT / "README.md", 1, "toml", text, "", ""), tmp_path)


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    dead = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "images").rglob("*.md"))], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links name."""
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """The test above can fail: by file, and by heading."""
    page = tmp_path / "page.md"
    page.write_text("# A `heading` here\n[a](#a-heading-here) [b](#nowhere) [c](none.md) [d](page.md#nor-there)\n")
    assert dead_links(page) == ["#nowhere", "none.md", "page.md#nor-there"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_exist(page: Path) -> None:
    """What a page names in the repository is there; `file.py:NAME` and `file.py::test` name something in a file."""
    wrong = []
    for named in [*NAMED_PATH.findall(prose(page)), *NAMED_FILE.findall(prose(page))]:
        path = re.split(r"::?", named)[0]
        if not any(ROOT.glob(path.rstrip("/"))):
            wrong.append(named)
    assert wrong == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_that_a_docstring_names_are_near(name: str) -> None:
    """A module named without its folder is in the same folder, in one beside it, above it or below it."""
    path = ROOT / name.replace(".", "/")
    folder = path if path.is_dir() else path.parent
    near = (folder, folder.parent, *folder.parent.glob("*/"), *folder.glob("*/"))
    named = NAMED_MODULE.findall(ast.get_docstring(MODULES[name]) or "")
    assert [each for each in named if not any((place / each).exists() for place in near)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) != OTHER_SETTINGS], ids=name_of)
def test_settings_exist(page: Path) -> None:
    """`[section] key` is a setting."""
    ours = {(row.section, row.key) for row in settings_table()}
    assert [pair for pair in NAMED_SETTING.findall(prose(page)) if pair not in ours] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_is_in_the_index(page: Path) -> None:
    """docs/README.md leads to every page; decisions and translations have a list of their own."""
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    exempt = page in (index, ROOT / "README.md", *TRANSLATIONS) or page.parent in listed
    assert page in listed or exempt, f"add {name_of(page)} to docs/README.md"


def _texts() -> list[str]:
    """Return every text of the source, with … for each value that is filled in."""
    found = []
    for module in MODULES.values():
        for node in ast.walk(module):
            if isinstance(node, ast.JoinedStr):
                parts = (value.value if isinstance(value, ast.Constant) else "…" for value in node.values)
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("{}", "…"))
    return found


def symptoms() -> list[str]:
    """Return the messages that docs/troubleshooting.md explains: what is in backticks in the headings."""
    found = re.findall(r"^### (`+)(.+)\1$", TROUBLESHOOTING.read_text(), re.MULTILINE)
    return [_without_field(text.strip()).removeprefix("…").removesuffix("…") for _, text in found]


def _without_field(message: str) -> str:
    """Return a message without the contract's name of a field, which the API puts before it."""
    for name in (*FIELDS.values(), "extensions.…"):  # the page does not name the extension
        message = message.removeprefix(f"{name}: ")
    return message


# The Python SDK's own.
OTHERS = {"Sandbox health check timed out"}


def test_troubleshooting_quotes_the_source() -> None:
    """A message that the page explains is one that the server, the agent or a tool of ours gives."""
    texts = [*_texts(), *(path.read_text() for path in (ROOT / "deploy").rglob("*") if path.is_file())]
    assert symptoms()
    assert [text for text in symptoms() if not any(text in one for one in texts)] == [*OTHERS]
