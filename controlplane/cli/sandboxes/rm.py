"""`sandlot rm`: end sandboxes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes.target import ENDED, FILTERS, chosen, confirm, server_of
from controlplane.client.answers import Refused
from controlplane.client.cures import cure
from controlplane.client.names import find
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.text import safe
from controlplane.errors import InvalidRequest, SandlotError

DESCRIPTION = "End sandboxes, with all that is in them. Those that are named end at once; --all and --filter ask first."
EXAMPLES = """examples:
  sandlot rm 3f2a
  sandlot rm web worker-1
  sandlot rm --filter metadata=team=search
  sandlot rm --all --yes
"""


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("sandboxes", nargs="*", metavar="ID", help="the beginning of an id, or a name")
    parser.add_argument("--all", action="store_true", help="all that the key may end")
    parser.add_argument("--filter", action="append", default=[], metavar="KIND=VALUE", help=FILTERS)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """End the sandboxes; print the id of each."""
    if bool(options.sandboxes) == (options.all or bool(options.filter)):
        raise InvalidRequest("name sandboxes, or choose them by --all or --filter")
    server = server_of(options)
    failures = 0
    if options.sandboxes:
        found = []
        for text in options.sandboxes:
            try:
                found.append(find(server, text))
            except (SandlotError, LookupError) as error:
                failures += _complain(error)
    else:
        found = [each for each in chosen(server, options.filter) if each["status"]["state"] != "Terminated"]
        if not found:
            return 0
        running = sum(each["status"]["state"] not in ENDED for each in found)
        confirm(f"End {len(found)} sandbox(es), {running} of them alive?", is_given=options.yes)
    return int(failures + end(server, found, say) > 0)


def end(server: Server, sandboxes: Sequence[Json], say: Say | None = None) -> int:
    """End sandboxes and print their ids with *say*. Return how many could not be ended."""
    failures = 0
    for sandbox in sandboxes:
        try:
            server.ask("DELETE", sandbox_path(str(sandbox["id"])))
        except Refused as refused:
            if refused.status != 404:  # it has just ended by itself
                failures += _complain(refused)
                continue
        if say is not None:
            say(safe(str(sandbox["id"])))
    return failures


def _complain(error: Exception) -> int:
    sys.stderr.write(f"sandlot: {cure(error) if isinstance(error, SandlotError) else error}\n")
    return 1
