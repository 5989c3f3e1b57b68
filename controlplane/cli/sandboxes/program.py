"""Programs in sandboxes: how the options describe one, and which exit status tells how it ended."""

from __future__ import annotations

import os
from typing import Any

from controlplane.cli.parsing import Options, Parser, seconds
from controlplane.client.answers import Refused
from controlplane.client.server import Server, sandbox_path
from controlplane.client.stream import OperationFailed
from controlplane.errors import InvalidRequest, SandlotError

# As other tools that run commands elsewhere: the status of a command stays apart from that of the tool.
FAILED, NOT_EXECUTABLE, NOT_FOUND, TIMED_OUT, KILLED = 125, 126, 127, 124, 128 + 9
STATUSES = """exit status:
  that of the command; 128 + N if signal N ended it; 124 if --timeout did; 137 if memory ran out
  125 if sandlot itself failed, 126 if the command cannot be run, 127 if there is no such command
"""
PASSWD = "/etc/passwd"  # noqa: S105 - the name of a file


def add_program(parser: Parser) -> None:
    """Add the options that describe a program."""
    parser.status = FAILED
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="the working directory")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable; without a value: ours"
    )
    parser.add_argument("-u", "--user", default="", metavar="USER[:GROUP]", help="names need /etc/passwd, or numbers")
    parser.add_argument("--timeout", default="", metavar="TIME", help="end the command after 90, 30s, 20m or 2h")


def fields(server: Server, sandbox_id: str, options: Options) -> dict[str, Any]:
    """Return the fields of an operation of the native stream that starts a program. Raises SandlotError."""
    found: dict[str, Any] = {"cwd": options.workdir, "env": _variables(options.env)}
    if options.user:
        found |= _user(server, sandbox_id, options.user)
    return found


def timeout_s(options: Options) -> float | None:
    """Return the timeout that the options ask for. Raises InvalidRequest."""
    return seconds(options.timeout, "--timeout") if options.timeout else None


def without_dashes(command: list[str]) -> list[str]:
    """Return a command without the `--` that may stand before it. Raises InvalidRequest for a flag in its place."""
    if command[:1] == ["--"]:
        return command[1:]
    if command and command[0].startswith("-"):
        raise InvalidRequest(f"{command[0]}: options stand before the sandbox; write -- before a command of this name")
    return command


def status_of(receipt: dict[str, Any] | None) -> int:
    """Return the exit status that tells how a command ended."""
    if receipt is None:
        return 0
    if receipt["cause"] == "timeout":
        return TIMED_OUT
    if receipt["cause"] in ("oom", "killed"):
        return KILLED
    if number := receipt.get("signal", 0):
        return 128 + int(number)
    return int(receipt.get("exit_code", 0)) & 0xFF


def status_of_failure(error: SandlotError) -> int:
    """Return the exit status for a command that could not be run."""
    if isinstance(error, OperationFailed) and error.code == "RUNTIME_ERROR":
        return NOT_FOUND if "No such file" in error.message or "not found" in error.message else NOT_EXECUTABLE
    return FAILED


def _variables(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidRequest(f"--env {text}: expected NAME=VALUE, or NAME for our own value")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _user(server: Server, sandbox_id: str, text: str) -> dict[str, int]:
    user, _, group = text.partition(":")
    found = {"uid": int(user)} if user.isdecimal() else _account(server, sandbox_id, user)
    if group:
        if not group.isdecimal():
            raise InvalidRequest(f"--user {text}: expected a number as the group")
        found["gid"] = int(group)
    return found


def _account(server: Server, sandbox_id: str, name: str) -> dict[str, int]:
    """Return the ids of an account of the sandbox. Raises SandlotError."""
    try:
        answer = server.text(sandbox_path(sandbox_id, f"/proxy/44772/files/download?path={PASSWD}"))
    except Refused as refused:
        raise InvalidRequest(f"--user {name}: {PASSWD} of the sandbox cannot be read: {refused.said}") from None
    for line in answer.text.splitlines():
        row = line.split(":")
        if len(row) >= 4 and row[0] == name and row[2].isdecimal() and row[3].isdecimal():
            return {"uid": int(row[2]), "gid": int(row[3])}
    raise InvalidRequest(f"--user {name}: the sandbox has no such account; a number works without one")
