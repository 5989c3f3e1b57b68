"""`sandlot logs`: what the entrypoint of a sandbox has printed."""

from __future__ import annotations

import sys
import time
from collections import deque

from controlplane.cli.parsing import Options, Parser, Say, add_place, seconds
from controlplane.cli.sandboxes.target import ENDED, sandbox_of
from controlplane.client.answers import Refused
from controlplane.client.lines import lines_of
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.text import safe, safe_lines
from controlplane.errors import InvalidRequest

DESCRIPTION = """Print what the entrypoint of a sandbox has printed, also after it ended. Control characters and escape
sequences are shown, not obeyed. To look at a sandbox is not a use of it."""
EXAMPLES = """examples:
  sandlot logs web
  sandlot logs -f --tail 10 web
  sandlot logs --events web
  sandlot logs --activity -f web
"""


def add(parser: Parser) -> None:
    """Add the options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--events", action="store_true", help="what happened to the sandbox: states, renewals, memory")
    what.add_argument("--activity", action="store_true", help="what clients do in the sandbox, and what comes of it")
    what.add_argument("--summary", action="store_true", help="what is known of the sandbox, for people")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the sandbox ends")
    parser.add_argument("-n", "--tail", type=int, metavar="LINES", help="only the last lines")
    parser.add_argument("--raw", action="store_true", help="print control characters as they are")
    parser.add_argument("--every", metavar="TIME", default="0.5s", help="how often --follow looks [default: 0.5s]")
    parser.add_argument("sandbox", metavar="ID", help="the beginning of an id, or a name")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Print the output."""
    if options.tail is not None and options.tail < 0:
        raise InvalidRequest(f"--tail {options.tail}: expected a number of lines")
    pause = max(0.1, seconds(options.every, "--every"))
    server, sandbox_id = sandbox_of(options)
    printer = _Printer(say, is_raw=options.raw, tail=options.tail)
    if options.summary or options.events:
        if options.follow:
            raise InvalidRequest("--follow: follows the output of the entrypoint only")
        kind = "events" if options.events else "summary"
        printer.print(server.text(sandbox_path(sandbox_id, f"/diagnostics/{kind}")).text)
        return 0
    if options.activity:
        return _activity(server, sandbox_id, options, say)
    printer.print(_read(server, sandbox_id, printer))
    while options.follow:
        has_ended = _has_ended(server, sandbox_id)
        printer.print(_read(server, sandbox_id, printer))
        if has_ended:
            break
        time.sleep(pause)
    return 0


def _activity(server: Server, sandbox_id: str, options: Options, say: Say) -> int:
    """Print the activity of a sandbox; with --follow, as it comes."""
    last: deque[str] = deque(maxlen=options.tail)
    after = 0
    if not options.follow or options.tail is not None:
        for entry in server.events(sandbox_path(sandbox_id, "/activity?follow=false")):
            last.extend(lines_of(entry))
            after = int(entry.get("seq", 0))
        for line in last:
            say(line)
    if options.follow:
        for entry in server.events(sandbox_path(sandbox_id, f"/activity?after={after}")):
            for line in lines_of(entry):
                say(line)
    return 0


def _read(server: Server, sandbox_id: str, printer: _Printer) -> str:
    """Return what was printed after the printer's cursor."""
    try:
        answer: Json = server.ask(
            "GET", sandbox_path(sandbox_id, f"/diagnostics/logs?scope=container&cursor={printer.cursor}")
        )
    except Refused as refused:
        if refused.status == 404 and printer.cursor:
            return ""
        raise
    for warning in answer.get("warnings", ()):
        printer.warn(str(warning))
    printer.cursor = int(answer.get("cursor", printer.cursor))
    return str(answer["content"])


def _has_ended(server: Server, sandbox_id: str) -> bool:
    try:
        return bool(server.ask("GET", sandbox_path(sandbox_id))["status"]["state"] in ENDED)
    except Refused as refused:
        if refused.status == 404:
            return True
        raise


class _Printer:
    """Prints output; of the first piece only the last lines, where that is wanted."""

    def __init__(self, say: Say, *, is_raw: bool, tail: int | None) -> None:
        self.cursor = 0
        self._say = say
        self._is_raw = is_raw
        self._tail = tail
        self._warnings: set[str] = set()

    def print(self, text: str) -> None:
        """Print a piece."""
        if self._tail is not None:
            lines = text.splitlines(keepends=True)
            text = "".join(lines[len(lines) - min(len(lines), self._tail) :])
            self._tail = None
        if text:
            self._say(text if self._is_raw else safe_lines(text), end="")

    def warn(self, text: str) -> None:
        """Tell a warning, once."""
        if text not in self._warnings:
            self._warnings.add(text)
            sys.stderr.write(f"sandlot: {safe(text)}\n")
