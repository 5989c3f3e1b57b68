"""The table of attacks in docs/security.md: made of the battery's catalogue and of the markers of tests.

`python -m tests.security.table` writes it. Every test that carries the marker `attack` is a row; a marker with a name
of its own, which several tests carry, is one row for all of them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from controlplane.attack.catalogue import ATTACKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
HEADING = "\n## Attacks\n"
NOTE = "<!-- Made by `python -m tests.security.table`; do not edit. -->"
REGENERATE = "python -m tests.security.table"
CATEGORIES = ("host", "agent", "resources", "network", "edge", "secrets", "residue", "chaos")
HELD = "held"
KNOWN = "held without a network; broken with one"


class Row(NamedTuple):
    """One group of attacks."""

    category: str
    tries: str
    outcome: str
    result: str
    where: str

    def __str__(self) -> str:
        """Return the row as the table has it."""
        cells = (cell.replace("|", "\\|") for cell in self)
        return f"| {' | '.join(cells)} |"


def rows() -> list[Row]:
    """Return all rows: by category, the battery's first."""
    found = [*_of_battery(), *_of_tests()]
    return sorted(found, key=lambda row: CATEGORIES.index(row.category))


def _of_battery() -> Iterator[Row]:
    for attack in ATTACKS:
        result = KNOWN if attack.known else HELD
        yield Row(attack.category, attack.tries, attack.outcome, result, f"`sandlot attack --only {attack.id}`")


def _of_tests() -> Iterator[Row]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        yield from _of_file(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))


def _of_file(name: str, tree: ast.Module) -> Iterator[Row]:
    """Yield a row for each marker of a file, with the first test that carries it."""
    named = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and _is_marker(statement.value)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    bearers: dict[str, list[str]] = {each: [] for each in named}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Name) and decorator.id in named:
                bearers[decorator.id].append(node.name)
            elif _is_marker(decorator):
                yield _row(name, decorator, [node.name])
    for each, tests in bearers.items():
        if not tests:
            raise ValueError(f"{name}: no test carries the marker {each}")
        yield _row(name, named[each], tests)


def _is_marker(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.attack"


def _row(file: str, marker: ast.AST, tests: list[str]) -> Row:
    """Return the row of a marker. Raises ValueError when its arguments are no plain texts."""
    assert isinstance(marker, ast.Call)
    try:
        category, tries, outcome = (ast.literal_eval(argument) for argument in marker.args)
    except ValueError as error:
        raise ValueError(f"{file}: an attack's category, tries and outcome must be three plain texts") from error
    more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
    return Row(category, _sentence(tries), _sentence(outcome), HELD, f"`{file}::{tests[0]}`{more}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".")


def table() -> str:
    """Return the table."""
    found = rows()
    counts = ", ".join(f"{sum(row.category == name for row in found)} {name}" for name in CATEGORIES)
    lines = [
        NOTE,
        "",
        f"{len(found)} groups of attacks: {counts}. Each run of the tests tries every group.",
        "A test also shows that each attack of `sandlot attack`, and each attack on a bound that can be lifted,",
        "succeeds against something weaker.",
        "",
        "| category | what is tried | required outcome | outcome | tried by |",
        "|---|---|---|---|---|",
        *map(str, found),
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with the table as it is to be."""
    before, heading, rest = PAGE.read_text().partition(HEADING)
    _, next_heading, after = rest.partition("\n## ")
    if not heading:
        raise ValueError(f"{PAGE}: there is no heading '## Attacks'")
    return f"{before}{HEADING}\n{table()}{next_heading}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{len(rows())} groups of attacks\n")
