"""What an operator has set: the settings that are not the defaults, as texts, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from controlplane.settings.sections import Settings
from controlplane.settings.table import SECTIONS

# Settings whose values are never shown.
SECRETS = frozenset({("server", "api_keys"), ("traces", "collector_headers")})
HIDDEN = "(not shown)"
_PASSWORD = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")  # a name and a password in a URL, such as of a collector


class Difference(msgspec.Struct, frozen=True):
    """A setting that is not the default."""

    name: str  # "[section] key", as messages name it
    value: str
    default: str


def differences(settings: Settings) -> Iterator[Difference]:
    """Yield the settings that are not the defaults, in order, pools and aliases last."""
    defaults = Settings()
    for section in SECTIONS:
        mine, usual = getattr(settings, section), getattr(defaults, section)
        for field in type(usual).__struct_fields__:
            value, default = getattr(mine, field), getattr(usual, field)
            if value != default:
                is_secret = (section, field) in SECRETS
                yield Difference(f"[{section}] {field}", HIDDEN if is_secret else _text(value), _text(default))
    for pool in settings.pools:
        given = [
            f"{field.name} = {_text(value)}"
            for field in msgspec.structs.fields(pool)
            if (value := getattr(pool, field.name)) != field.default
        ]
        yield Difference("[[pools]]", ", ".join(given), "")
    for alias, image in settings.aliases.items():
        yield Difference(f"[aliases] {alias}", image, "")


def _text(value: object) -> str:
    """Return a value as people write it; an empty one as ""."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return _PASSWORD.sub("…", str(value))
