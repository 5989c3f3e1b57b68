"""The worked example of docs/extending-images.md, built and run as it stands there; and `sandlot images check`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server.live_server import ROOT, SANDLOT, LiveServer, run_script
from tests.support.server.stream_client import connected, of_type, output

PAGE = (ROOT / "docs" / "extending-images.md").read_text()
IMAGE = "sandlot-test/scheme"
FILES = ("Dockerfile", "scheme.toml", "python.toml")

SCRIPT = """
import asyncio, json
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox

async def preloaded(codes):
    # What a new context has loaded, once the libraries have been loaded behind the first one.
    while True:
        context = await codes.create_context("python")
        loaded = (await codes.run("import sys; 'sympy' in sys.modules", context=context)).result[0].text
        if loaded == "True":
            return loaded
        await codes.delete_context(context.id)
        await asyncio.sleep(0.2)

async def main():
    sandbox = await Sandbox.create("IMAGE")
    codes = (await CodeInterpreter.create(sandbox)).codes
    said = {}
    run = await codes.run("(map (lambda (x) (* x x)) '(1 2 3))", language="scheme")
    said["value"] = run.result[0].text
    await codes.run("(define x 41)", language="scheme")
    said["state"] = (await codes.run("(+ x 1)", language="scheme")).result[0].text
    said["printed"] = [line.text for line in (await codes.run('(display "hello")', language="scheme")).logs.stdout]
    said["error"] = (await codes.run("(undefined)", language="scm")).error is not None
    context = await codes.create_context("scheme")
    said["apart"] = (await codes.run("x", context=context)).error is not None
    await codes.delete_context(context.id)
    said["sympy"] = await asyncio.wait_for(preloaded(codes), 60)
    left = await sandbox.commands.run("pgrep -fc 'calysto_schem[e]' || true")
    said["kernels"] = int(left.logs.stdout[0].text) >= 1
    await codes.delete_contexts("scheme")
    await asyncio.sleep(0.5)
    left = await sandbox.commands.run("pgrep -f 'calysto_schem[e] -f|calysto_schem[e]$' -a | grep -v runner.py || true")
    said["left"] = [line.text for line in left.logs.stdout]
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


def code_of(name: str) -> str:
    """The block of the page that follows a file's name."""
    block = r"\n\n(?:<!--[^\n]*-->\n)?```\w+\n(.*?)^```"
    found = re.search(rf"^`{re.escape(name)}`[^\n]*:{block}", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the example."""
    folder = tmp_path_factory.mktemp("example")
    for name in FILES:
        (folder / name).write_text(code_of(name))
    arguments = [f"--build-arg={name}" for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST") if os.environ.get(name)]
    built = subprocess.run(
        ["docker", "build", "--tag", IMAGE, *arguments, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        check=False,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    yield IMAGE
    subprocess.run(["docker", "rmi", "--force", IMAGE], capture_output=True, check=False)


def check(*names: str) -> subprocess.CompletedProcess[str]:
    """Run `sandlot images check`."""
    command = [SANDLOT, "images", "check", *names, "--config", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_example_works_as_the_page_says(image: str, sdk: Path, server: LiveServer) -> None:
    """A language of a Jupyter kernel, through the official SDK; and a library that was loaded beforehand."""
    assert run_script(sdk, server, SCRIPT.replace("IMAGE", image)) == {
        "value": "(1 4 9)",
        "state": "42",
        "printed": ["hello"],
        "error": True,
        "apart": True,
        "sympy": "True",
        "kernels": True,
        "left": [],
    }


@pytest.fixture(scope="module")
def ipython(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example's image with one more language: the kernel that Jupyter brings, which can all they can."""
    folder = tmp_path_factory.mktemp("ipython")
    (folder / "Dockerfile").write_text(f"FROM {image}\nCOPY ipython.toml /etc/sandlot/kernels/\n")
    (folder / "ipython.toml").write_text(
        'language = "ipython"\ninterrupt = "message"\n'
        'command = ["python3", "/opt/sandlot/kernels/jupyter/runner.py", "python3"]\n'
    )
    name = "sandlot-test/ipython"
    subprocess.run(
        ["docker", "build", "-q", "-t", name, folder], check=True, env={**os.environ, "DOCKER_BUILDKIT": "0"}
    )
    yield name
    subprocess.run(["docker", "rmi", "--force", name], capture_output=True, check=False)


SHOW = """
import sys
shown = display('a', display_id='d')
print('out')
print('err', file=sys.stderr)
shown.update('b')
42
"""


async def test_what_a_jupyter_kernel_can_is_passed_on(ipython: str, server: LiveServer) -> None:
    """Displays and their updates, errors, input, completion, inspection, interrupts, and what it has used."""
    create = {"image": {"uri": ipython}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}
    sandbox = server.request("POST", "/v1/sandboxes", create)["id"]
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language="ipython")
        context = opened["id"]
        messages = await client.ask("run", code=SHOW, context=context)
        first, second, value = of_type(messages, "result")
        assert (output(messages), output(messages, "stderr")) == ("out\n", "err\n")
        assert (first["data"]["text/plain"], first["display_id"], "update" in first) == ("'a'", "d", False)
        assert (second["data"]["text/plain"], second["display_id"], second["update"]) == ("'b'", "d", True)
        assert (value["kind"], value["data"], value["execution_count"]) == ("result", {"text/plain": "42"}, 1)
        big = await client.ask("run", code="kept = b'x' * (300 << 20)", context=context)
        assert big[-1]["receipt"]["peak_memory_bytes"] > 300 << 20  # the kernel's, not the runner's beside it
        assert big[-1]["receipt"]["cpu_s"] > 0
        (raised,) = of_type(await client.ask("run", code="1 / 0", context=context), "raised")
        assert (raised["name"], "\x1b" in "".join(raised["traceback"])) == ("ZeroDivisionError", False)
        asking = await client.open("run", code="name = input('who? ')\nname * 2", context=context, allow_input=True)
        while (message := await client.next(asking))["type"] != "prompt":
            pass
        assert message["prompt"] == "who? "
        await client.ask("input", context=context, text="me")
        (value,) = of_type(await client.rest(asking), "result")
        assert value["data"]["text/plain"] == "'meme'"
        # Its other completer reads half of what is installed at first, which may take longer than it may.
        await client.ask("run", code="%config Completer.use_jedi = False", context=context)
        completion, *_ = await client.ask("context.complete", id=context, code="print(nam", cursor=9)
        assert "name" in completion["matches"]
        assert (completion["start"], completion["end"]) == (6, 9)
        (inspection, _) = await client.ask("context.inspect", id=context, code="name", cursor=4)
        assert "String form: me" in inspection["data"]["text/plain"]
        endless = await client.open("run", code="print('begun')\nwhile True: pass", context=context)
        while (await client.next(endless))["type"] != "data":
            pass
        await client.ask("context.interrupt", id=context)
        assert (await client.rest(endless))[-1]["receipt"]["cause"] == "interrupted"
        (value,) = of_type(await client.ask("run", code="name", context=context), "result")
        assert value["data"]["text/plain"] == "'me'"
        died = (await client.ask("run", code="import os; os._exit(5)", context=context))[-1]["receipt"]
        assert (died["cause"], died["died_of"], died["exit_code"]) == ("died", "exit", 5)
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")


