"""Loading of the settings from a TOML file, the environment and flags; the last one wins."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from controlplane.errors import ConfigError
from controlplane.sandbox import MIN_CPUS
from controlplane.settings.contradictions import contradictions
from controlplane.settings.sections import (
    CPU_QUOTA_IN_US,
    MIN_MEMORY_KB,
    PathSettings,
    PoolSettings,
    Settings,
    cpus_of,
)
from controlplane.settings.table import SECTIONS, Setting, nearest, rows_of, settings_table
from controlplane.settings.upstream import PAGE as MIGRATION_PAGE
from controlplane.settings.upstream import UPSTREAM_VARIABLES, upstream_hints

DEFAULT_FILE = "~/.sandbox.toml"
FILE_VARIABLE = "SANDBOX_CONFIG_PATH"  # names another file, as for the OpenSandbox server
# Not settings, although they look so: examples of the official clients, and `make engine`, read these variables.
FOREIGN_VARIABLES = frozenset({"SANDBOX_DOMAIN", "SANDBOX_API_KEY", "SANDLOT_DOCKERD_LOG"})


def load(
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[tuple[str, str], str],
    warn: Callable[[str], None] = lambda _: None,
) -> Settings:
    """Return the settings.

    Without *file*, read the file that `SANDBOX_CONFIG_PATH` names, or `~/.sandbox.toml` if it exists. *flags* maps
    (section, key) to the text on the command line. An empty variable counts as not set. *warn* receives a sentence for
    each setting in an outdated unit.

    Raises:
        ConfigError: a source cannot be read, or a setting is unknown, has a bad value or contradicts another.
    """
    tree: dict[str, Any] = {}
    sources: dict[tuple[str, str], str] = {}  # of each setting
    home = Path(environment.get("HOME") or "~").expanduser()
    path = _file(file, environment, home)
    if path is not None:
        tree = _read(path)
        _convert(tree, str(path), warn)  # so that an error names the file and not a variable
        sources = {(section, key): str(path) for section, keys in tree.items() for key in keys if section != "pools"}
    _refuse_unknown(environment)
    for row in settings_table():
        for text, source in (
            (environment.get(row.environment_name) or None, row.environment_name),
            (flags.get((row.section, row.key)), row.flag),
        ):
            if text is not None:
                value = _parse(row, text)
                _convert({row.section: {row.key: value}}, source, warn)
                tree.setdefault(row.section, {})[row.key] = value
                sources[row.section, row.key] = source
    settings = _convert(tree, "settings")
    for places, message in contradictions(settings):
        source = next((sources[place] for place in places if place in sources), str(path))
        raise ConfigError(f"{source}: {message}")
    return msgspec.structs.replace(settings, paths=_absolute(settings.paths, environment, home))


def _file(named: Path | None, environment: Mapping[str, str], home: Path) -> Path | None:
    """Return the file to read, or None. A file that was named may be missing; `_read` reports that."""
    if named is not None:
        return named
    if text := environment.get(FILE_VARIABLE):
        return home / text.removeprefix("~/") if text.startswith("~/") else Path(text)
    path = home / DEFAULT_FILE.removeprefix("~/")
    return path if os.path.exists(path) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows write a mark
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    rows = settings_table()
    known = {row.environment_name for row in rows} | {FILE_VARIABLE}
    for name in sorted(environment.keys() - known - FOREIGN_VARIABLES):
        if (hint := UPSTREAM_VARIABLES.get(name)) is not None:
            raise ConfigError(f"{name}: is a variable of the OpenSandbox server; {hint} (see {MIGRATION_PAGE})")
        if name.startswith(("SANDBOX_", "SANDLOT_")):
            key = name.partition("_")[2].lower()  # people often do not know the section, as in SANDBOX_PORT
            meant = next((row.environment_name for row in rows if row.key == key), "")
            ending = f" (did you mean {meant}?)" if meant else nearest(name, known)
            raise ConfigError(f"{name}: there is no such setting{ending}; unset it, or rename it")


def _parse(row: Setting, text: str) -> Any:
    """Return the text of a variable or flag as the value that TOML would give. `_convert` checks the value."""
    if isinstance(row.default, bool):
        words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False}
        return (words | {"off": False}).get(text.strip().lower(), text)
    if isinstance(row.default, tuple):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(row.default, int | float):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


def _convert(tree: dict[str, Any], source: str, warn: Callable[[str], None] = lambda _: None) -> Settings:
    """Return the settings of *tree*, checked. Raises ConfigError."""
    if hints := list(upstream_hints(tree)):
        listed = "".join(f"\n  {hint}" for hint in hints)
        raise ConfigError(
            f"{source}: has settings of the OpenSandbox server. Write Sandlot's instead (see {MIGRATION_PAGE}):{listed}"
        )
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), tree)}") from error
    for place, quota in _cpu_quotas(settings):
        if 0 < quota < MIN_CPUS:
            raise ConfigError(f"{source}: {place}: expected 0 or at least {MIN_CPUS} CPUs, got {quota:g}")
        if quota >= CPU_QUOTA_IN_US:
            cpus = f"{cpus_of(quota):g}"
            warn(
                f"{source}: {place} = {quota:g} is read as µs in each 100 ms, which makes {cpus} CPUs; "
                f"the unit is CPUs now, write {cpus}"
            )
    for place, kilobytes in _memory_limits(settings):
        if 0 < kilobytes < MIN_MEMORY_KB:
            raise ConfigError(f"{source}: {place}: expected 0 or at least {MIN_MEMORY_KB} KB, got {kilobytes}")
    return settings


def _cpu_quotas(settings: Settings) -> Iterator[tuple[str, float]]:
    yield _place("sandbox", "cpu_quota"), settings.sandbox.cpu_quota
    yield _place("sandbox", "max_cpus"), settings.sandbox.max_cpus
    for index, pool in enumerate(settings.pools):
        yield _place(f"pools[{index}]", "cpu_quota"), pool.cpu_quota or 0


def _memory_limits(settings: Settings) -> Iterator[tuple[str, int]]:
    yield _place("sandbox", "memory_limit"), settings.sandbox.memory_limit
    yield _place("sandbox", "max_memory"), settings.sandbox.max_memory
    for index, pool in enumerate(settings.pools):
        yield _place(f"pools[{index}]", "memory_limit"), pool.memory_limit or 0


def _explain(message: str, tree: Mapping[str, Any]) -> str:
    """Return msgspec's message in the words of the table of settings."""
    text, _, where = message.partition(" - at ")
    path = where.removeprefix("`key` in ").strip("`").removeprefix("$").lstrip(".")
    section, _, key = path.partition(".")
    if section.startswith("aliases["):
        return '[aliases]: expected names of images, each a text in quotes: name = "image"'
    struct = PoolSettings if section.startswith("pools[") else SECTIONS.get(section)
    if (unknown := _UNKNOWN.match(text)) is not None:
        return _explain_unknown(unknown[1], section, struct)
    missing = _MISSING.match(text)
    name = missing[1] if missing is not None else key.partition("[")[0]
    row = next((row for row in rows_of(section, struct) if row.key == name), None) if struct is not None else None
    if row is None:
        example = "[[pools]], once for each pool" if section.startswith("pools") else f"[{section}], then key = value"
        return f"{section}: expected a table: {example}"
    if missing is not None:
        return f"{_place(section, name)}: is missing; expected {row.expected}"
    value = "" if isinstance(row.default, tuple) else f", got {_value(tree, path)!r:.60}"  # keys are secret
    return f"{_place(section, name)}: expected {row.expected}{value}"


