"""Versions of the official clients that people still have, each on a short tour; and their table in the docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.support.server.live_server import LiveServer, jars_with, node_modules_with, python_with

TOURS = Path(__file__).parent
IMAGE = "sandlot/code-interpreter"
WAYS = ("direct", "proxy")


class Version(NamedTuple):
    """One version of a client, with the packages that belong together."""

    language: str
    packages: tuple[str, ...]

    @property
    def number(self) -> str:
        return re.split("[=@:]", self.packages[0])[-1]

    @property
    def name(self) -> str:
        return f"{self.language} {self.number}"


def _python(sdk: str, interpreter: str) -> Version:
    return Version("Python", (f"opensandbox=={sdk}", f"opensandbox-code-interpreter=={interpreter}"))


def _javascript(sdk: str) -> Version:
    return Version("JavaScript", (f"@alibaba-group/opensandbox@{sdk}",))


def _java(sdk: str) -> Version:
    return Version("Java", (f"com.alibaba.opensandbox:sandbox:{sdk}",))


# The oldest and the newest that the registries have, and those between in which something changed that a server sees:
# 0.1.0 reads ids as UUIDs; up to 0.1.4 an endpoint's headers are not sent; from 0.1.7 on there are sessions and the use
# of the server as a proxy; 0.1.16 is the last before 1.1.
VERSIONS = (
    _python("0.1.0", "0.1.0"),
    _python("0.1.4", "0.1.1"),
    _python("0.1.7", "0.1.2"),
    _python("0.1.16", "0.1.2"),
    _python("1.1.1", "1.1.1"),
    _javascript("0.1.6"),
    _javascript("0.1.7"),
    _javascript("0.1.10"),
    _javascript("0.1.11"),
    _java("1.0.0"),
)

LINES = {
    "create": "create a sandbox and wait until it is ready",
    "commands": "commands in the foreground",
    "background": "commands in the background, their status and logs",
    "sessions": "sessions",
    "files": "files",
    "records": "get, list and renew",
    "metrics": "usage and health",
    "ports": "addresses of ports",
    "interpreter": "create a code interpreter",
    "code": "run code, with and without a context",
    "kill": "end a sandbox",
}


def missing(version: Version) -> str:
    """Why this version cannot go on its tour here; "" when it can."""
    programs = {"JavaScript": ("node", "npm"), "Java": ("java", "mvn")}.get(version.language, ())
    absent = [program for program in programs if not shutil.which(program)]
    return f"the {version.language} SDK needs {' and '.join(absent)}" if absent else ""


def tours(version: Version, server: LiveServer) -> dict[str, dict[str, str]]:
    """Send one version on its tour, all ways at once; return by way how each thing went.

    A result is "ok", "–" (this version cannot do it), or what went wrong.
    """
    command, directory = _client(version)

    def tour(way: str) -> dict[str, str]:
        done = subprocess.run(
            [os.fspath(word) for word in (*command, way, IMAGE)],
            cwd=directory,
            env=server.sdk_environment(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
        results: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
        return results

    with ThreadPoolExecutor(len(WAYS)) as threads:
        return dict(zip(WAYS, threads.map(tour, WAYS), strict=True))


def _client(version: Version) -> tuple[list[str | Path], Path | None]:
    """Return the command that sends a version on its tour, and its working directory. Installs what it needs."""
    folder = f"{version.language.lower()}-{version.number}"
    if version.language == "JavaScript":
        return ["node", TOURS / "version_tour.mjs"], node_modules_with(folder, version.packages)
    if version.language == "Java":
        return ["java", "-cp", jars_with(folder, version.packages) / "*", TOURS / "VersionTour.java"], None
    return [python_with(folder, version.packages), TOURS / "version_tour.py"], None


def versions_table(outcomes: Mapping[tuple[Version, str], Mapping[str, str]]) -> str:
    """Return the table: a line for each thing, a column for each version; both ways stand in one cell."""
    lines = [
        "|  | " + " | ".join(version.name for version in VERSIONS) + " |",
        "|---" * (len(VERSIONS) + 1) + "|",
    ]
    for thing, words in LINES.items():
        cells = [_cell([outcomes[version, way].get(thing, "–") for way in WAYS]) for version in VERSIONS]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: list[str]) -> str:
    """Return one word where all the ways that this version has went alike, else the word of each."""
    short = [result if result in ("ok", "–") else "fails" for result in found]
    words = set(short) - {"–"}
    if len(words) <= 1:
        return words.pop() if words else "–"
    return " · ".join(f"{way}: {word}" for way, word in zip(WAYS, short, strict=True))
