"""Pause, resume and metadata through the official SDK, async and sync."""

from __future__ import annotations

from pathlib import Path

from tests.support.server.live_server import LiveServer, run_script

SCRIPT = """
import asyncio, json
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox, SandboxManager, SandboxManagerSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import SandboxFilter

async def refused(what):
    try:
        await what
    except SandboxApiException as error:
        return [error.status_code, error.error.code]

async def main():
    sandbox = await Sandbox.create("sandlot/code-interpreter", metadata={"who": "test", "old": "1"})
    interpreter = await CodeInterpreter.create(sandbox)
    context = await interpreter.codes.create_context("python")
    await interpreter.codes.run("answer = 41", context=context)
    await sandbox.pause()
    said = {"paused": (await sandbox.get_info()).status.state}
    said["twice"] = await refused(sandbox.pause())
    said["run"] = await refused(sandbox.commands.run("true"))
    async with await SandboxManager.create() as manager:
        listed = await manager.list_sandbox_infos(SandboxFilter(states=["Paused"], metadata={"who": "test"}))
        said["listed"] = [info.id == sandbox.id for info in listed.sandbox_infos]
    resumed = await Sandbox.resume(sandbox.id)
    said["resumed"] = (await resumed.get_info()).status.state
    run = await (await CodeInterpreter.create(resumed)).codes.run("answer + 1", context=context)
    said["answer"] = run.result[0].text
    said["resume running"] = await refused(Sandbox.resume(sandbox.id))
    said["metadata"] = (await resumed.patch_metadata({"old": None, "new": "2"})).metadata
    said["bad metadata"] = await refused(resumed.patch_metadata({"opensandbox.io/x": "1"}))

    def in_sync():
        with SandboxManagerSync.create() as manager:
            manager.pause_sandbox(sandbox.id)
            paused = manager.get_sandbox_info(sandbox.id).status.state
            manager.resume_sandbox(sandbox.id)
            manager.pause_sandbox(sandbox.id)
            manager.kill_sandbox(sandbox.id)
            return paused
    said["sync"] = await asyncio.to_thread(in_sync)
    print(json.dumps(said))

asyncio.run(main())
"""


def test_pause_resume_and_metadata(sdk: Path, server: LiveServer) -> None:
    """A context keeps its state; what is not possible is told with status and code; a paused sandbox can be killed."""
    assert run_script(sdk, server, SCRIPT) == {
        "paused": "Paused",
        "twice": [409, "DOCKER::SANDBOX_NOT_RUNNING"],
        "run": [409, "DOCKER::SANDBOX_NOT_RUNNING"],
        "listed": [True],
        "resumed": "Running",
        "answer": "42",
        "resume running": [409, "DOCKER::SANDBOX_NOT_PAUSED"],
        "metadata": {"who": "test", "new": "2"},
        "bad metadata": [400, "SANDBOX::INVALID_METADATA_LABEL"],
        "sync": "Paused",
    }
