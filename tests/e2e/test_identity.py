"""Files as another user: `files_with_identity` of the official SDK, and what the kernel makes of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.server.live_server import LiveServer, run_script

SCRIPT = """
import asyncio, hashlib, json, os
from opensandbox import Sandbox, SandboxSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.filesystem import (
    ContentReplaceEntry, DirectoryListEntry, MoveEntry, SearchEntry, SetPermissionEntry, WriteEntry,
)

async def refused(what):
    try:
        await what
    except SandboxApiException as error:
        return [error.status_code, error.error.code]

async def main():
    said = {}
    sandbox = await Sandbox.create("sandlot/python")
    run = sandbox.commands.run
    await run("mkdir -m 700 /root/closed && echo secret > /root/closed/file && mkdir -m 777 /open")
    await run("umask 077 && echo x > /open/root")
    mine = sandbox.files_with_identity(1000, 1000)
    await mine.write_files([WriteEntry(path="/open/mine", data="of 1000", mode=640)])
    said["owner"] = [line.text for line in (await run("stat -c '%u:%g %a' /open/mine")).logs.stdout]
    said["read"] = await mine.read_file("/open/mine")
    said["of root"] = await refused(mine.read_file("/open/root"))
    said["closed"] = await refused(mine.read_file("/root/closed/file"))
    said["list closed"] = await refused(mine.list_directory(DirectoryListEntry(path="/root/closed")))
    said["write closed"] = await refused(mine.write_file("/root/new", "x"))
    said["give away"] = await refused(
        mine.set_permissions([SetPermissionEntry(path="/open/mine", mode=640, owner="root")])
    )
    await mine.create_directories([WriteEntry(path="/open/dir", mode=755)])
    await mine.move_files([MoveEntry(src="/open/mine", dest="/open/dir/moved")])
    await mine.set_permissions([SetPermissionEntry(path="/open/dir/moved", mode=600)])
    await mine.replace_contents([ContentReplaceEntry(path="/open/dir/moved", old_content="of", new_content="by")])
    info = (await mine.get_file_info(["/open/dir/moved"]))["/open/dir/moved"]
    said["info"] = [info.mode, info.owner, info.size]
    said["found"] = [entry.path for entry in await mine.search(SearchEntry(path="/open", pattern="mo*"))]
    said["listed"] = sorted(entry.path for entry in await mine.list_directory(DirectoryListEntry(path="/open")))
    big = os.urandom(5_000_000)
    await mine.write_file("/open/big", big)
    said["big"] = hashlib.sha256(await mine.read_bytes("/open/big")).digest() == hashlib.sha256(big).digest()
    said["at once"] = await asyncio.gather(*(
        sandbox.files_with_identity(uid, uid).write_file(f"/open/{uid}", "x") for uid in range(2000, 2010)
    )) == [None] * 10
    await mine.delete_files(["/open/big"])
    await mine.delete_directories(["/open/dir"])
    said["left"] = [line.text for line in (await run("ls /open | grep -v 20")).logs.stdout]
    # Whoever is that user may end its deputy; the next request starts another.
    await run("pkill -KILL -u 1000; true")
    await asyncio.sleep(0.2)
    await mine.write_file("/open/again", "x")
    as_root = sandbox.files_with_identity(0, 0)
    said["root"] = await as_root.read_file("/root/closed/file")

    def in_sync():
        same = SandboxSync.connect(sandbox.id)
        files = same.files_with_identity(1000, 1000)
        files.write_file("/open/sync", "sync")
        return files.read_file("/open/sync")
    said["sync"] = await asyncio.to_thread(in_sync)
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_the_kernel_decides_what_a_user_may(sdk: Path, server: LiveServer) -> None:
    """Every route of files, with the rights of user 1000: what is theirs works, and nothing else."""
    assert run_script(sdk, server, SCRIPT) == {
        "owner": ["1000:1000 640"],
        "read": "of 1000",
        "of root": [400, "INVALID_FILE"],
        "closed": [400, "INVALID_FILE"],
        "list closed": [400, "INVALID_FILE"],
        "write closed": [400, "INVALID_FILE"],
        "give away": [400, "INVALID_FILE"],
        "info": [600, "sandbox", 7],
        "found": ["/open/dir/moved"],
        "listed": ["/open/dir", "/open/root"],
        "big": True,
        "at once": True,
        "left": ["root"],
        "root": "secret\n",
        "sync": "sync",
    }
