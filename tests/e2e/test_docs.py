"""The pages of the documentation do what they say: their blocks are followed in order, as a reader follows them.

docs/development.md, "Documentation", says how a block is run by its language, and what a mark above it means.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.clients import NODE_PACKAGES
from tests.e2e.test_langchain import PACKAGES as LANGCHAIN_PACKAGES
from tests.support.pages import PAGES, ROOT, TRANSLATIONS, Block, block, blocks, name_of
from tests.support.server.live_server import LiveServer, node_modules_with, python_with

ADDRESS = "localhost:8194"  # as pages write it
TIMEOUT_S = 120  # of one block; a busy machine loads libraries for long
FOLLOWED = {"python", "js", "console", "sh"}
# What a host does with an entry of its configuration: it starts the command and speaks MCP over stdio.
HOST = """
import asyncio, json, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    async with stdio_client(StdioServerParameters(**json.loads(sys.argv[1]))) as (read, write):
        async with ClientSession(read, write) as session:
            await session.initialize()
            made = await session.call_tool("sandbox_create", {"image": "sandlot/code-interpreter"})
            at = {"sandbox_id": json.loads(made.content[0].text)["sandbox_id"]}
            said = await session.call_tool("command_run", {"command": "python3 --version", **at})
            failed = await session.call_tool("file_read", {"path": "/no/such/file", **at})
            await session.call_tool("sandbox_kill", at)
            tools = await session.list_tools()
    tools = [one.name for one in tools.tools]
    print(json.dumps({"said": said.content[0].text, "failed": failed.content[0].text, "tools": tools}))

asyncio.run(main())
"""


class Step(NamedTuple):
    """One command of a page, and what the page says that it prints; nothing, when the page shows no output."""

    command: str
    output: str


def steps(text: str) -> Iterator[Step]:
    """Yield the commands of a `console` block: a line with `$ `, its continuations, and the output below."""
    command: list[str] = []
    output: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step("\n".join(command), "\n".join(output))
            command, output = [line.removeprefix("$ ")], []
        elif command and not output and _goes_on("\n".join(command)):
            command.append(line)
        else:
            output.append(line)
    yield Step("\n".join(command), "\n".join(output))


def _goes_on(command: str) -> bool:
    """Whether a shell would ask for another line."""
    return command.endswith(("\\", "|")) or command.count("'") % 2 == 1


def agrees(said: str, expected: str) -> bool:
    """Whether a program printed what a page shows; … stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.rstrip("\n").split("…"))
    return re.fullmatch(pattern, said.rstrip("\n"), re.DOTALL) is not None


class Reader:
    """Somebody who follows a page, in a directory that looks like the repository's, beside a running server."""

    def __init__(self, directory: Path, server: LiveServer, python: Path) -> None:
        self._directory = directory
        self._address = server.address.replace("http://127.0.0.1", "localhost")
        self._python = python
        # Exports of one block hold for the next ones of its page.
        self._exports = directory / ".exports"
        self._environment = {
            **server.sdk_environment(),
            "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SANDLOT_SERVER_PORT": server.address.rpartition(":")[2],
            "SANDLOT_PATHS_STATE_DIR": str(server.directory / "state"),
            "SANDLOT_PATHS_RUN_DIR": str(server.directory / "run"),
            "SANDBOX_CONFIG_PATH": os.devnull,
        }
        for entry in ROOT.iterdir():
            if entry.name not in {".git", "build"}:
                (directory / entry.name).symlink_to(entry)

    def follow(self, one: Block, shown: str) -> None:
        """Run a block. *shown* is the output that the page shows below it, or nothing."""
        text = one.text.replace(ADDRESS, self._address)
        match one.language:
            case "python":
                self._check(one, [self._python, "-W", "ignore", "-c", text], shown)
            case "js":
                modules = node_modules_with("javascript", NODE_PACKAGES) / "node_modules"
                if not (self._directory / "node_modules").exists():
                    (self._directory / "node_modules").symlink_to(modules)
                self._check(one, ["node", "--input-type=module", "--eval", text], shown)
            case "sh":
                self._check(one, self._shell(text), shown)
            case "console":
                for step in steps(text):
                    self._check(one, self._shell(step.command), step.output or shown)

    def write(self, one: Block) -> None:
        """Write a block that is a file."""
        (self._directory / one.note).write_text(one.text.replace(ADDRESS, self._address))

    def _shell(self, command: str) -> list[str | Path]:
        kept = f"if [ -f {self._exports} ]; then . {self._exports}; fi"
        return ["bash", "-euo", "pipefail", "-c", f"{kept}\n{command}\nexport -p > {self._exports}"]

    def _check(self, one: Block, command: Sequence[str | Path], shown: str) -> None:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{one.place}: {done.stderr[-3000:]}\n{done.stdout[-1000:]}"
        if shown:
            assert agrees(done.stdout, shown), f"{one.place} printed {done.stdout!r}, not {shown!r}"


