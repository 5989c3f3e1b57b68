"""Globs as the file search understands them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.errors import ExecdError
from execd.files.pattern import MAX_PATTERN_CHARS, compile_glob, expand_braces


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "d/e/a.py", ".py"], ["a.pyc", "py", "a.py/b"]),
        ("*", ["a", "d/.hidden", "new\nline"], []),
        ("?.txt", ["a.txt", "d/ü.txt"], [".txt", "ab.txt"]),
        ("[a-c]x", ["ax", "d/cx"], ["dx", "x"]),
        ("[!a-c]x", ["dx"], ["ax"]),
        ("[^a-c]x", ["dx"], ["ax"]),
        ("*.{js,ts}", ["a.js", "d/b.ts"], ["a.jsx", "a.{js,ts}"]),
        ("{a,b{c,d}}", ["a", "bc", "bd"], ["b", "ad"]),
        ("a{b", ["a{b"], ["ab"]),
        ("src/*.py", ["src/a.py"], ["a.py", "src/d/a.py", "x/src/a.py"]),
        ("/src/*.py", ["src/a.py"], ["x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/d/e/a.py"], ["a.py", "srcs/a.py", "src/d/a.pyc"]),
        ("**/test_*", ["test_a", "d/e/test_a"], ["d/a_test"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a", "b"]),
        ("**/a/**/b", ["a/b", "x/a/y/z/b", "a/a/b"], ["a", "b", "x/b"]),
        ("**", ["a", "d/b"], []),
        ("[", ["["], ["a"]),
    ],
)
def test_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = compile_glob(pattern)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN_CHARS + 1), "{a,b}" * 7])
def test_a_pattern_that_is_empty_or_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(ExecdError) as caught:
        compile_glob(pattern)
    assert caught.value.code == "request.invalid"


@pytest.mark.parametrize(
    "pattern", ["*a" * 100 + "b", "**/*a" * 100 + "b", "*/" * 200 + "b", "{*a*a*a*a,*b*b*b*b}" * 2 + "c"]
)
def test_no_pattern_makes_a_match_take_for_ever(pattern: str) -> None:
    """Backtracking over these would outlast the universe, and the interpreter lock is held meanwhile."""
    assert not compile_glob(pattern)("/".join(["a" * 250] * 200))


@given(st.text("ab*?[]!^{},/-.\\", min_size=1, max_size=30), st.text("ab/.-", min_size=1, max_size=30))
def test_any_pattern_compiles_or_is_refused(pattern: str, path: str) -> None:
    refused = ""
    try:
        matches = compile_glob(pattern)
    except ExecdError as error:
        refused = error.code
    assert refused == "request.invalid" if refused else matches(path) in {True, False}


@given(st.text("abc/", min_size=1, max_size=30).filter(lambda text: text.strip("/")))
def test_a_pattern_without_magic_matches_just_itself(path: str) -> None:
    path = "/".join(part for part in path.split("/") if part)
    assert compile_glob("/" + path)(path)
    assert not compile_glob("/" + path)(path + "x")


def test_braces_expand_also_inside_of_each_other() -> None:
    assert expand_braces("x{a,b{c,d},}y") == {"xay", "xbcy", "xbdy", "xy"}
