"""Every command of the official `osb` command line, once at least. Runs in that tool's environment.

    cli_tour.py direct|proxy IMAGE

Prints JSON: for each command "ok", how the server refuses it, or what went wrong; and all commands there are.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time

import click
from opensandbox_cli.main import cli

WAY, IMAGE = sys.argv[1:3]
OSB = os.path.join(os.path.dirname(sys.executable), "osb")
FLAGS = ["--use-server-proxy"] if WAY == "proxy" else []
# What has nothing to do with a server.
OFFLINE = ("config", "skills")

results: dict[str, str] = {}
home = tempfile.mkdtemp(prefix="osb-")


def osb(name, *arguments, expect=None, read_json=False, stdin=None):
    """Run one command; note how it went."""
    output = ["-o", "json"] if read_json else []
    words = name.split()
    done = subprocess.run(
        [OSB, "--config", f"{home}/config.toml", "--no-color", *FLAGS, *words, *output, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        input=stdin,
        env={**os.environ, "HOME": home},
        check=False,
    )
    text = done.stdout + done.stderr
    if done.returncode and (refusal := re.search(r"HTTP (\d+): \{\"code\":\"([^\"]+)|\[([A-Z_:]+)\]", text)):
        results[name] = "refused: " + " ".join(part for part in refusal.groups() if part)
    elif done.returncode:
        results[name] = f"failed: {text[-300:]}"
    elif expect is not None and expect not in text:
        results[name] = f"failed: {expect!r} is not in {text[:300]!r}"
    else:
        results[name] = "ok"
        return json.loads(done.stdout) if read_json else done.stdout
    return None


def tour():
    sandbox = osb("sandbox create", "--image", IMAGE, "--timeout", "10m", "-m", f"cli={WAY}", read_json=True)["id"]
    osb("sandbox list", "-m", f"cli={WAY}", expect=sandbox)
    osb("sandbox get", sandbox, expect="Running")
    osb("sandbox health", sandbox)
    osb("sandbox metrics", sandbox, read_json=True)
    osb("sandbox renew", sandbox, "--timeout", "20m")
    osb("sandbox endpoint", sandbox, "--port", "8123", expect="8123")
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
    osb("snapshot list", "--sandbox-id", sandbox, expect=snapshot)
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
