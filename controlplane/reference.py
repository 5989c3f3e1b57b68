"""The settings as a page of documentation: `python -m controlplane.reference > docs/configuration.md`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from controlplane.config import DEFAULT_ALIASES, DEFAULT_FILE, Setting, pool_table, settings_table

REGENERATE = "python -m controlplane.reference > docs/configuration.md"

_INTRODUCTION = f"""\
# Configuration

<!-- Made from the table in `controlplane/config.py`; do not edit. `{REGENERATE}` -->

Settings come from a TOML file (`{DEFAULT_FILE}`, or the one that `--config` names), then from the environment, then
from flags; the last one wins. An empty variable counts as not set. `sandlot serve --help` shows the same list.

An unknown section, key or `SANDBOX_…` or `SANDLOT_…` variable is an error, and so is a bad value; the message says
where it stands and what was expected.

```toml
[server]
port = 8194

[sandbox]
pool_size = 5
memory_limit = 2097152   # KB

[[pools]]
image = "sandlot/python"
size = 2
```
"""


def page() -> str:
    """Return the page as Markdown."""
    rows = settings_table()
    return "".join(
        [
            _INTRODUCTION,
            *(
                f"\n## `[{section}]`\n\n" + _table([row for row in rows if row.section == section])
                for section in dict.fromkeys(row.section for row in rows)
            ),
            "\n## `[[pools]]`\n\n",
            "Further warm pools, beside the one of `[sandbox]`. Only in a file; any number of them.\n\n",
            _rows(("key", "value", "default", "what it does"), [_pool_row(row) for row in pool_table()]),
            "\n## `[aliases]`\n\n",
            "Names that callers may use for images of ours, with any tag. Only in a file, added to these:\n\n",
            _rows(("name", "stands for"), [(f"`{one}`", f"`{other}`") for one, other in DEFAULT_ALIASES.items()]),
        ]
    )


def _table(rows: Sequence[Setting]) -> str:
    return _rows(
        ("key", "variable", "flag", "value", "default", "what it does"),
        [
            (f"`{row.key}`", f"`{row.environment_name}`", f"`{row.flag}`", row.expected, _default(row), row.help)
            for row in rows
        ],
    )


def _pool_row(row: Setting) -> tuple[str, ...]:
    return f"`{row.key}`", row.expected, _default(row), row.help


def _default(row: Setting) -> str:
    if row.default is msgspec.NODEFAULT:
        return "must be set"
    if row.default in ("", (), None):
        return "none"
    return f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
