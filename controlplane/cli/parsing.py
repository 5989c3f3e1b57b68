"""Command lines: the parser, the flags of all settings, and the flags that name a server."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from controlplane.errors import InvalidRequest
from controlplane.settings import load, table

MORE_FLAGS = "This command also takes every setting in `sandlot serve --help`."
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}

Options = argparse.Namespace


class Say(Protocol):
    """Prints a line and flushes it. An output that nobody reads ends the program."""

    def __call__(self, text: str, end: str = "\n") -> None:
        """Print the text."""


class Parser(argparse.ArgumentParser):
    """A parser that names the flag that was probably meant. Abbreviated flags are not allowed."""

    status = 2  # of a program that was called in a wrong way

    def __init__(self, *args: object, **options: object) -> None:
        # A new setting could change what an abbreviation means.
        super().__init__(*args, **{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; the parser of a command refuses what it does not know by itself, because it knows what is near."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the message and end the program."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        flag = next((text.partition("=")[0] for text in unknown if text.startswith("--")), "")
        known = [text for action in self._actions for text in action.option_strings if text.startswith("--")]
        self.print_usage(sys.stderr)
        self.exit(self.status, f"{self.prog}: error: {message}{table.nearest(flag, known) if flag else ''}\n")


def settings_parser(*, are_shown: bool) -> Parser:
    """Return a parser of all settings. The help of most commands omits them."""
    parser = Parser(add_help=False)
    add_config(parser)
    for row in table.settings_table():
        text = f"{row.help} [{row.environment_name}, default: {_shown(row.default)}]".replace("%", "%%")
        parser.add_argument(
            row.flag,
            dest=f"{row.section}.{row.key}",
            metavar="VALUE",
            help=text if are_shown else argparse.SUPPRESS,
        )
    return parser


def add_config(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag of the settings file."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings file [{load.FILE_VARIABLE}, default: {load.DEFAULT_FILE}, if it exists]",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the server and the key."""
    group = parser.add_argument_group("the server")
    group.add_argument(
        "--server", metavar="URL", help="its address [OPEN_SANDBOX_DOMAIN, default: the server of this machine]"
    )
    group.add_argument("--key-file", metavar="FILE", help="a file with the API key [OPEN_SANDBOX_API_KEY]")
    group.add_argument("--api-key", metavar="KEY", help="the API key; others on this machine can see it in `ps`")
    add_config(group)


def given_settings(options: Options) -> Mapping[tuple[str, str], str]:
    """Return the settings that stand on the command line."""
    rows = table.settings_table()
    given = {(row.section, row.key): getattr(options, f"{row.section}.{row.key}", None) for row in rows}
    return {name: text for name, text in given.items() if text is not None}


def seconds(text: str, name: str) -> float:
    """Return the seconds of a time such as `90`, `1.5s`, `20m`, `2h` or `7d`. Raises InvalidRequest."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{name} {text}: expected a time such as 90, 30s, 20m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def pairs(texts: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Return the pairs of texts `KEY=VALUE`. Raises InvalidRequest."""
    found = [text.partition("=") for text in texts]
    for key, equals, value in found:
        if not key or not equals:
            raise InvalidRequest(f"{name} {key}{equals}{value}: expected KEY=VALUE")
    return [(key, value) for key, _, value in found]


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default) or "none"
    return "none" if default == "" else str(default).lower() if isinstance(default, bool) else str(default)
