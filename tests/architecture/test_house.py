"""The shape of the tree: small folders, short files and functions, fixtures once, tests where their source is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

PRODUCT = ("controlplane", "execd")
MAX_ENTRIES = 14  # modules of a folder, and folders of a folder: a listing that is read at a glance
MAX_LINES = 460
MAX_P95_LINES = 25  # of functions
NAMELESS = {"common", "core", "helpers", "misc", "services", "util", "utils"}  # folders that say nothing

# Folders of more entries, each with its reason.
LARGE_FOLDERS = {
    "tests/unit/controlplane": "the tree of controlplane, room by room",
    "controlplane": "a room for each idea of the server; docs/architecture.md puts the rooms in order",
    "docs": "a page for each subject has an address that others link to; docs/README.md puts the pages in order",
    "docs/zh": "the pages of docs/ in Chinese, under the same names",
}

# Files of more lines, each with its reason.
LONG_FILES = {
    "controlplane/api/stream/messages.py": "one vocabulary: all messages of the native stream",
    "controlplane/settings/sections.py": "one vocabulary: all settings, from which docs/configuration.md is made",
    "execd/wire/messages.py": "one vocabulary: all messages of the link",
    "execd/wire/aio.py": "the one file of the link's protocol that does I/O; see docs/decisions/0001",
}


# Folders of what tools have made or fetched, which git ignores.
MADE = {"__pycache__", "node_modules", "dist"}


def folders(root: Path, *tops: str) -> Iterator[Path]:
    """Yield *tops* and all folders below them, without those that tools make."""
    for top in tops:
        yield root / top
        for entry in sorted((root / top).iterdir()) if (root / top).is_dir() else ():
            if entry.is_dir() and entry.name not in MADE:
                yield from folders(root, f"{top}/{entry.name}")


def modules(root: Path, *tops: str) -> Iterator[Path]:
    """Yield all Python files below *tops*."""
    for top in tops:
        yield from sorted((root / top).rglob("*.py"))


def large_folders(root: Path, *tops: str) -> dict[str, tuple[int, int]]:
    """Return the folders with too many entries, each with the numbers of its files and folders."""
    found = {}
    for folder in folders(root, *tops):
        entries = [entry for entry in folder.iterdir() if entry.name not in {"__init__.py", *MADE}]
        numbers = (sum(entry.is_file() for entry in entries), sum(entry.is_dir() for entry in entries))
        if max(numbers) > MAX_ENTRIES:
            found[folder.relative_to(root).as_posix()] = numbers
    return found


def long_files(root: Path, *tops: str) -> dict[str, int]:
    """Return the Python files with too many lines, each with the number of its lines."""
    lines = {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in modules(root, *tops)}
    return {name: number for name, number in lines.items() if number > MAX_LINES}


def function_lengths(root: Path, *tops: str) -> list[int]:
    """Return the lines of each function, in ascending order."""
    trees = (ast.parse(path.read_text()) for path in modules(root, *tops))
    return sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def p95(lengths: list[int]) -> int:
    """Return the length that 95 % of the functions do not exceed."""
    return lengths[len(lengths) * 95 // 100]


def is_one_sentence(docstring: str | None) -> bool:
    """Whether a docstring is one line and one sentence."""
    text = docstring or ""
    return text.endswith(".") and "\n" not in text and ". " not in text


def undescribed(root: Path, *tops: str) -> list[str]:
    """Return the packages whose `__init__.py` is missing or does not say in one sentence what the package is."""
    found = []
    for folder in folders(root, *tops):
        if not any(folder.glob("*.py")):
            continue
        init = folder / "__init__.py"
        if not init.exists() or not is_one_sentence(ast.get_docstring(ast.parse(init.read_text()))):
            found.append(folder.relative_to(root).as_posix())
    return found


def copied_fixtures(paths: Iterable[Path]) -> list[set[str]]:
    """Return groups of fixtures that are alike but for their names and docstrings."""
    places = defaultdict(set)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_fixture(node):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                content = "".join(map(ast.dump, [node.args, *body]))
                places[content].add(f"{path}: {node.name}")
    return [group for group in places.values() if len(group) > 1]


def _is_fixture(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    plain = (mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list)
    return any(isinstance(mark, ast.Attribute) and mark.attr == "fixture" for mark in plain)


def strays(root: Path) -> list[str]:
    """Return the folders below `tests/unit` that have no folder of the same name in the source."""
    units = root / "tests" / "unit"
    below = (folder.relative_to(units) for folder in folders(units, *(path.name for path in units.iterdir())))
    return [folder.as_posix() for folder in below if (units / folder).is_dir() and not (root / folder).is_dir()]


def write(path: Path, text: str = "") -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# -- folders and files ----------------------------------------


def test_a_folder_is_read_at_a_glance() -> None:
    found = large_folders(ROOT, *PRODUCT, "specs", "docs", "tests/unit", "tests/support")
    assert {name: numbers for name, numbers in found.items() if name not in LARGE_FOLDERS} == {}, "make folders"
    assert LARGE_FOLDERS.keys() <= found.keys(), "an exception is not needed any more"


def test_a_folder_with_too_many_entries_is_found(tmp_path: Path) -> None:
    """`__init__.py` and what Python keeps do not count; files and folders count each by themselves."""
    for number in range(MAX_ENTRIES + 1):
        write(tmp_path / f"a/full/m{number}.py")
        write(tmp_path / f"a/deep/f{number}/m.py")
    for number in range(MAX_ENTRIES):
        write(tmp_path / f"a/allowed/m{number}.py")
    write(tmp_path / "a/allowed/__init__.py")
    write(tmp_path / "a/allowed/__pycache__/m.pyc")
    assert large_folders(tmp_path, "a") == {"a/full": (MAX_ENTRIES + 1, 0), "a/deep": (0, MAX_ENTRIES + 1)}


def test_a_file_is_short() -> None:
    found = long_files(ROOT, *PRODUCT)
    assert {name: lines for name, lines in found.items() if name not in LONG_FILES} == {}, "split it by idea"
    assert LONG_FILES.keys() <= found.keys(), "an exception is not needed any more"


def test_a_long_file_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a/b/long.py", "x = 1\n" * (MAX_LINES + 1))
    write(tmp_path / "a/b/allowed.py", "x = 1\n" * MAX_LINES)
    assert long_files(tmp_path, "a") == {"a/b/long.py": MAX_LINES + 1}


def test_functions_are_short() -> None:
    """95 % of them; a few long ones, such as tables of routes, read better in one piece."""
    assert p95(function_lengths(ROOT, *PRODUCT)) <= MAX_P95_LINES


def test_long_functions_are_measured(tmp_path: Path) -> None:
    """Nested ones too."""
    short, long = "def f():\n    pass\n\n\n", "async def g():\n" + "    x = 1\n" * 40
    write(tmp_path / "a/m.py", short * 90 + long * 10)
    lengths = function_lengths(tmp_path, "a")
    assert (len(lengths), lengths[0], p95(lengths)) == (100, 2, 41)


# -- names ----------------------------------------


def test_a_package_says_in_one_sentence_what_it_is() -> None:
    assert undescribed(ROOT, *PRODUCT) == []


def test_a_package_without_its_sentence_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a/__init__.py", '"""Things of one kind: a, b and c."""\n')
    write(tmp_path / "a/two/__init__.py", '"""One sentence. Another one."""\n')
    write(tmp_path / "a/long/__init__.py", '"""One sentence.\n\nAnother one.\n"""\n')
    write(tmp_path / "a/empty/__init__.py")
    write(tmp_path / "a/missing/m.py")
    assert undescribed(tmp_path, "a") == ["a/empty", "a/long", "a/missing", "a/two"]


def test_a_folder_is_named_for_its_idea() -> None:
    names = [folder for folder in folders(ROOT, *PRODUCT, "specs", "tests") if folder.name in NAMELESS]
    assert names == []


@pytest.mark.parametrize("name", sorted(NAMELESS))
def test_a_folder_that_is_named_for_nothing_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / name).mkdir(parents=True)
    assert [folder.name for folder in folders(tmp_path, "a") if folder.name in NAMELESS] == [name]


# -- tests ----------------------------------------


def test_a_fixture_is_written_once() -> None:
    """What several files need is in the `conftest.py` above them."""
    assert copied_fixtures(modules(ROOT, "tests")) == []


def test_a_copy_of_a_fixture_is_found(tmp_path: Path) -> None:
    """Under another name, with another docstring or scope too; a function that is no fixture may be a copy."""
    body = "    store = Store(path)\n    yield store\n    store.close()\n"
    write(tmp_path / "a/test_one.py", f"@pytest.fixture\ndef store(path):\n{body}\n\ndef helper(path):\n{body}")
    write(tmp_path / "b/test_two.py", f'@pytest.fixture(scope="module")\ndef other(path):\n    """It."""\n{body}')
    write(tmp_path / "b/test_three.py", f"@pytest.fixture\ndef store(elsewhere):\n{body}")
    assert copied_fixtures(modules(tmp_path, "a", "b")) == [
        {f"{tmp_path}/a/test_one.py: store", f"{tmp_path}/b/test_two.py: other"}
    ]


def test_unit_tests_have_the_tree_of_the_source() -> None:
    assert strays(ROOT) == []


def test_a_folder_of_unit_tests_without_a_source_is_found(tmp_path: Path) -> None:
    write(tmp_path / "execd/files/read.py")
    write(tmp_path / "tests/unit/conftest.py")
    write(tmp_path / "tests/unit/execd/files/test_read.py")
    write(tmp_path / "tests/unit/execd/ports/test_ports.py")
    assert strays(tmp_path) == ["execd/ports"]
