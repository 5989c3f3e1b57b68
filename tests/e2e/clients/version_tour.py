"""What people do most, with whatever version of the official Python SDKs this environment has, against a live server.

    version_tour.py direct|proxy IMAGE

Prints JSON: for each thing "ok", "–" where this version cannot do it, or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from datetime import timedelta

from code_interpreter import CodeInterpreter
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.manager import SandboxManager
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.filesystem import ContentReplaceEntry, SearchEntry
from opensandbox.models.sandboxes import SandboxFilter

WAY, IMAGE = sys.argv[1:3]
TEXT = "日本語 and\nlines\n"

results: dict[str, str] = {}


class CannotBe(Exception):
    """This version has no such method."""


def config() -> ConnectionConfig:
    """Return the settings for the way; their other values come from the environment."""
    if WAY == "direct":
        return ConnectionConfig()
    if "use_server_proxy" not in ConnectionConfig.model_fields:
        raise CannotBe
    return ConnectionConfig(use_server_proxy=True)


def need(thing: object, *names: str) -> None:
    """Raise CannotBe unless the object has all these methods."""
    if not all(hasattr(thing, name) for name in names):
        raise CannotBe


async def note(name, work):
    """Do something, and note how it went."""
    try:
        value = await work
    except CannotBe:
        results[name] = "–"
    except Exception as error:
        traceback.print_exc()
        results[name] = f"failed: {type(error).__name__}: {error}"[:300]
    else:
        results[name] = "ok"
        return value
    return None


def said(messages) -> str:
    """Return output as a program reads it: a line from each message."""
    return "\n".join(message.text.removesuffix("\n") for message in messages)


async def create():
    return await Sandbox.create(IMAGE, connection_config=config())


async def commands(sandbox):
    run = await sandbox.commands.run("echo out; echo err >&2")
    assert (said(run.logs.stdout), said(run.logs.stderr)) == ("out", "err"), run
    failed = await sandbox.commands.run("exit 7")
    assert failed.error.value == "7", failed
    texts = (await sandbox.commands.run("seq 1 2000")).logs.stdout
    assert said(texts).split("\n") == [str(number) for number in range(1, 2001)]


async def background(sandbox):
    need(sandbox.commands, "get_command_status", "get_background_command_logs")
    run = await sandbox.commands.run("echo 日本; sleep 0.1; exit 3", opts=RunCommandOpts(background=True))
    async with asyncio.timeout(20):
        while (status := await sandbox.commands.get_command_status(run.id)).running:
            await asyncio.sleep(0.05)
    assert status.exit_code == 3, status
    logs = await sandbox.commands.get_background_command_logs(run.id)
    assert "日本" in logs.content, logs


async def sessions(sandbox):
    need(sandbox.commands, "create_session", "run_in_session", "delete_session")
    session = await sandbox.commands.create_session()
    await sandbox.commands.run_in_session(session, "x=41; cd /tmp")
    run = await sandbox.commands.run_in_session(session, "echo $((x + 1)) $PWD")
    assert said(run.logs.stdout) == "42 /tmp", run
    await sandbox.commands.delete_session(session)


async def files(sandbox):
    await sandbox.files.write_file("/tmp/tour/a.txt", TEXT)
    assert await sandbox.files.read_file("/tmp/tour/a.txt") == TEXT
    await sandbox.files.write_file("/tmp/tour/b.bin", bytes(range(256)))
    assert await sandbox.files.read_bytes("/tmp/tour/b.bin") == bytes(range(256))
    await sandbox.files.replace_contents(
        [ContentReplaceEntry(path="/tmp/tour/a.txt", old_content="and", new_content="or")]
    )
    assert await sandbox.files.read_file("/tmp/tour/a.txt") == TEXT.replace("and", "or")
    found = await sandbox.files.search(SearchEntry(path="/tmp/tour", pattern="*.bin"))
    assert [entry.path for entry in found] == ["/tmp/tour/b.bin"], found
    info = (await sandbox.files.get_file_info(["/tmp/tour/b.bin"]))["/tmp/tour/b.bin"]
    assert info.size == 256, info
    await sandbox.files.delete_files(["/tmp/tour/a.txt", "/tmp/tour/b.bin"])


async def code(interpreter):
    run = await interpreter.codes.run("print('out')\n1 + 1")
    assert [result.text for result in run.result] == ["2"], run
    assert said(run.logs.stdout) == "out", run
    context = await interpreter.codes.create_context("python")
    await interpreter.codes.run("x = 41", context=context)
    run = await interpreter.codes.run("x + 1", context=context)
    assert run.result[0].text == "42", run
    failed = await interpreter.codes.run("1 / 0", context=context)
    assert failed.error.name == "ZeroDivisionError", failed


async def records(sandbox):
    info = await sandbox.get_info()
    assert str(info.id) == str(sandbox.id)
    assert info.status.state == "Running", info
    await sandbox.renew(timedelta(minutes=20))
    manager = await SandboxManager.create(config())
    listed = await manager.list_sandbox_infos(SandboxFilter())
    assert str(sandbox.id) in [str(one.id) for one in listed.sandbox_infos]
    await manager.close()


async def metrics(sandbox):
    assert (await sandbox.get_metrics()).cpu_count > 0
    assert await sandbox.is_healthy()


async def ports(sandbox):
    assert (await sandbox.get_endpoint(8080)).endpoint


async def main() -> None:
    sandbox = await note("create", create())
    if sandbox is None:
        return
    try:
        for work in (commands, background, sessions, files, records, metrics, ports):
            await note(work.__name__, work(sandbox))
        interpreter = await note("interpreter", CodeInterpreter.create(sandbox))
        if interpreter is not None:
            await note("code", code(interpreter))
    finally:
        await note("kill", sandbox.kill())
        await sandbox.close()


asyncio.run(main())
print(json.dumps(results))
