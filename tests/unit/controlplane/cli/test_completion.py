"""Completion in the shells that people have, each a real one with the script that `sandlot completion` prints."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.cli import completion
from controlplane.cli.main import main
from tests.architecture.sources import ROOT
from tests.support.agent.live_agent import free_port
from tests.support.server.api_server import API_KEY, Edge, serving
from tests.support.terminal import PtyProgram

READY = "ready>"
PATIENCE_S = 60.0
# `sandlot`, but for the second after which a person would rather type the word: the machine may be loaded.
PATIENT = f"""
import sys
from controlplane.cli import completion, main
completion.TIMEOUT_S = {PATIENCE_S}
sys.exit(main.main())
"""

pytestmark = pytest.mark.usefixtures("log_of_the_server_apart")


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Edge]:
    """A server with two sandboxes, and `sandlot` on the path."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sandlot"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(PATIENT)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with serving() as edge:
        monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", edge.address)
        monkeypatch.setenv("OPEN_SANDBOX_API_KEY", API_KEY)
        async with edge.client() as client:
            for name in ("website", "worker"):
                body = {"image": {"uri": "sandlot/python"}, "entrypoint": ["x"], "metadata": {"name": name}}
                (await client.post("/sandboxes", json=body | {"timeout": 600})).raise_for_status()
        yield edge


def words(capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    """Return the words that can stand in the place of the last one."""
    assert main(["complete", "--", *typed]) == 0
    return capsys.readouterr().out.split()


async def test_words(edge: Edge, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, flags, choices, names and ids; nothing where file names belong."""
    monkeypatch.setattr(completion, "TIMEOUT_S", PATIENCE_S)

    def ask(*typed: str) -> asyncio.Future[list[str]]:
        return asyncio.ensure_future(asyncio.to_thread(words, capsys, *typed))

    assert await ask("p") == ["pause", "ps"]
    assert await ask("nope", "") == []
    assert await ask("ps", "--no") == ["--no-trunc"]
    assert await ask("ps", "--filter", "") == ["image=", "metadata=", "state="]
    assert await ask("exec", "we") == ["website"]
    assert await ask("exec", "0123456789abcdf") == ["0123456789abcdf"]
    assert await ask("exec", "-w", "/app", "w") == ["website", "worker"]
    assert await ask("exec", "website", "l") == []
    assert await ask("exec", "website", "--", "w") == []
    assert await ask("cp", "web") == ["website:"]
    assert await ask("cp", "website:/e") == []
    assert await ask("cp", "./") == []
    assert await ask("cp", "file", "wor") == ["worker:"]
    assert await ask("rm", "website", "wo") == ["worker"]
    assert await ask("keys", "cre") == ["create"]
    assert await ask("keys", "create", "--own") == ["--owner"]
    assert await ask("images", "c") == ["check"]


def test_no_server_is_no_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed into the line that is typed."""
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", API_KEY)
    assert main(["complete", "--", "exec", ""]) == 0
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", "no address")
    assert main(["complete", "--", "exec", ""]) == 0
    assert main(["complete"]) == 0
    assert capfd.readouterr().err == ""


def in_a_terminal(command: list[str], setup: str) -> None:
    """Type in a shell, press Tab, and see what it completes."""
    with PtyProgram(command, os.environ | {"TERM": "dumb", "PS1": READY}) as shell:
        shell.type(f"{setup}; echo do''ne\r")
        shell.expect("done")
        shell.expect(READY)
        for typed, completed in (
            ("sandlot comple\t", "completion "),
            ("sandlot exec we\t", "website "),
            ("sandlot cp web\t", "website:"),
        ):
            shell.type(typed)
            shell.expect(completed)
            shell.type("\x15")  # begin anew
        shell.type("exit\r")
        shell.wait()


def needs(shell: str) -> str:
    if (found := shutil.which(shell)) is None:
        pytest.skip(f"needs {shell}")
    return found


async def test_in_bash(edge: Edge) -> None:
    setup = "source <(sandlot completion bash)"
    await asyncio.to_thread(in_a_terminal, [needs("bash"), "--norc", "--noprofile", "-i"], setup)


async def test_in_zsh(edge: Edge) -> None:
    setup = "autoload -U compinit; compinit -u -D; source <(sandlot completion zsh)"
    await asyncio.to_thread(in_a_terminal, [needs("zsh"), "-f", "-i"], setup)


@pytest.mark.parametrize(
    ("typed", "expected"), [("comple", ["completion"]), ("exec we", ["website"]), ("cp wor", ["worker:"])]
)
async def test_in_fish(edge: Edge, typed: str, expected: list[str]) -> None:
    script = f'sandlot completion fish | source; complete -C "sandlot {typed}"'
    done = await asyncio.to_thread(
        subprocess.run, [needs("fish"), "--no-config", "-c", script], capture_output=True, text=True, check=False
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == expected, done.stderr


HOSTILE = ("$(touch x)", "`x`", "a;b", "a b", "-rf", "a\nb", "*", "~", "a|b", "x\x1b[2J", "")


@pytest.mark.attack(
    "edge",
    "A server that was pointed at names its sandboxes as commands of a shell, and a person completes such a name",
    "Only words that mean nothing to a shell are offered",
)
def test_a_name_is_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [{"id": text, "metadata": {"name": text}} for text in HOSTILE]
    found.append({"id": "0123456789abcdef", "metadata": {"name": "web-1"}})
    monkeypatch.setattr(completion, "listed", lambda _: found)
    place = ["--server", "http://localhost:1", "--api-key", "x" * 16]
    assert words(capsys, "rm", *place, "") == ["0123456789ab", "web-1"]
    assert words(capsys, "cp", *place, "") == ["0123456789ab:", "web-1:"]
