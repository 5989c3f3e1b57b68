"""The source tree as its own tests read it: modules, and who imports whom. Nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("controlplane", "execd")


class Import(NamedTuple):
    """One import, as written."""

    importer: str
    imported: str  # a module of ours, or the library's full name as written
    function: str  # "" at the top of the module


def modules() -> dict[str, ast.Module]:
    """Return name → syntax tree of every module of ours; a package is named without `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


MODULES = modules()
FOLDERS = {name for name in MODULES if (ROOT / name.replace(".", "/")).is_dir()}


def imports(name: str) -> Iterator[Import]:
    """Yield all imports of a module, those inside functions and TYPE_CHECKING blocks too."""
    yield from _imports_below(name, MODULES[name], "")


def _imports_below(name: str, node: ast.AST, function: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name, alias.name, function)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(name, child)
            for alias in child.names:
                full = f"{source}.{alias.name}"
                yield Import(name, full if full in MODULES else source, function)
        else:
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            yield from _imports_below(name, child, inner)


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if name in FOLDERS else name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)
