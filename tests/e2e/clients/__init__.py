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

from tests.live_server import SDK_PACKAGES, LiveServer, node_modules_with, python_with, sdk_python

TOURS = Path(__file__).parent
WARM, COLD = "sandlot/code-interpreter", "sandlot/python"
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
    """One client, one way to reach the sandbox."""

    client: str
    way: str

    @property
    def name(self) -> str:
        return f"{self.client} · {self.way}"


ALL = [
    *(Tour(client, way) for client in ("Python async", "Python sync", "JavaScript") for way in ("direct", "proxy")),
    Tour("osb", "direct"),
    *(Tour("MCP", way) for way in ("direct", "proxy")),
]


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
    """Send a client on its tour."""
    directory = None
    if tour.client.startswith("Python"):
        kind = tour.client.removeprefix("Python ")
        command = [sdk_python(), TOURS / "python_tour.py", kind, tour.way, WARM, COLD]
    elif tour.client == "JavaScript":
        directory = node_modules_with("javascript", NODE_PACKAGES)
        command = ["node", TOURS / "javascript_tour.mjs", tour.way, WARM]
    else:
        script = "cli_tour.py" if tour.client == "osb" else "mcp_tour.py"
        command = [python_with("cli", CLI_PACKAGES), TOURS / script, tour.way, WARM]
    done = subprocess.run(
        [os.fspath(word) for word in command],
        cwd=directory,
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(said["results"], said["surface"], done.stderr)


def group_of(method: str) -> str:
    """The line of the table that a method belongs to."""
    name = method.lower().replace("_", "").replace("-", "")
    for word, group in (
        ("template", "templates"),
        ("vault", "credential vault"),
        ("isol", "isolated sessions"),
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


def table(outcomes: Mapping[Tour, Mapping[str, str]]) -> str:
    """Return the page."""
    groups = sorted({group_of(method) for results in outcomes.values() for method in results})
    head = ["", *(tour.name for tour in outcomes)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for group in groups:
        cells = [group]
        for results in outcomes.values():
            mine = {method: result for method, result in results.items() if group_of(method) == group}
            fine = sum(result == "ok" for result in mine.values())
            cells.append(f"{fine} of {len(mine)}" if mine else "–")
        lines.append("| " + " | ".join(cells) + " |")
    refused = sorted(
        {method for results in outcomes.values() for method, result in results.items() if result.startswith("refused")}
    )
    listed = "\n".join(f"- `{method}`" for method in refused)
    return f"""# Compatibility with OpenSandbox's clients

The official clients, unmodified, as their registries have them:
{", ".join(CLIENTS)}.

Made by `python -m tests.e2e.clients`: every public method of each is called once at least, on sandboxes from the warm
pool and on cold ones, directly and with `use_server_proxy`, and its result is looked at. The tests do the same, and
fail when a client has a method that is not called, or when this page is not what they found. How many methods work, of
how many:

{chr(10).join(lines)}

What is refused, each with a status and a code that the client maps to its own exception:

{listed}

- Egress: {EGRESS}. The credential vault {VAULT}.
- Templates: {TEMPLATES}. Pools over the API likewise: this server keeps its own, by image.
- Isolated sessions are there in sandboxes that ask for them, where the server allows that: docs/isolation.md. In all
  others `capabilities` says why not. Their methods `diff` and `commit`, which no client has yet, are refused.
- Signed addresses exclude `use_server_proxy`, as the contract has it.

The Java and Go SDKs are not tested here: their registries are not at hand where the tests run.
"""