def _explain_unknown(name: str, section: str, struct: type[msgspec.Struct] | None) -> str:
    known = struct.__struct_fields__ if struct is not None else Settings.__struct_fields__
    elsewhere = [f"[{row.section}] {row.key}" for row in settings_table() if row.key == name]
    meant = f" (did you mean {elsewhere[0]}?)" if elsewhere else nearest(name, known)
    kind = "key" if section else "section or key" if elsewhere else "section"
    place = f"{_place(section, '')}: " if section else ""
    return f"{place}there is no such {kind} `{name}`{meant or '; there are: ' + ', '.join(known)}"


def _value(tree: Any, path: str) -> Any:
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        tree = tree[key or int(index)]
    return tree


def _place(section: str, key: str) -> str:
    """Return the name of a section, and of a key in it, as the beginning of a message."""
    if (pool := re.fullmatch(r"pools\[(\d+)\]", section)) is not None:
        place = f"[[pools]] no. {int(pool[1]) + 1}"
    else:
        place = f"[{section}]"
    return f"{place}{' ' + key if key else ''}"


def _absolute(paths: PathSettings, environment: Mapping[str, str], home: Path) -> PathSettings:
    """Return *paths* with default directories filled in. All are absolute, because the engine takes no others."""
    root = os.geteuid() == 0
    state = "/var/lib/sandlot" if root else f"{environment.get('XDG_STATE_HOME') or home / '.local/state'}/sandlot"
    run = "/run/sandlot" if root else f"{environment.get('XDG_RUNTIME_DIR') or state}/sandlot"
    images = str(Path(__file__).parents[2] / "images")

    def absolute(path: str) -> str:
        return str((home / path.removeprefix("~/") if path.startswith("~/") else Path(path)).absolute())

    return PathSettings(
        state_dir=absolute(paths.state_dir or state),
        run_dir=absolute(paths.run_dir or run),
        images_dir=absolute(paths.images_dir or images),
    )
