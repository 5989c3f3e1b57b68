"""`sandlot pause` and `sandlot resume`."""

from __future__ import annotations

import sys

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes.target import server_of
from controlplane.client.cures import cure
from controlplane.client.names import find
from controlplane.client.server import sandbox_path
from controlplane.client.text import safe
from controlplane.errors import SandlotError

DESCRIPTION = "A paused sandbox keeps its processes and its memory, and gets no CPU time until it is resumed."
EXAMPLES = """examples:
  sandlot pause web
  sandlot resume web
"""


def add(parser: Parser) -> None:
    """Add the options."""
    parser.set_defaults(action=parser.prog.rpartition(" ")[2])
    parser.add_argument("sandboxes", nargs="+", metavar="ID", help="the beginning of an id, or a name")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Pause or resume the sandboxes; print the id of each."""
    server = server_of(options)
    failures = 0
    for text in options.sandboxes:
        try:
            sandbox_id = str(find(server, text)["id"])
            server.ask("POST", sandbox_path(sandbox_id, f"/{options.action}"))
            say(safe(sandbox_id))
        except SandlotError as error:
            failures += 1
            sys.stderr.write(f"sandlot: {cure(error)}\n")
    return int(failures > 0)
