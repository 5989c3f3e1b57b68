"""Write docs/compatibility.md to standard output."""

from __future__ import annotations

import sys

from tests.e2e.clients import ALL, make, missing, page
from tests.e2e.clients.versions import VERSIONS, tours
from tests.e2e.clients.versions import missing as missing_for
from tests.support.server.live_server import LiveServer

with LiveServer(["--pool-size", "2", "--allow-user-namespaces", "true"]) as live:
    found = {}
    for each in ALL:
        print(each.name, file=sys.stderr)
        if why := missing(each):
            sys.exit(why)
        found[each] = make(each, live).results
    by_versions = {}
    for version in VERSIONS:
        print(version.name, file=sys.stderr)
        if why := missing_for(version):
            sys.exit(why)
        by_versions.update({(version, way): results for way, results in tours(version, live).items()})
print(page(found, by_versions), end="")
