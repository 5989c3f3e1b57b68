"""Write docs/compatibility.md to standard output."""

from __future__ import annotations

import sys

from tests.e2e.clients import ALL, make, missing, table
from tests.live_server import LiveServer

with LiveServer(["--pool-size", "2", "--allow-user-namespaces", "true"]) as live:
    found = {}
    for each in ALL:
        print(each.name, file=sys.stderr)
        if why := missing(each):
            sys.exit(why)
        found[each] = make(each, live).results
print(table(found), end="")
