"""The official clients, each on a tour through all it can do; and the table of `docs/compatibility.md`.

python -m tests.e2e.clients > docs/compatibility.md
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.e2e.clients.versions import Version, versions_table
from tests.support.server.live_server import SDK_PACKAGES, LiveServer, node_modules_with, python_with, sdk_python

TOURS = Path(__file__).parent
CLI_PACKAGES = ("opensandbox-cli==1.1.1", "opensandbox-mcp==1.1.1")
NODE_PACKAGES = ("@alibaba-group/opensandbox@0.1.11",)

CLIENTS = (*SDK_PACKAGES, *CLI_PACKAGES, *NODE_PACKAGES)

# What this server refuses, by the method's name in any client: the words of its answer, and why.
EGRESS = "rules for single targets are not enforced yet: a sandbox has a network, or has none"
VAULT = "needs those rules"
TEMPLATES = "golden images of another runtime"
REFUSED = {
    "egress": ("API_NOT_SUPPORTED", "UNEXPECTED_RESPONSE"),  # the SDK loses the code of that one
    "vault": ("API_NOT_SUPPORTED",),
    "template": ("FSB::API_NOT_SUPPORTED", "SANDBOX::API_NOT_SUPPORTED"),
}


class Tour(NamedTuple):
    """One client, one way to reach the sandbox, and how that comes to be: from the warm pool, or made for it."""

    client: str
    way: str
    start: str

    @property
    def name(self) -> str:
        return f"{self.client} · {self.way} · {self.start}"

    @property
    def column(self) -> str:
        """Where it stands in the table."""
        return f"{self.client} · {self.way}"


# Cold ones between warm ones: the pool fills up meanwhile.
ALL = [
    Tour(client, way, start)
    for client in ("Python async", "Python sync", "JavaScript", "osb", "MCP")
    for way in ("direct", "proxy")
    for start in ("warm", "cold")
]
IMAGES = {"warm": "sandlot/code-interpreter", "cold": "sandlot/python"}


class Outcome(NamedTuple):
    """What a client said: a result for each method, and all methods that it has."""

    results: dict[str, str]
    surface: list[str]
    log: str


def missing(tour: Tour) -> str:
    """Why this tour cannot be made here; "" when it can."""
    if tour.client == "JavaScript" and not (shutil.which("node") and shutil.which("npm")):
        return "the JavaScript SDK needs Node.js and npm"
    return ""


def make(tour: Tour, server: LiveServer) -> Outcome:
    """Send a client on its tour. Only images of the pool are warm, and it is full when the tour begins."""
    directory = None
    if tour.client.startswith("Python"):
        command = [sdk_python(), TOURS / "python_tour.py", tour.client.removeprefix("Python ")]
    elif tour.client == "JavaScript":
        directory = node_modules_with("javascript", NODE_PACKAGES)
        command = ["node", TOURS / "javascript_tour.mjs"]
    else:
        command = [python_with("cli", CLI_PACKAGES), TOURS / ("cli_tour.py" if tour.client == "osb" else "mcp_tour.py")]
    if tour.start == "warm":
        server.wait_full()
    hits = server.metric("sandlot_pool_hits_total")
    done = subprocess.run(
        [os.fspath(word) for word in (*command, tour.way, IMAGES[tour.start])],
        cwd=directory,
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    assert (server.metric("sandlot_pool_hits_total") > hits) == (tour.start == "warm")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(said["results"], said["surface"], done.stderr)


def group_of(method: str) -> str:
    """The line of the table that a method belongs to."""
    name = method.lower().replace("_", "").replace("-", "")
    for word, group in (
        ("template", "templates"),
        ("vault", "credential vault"),
        ("isol", "isolated sessions"),
        ("pool", "client-side pools"),
        ("egress", "egress policy"),
        ("snapshot", "snapshots"),
        ("diagnostic", "diagnostics"),
        ("devops", "diagnostics"),
        ("code", "code"),
        ("command", "commands and sessions"),
        ("file", "files"),
        ("endpoint", "ports"),
        ("metrics", "metrics and health"),
        ("health", "metrics and health"),
    ):
        if word in name:
            return group
    return "sandboxes"


def is_refusal_known(method: str, result: str) -> bool:
    """Whether a result that is not "ok" is one that is documented."""
    if result == "not with use_server_proxy":
        return True
    name = method.lower().replace("_", "")
    return result.startswith("refused: ") and any(
        word in name and any(result.endswith(code) for code in codes) for word, codes in REFUSED.items()
    )


def page(
    outcomes: Mapping[Tour, Mapping[str, str]], by_versions: Mapping[tuple[Version, str], Mapping[str, str]]
) -> str:
    """Return `docs/compatibility.md`."""
    columns: dict[str, dict[str, list[str]]] = {}
    for tour, results in outcomes.items():
        column = columns.setdefault(tour.column, {})
        for method, result in results.items():
            column.setdefault(method, []).append(result)
    lines = ["|  | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for group in sorted({group_of(method) for column in columns.values() for method in column}):
        cells = [group]
        for column in columns.values():
            mine = [found for method, found in column.items() if group_of(method) == group]
            fine = sum(all(result == "ok" for result in found) for found in mine)
            cells.append(f"{fine} of {len(mine)}" if mine else "–")
        lines.append("| " + " | ".join(cells) + " |")
    refused = sorted(
        {method for results in outcomes.values() for method, result in results.items() if result.startswith("refused")}
    )
    listed = "\n".join(f"- `{method}`" for method in refused)
    return f"""# Compatibility with OpenSandbox's clients

