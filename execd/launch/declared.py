"""The TOML files of an image's declarations, read with errors that tell how to correct the file."""

from __future__ import annotations

import os
import re
from typing import TypeVar

import msgspec

SUFFIX = ".toml"
MAX_FILE_BYTES = 64 * 1024
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")

T = TypeVar("T")


class Wrong(Exception):
    """A declaration that cannot be used. `key` is the wrong key; "" stands for the whole file."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key


def files_of(directory: str) -> list[str]:
    """Return the names of the declarations in a directory, sorted. A missing directory has none."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))


def read(path: str) -> tuple[str, dict[str, object]]:
    """Return the text of a file and its content.

    Raises:
        Wrong: The file cannot be read, is too large, or is not TOML in UTF-8.
    """
    import tomllib  # noqa: PLC0415 (an image without declarations never needs it)

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise Wrong("", f"larger than {MAX_FILE_BYTES} bytes")
        text = data.decode()
        return text, tomllib.loads(text)
    except OSError as error:
        raise Wrong("", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Wrong("", f"not UTF-8: {error.reason} at byte {error.start} (at line {line})") from error
    except tomllib.TOMLDecodeError as error:
        end = f"at line {len(text.splitlines())}, the last one"
        raise Wrong("", f"not TOML: {error}".replace("at end of document", end)) from error


def convert(content: dict[str, object], kind: type[T]) -> T:
    """Return the content of a file as a Struct.

    Raises:
        Wrong: A key is unknown or missing, or a value has the wrong type.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        # msgspec says "Expected `str`, got `int` - at `$.command[0]`".
        problem, _, place = str(error).partition(" - at `$.")
        unknown = _UNKNOWN.match(problem)
        key = unknown[1] if unknown and not place else place.removesuffix("`")
        raise Wrong(key, problem[0].lower() + problem[1:]) from error


def line_of(text: str, key: str) -> str:
    """Return ":3" if a key is in the third line; "" if no line has it, because the missing key may be the error."""
    name = key.partition("[")[0].partition(".")[0]
    # `name = …`, `"name" = …`, `name.more = …`, `[name]`, `[name.more]`
    written = re.compile(rf"""\s*(\[\[?\s*)?(["']?){re.escape(name)}\2\s*[.=\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if name and written.match(line):
            return f":{number}"
    return ""
