"""The settings as pages of documentation.

`python -m specs.generate.configuration > docs/configuration.md` writes the whole page, and
`python -m specs.generate.configuration migration` the table of `docs/migrating-from-opensandbox.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from controlplane.settings.load import DEFAULT_FILE, FILE_VARIABLE
from controlplane.settings.sections import DEFAULT_ALIASES
from controlplane.settings.table import Setting, pool_table, settings_table
from controlplane.settings.upstream import ANY_KEY, UPSTREAM_SETTINGS

REGENERATE = "make specs"

_INTRODUCTION = f"""\
# Configuration

<!-- Made from the table in `controlplane/settings/sections.py`; do not edit. `{REGENERATE}` -->

Settings come from a TOML file, then from the environment, then from flags; the last one wins. `--config` names the
file. Without `--config`, the variable `{FILE_VARIABLE}` names the file. Without both, the server reads
`{DEFAULT_FILE}` if that file exists. An empty variable counts as not set. `sandlot serve --help` shows the same list.

An unknown section, key, flag, or `SANDBOX_…` or `SANDLOT_…` variable is an error, and so is a bad value. The message
names the file, the key, the expected value, and the nearest valid key. The server refuses a file of the OpenSandbox
server, and lists Sandlot's key for each key of the file;
[migrating-from-opensandbox.md](migrating-from-opensandbox.md) lists all keys.

```toml
[server]
port = 8194

[sandbox]
pool_size = 5
memory_limit = 2097152   # KB

[[pools]]
name = "small"
image = "sandlot/python"
size = 2
memory_limit = 524288    # KB
```

## Logs

Log lines go to stderr, as text on a terminal and as JSON elsewhere (`[logs] format`). If the log is JSON, it also
contains the messages that the server prints on a terminal (`listening`, `ready`, `not ready`, `stopping`), as
`server.listening` and so on. The line of a request has the client's address, the name of the API key (or `token`,
`ticket`, `signature`), the sandbox, and for a refusal the code and the reason. A log line never contains a secret. The
keys of a list get the names `key-1`, `key-2` …, and the key that the first start creates gets the name `api-key`. A
table gives names to keys:

```toml
[server.api_keys]
alice = "a-key-that-is-long-enough"
ci = "another-key-that-is-long-enough"
```

The first start prints the key that it creates only on a terminal; `sandlot key` prints this key at any time. All these
keys are administrators' keys; [keys.md](keys.md) describes keys with scopes and quotas, and the audit log.

## Defaults and maxima

`cpu_quota` and `memory_limit` are **defaults**: they apply to a sandbox whose request has no limits. A client may ask
for less or for more; the official Python SDK always asks for 1 CPU and 2Gi. `max_cpus` and `max_memory` bound the
request; without these settings, the size of the engine's machine is the bound. A request for more is answered with
status 400.

`max_sandboxes` bounds the number of sandboxes at once. `memory_overcommit` and `cpu_overcommit` bound the sum of the
limits of all sandboxes, as a multiple of the machine: a limit is the most that a sandbox may use, and most sandboxes
use far less. Beyond a bound, a create is answered with status 403 and the code `KUBERNETES::QUOTA_EXCEEDED`, which
the contract defines for this case, until another sandbox has ended. Warm containers do not count; a sandbox without a
limit counts as nothing in the sum.

`max_lifetime` counts from the creation of a sandbox. A client that asks for no timeout gets `max_lifetime`. A request
for more, in a create or in a renewal, is answered with status 400. Renewal by use ends at `max_lifetime`.
"""

_POOLS = """\
A file may define any number of further warm pools, beside the pool of `[sandbox]`, whose name is `default`. Variables
and flags cannot define pools.

A create takes a warm container from the pool that has the requested image and network, and the limits and the runtime
of `[sandbox]`; the server sets other limits when the create takes the container. Every other pool serves the clients
that name it.

A client that sends `extensions {"poolRef": "NAME"}` takes a container from the pool of that name. As with the
OpenSandbox server, the pool decides the image and the limits: `image`, `entrypoint` and `resourceLimits` may be left
out, and the server ignores an image or limits in the request. `volumes`, `networkPolicy`, `platform` and `snapshotId`
cannot be combined with `poolRef`. With `"poolRef": "*"`, the server chooses the pool by the image, or `default`
without an image.

"""

_ALIASES = """\
Names that clients may use for Sandlot's images, with any tag or digest. Aliases of a file are added to the aliases
below; variables and flags cannot set aliases. An alias with a tag applies to that tag only. Unless
`[engine] alias_any_registry = false`, an alias with a slash and without a registry also applies to the image of that
name in every registry.

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
            _POOLS,
            _rows(("key", "value", "default", "what it does"), [_pool_row(row) for row in pool_table()]),
            "\n## `[aliases]`\n\n",
            _ALIASES,
            _rows(("name", "stands for"), [(f"`{one}`", f"`{other}`") for one, other in DEFAULT_ALIASES.items()]),
        ]
    )


def migration_table() -> str:
    """Return the settings of the OpenSandbox server, and what to write instead, as a Markdown table."""
    rows = [
        (f"`[{section}]`" if key == ANY_KEY else f"`[{section}] {key}`", hint)
        for section, keys in UPSTREAM_SETTINGS.items()
        for key, hint in keys.items()
    ]
    return _rows(("OpenSandbox server", "Sandlot"), [(name, hint.replace("*", r"\*")) for name, hint in rows])


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
    if isinstance(row.default, tuple):
        return ", ".join(f"`{item}`" for item in row.default)
    return f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(migration_table() if sys.argv[1:] == ["migration"] else page())
