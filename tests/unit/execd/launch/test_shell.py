"""Text as shells read it: a real one says what it has read."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.errors import ExecdError
from execd.launch.shell import exports, quoted

texts = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


def _said(script: str) -> str:
    return subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("text", ["", "it's", "'", '$HOME `id` \\ "', "a\nb\n", "-n", "*", "ü\x01"])
def test_quoted_text_is_one_word(text: str) -> None:
    """Exactly that."""
    assert _said(f"printf %s {quoted(text)}") == text


@given(texts)
def test_no_text_gets_out_of_its_quotes(text: str) -> None:
    """Outside of single quotes there is nothing but escaped ones."""
    inside = quoted(text)[1:-1].split("'\\''")
    assert "'".join(inside) == text
    assert not any("'" in part for part in inside)


def test_variables_are_exported() -> None:
    """For the programs that follow."""
    assert exports({}) == ""
    script = (
        exports({"A": "it's $X", "_B2": "c\nd"})
        + 'exec python3 -c \'import os; print(os.environ["A"], os.environ["_B2"])\''
    )
    assert _said(script) == "it's $X c\nd\n"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A;id", "Ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """It would be code."""
    with pytest.raises(ExecdError, match="cannot be a variable"):
        exports({name: "x"})
    with pytest.raises(ExecdError, match="cannot be a variable"):
        exports({"A": "x\0"})
