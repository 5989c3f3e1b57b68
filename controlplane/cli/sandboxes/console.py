"""`sandlot console`: a link that signs a browser in."""

from __future__ import annotations

import json
import os
import sys
import webbrowser

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes.target import server_of
from controlplane.client.answers import Refused
from controlplane.client.text import safe
from controlplane.errors import SandlotError

DESCRIPTION = """Print a link that signs a browser in to the console with the rights of the key. It works once, within
five minutes. With a display, the browser is opened."""
EXAMPLES = """examples:
  sandlot console
  sandlot console --print
  ssh -L 8194:localhost:8194 server sandlot console --print
"""


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--print", action="store_true", help="print the link only, and open no browser")
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Print the link, and open it if there is a display."""
    server = server_of(options)
    try:
        link = server.ask("POST", "/v1/console/links")
    except Refused as refused:
        if refused.status in (404, 405):
            raise SandlotError(f"{server.address} has no console: it is a server of an earlier release") from None
        raise
    say(json.dumps(link) if options.json else safe(str(link["url"])))
    if not (options.print or options.json) and _has_display() and not webbrowser.open(str(link["url"])):
        sys.stderr.write("sandlot: no browser could be opened; open the link yourself\n")
    return 0


def _has_display() -> bool:
    has_one = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_one and sys.stdout.isatty()