def absent_programs(found: Sequence[Block]) -> list[str]:
    """Return which of the programs that a page needs this machine lacks."""
    text = "\n".join(one.text for one in found if one.language in {"console", "sh"})
    needed = [name for name in ("curl", "jq") if re.search(rf"\b{name}\b", text)]
    needed += ["node", "npm"] if any(one.language == "js" for one in found) else []
    return [name for name in needed if not shutil.which(name)]


def is_followed(one: Block) -> bool:
    return one.mark == "file" or (not one.mark and one.language in FOLLOWED)


# A translation has the blocks of its original: tests/unit/tests/test_translations.py.
PAGES_TO_FOLLOW = [page for page in PAGES if page not in TRANSLATIONS and any(is_followed(one) for one in blocks(page))]


@pytest.mark.parametrize("page", PAGES_TO_FOLLOW, ids=name_of)
def test_a_page_can_be_followed(page: Path, server: LiveServer, sdk: Path, tmp_path: Path) -> None:
    """Every block runs without an error, and prints what the page shows."""
    found = blocks(page)
    if absent := absent_programs([one for one in found if is_followed(one)]):
        pytest.skip(f"needs {' and '.join(absent)}")
    reader = Reader(tmp_path, server, sdk)
    for one, after in zip(found, [*found[1:], None], strict=True):
        if one.mark == "file":
            reader.write(one)
        elif is_followed(one):
            reader.follow(one, after.text if after is not None and after.language == "text" else "")


def test_a_reader_notices_what_is_wrong(server: LiveServer, sdk: Path, tmp_path: Path) -> None:
    """A command that fails, and output that differs from the page's, fail the test above."""
    reader = Reader(tmp_path, server, sdk)
    page = ROOT / "docs" / "README.md"
    wrong = [("console", "$ false\n", ""), ("sh", "false\ntrue\n", ""), ("console", "$ echo a\nb\n", "")]
    wrong += [("python", "print(1)", "2\n"), ("python", "raise SystemExit(1)", "")]
    for language, text, shown in wrong:
        with pytest.raises(AssertionError):
            reader.follow(Block(page, 1, language, text, "", ""), shown)
    reader.follow(Block(page, 1, "console", "$ export A=1\n$ echo one two three\none … three\n", "", ""), "")
    reader.follow(Block(page, 2, "sh", 'echo "$A"\n', "", ""), "1\n")


def test_the_configuration_for_mcp_hosts(server: LiveServer, tmp_path: Path) -> None:
    """A host that starts the entry of the page has the tools that the page promises."""
    python = python_with("mcp", ("opensandbox-mcp==1.1.1",))
    entry = json.loads(block("docs/integrations.md", "json", "mcpServers"))["mcpServers"]["sandlot"]
    assert entry["env"].keys() == {"OPEN_SANDBOX_DOMAIN", "OPEN_SANDBOX_API_KEY"}
    entry["command"] = str(python.with_name(Path(entry["command"]).name))
    entry["env"] = {name: server.sdk_environment()[name] for name in entry["env"]}
    said = json.loads(run([python, "-c", HOST, json.dumps(entry)], server, tmp_path))
    assert "Python 3." in said["said"]
    assert "file_read" in said["failed"]
    assert {"sandbox_create", "command_run", "file_read"} <= set(said["tools"])


def test_langchain(server: LiveServer, tmp_path: Path) -> None:
    """The page's snippet for LangChain prints what its command says."""
    snippet = block("docs/integrations.md", "python", "langchain_opensandbox")
    said = run([python_with("langchain", LANGCHAIN_PACKAGES), "-c", snippet], server, tmp_path)
    assert said == "Hello from LangChain\n"


def run(command: Sequence[str | Path], server: LiveServer, directory: Path) -> str:
    """Run a program beside the server; return what it prints."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