def test_check_prints_a_table(image: str) -> None:
    """Of every language that the image declares."""
    checked = check(image)
    lines = checked.stdout.splitlines()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert lines[0].split() == ["image", "language", "context", "first", "run", "next"]
    assert [line.split()[:2] for line in lines[1:-1]] == [[image, name] for name in ("bash", "python", "scheme")]
    assert all(line.count(" ms") == 3 for line in lines[1:-1])
    assert lines[-1] == "all is well"


def test_all_six_languages_of_the_code_interpreter() -> None:
    """And of nothing less."""
    checked = check("code-interpreter")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    languages = {line.split()[1] for line in checked.stdout.splitlines()[1:-1]}
    assert sorted(languages) == ["bash", "go", "java", "javascript", "python", "typescript"]


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    """A bad manifest by file and line; a command that is missing; code that gives something else; no image at all."""
    (tmp_path / "Dockerfile").write_text("FROM sandlot/base\nCOPY *.toml /etc/sandlot/kernels/\n")
    (tmp_path / "bad.toml").write_text('language = "bad"\ncommand = ["x"]\neagre = true\n')
    (tmp_path / "gone.toml").write_text('language = "gone"\ncommand = ["/no/such/runner"]\n')
    (tmp_path / "bash.toml").write_text('language = "shell"\ncommand = ["true"]\ncheck = ["a"]\n')
    image = "sandlot-test/bad"
    subprocess.run(
        ["docker", "build", "-q", "-t", image, tmp_path], check=True, env={**os.environ, "DOCKER_BUILDKIT": "0"}
    )
    try:
        checked = check(image)
    finally:
        subprocess.run(["docker", "rmi", "--force", image], capture_output=True, check=False)
    assert checked.returncode == 1
    assert "FAIL  /etc/sandlot/kernels/bad.toml:3: eagre: " in checked.stdout
    assert "FAIL  /etc/sandlot/kernels/bash.toml:3: check: expected two texts" in checked.stdout
    assert re.search(r"gone +FAIL .*no/such/runner", checked.stdout)
    assert "3 language(s) failed" in checked.stdout
    missing = check("sandlot/no-such-image")
    assert missing.returncode == 1
    assert "no image sandlot/no-such-image" in missing.stderr
