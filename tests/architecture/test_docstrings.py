"""A docstring that names a member of one of our classes names one that exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.sources import MODULES

NAMED_MEMBER = re.compile(r"`([A-Z]\w+)\.([a-z_]\w*)[`(]")


def members(tree: ast.AST) -> set[str]:
    """Return the `Class.member` of a tree: methods, fields, and what methods set on `self`."""
    found = set()
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        names = {node.name for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for node in ast.walk(kind):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                names |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
        found |= {f"{kind.name}.{name}" for name in names}
    return found


def named(tree: ast.AST) -> set[str]:
    """Return each `Class.member` that a docstring of the tree names."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return {f"{kind}.{name}" for text in texts for kind, name in NAMED_MEMBER.findall(text)}


KNOWN = set().union(*(members(tree) for tree in MODULES.values()))


@pytest.mark.parametrize("name", sorted(name for name, tree in MODULES.items() if named(tree)))
def test_a_member_that_a_docstring_names_exists(name: str) -> None:
    assert named(MODULES[name]) - KNOWN == set()


def test_a_member_that_is_gone_is_found() -> None:
    """A method that was renamed leaves the docstrings that name it behind."""
    tree = ast.parse('class Door:\n    def shut(self):\n        """Undo `Door.open()`, as `Door.shut` says."""')
    assert named(tree) - members(tree) == {"Door.open"}
