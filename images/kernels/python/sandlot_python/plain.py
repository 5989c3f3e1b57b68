"""Values of user code as the protocol can carry them: exact texts, bounded numbers, JSON that every reader accepts.

User code may replace anything that it can import, so this module uses its own copies of the JSON encoder and decoder.
"""

from __future__ import annotations

import importlib.util
import math
import numbers
from base64 import b64encode
from decimal import Decimal
from types import ModuleType
from typing import Any

# The limits of execd: docs/runner-protocol.md.
MAX_NUMBER = 2**63 - 1
MAX_MIME_TYPES = 1000
MAX_LINES = 10_000  # of a traceback
MAX_NAME = 1000  # characters of the name of an exception's class

_type_name = type.__dict__["__name__"].__get__  # the real name, whatever a metaclass returns


def _private(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(value: str) -> str:
    """Return the characters of a string, or of an instance of a subclass. Lone surrogates become `?`."""
    return str.encode(value, "utf-8", "replace").decode()


def text_of(value: object) -> str:
    """Return a text unchanged, and `str()` of another value. Raises whatever its `__str__` raises."""
    return text(value if isinstance(value, str) else str(value))


def described(value: object) -> str:
    """Return `str()` of a value, or a description of a value whose `__str__` raises."""
    try:
        return text_of(value)
    except Exception:
        return f"<{name_of(type(value))} without a text>"


def name_of(kind: type) -> str:
    """Return the name of a class."""
    return text(_type_name(kind))[:MAX_NAME]


def count_of(value: object) -> int:
    """Return the nearest number that the protocol can carry; 0 for a value that is not a number."""
    return max(0, min(int(value), MAX_NUMBER)) if isinstance(value, int) else 0


def lines_of(value: object) -> list[str]:
    """Return the lines of a traceback. IPython lets classes of exceptions make their own."""
    lines = [described(line) for line in value] if isinstance(value, list | tuple) else [described(value)]
    if len(lines) <= MAX_LINES:
        return lines
    half = MAX_LINES // 2
    return [*lines[:half], f"({len(lines) - 2 * half} more)", *lines[-half:]]


def bundle_of(data: dict[Any, Any]) -> dict[str, str]:
    """Return a MIME bundle whose contents are texts: binary contents in base64, all other values as JSON.

    Raises:
        ValueError, TypeError, RecursionError: A content cannot be expressed in JSON, or there are too many.
    """
    bundle = {text_of(mime): _content(value) for mime, value in data.items() if value is not None}
    if len(bundle) > MAX_MIME_TYPES:
        raise ValueError(f"one display has {len(bundle)} MIME types: at most {MAX_MIME_TYPES} are possible")
    return bundle


def json_of(value: object) -> str:
    """Return a value as JSON. A value that JSON does not have becomes the nearest one; NaN and infinities become null.

    Raises:
        RecursionError: The value is nested too deeply, or contains itself.
        ValueError: An integer has more digits than Python converts.
    """
    try:
        return text(encode(value))
    except (ValueError, TypeError):  # a NaN, or keys that are not strings
        return text(encode(_plain(value)))


def _content(value: object) -> str:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    return json_of(value)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {_key(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _plain(_nearest(value))


def _key(key: object) -> str:
    """Return a key as JSON writes it."""
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return encode(key)
    return str(key)


def _nearest(value: Any) -> object:
    """Return the JSON value that is nearest to a value of another type."""
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return list(value)
    if callable(getattr(type(value), "tolist", None)):  # arrays and numbers of numpy, series of pandas
        return value.tolist()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real | Decimal):
        return float(value)
    return str(value)


encode = _private("json.encoder").JSONEncoder(ensure_ascii=False, allow_nan=False, default=_nearest).encode
decode = _private("json.decoder").JSONDecoder().decode
