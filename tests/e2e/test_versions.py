"""Versions that a sandbox names, and OpenSandbox's start script, through the official SDK."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.server.live_server import SANDLOT, LiveServer, run_script

# What the programs do that OpenSandbox's users write: its image's name, its start script, a version.
PROGRAM = """
import asyncio, json, sys
from datetime import timedelta
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox
from opensandbox.models import WriteEntry

async def main():
    said = {}
    sandbox = await Sandbox.create(
        "opensandbox/code-interpreter:v1.0.2",
        entrypoint=json.loads(sys.argv[1]),
        env={"PYTHON_VERSION": "3.11"},
        timeout=timedelta(minutes=10),
    )
    async with sandbox:
        said["command"] = (await sandbox.commands.run("echo hello; python --version")).logs.stdout[0].text
        await sandbox.files.write_files([WriteEntry(path="/tmp/hello.txt", data="Hello World", mode=644)])
        said["file"] = await sandbox.files.read_file("/tmp/hello.txt")
        codes = (await CodeInterpreter.create(sandbox)).codes
        run = await codes.run("import sys\\nprint(sys.version_info[:2])\\n2 + 2", language="python")
        said["printed"], said["value"] = run.logs.stdout[0].text, run.result[0].text
        run = await codes.run("import numpy, pandas, matplotlib.pyplot; int(pandas.Series([19, 23]).sum())")
        said["pandas"] = run.result[0].text
        await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""

SCRIPTS = ["/opt/code-interpreter/code-interpreter.sh", "/opt/opensandbox/code-interpreter.sh"]

OLDER = {"PYTHON_VERSION": "3.11", "NODE_VERSION": "22", "JAVA_VERSION": "17", "GO_VERSION": "1.26"}
CODE = {
    "python": ("import sys; '%d.%d' % sys.version_info[:2]", "3.13", "3.11"),
    "javascript": ("process.version.split('.')[0].slice(1)", "24", "22"),
    "typescript": ("const major: string = process.version.split('.')[0].slice(1); major", "24", "22"),
    "java": ('System.getProperty("java.specification.version")', "21", "17"),
    "go": ('strings.Join(strings.Split(strings.TrimPrefix(runtime.Version(), "go"), ".")[:2], ".")', "1.27", "1.26"),
}
COMMAND = (
    "python3 --version; pip --version; node --version; npm --version >/dev/null && javac --version; go version;"
    " echo $JAVA_HOME"
)

CHOOSING = """
import asyncio, json, sys
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox

async def main():
    env, code, command = json.loads(sys.argv[1])
    said = {}
    sandbox = await Sandbox.create("sandlot/code-interpreter", env=env)
    said["command"] = "".join(line.text + "\\n" for line in (await sandbox.commands.run(command)).logs.stdout)
    codes = (await CodeInterpreter.create(sandbox)).codes
    for language, source in code.items():
        run = await codes.run(source, language=language)
        said[language] = run.result[0].text if run.result else str(run.error)
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


@pytest.mark.parametrize("entrypoint", [[SCRIPTS[0]], ["bash", SCRIPTS[1]]])
def test_a_program_for_opensandbox(sdk: Path, server: LiveServer, entrypoint: list[str]) -> None:
    """Its image by its name, its start script under both of its paths, and a version; on a warm server."""
    said = run_script(sdk, server, PROGRAM, json.dumps(entrypoint))
    assert said["command"].startswith("hello")
    assert said["file"] == "Hello World"
    assert said["printed"].strip() == "(3, 11)"
    assert (said["value"], said["pandas"]) == ("4", "42")


@pytest.mark.parametrize(("env", "which"), [({}, 1), (OLDER, 2)])
def test_each_language_in_the_version_that_is_named(
    sdk: Path, server: LiveServer, env: dict[str, str], which: int
) -> None:
    """Commands and contexts agree; who names none has the defaults."""
    code = {language: row[0] for language, row in CODE.items()}
    said = run_script(sdk, server, CHOOSING, json.dumps([env, code, COMMAND]))
    python, node, java, go = (CODE[language][which] for language in ("python", "javascript", "java", "go"))
    starts = (
        f"Python {python}.",
        "pip ",
        f"v{node}.",
        f"javac {java}.",
        f"go version go{go}.",
        f"/usr/lib/jvm/java-{java}",
    )
    lines = said["command"].splitlines()
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert lines[1].endswith(f"(python {python})")
    for language, row in CODE.items():
        assert said[language].strip("'\"") == row[which], language


def test_images_are_listed_with_their_versions(server: LiveServer) -> None:
    done = subprocess.run([SANDLOT, "images", "list", "code-interpreter"], capture_output=True, text=True, check=True)
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("sandlot/code-interpreter:latest")]
    for choice in ("PYTHON_VERSION=3.13|3.11", "NODE_VERSION=24|22", "JAVA_VERSION=21|17", "GO_VERSION=1.27|1.26"):
        assert choice in line


def test_the_check_tries_each_version(server: LiveServer) -> None:
    done = subprocess.run(
        [SANDLOT, "images", "check", "code-interpreter"], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout
    tried = {tuple(line.split()[1:3]) for line in done.stdout.splitlines() if line.startswith("sandlot/")}
    assert tried > {(language, version) for language, row in CODE.items() for version in row[1:]}


def test_the_receipt_names_what_the_image_does_not_have(server: LiveServer) -> None:
    """Through the native contract: the first run's receipt, and the sandbox's log."""
    create = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": SCRIPTS[:1], "env": {"GO_VERSION": "1.19"}}
    sandbox = server.request("POST", "/v1/sandboxes", {**create, "timeout": 300})["id"]
    ran = server.request("POST", "/contexts/execute", {"sandbox_id": sandbox, "language": "python", "code": "1"})
    assert ran["receipt"]["notice"] == "GO_VERSION='1.19': this image has 1.27, 1.26; 1.27 is used"
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")


def test_without_a_network_tools_fail_at_once_and_say_why(server: LiveServer) -> None:
    create = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": SCRIPTS[:1], "timeout": 300}
    sandbox = server.request("POST", "/v1/sandboxes", create)["id"]
    why = "sandlot: this sandbox has no network, so nothing can be fetched"
    for tool in ("pip install six", "python -m pip install six", "npm install left-pad", "apt-get update"):
        body = {"sandbox_id": sandbox, "language": "bash", "code": f"timeout 30 {tool}"}
        ran = server.request("POST", "/contexts/execute", body)
        assert why in ran["stderr"], tool
        assert ran["receipt"]["exit_code"] not in (0, 124), tool  # 124: it was still trying
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")
