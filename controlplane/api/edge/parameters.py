"""Values from a request's query, path and fields, each checked and refused with its name."""

from __future__ import annotations

from starlette.requests import HTTPConnection, Request

from controlplane.errors import InvalidRequest

MAX_PATH_BYTES = 4096  # Linux' own PATH_MAX

HUGE = 2**63 - 1  # the largest offset or count that can be passed on to the agent

_MOST_DIGITS = 18  # of numbers that are less


def sandbox_id_of(connection: HTTPConnection) -> str:
    """Return the id of the sandbox that the path of a request names."""
    sandbox_id: str = connection.path_params["sandbox_id"]
    return sandbox_id


def required(request: Request, name: str) -> str:
    """Return a query parameter. Raises InvalidRequest when it is missing or empty."""
    if value := request.query_params.get(name):
        return value
    raise InvalidRequest(f"query parameter {name!r} is missing", code="request.query")


def integer(
    request: HTTPConnection, name: str, *, least: int = 0, most: int = HUGE, code: str = "request.query"
) -> int | None:
    """Return a query parameter as a number; None when it is not given. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if not text:
        return None
    number = whole_number(text)
    if number is None or not least <= number <= most:
        limit = f"at least {least}" if most == HUGE else f"from {least} to {most}"
        raise InvalidRequest(f"query parameter {name!r} must be a whole number, {limit}", code=code)
    return number


def whole_number(text: str) -> int | None:
    """Return a number that a client wrote in decimal digits, at most HUGE; None for anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    # `int` refuses thousands of digits, and no more than 64 bits can be passed on.
    return min(int(digits or "0"), HUGE) if len(digits) <= _MOST_DIGITS else HUGE


def port_number(text: str) -> int:
    """Read a TCP port of a path. Raises InvalidRequest."""
    if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535:
        return int(text)
    raise InvalidRequest("port: must be a number from 1 to 65535", code="endpoint.invalid_port")


def flag(request: HTTPConnection, name: str, *, code: str = "request.query") -> bool:
    """Return a query parameter that is true or false, false when it is not given. Raises InvalidRequest."""
    match request.query_params.get(name, "").lower():
        case "true" | "1":
            return True
        case "" | "false" | "0":
            return False
        case text:
            raise InvalidRequest(f"query parameter {name!r} must be true or false, not {text[:64]!r}", code=code)


def no_nul(text: str, name: str, *, code: str = "request.body") -> str:
    """Return a text that contains no NUL: no path, argument or variable can hold one. Raises InvalidRequest."""
    if "\0" in text:
        raise InvalidRequest(f"{name}: must not contain NUL", code=code)
    return text


def clean_path(path: str, name: str = "path", *, code: str = "request.body") -> str:
    """Return a path of the sandbox after the checks that need no sandbox. Raises InvalidRequest."""
    if not path:
        raise InvalidRequest(f"{name} must not be empty", code=code)
    no_nul(path, name, code=code)
    if len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidRequest(f"{name} is longer than {MAX_PATH_BYTES} bytes", code=code)
    return path


def clean_env(env: dict[str, str | None] | None, name: str, *, code: str = "request.body") -> dict[str, str]:
    """Return environment variables; those that are null are left out. Raises InvalidRequest."""
    clean = {key: value for key, value in (env or {}).items() if value is not None}
    for key, value in clean.items():
        if not key or "=" in key:
            raise InvalidRequest(f"{name}: {key!r} cannot be the name of a variable", code=code)
        no_nul(key, f"{name}: {key!r}", code=code)
        no_nul(value, f"{name}.{key}", code=code)
    return clean


def permission_bits(digits: int | None, name: str, *, code: str = "request.body") -> int | None:
    """Return the bits that the digits of a mode mean (755 → 0o755); None for none, and for 0. Raises InvalidRequest."""
    if not digits:
        return None
    try:
        bits = int(str(digits), 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:
        raise InvalidRequest(f"{name}: {digits} is not a mode such as 644 or 755", code=code)
    return bits


def mode_digits(bits: int) -> int:
    """Return a mode as the contract writes it: 0o755 → 755."""
    return int(f"{bits & 0o7777:o}")
