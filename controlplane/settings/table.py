"""All settings as rows of a table, for flags, environment variables, help texts and documentation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from controlplane.settings.sections import (
    ActivitySettings,
    ApiKey,
    AuditSettings,
    ConsoleSettings,
    EngineSettings,
    LogSettings,
    Origin,
    PathSettings,
    PoolSettings,
    SandboxSettings,
    SecuritySettings,
    ServerSettings,
    StorageSettings,
    TraceSettings,
)

_NAMED = {"activity", "audit", "console", "traces"}  # sections that their flags name: `--level` belongs to [logs]


class Setting(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    section: str
    key: str
    help: str
    expected: str  # the permitted values in words
    default: Any

    @property
    def environment_name(self) -> str:
        """The environment variable of this setting."""
        prefix = "SANDBOX" if self.section == "sandbox" else f"SANDLOT_{self.section.upper()}"
        return f"{prefix}_{self.key.upper()}"

    @property
    def flag(self) -> str:
        """The command line flag of this setting."""
        name = f"{self.section}_{self.key}" if self.section in _NAMED else self.key
        return f"--{name.replace('_', '-')}"


# Sections whose settings each have a variable and a flag. Only a file can hold pools and aliases.
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "sandbox": SandboxSettings,
    "engine": EngineSettings,
    "storage": StorageSettings,
    "paths": PathSettings,
    "security": SecuritySettings,
    "logs": LogSettings,
    "audit": AuditSettings,
    "console": ConsoleSettings,
    "activity": ActivitySettings,
    "traces": TraceSettings,
}


def settings_table() -> list[Setting]:
    """Return all settings that a variable or a flag can set, in order."""
    return [row for section, struct in SECTIONS.items() for row in rows_of(section, struct)]


def pool_table() -> list[Setting]:
    """Return the settings of an entry of `[[pools]]`. A setting without a default is mandatory."""
    return rows_of("pools", PoolSettings)


def rows_of(section: str, struct: type[msgspec.Struct]) -> list[Setting]:
    """Return the settings of one section, in order."""
    hints = get_type_hints(struct, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        # The annotated part of `Annotated[…] | None`.
        annotated = next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)
        kind, meta = get_args(annotated)[:2]
        rows.append(Setting(section, field.name, meta.description, _expected(kind, meta), field.default))
    return rows


def _expected(kind: Any, meta: Meta) -> str:
    if meta.extra is not None:
        return str(meta.extra["expected"])
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        return f"{number} from {meta.ge}" + (f" to {meta.le}" if meta.le is not None else "")
    if kind is str:
        return "a text that is not empty" if meta.min_length else "a text"
    if kind is bool:
        return "true or false"
    options = get_args(kind)
    if get_origin(options[0]) is tuple:
        return f"{_expected(options[0], meta)}, or a table of names and such texts"
    if options[0] in (ApiKey, Origin):
        return f"a list of texts, each of {get_args(options[0])[1].description}"
    return "a list of texts" if options[0] is str else f"one of {', '.join(options)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the name that was probably meant, as the end of a sentence; "" if none is close."""
    by_lower_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]}?)" if close else ""
