"""Clients that people still pin, from before endpoints named headers: they run against today's server unchanged.

Their asynchronous half goes on the tour of versions (`clients/versions.py`); here is the other half.
"""

from __future__ import annotations

from tests.support.server.live_server import LiveServer, python_with, run_script

# The last releases of both that ignore an endpoint's headers.
PACKAGES = ("opensandbox==0.1.4", "opensandbox-code-interpreter==0.1.1")
PROGRAM = """
import json
from code_interpreter import CodeInterpreterSync
from opensandbox import SandboxSync

said = {}
sandbox = SandboxSync.create("sandlot/code-interpreter")
said["command"] = [m.text for m in sandbox.commands.run("echo hi").logs.stdout]
sandbox.files.write_file("/tmp/a", "text")
said["file"] = sandbox.files.read_file("/tmp/a")
said["code"] = [r.text for r in CodeInterpreterSync.create(sandbox).codes.run("6 * 7").result]
said["endpoint"] = sandbox.get_endpoint(8000).endpoint
sandbox.kill()
print(json.dumps(said))
"""


def test_a_client_that_sends_no_headers(server: LiveServer) -> None:
    """Commands, files, code and ports."""
    said = run_script(python_with("old-sdk", PACKAGES), server, PROGRAM)
    assert "/signed/8000/" in said.pop("endpoint"), said
    assert said == {"command": ["hi"], "file": "text", "code": ["42"]}
