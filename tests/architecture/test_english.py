"""The mechanical part of the rules of English (docs/CONTRIBUTING.md), for docstrings and comments of the product."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.architecture.sources import ROOT

FOLDERS = ("controlplane", "execd", "specs/generate")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

# Riddles: each leaves out the noun that a reader needs.
BANNED = re.compile(
    r"\b(it is so|that is so|whoever|somebody|everybody|anybody|(is|are) nobody's|all the same|others say|how-manieth"
    r"|for want of|and its kin|what there is to|as it stands)\b",
    re.IGNORECASE,
)
# First words of a docstring that are no imperative.
NO_VERB = re.compile(
    "A|After|All|An|Any|As|At|Before|Everything|For|From|How|If|In|Inside|It|Its|Like|More|No|None|Nothing|On|Only"
    "|Something|That|The|There|These|This|Those|To|What|When|Where|Whether|Which|While|Who|Whose|With"
    "|DELETE|GET|PATCH|POST|PUT|WebSocket"
)
VERBS_IN_S = frozenset({"Access", "Address", "Bypass", "Compress", "Dismiss", "Pass", "Press", "Process"})
# Decorators of functions that a reader sees as attributes: their docstrings are noun phrases.
ATTRIBUTES = frozenset({"property", "cached_property"})


class Text(NamedTuple):
    """A docstring or a comment."""

    line: int
    text: str
    function: str = ""  # the function whose docstring this is


def texts(source: str) -> Iterator[Text]:
    """Yield the docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (text := ast.get_docstring(node)) is not None:
            yield Text(node.body[0].lineno, text, _function(node))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)


def _function(node: ast.AST) -> str:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    names = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
    return "" if names & ATTRIBUTES else node.name


def is_imperative(text: str) -> bool:
    """Return whether a docstring may begin with an imperative."""
    first = re.split(r"[\s.,:;]", text, maxsplit=1)[0]
    third_person = first.endswith("s") and first not in VERBS_IN_S
    return first[:1].isupper() and first.isalpha() and not NO_VERB.fullmatch(first) and not third_person


def riddles(source: str) -> list[str]:
    """Return the banned phrases of a module, each with its line."""
    return [f"{each.line}: {found[0]}" for each in texts(source) if (found := BANNED.search(each.text))]


def statements(source: str) -> list[str]:
    """Return the docstrings of functions that begin with no imperative, each with its line."""
    return [
        f"{each.line}: {each.function}: {each.text.splitlines()[0]}"
        for each in texts(source)
        if each.function and not is_imperative(each.text)
    ]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_sentence_is_a_riddle(path: Path) -> None:
    """A stranger must not have to guess who or what is meant."""
    assert riddles(path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_the_docstring_of_a_function_begins_with_an_imperative(path: Path) -> None:
    """Return, Start, Raise …: what a call does."""
    assert statements(path.read_text()) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=_name)
def test_a_folder_says_what_it_is(path: Path) -> None:
    """A sentence in `__init__.py` is the first thing that a stranger reads of a folder."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# Whoever asks is served.", ["1: Whoever"]),
        ('"""It is so."""', ["1: It is so"]),
        ('def f():\n    """Return it to somebody."""', ["2: somebody"]),
        ("everybody = 1  # names of variables are free", []),
    ],
)
def test_a_riddle_is_found(source: str, expected: list[str]) -> None:
    assert riddles(source) == expected


@pytest.mark.parametrize(
    ("docstring", "is_found"),
    [
        ("Return it.", False),
        ("Pass it on.", False),
        ("Returns it.", True),
        ("Whether it is.", True),
        ("*size* in bytes.", True),
        ("GET /health.", True),
    ],
)
def test_a_statement_is_found(docstring: str, is_found: bool) -> None:
    assert bool(statements(f'def f():\n    """{docstring}"""')) is is_found
    assert (
        statements(f'class C:\n    """{docstring}"""\n    @property\n    def f(self):\n        """{docstring}"""') == []
    )
