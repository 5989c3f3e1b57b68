"""The table of codes that execd sends."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from execd.errors import CODES, is_code
from tests.architecture.sources import MODULES

# In the role of the control plane, towards a deputy.
TO_DEPUTIES = {"client.gone"}
# Function → the position of the code among its arguments.
SENDERS = {"ExecdError": 0, "reset": 0, "send_away": 0, "Problem": 0}


def _sent() -> Iterator[tuple[str, str]]:
    """Yield the module and the code of each call in execd that sends a code, where the code is written out."""
    for name, module in MODULES.items():
        if name.split(".")[0] == "execd":
            for node in ast.walk(module):
                if isinstance(node, ast.Call):
                    for code in _codes_of(node):
                        yield name, code


def _codes_of(call: ast.Call) -> Iterator[str]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    values = [call.args[SENDERS[name]]] if name in SENDERS and len(call.args) > SENDERS[name] else []
    values += [keyword.value for keyword in call.keywords if keyword.arg in ("code", "refusal")]
    yield from (node.value for node in values if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_code_that_is_sent_is_in_the_table() -> None:
    sent = list(_sent())
    assert len(sent) > 100, "the calls have another form now"
    assert [one for one in sent if one[1] not in CODES | TO_DEPUTIES] == []


def test_every_code_of_the_table_is_sent() -> None:
    """Also by tables, as that of the errors of files."""
    texts = {
        node.value
        for name, module in MODULES.items()
        if name.split(".")[0] == "execd" and name != "execd.errors"
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert texts >= CODES


def test_a_deputy_cannot_invent_a_code() -> None:
    assert is_code("file.denied")
    assert not is_code("file.invented")