These official clients are tested, unmodified, as their registries publish them:
{", ".join(CLIENTS)}.

`python -m tests.e2e.clients` generates this page. It calls every public method of each client at least once in each of
four settings, and checks the result: on sandboxes from the warm pool and on cold sandboxes, each directly and with
`use_server_proxy`. The list of methods comes from the packages themselves: the exported classes and the objects that
these classes return, the commands of the command line, and the tools of the MCP server. The list leaves out what never
reaches a server: exceptions, values and settings, the construction of a client, what users implement, and `osb config`
and `osb skills`. The tests make the same calls. They fail if a client has a method that is not called, or if this page
differs from the results. The tests also make mistakes: for each error of the contract, the Python SDK must raise the
exception, and the answer must have the status and the code, that the contract names.

Each cell of the table shows how many methods work on both warm and cold sandboxes, and how many methods the client has:

{chr(10).join(lines)}

These methods are refused, each with a status and a code that the client maps to its own exception:

{listed}

- Egress: {EGRESS}. The credential vault {VAULT}.
- Templates: {TEMPLATES}. Pools over the API are refused too: the pools of this server are in its
  settings, and `extensions.poolRef` takes a sandbox from a pool by name.
- Isolated sessions exist in sandboxes that ask for them, on servers that allow them; see
  [isolation.md](isolation.md). In other sandboxes `capabilities` gives the reason. The requests `diff` and `commit`,
  which no client has yet, are refused.
- A signed address cannot be combined with `use_server_proxy`, as in the contract.

The published Java SDK is tested with the shorter list below. The Kotlin code interpreter is not published; the tests
read the event streams as the Kotlin code interpreter does: it parses each line as JSON and ignores every other line.
The Go SDK is not available from its registry and is not tested here.

## Versions

Older versions are tested with a shorter list: the oldest and the newest published version, and the versions in between
that changed something a server sees. "–" means that the version has no such method. Each version was tested directly
and, if it supports this, with `use_server_proxy`.

{versions_table(by_versions)}

Python 0.1.0 to 0.1.4 and Java 1.0.0 do not send the headers that an endpoint names. Such a client gets an address
that carries its token; [ports.md](ports.md) describes how the server recognises the client.

LangChain's standard tests for sandboxes pass too, through the provider `langchain-opensandbox` 0.1.0.
"""
