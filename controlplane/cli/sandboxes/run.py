"""`sandlot run`: a new sandbox, and a command or a shell in it."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from typing import Any

from controlplane.cli.parsing import Options, Parser, Say, add_place, pairs, seconds
from controlplane.cli.sandboxes import shell
from controlplane.cli.sandboxes.exec import run_command
from controlplane.cli.sandboxes.program import FAILED, STATUSES, add_program, fields, timeout_s, without_dashes
from controlplane.cli.sandboxes.target import server_of
from controlplane.client.answers import Refused
from controlplane.client.names import NAME_KEY
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.text import safe
from controlplane.errors import InvalidRequest

DESCRIPTION = """Make a sandbox, and run a command in it, or without one a shell. The sandbox ends with the command,
unless --keep or --detach says that it goes on."""
EXAMPLES = f"""examples:
  sandlot run sandlot/python
  sandlot run sandlot/python -- python3 -c 'print(6 * 7)'
  sandlot run --detach --name web --ttl 2h sandlot/python
  echo 'print(1)' | sandlot run sandlot/python -- python3 -

{STATUSES}"""
TTL = "1h"
# What the sandbox runs while it waits for commands; official clients use the same.
ENTRYPOINT = ("tail", "-f", "/dev/null")


def add(parser: Parser) -> None:
    """Add the options."""
    add_program(parser)
    parser.add_argument("--name", metavar="NAME", help="a name for other commands (metadata `name`)")
    parser.add_argument("-m", "--metadata", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--ttl", default=TTL, metavar="TIME", help=f"the sandbox ends after it [default: {TTL}]")
    parser.add_argument("--cpus", metavar="N", help="CPU cores, such as 0.5 or 2")
    parser.add_argument("--memory", metavar="SIZE", help="memory, such as 512Mi or 2Gi")
    parser.add_argument("--snapshot", action="store_true", help="IMAGE is the id of a snapshot")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--keep", action="store_true", help="let the sandbox go on after the command")
    how.add_argument("-d", "--detach", action="store_true", help="print the id and leave; COMMAND is the entrypoint")
    parser.add_argument("-n", "--no-stdin", action="store_true", help="read nothing: the command's input is empty")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument("image", metavar="IMAGE", help="such as sandlot/python; `sandlot images list` has ours")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the program and its arguments")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Make the sandbox, and run the command; return its exit status."""
    command = without_dashes(options.command)
    if not command and not options.detach and not os.isatty(0):
        raise InvalidRequest("there is no command, and no terminal for a shell; give a command, or --detach")
    server = server_of(options)
    sandbox_id = str(server.ask("POST", "/v1/sandboxes", _request(options, command))["id"])
    if options.detach:
        say(safe(sandbox_id))
        return 0
    try:
        return _work(server, sandbox_id, command, options)
    finally:
        if options.keep:
            sys.stderr.write(f"sandlot: kept {safe(sandbox_id)}\n")
        else:
            _end(server, sandbox_id)


def _work(server: Server, sandbox_id: str, command: list[str], options: Options) -> int:
    program: dict[str, Any] = fields(server, sandbox_id, options)
    if not command or options.tty:
        return asyncio.run(shell.converse(server, sandbox_id, program | {"command": shlex.join(command)}))
    return run_command(
        server, sandbox_id, program | {"argv": command}, with_input=not options.no_stdin, timeout_s=timeout_s(options)
    )


def _request(options: Options, command: list[str]) -> Json:
    """Return the request for the sandbox. Raises InvalidRequest."""
    metadata = dict(pairs(options.metadata, "--metadata"))
    if options.name:
        metadata[NAME_KEY] = options.name
    limits = {key: value for key, value in (("cpu", options.cpus), ("memory", options.memory)) if value}
    return {
        **({"snapshotId": options.image} if options.snapshot else {"image": {"uri": options.image}}),
        "entrypoint": command if options.detach and command else list(ENTRYPOINT),
        "timeout": max(1, int(seconds(options.ttl, "--ttl"))),
        "metadata": metadata,
        **({"resourceLimits": limits} if limits else {}),
    }


def _end(server: Server, sandbox_id: str) -> None:
    try:
        server.ask("DELETE", sandbox_path(sandbox_id))
    except Refused as refused:
        if refused.status != 404:  # it has ended by itself
            sys.stderr.write(f"sandlot: {safe(sandbox_id)} was not ended: {safe(refused.said)}\n")


__all__ = ["FAILED", "add", "run"]
