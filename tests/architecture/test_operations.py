"""An operation is said once: its name, its addresses and its statuses stand in one row of one `operations.py`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from controlplane.api.edge.operation import ON_STREAM, SANDBOX_PATH, Operation
from controlplane.api.routes import OPERATIONS
from tests.architecture.sources import MODULES, ROOT

NAMES = {operation.name for operation in OPERATIONS}
PATHS = {operation.path for operation in OPERATIONS} | {operation.full_path for operation in OPERATIONS}
# Who serves operations and who describes them. The link has words of its own (`execd/wire`), and the battery is a
# client, which knows the server by HTTP alone.
SOURCES = {name: tree for name, tree in MODULES.items() if name.startswith(("controlplane.api", "controlplane.access"))}
SOURCES |= {
    f"specs.generate.{path.stem}": ast.parse(path.read_text()) for path in (ROOT / "specs" / "generate").glob("*.py")
}
# `opened.py` has a row of its own, because the socket needs it and `operations.py` needs the socket.
ROWS = {name for name in SOURCES if name.endswith(".operations")} | {"controlplane.api.stream.opened"}
# Words that are also used for other things. That they name an operation once is seen in the calls of `Operation`.
PLAIN_WORDS = {name for name in NAMES if "." not in name}


def texts(node: ast.AST) -> Iterator[str]:
    """Yield every string below a node; of an f-string, its parts between the values.

    The arguments of a class are left out: the tags of the native stream's messages are a vocabulary of that contract.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in node.body if isinstance(node, ast.ClassDef) else ast.iter_child_nodes(node):
        yield from texts(child)


def rows(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield every call of `Operation` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == Operation.__name__:
            yield node


def name_of(row: ast.Call) -> str:
    """Return the name that a row begins with."""
    first = row.args[0]
    if isinstance(first, ast.Starred) and isinstance(first.value, ast.Tuple):
        first = first.value.elts[0]
    assert isinstance(first, ast.Constant), f"line {row.lineno}: a row begins with its name"
    return str(first.value)


def strangers(sources: dict[str, ast.Module]) -> list[str]:
    """Return the modules beside the rows that write a name or a path of an operation."""
    words = (NAMES - PLAIN_WORDS) | {path for path in PATHS - {SANDBOX_PATH} if path.count("/") > 1}
    return [
        f"{module}: {text}"
        for module, tree in sources.items()
        if module not in ROWS
        for text in texts(tree)
        if text in words
    ]


def test_each_name_has_one_row() -> None:
    """An operation with several addresses has them by `at` and `below`, so all else of it is said once."""
    written = Counter(name_of(row) for module in ROWS for row in rows(SOURCES[module]))
    assert written == Counter(NAMES)


def test_rows_are_nowhere_else() -> None:
    """Whoever looks for an operation opens the `operations.py` of its contract."""
    assert [module for module, tree in SOURCES.items() if module not in ROWS and list(rows(tree))] == []


def test_no_name_or_path_stands_in_a_second_place() -> None:
    """Other modules have the row. So they can keep no table of statuses, scopes or answers by name either."""
    assert strangers(SOURCES) == []


def test_a_second_place_is_found() -> None:
    """The test above could fail."""
    table = ast.parse('STATUSES = {"file.upload": {400, 500}}\nPATH = "/code/contexts/{context_id}"')
    assert strangers({"new": table}) == ["new: file.upload", "new: /code/contexts/{context_id}"]


def test_rows_of_one_name_differ_in_their_address_alone() -> None:
    """Statuses, scopes and answers are those of the operation, wherever it is asked."""
    first: dict[str, Operation] = {}
    for operation in OPERATIONS:
        known = first.setdefault(operation.name, operation)
        assert operation == known.at(operation.method, operation.path), operation.name


def test_no_address_is_taken_twice() -> None:
    """The second operation would never be reached."""
    served = Counter(
        (method, operation.full_path)
        for operation in OPERATIONS
        for method in operation.method.split()
        if operation.method != ON_STREAM
    )
    assert [address for address, count in served.items() if count > 1] == []
