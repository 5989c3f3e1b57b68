"""`sandlot ps`: the sandboxes of a server."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from controlplane.cli.parsing import Options, Parser, Say, add_place, seconds
from controlplane.cli.sandboxes.target import ENDED, FILTERS, chosen, image_of, server_of
from controlplane.client.names import SHORT
from controlplane.client.server import Json, Server
from controlplane.client.text import duration, moment, safe, table

DESCRIPTION = "List the sandboxes that the key may see, newest first: those that have not ended, or with --all all."
EXAMPLES = """examples:
  sandlot ps
  sandlot ps --all --filter state=Failed
  sandlot ps --filter metadata=team=search --watch
  sandlot rm $(sandlot ps -q --filter image='sandlot/*')
"""
HEAD = ("ID", "STATE", "IMAGE", "AGE", "TIME LEFT", "LAST USE", "METADATA")
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("-a", "--all", action="store_true", help="those that have ended too")
    parser.add_argument("--filter", action="append", default=[], metavar="KIND=VALUE", help=FILTERS)
    parser.add_argument("-q", "--quiet", action="store_true", help="print whole ids only, one a line")
    parser.add_argument("--json", action="store_true", help="print what the API answers, as a list")
    parser.add_argument("--no-trunc", action="store_true", help="do not cut ids, reasons and metadata")
    parser.add_argument("-w", "--watch", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--every", metavar="TIME", default="2s", help="how often --watch looks [default: 2s]")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Print the list; with --watch again and again."""
    server, pause = server_of(options), seconds(options.every, "--every")
    while True:
        text = listing(server, options)
        if not options.watch:
            if text:
                say(text)
            return 0
        say(f"{CLEAR}{text}" if sys.stdout.isatty() else text)
        time.sleep(max(0.1, pause))


def listing(server: Server, options: Options) -> str:
    """Return the list as the options want it."""
    found = chosen(server, options.filter)
    if not options.all and not any(each.startswith("state=") for each in options.filter):
        found = [each for each in found if each["status"]["state"] not in ENDED]
    if options.json:
        return json.dumps(found, indent=2)
    if options.quiet:
        return "\n".join(safe(str(each["id"])) for each in found)
    now = datetime.now(UTC)
    rows = [row(each, now, is_cut=not options.no_trunc) for each in found]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() and not options.no_trunc else 0
    head, *rows = _without_empty([HEAD, *rows])
    return table(head, rows, columns=columns)


def _without_empty(lines: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the lines of a table without the last use, if the server tells it of no sandbox."""
    at = HEAD.index("LAST USE")
    if any(line[at] for line in lines[1:]):
        return list(lines)
    return [(*line[:at], *line[at + 1 :]) for line in lines]


def row(sandbox: Json, now: datetime, *, is_cut: bool = True) -> Sequence[str]:
    """Return a line of the table."""
    status = sandbox["status"]
    created, expires = moment(sandbox.get("createdAt")), moment(sandbox.get("expiresAt"))
    used = moment(sandbox.get("lastUsedAt"))
    has_ended = status["state"] in ENDED
    left = "" if has_ended else "no end" if expires is None else duration((expires - now).total_seconds())
    reason = status.get("reason") if has_ended else ""
    return (
        str(sandbox["id"])[:SHORT] if is_cut else str(sandbox["id"]),
        f"{status['state']} ({reason})" if reason else str(status["state"]),
        image_of(sandbox),
        duration((now - created).total_seconds()) if created else "",
        left,
        duration((now - used).total_seconds()) + " ago" if used else "",
        " ".join(f"{key}={value}" for key, value in (sandbox.get("metadata") or {}).items()),
    )
