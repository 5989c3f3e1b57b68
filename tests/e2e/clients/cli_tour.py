"""Every command of the official `osb` command line, once at least. Runs in that tool's environment.

    cli_tour.py direct|proxy IMAGE

Prints JSON: for each command "ok", how the server refuses it, or what went wrong; and all commands there are. Each
command is a process of its own, forked when the tool's modules are there: loading them takes most of a second.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import traceback

import click
from opensandbox_cli.main import cli

WAY, IMAGE = sys.argv[1:3]
FLAGS = ["--use-server-proxy"] if WAY == "proxy" else []
# What has nothing to do with a server.
OFFLINE = ("config", "skills")

results: dict[str, str] = {}
home = tempfile.mkdtemp(prefix="osb-")


def run(arguments):
    """Run the tool; return its exit code, its output, and that with what it said on standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = ["osb", *arguments]
                code = 0 if cli() is None else 1  # does not return, as a rule
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return code, texts[0], texts[0] + texts[1]


def osb(name, *arguments, expect=None, read_json=False):
    """Run one command; note how it went. One that failed once has failed, whatever it does after that."""
    output = ["-o", "json"] if read_json else []
    code, out, text = run(["--config", f"{home}/config.toml", "--no-color", *FLAGS, *name.split(), *output, *arguments])
    result = "ok"
    if code and (refusal := re.search(r"HTTP (\d+): \{\"code\":\"([^\"]+)|\[([A-Z_:]+)\]", text)):
        result = "refused: " + " ".join(part for part in refusal.groups() if part)
    elif code:
        result = f"failed: {text[-300:]}"
    elif expect is not None and expect not in text:
        result = f"failed: {expect!r} is not in {text[:300]!r}"
    if results.get(name, "ok") == "ok":
        results[name] = result
    return None if result != "ok" else json.loads(out) if read_json else out


def tour():
    os.environ["HOME"] = home
    sandbox = osb("sandbox create", "--image", IMAGE, "--timeout", "10m", "-m", f"cli={WAY}", read_json=True)["id"]
    osb("sandbox list", "-m", f"cli={WAY}", expect=sandbox)
    osb("sandbox get", sandbox, expect="Running")
    osb("sandbox health", sandbox)
    osb("sandbox metrics", sandbox, read_json=True)
    osb("sandbox renew", sandbox, "--timeout", "20m")
    osb("sandbox endpoint", sandbox, "--port", "8123", expect="8123", read_json=True)
    osb("command run", sandbox, "--", "echo", "hello", expect="hello")
    behind = osb("command run", "-d", sandbox, "-o", "json", "--", "echo first; sleep 300")
    command = json.loads(behind)["execution_id"] if behind and behind.lstrip().startswith("{") else behind.split()[-1]
    osb("command status", sandbox, command, expect="running")
    time.sleep(0.3)
    osb("command logs", sandbox, command, "-o", "raw", expect="first")
    osb("command interrupt", sandbox, command)
    session = osb("command session create", sandbox, read_json=True)
    session = session.get("session_id") or session["id"]
    osb("command session run", sandbox, session, "--", "echo", "from", "a", "session", expect="from a session")
    osb("command session delete", sandbox, session)
    osb("file mkdir", sandbox, "/tour/in")
    osb("file write", sandbox, "/tour/a", "--content", "one two")
    osb("file cat", sandbox, "/tour/a", expect="one two")
    osb("file replace", sandbox, "/tour/a", "--old", "one", "--new", "1")
    osb("file chmod", sandbox, "/tour/a", "--mode", "0600")
    osb("file info", sandbox, "/tour/a", expect="600")
    osb("file mv", sandbox, "/tour/a", "/tour/in/b")
    osb("file search", sandbox, "/tour", "--pattern", "b", expect="/tour/in/b")
    osb("file download", sandbox, "/tour/in/b", f"{home}/down")
    with open(f"{home}/down") as file:
        assert file.read() == "1 two"
    osb("file upload", sandbox, f"{home}/down", "/tour/up")
    osb("file rm", sandbox, "/tour/up")
    osb("file rmdir", sandbox, "/tour")
    osb("diagnostics logs", sandbox, "--scope", "container")
    osb("diagnostics events", sandbox, "--scope", "runtime", expect="Running")
    for name in ("logs", "inspect", "events", "summary"):
        osb(f"devops {name}", sandbox)
    osb("egress get", sandbox, expect="deny")
    osb("egress patch", sandbox, "--rule", "allow=example.com")
    osb("sandbox pause", sandbox)
    osb("sandbox resume", sandbox)
    snapshot = osb("snapshot create", sandbox, "--name", f"cli-{WAY}", read_json=True)["id"]
    while "Ready" not in osb("snapshot get", snapshot):
        time.sleep(0.1)
    osb("snapshot list", "--sandbox-id", sandbox, expect=snapshot, read_json=True)
    osb("snapshot delete", snapshot)
    with open(f"{home}/vault.json", "w") as file:
        json.dump({"credentials": [], "bindings": []}, file)
    osb("credential-vault create", sandbox, "--file", f"{home}/vault.json")
    osb("credential-vault get", sandbox)
    with open(f"{home}/patch.json", "w") as file:
        json.dump({"credentials": {"delete": ["c"]}}, file)
    osb("credential-vault patch", sandbox, "--file", f"{home}/patch.json")
    osb("credential-vault delete", sandbox)
    osb("credential-vault credential list", sandbox)
    osb("credential-vault credential get", sandbox, "c")
    osb("credential-vault binding list", sandbox)
    osb("credential-vault binding get", sandbox, "b")
    osb("template create", "--image", "a", "--publish", "s3://a/b")
    osb("template get", "t")
    osb("template list")
    osb("template delete", "t")
    osb("sandbox kill", sandbox)


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            if path or name not in OFFLINE:
                yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


try:
    tour()
finally:
    print(json.dumps({"results": results, "surface": sorted(commands(cli))}))
