"""What clients read, by the official SDK: whole lines, whole characters, and all edits that were sent at once."""

from __future__ import annotations

from pathlib import Path

from tests.support.server.live_server import LiveServer, run_script

SCRIPT = """
import asyncio, json
from code_interpreter import CodeInterpreter
from code_interpreter.models.code import CodeContext
from opensandbox import Sandbox
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.filesystem import ContentReplaceEntry

async def main():
    said = {}
    sandbox = await Sandbox.create("sandlot/python")
    run, files = sandbox.commands.run, sandbox.files

    blank = await run(r"printf 'a\\n\\nb\\n\\n\\nc\\n'")
    said["blank"] = [[line.text for line in blank.logs.stdout], blank.text]
    long = await run("python3 -c \\"import json; print(json.dumps(['x' * 100] * 15000))\\"")
    said["long"] = json.loads(long.text) == ["x" * 100] * 15000

    await files.write_file("/tmp/lines", "line1\\r\\nline2\\nline3\\n")
    said["window"] = await files.read_file("/tmp/lines", offset=1, limit=2)
    said["range"] = await files.read_file("/tmp/lines", range_header="bytes=14-9223372036854775807")

    await files.write_file("/tmp/edits", "".join(f"<{i}>" for i in range(40)))
    await asyncio.gather(*(
        files.replace_contents([ContentReplaceEntry(path="/tmp/edits", old_content=f"<{i}>", new_content=f"[{i}]")])
        for i in range(40)
    ))
    said["edits"] = await files.read_file("/tmp/edits") == "".join(f"[{i}]" for i in range(40))

    printing = "for i in $(seq 1500); do echo 日本語テキスト漢字; done | sed 's/x/y/'"
    behind = await run(printing, opts=RunCommandOpts(background=True))
    logs, cursor, running = "", None, True
    while running:
        running = (await sandbox.commands.get_command_status(behind.id)).running
        part = await sandbox.commands.get_background_command_logs(behind.id, cursor)
        logs, cursor = logs + part.content, part.cursor
    said["logs"] = logs == "日本語テキスト漢字\\n" * 1500

    codes = (await CodeInterpreter.create(sandbox)).codes
    first = await codes.run("x = 41")
    await codes.interrupt(first.id)
    again = await codes.run("x + 1", context=CodeContext(id=first.id, language="python"))
    said["state"] = again.result[0].text
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_what_clients_read_is_whole(sdk: Path, server: LiveServer) -> None:
    """Each value is what a person would expect to see."""
    assert run_script(sdk, server, SCRIPT) == {
        "blank": [["a", "\n\n", "b", "\n\n", "\n", "c"], "a\n\nb\n\n\nc"],
        "long": True,
        "window": "line1\nline2",
        "range": "ine3\n",
        "edits": True,
        "logs": True,
        "state": "42",
    }
