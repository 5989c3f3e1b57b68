"""Isolated sessions in a real sandbox: what they see, what they cannot, and how they end."""

from __future__ import annotations

import http.client
import json
import operator
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server.live_server import LiveServer, engine_request, run_script

ENABLE = {"bootstrap.execd.isolation": "enable"}


class Sandbox:
    """One sandbox, asked by plain HTTP."""

    def __init__(self, server: LiveServer, **asked: Any) -> None:
        body = {"image": {"uri": "sandlot/python"}, "entrypoint": ["sleep", "inf"], "timeout": 300, **asked}
        self.server = server
        self.id = server.request("POST", "/v1/sandboxes", body)["id"]
        self._path = f"/v1/sandboxes/{self.id}/proxy/44772"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the status and the JSON answer, or for events those."""
        host = self.server.address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {"OPEN-SANDBOX-API-KEY": self.server.key, "Content-Type": "application/json"}
        connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        if (response.getheader("content-type") or "").startswith("text/event-stream"):
            return [json.loads(line) for line in text.splitlines() if line]
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    def run(self, command: str) -> str:
        """Run a command outside of any session; return what it printed."""
        return _text(self.ask("POST", "/command", {"command": command}))

    def open(self, **asked: Any) -> str:
        """Open a session; return its path."""
        status, answer = self.ask("POST", "/v1/isolated/session", asked)
        assert status == 201, answer
        return f"/v1/isolated/session/{answer['session_id']}"

    def inside(self, session: str, code: str, **more: Any) -> str:
        """Run code in a session; return what it printed on both outputs."""
        return _text(self.ask("POST", f"{session}/run", {"code": code, **more}))


def _text(events: Any) -> str:
    assert isinstance(events, list), events
    # The contract takes the newline off the end of each event.
    return "".join(event["text"] + "\n" for event in events if event["type"] in ("stdout", "stderr"))


@pytest.fixture(scope="module")
def allowed(server: LiveServer) -> Iterator[Sandbox]:
    """A sandbox that may, with something in it."""
    one = Sandbox(server, extensions=ENABLE, env={"SECRET": "of the sandbox"})
    one.run("mkdir -p /ws /data/in; echo low > /ws/file; echo data > /data/file; mkdir -m 777 /open; touch /tmp/outer")
    yield one
    server.request("DELETE", f"/v1/sandboxes/{one.id}")


@pytest.fixture
def sandbox(allowed: Sandbox) -> Iterator[Sandbox]:
    """The same one for all, without what others have left in it."""
    yield allowed
    for session in allowed.ask("GET", "/v1/isolated/sessions")[1]["sessions"]:
        allowed.ask("DELETE", f"/v1/isolated/session/{session['session_id']}")


def test_only_who_asks_gets_it(server: LiveServer) -> None:
    """And is told how."""
    plain = Sandbox(server)
    try:
        status, found = plain.ask("GET", "/v1/isolated/capabilities")
        assert (status, found["available"], found["isolator"]) == (200, False, "bubblewrap")
        assert "bootstrap.execd.isolation=enable" in found["message"]
        status, answer = plain.ask("POST", "/v1/isolated/session", {"workspace": {"path": "/tmp"}})
        assert (status, answer["code"]) == (503, "NOT_SUPPORTED")
        assert "bwrap: " in answer["message"]
        assert plain.ask("GET", "/v1/isolated/sessions") == (200, {"sessions": []})
        assert plain.run("ls -A /tmp") == ""
    finally:
        server.request("DELETE", f"/v1/sandboxes/{plain.id}")


def test_a_server_that_does_not_allow_it_says_so(server: LiveServer) -> None:
    """The setting is off unless somebody turns it on."""
    with LiveServer(["--pool-size", "0"]) as strict, pytest.raises(urllib.error.HTTPError) as caught:
        Sandbox(strict, extensions=ENABLE)
    assert caught.value.code == 400
    assert "allow_user_namespaces" in json.loads(caught.value.read())["message"]


def test_its_first_receipt_names_a_version_that_the_image_does_not_have(server: LiveServer) -> None:
    """As that of a command or of code does."""
    image = {"image": {"uri": "sandlot/code-interpreter"}, "env": {"GO_VERSION": "1.19"}}
    sandbox = Sandbox(server, extensions=ENABLE, **image)
    session = sandbox.open(workspace={"path": "/tmp"})
    receipts = [sandbox.ask("POST", f"{session}/run", {"code": "true"})[-1]["receipt"] for _ in range(2)]
    assert receipts[0]["notice"].startswith("GO_VERSION='1.19': this image has ")
    assert "notice" not in receipts[1]
    server.request("DELETE", f"/v1/sandboxes/{sandbox.id}")


def test_it_is_a_live_shell_that_sees_little(sandbox: Sandbox) -> None:
    """Functions and variables stay; everything but the workspace is read-only or its own."""
    session = sandbox.open(workspace={"path": "/ws"})
    sandbox.inside(session, "f() { echo in f; }; X=5")
    assert sandbox.inside(session, "f; echo $X; pwd; id -u; cat file") == "in f\n5\n/ws\n0\nlow\n"
    assert sandbox.inside(session, "echo ${SECRET-none}; touch /root/x") == (
        "none\ntouch: cannot touch '/root/x': Read-only file system\n"
    )
    assert sandbox.inside(session, "ls -A /tmp; ls /run/sandlot; ls /dev/shm") == "jobs\n"
    assert "lo:" in (interfaces := sandbox.inside(session, "tail -n +3 /proc/net/dev"))
    assert interfaces.count(":") == 1
    assert sandbox.inside(session, "echo mine > made; cat /data/file") == "data\n"
    assert sandbox.run("cat /ws/made; rm /ws/made") == "mine\n"


DENIED = ("Permission denied", "No such file or directory", "No such process")
SOCKETS = """
import socket
for kind in ((17, 3), (16, 3, 12), (16, 3, 6), (2, 3, 1), (40, 1)):
    try:
        socket.socket(*kind)
        print(kind)
    except OSError:
        pass
"""


def test_nothing_of_the_sandbox_is_within_its_reach(sandbox: Sandbox) -> None:
    """Not its processes, not their files, not execd; no capability is left, and none can be had."""
    session = sandbox.open(workspace={"path": "/ws"})
    other = sandbox.open(workspace={"path": "/ws"})
    sandbox.inside(other, "echo secret of the other > /tmp/mine; X=secret")
    assert set(sandbox.inside(session, "grep ^Cap /proc/self/status | cut -f 2").split()) == {"0" * 16}
    assert sandbox.inside(session, "grep -c 'NoNewPrivs:.*1' /proc/self/status") == "1\n"
    own = sandbox.inside(session, "readlink /proc/self/ns/pid").strip()
    all_but_own = f'for p in /proc/[0-9]*; do [ "$(readlink $p/ns/pid)" = "{own}" ] || echo $p; done'
    others = sandbox.run(all_but_own).split()
    assert "/proc/1" in others
    paths = [f"{one}/{name}" for one in others for name in ("environ", "mem", "root/etc/hostname", "cwd/file", "fd/0")]
    said = sandbox.inside(session, f"cat {' '.join(paths)} 2>&1").splitlines()
    assert len(said) == len(paths)
    assert all(line.endswith(DENIED) for line in said), said
    assert sandbox.inside(session, "kill -9 1; kill -9 -1 2> /dev/null; echo here") == "here\n"
    assert sandbox.run("echo alive") == sandbox.inside(other, "echo alive") == "alive\n"
    for call in ("mount -t tmpfs none /ws", "umount /tmp", "mount -o remount,rw /", "chroot / true"):
        assert sandbox.inside(session, f"{call} && echo WELL") != "WELL\n", call
    assert sandbox.inside(session, "ls /run/sandlot/link.sock") == (
        "ls: cannot access '/run/sandlot/link.sock': No such file or directory\n"
    )
    sockets = (
        "import socket\nfor a in ((17, 3), (16, 3, 12), (16, 3, 6), (2, 3, 1), (40, 1)):\n try:\n  socket.socket(*a)"
    )
    sockets += "\n  print(a)\n except OSError as e: pass"
    assert sandbox.inside(session, f"python3 -c '{sockets}'") == ""


ATTACKS = (
    "mount -t cgroup -o memory none /mnt",  # in one of its own a sandbox could lift its limits
    "mount -t cgroup2 none /mnt",
    "mount -o remount,rw /sys/fs/cgroup",
    "mount -t sysfs none /mnt",
    "mount -t proc none /mnt",
    "mount -o remount,bind,rw /proc/sys",
    "umount /proc/sys",
    "umount /sys/firmware",
    "mount -t debugfs none /mnt",
    "mount -t bpf none /mnt",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_root_of_a_namespace_is_not_root_of_more(sandbox: Sandbox, attack: str) -> None:
    """In such a sandbox itself, outside of any session: what the engine has hidden stays hidden, and limits stay."""
    assert sandbox.run("unshare -Urm mount -t tmpfs none /mnt && echo can") == "can\n"
    assert "WELL" not in sandbox.run(f"unshare -Urm sh -c '{attack} && echo WELL' 2>&1")
    assert "WELL" not in sandbox.run(f"unshare -UrmC sh -c '{attack} && echo WELL' 2>&1")


def test_an_overlay_is_its_own_and_ends_with_it(sandbox: Sandbox) -> None:
    """Files of the session are read and written as it has them, also while the sandbox's stay as they were."""
    session = sandbox.open(overlays=[{"path": "/ws"}, {"path": "/data", "mode": "ro"}], extra_writable=["/open"])
    assert sandbox.inside(session, "echo changed > file; mkdir dir; touch dir/new; rm -f gone") == ""
    assert sandbox.ask("GET", f"{session}/files/download?path=/ws/file")[1] == "changed\n"
    assert sandbox.run("cat /ws/file; ls /ws") == "low\nfile\n"
    status, listed = sandbox.ask("GET", f"{session}/directories/list?path=/ws&depth=2")
    assert status == 200
    assert sorted(entry["path"] for entry in listed) == ["/ws/dir", "/ws/dir/new", "/ws/file"]
    assert sandbox.ask("POST", f"{session}/files/mv", [{"src": "/ws/dir/new", "dest": "/tmp/moved"}])[0] == 200
    assert sandbox.inside(session, "ls /tmp; ls -A dir") == "moved\n"
    status, answer = sandbox.ask("POST", f"{session}/directories", {"/data/no": {"mode": 755}})
    assert (status, answer["code"]) == (400, "INVALID_FILE")
    assert sandbox.inside(session, "echo x > /data/x") == "bash: /data/x: Read-only file system\n"
    assert sandbox.inside(session, "echo open > /open/x") == ""
    assert sandbox.run("cat /open/x; rm /open/x; cat /ws/file") == "open\nlow\n"
    assert sandbox.ask("DELETE", session)[0] == 200
    assert sandbox.run("ls /ws; ls -A /tmp") == "file\nouter\n"
    assert sandbox.ask("GET", f"{session}/files/download?path=/ws/file")[0] == 404
    assert sandbox.ask("GET", session)[0] == 404


def test_users_variables_and_binds(sandbox: Sandbox) -> None:
    """Really another user, or only called so; the variables and files that were named."""
    session = sandbox.open(workspace={"path": "/open"}, uid=1234, gid=77)
    assert sandbox.inside(session, "id -u; id -g; touch mine; cat /root/.bashrc 2>&1 | tail -c 18") == (
        "1234\n77\nPermission denied\n"
    )
    assert sandbox.run("stat -c %u:%g /open/mine") == "1234:77\n"
    assert sandbox.ask("GET", f"{session}/files/info?path=/open/mine")[1]["/open/mine"]["owner"] == "1234"
    sandbox.ask("DELETE", session)
    session = sandbox.open(workspace={"path": "/open"}, uid=1234, uid_mode="userns")
    assert sandbox.inside(session, "id -u; touch called") == "1234\n"
    assert sandbox.run("stat -c %u:%g /open/called; rm /open/*") == "0:0\n"
    sandbox.ask("DELETE", session)
    session = sandbox.open(
        workspace={"path": "/ws", "mode": "ro"},
        binds=[{"source": "/data/file", "dest": "/etc/hostname", "readonly": True}, {"source": "/data/in"}],
        env_passthrough={"mode": "allow", "keys": ["SECRET"]},
    )
    assert sandbox.inside(session, "echo $SECRET; cat /etc/hostname; touch /data/in/new; touch new") == (
        "of the sandbox\ndata\ntouch: cannot touch 'new': Read-only file system\n"
    )
    assert sandbox.inside(session, "echo $A", envs={"A": "it's $X"}) == "it's $X\n"
    sandbox.ask("DELETE", session)
    session = sandbox.open(workspace={"path": "/ws"}, profile="balanced", env_passthrough={"keys": ["HOME"]})
    assert sandbox.inside(session, "echo $SECRET ${HOME-none}") == "of the sandbox none\n"


def test_runs_behind_are_asked_about(sandbox: Sandbox) -> None:
    """Their shell is a copy of the session's; what they print is read from where one was."""
    session = sandbox.open(workspace={"path": "/ws"})
    sandbox.inside(session, "X=1; mkfifo /tmp/go")
    spin = "for ((i = 0; i < 200000; i++)); do :; done"
    code = f"echo $X $A; echo err >&2; read line < /tmp/go; {spin}; echo $line; exit 3"
    status, begun = sandbox.ask("POST", f"{session}/run", {"code": code, "background": True, "envs": {"A": "a"}})
    assert status == 202
    run = f"{session}/runs/{begun['run_id']}"
    status, state = sandbox.ask("GET", run)
    assert (state["running"], state["exit_code"], state["finished_at"]) == (True, None, None)
    assert "receipt" not in state
    assert sandbox.inside(session, "echo meanwhile; echo went > /tmp/go") == "meanwhile\n"
    while sandbox.ask("GET", run)[1]["running"]:
        pass
    state = sandbox.ask("GET", run)[1]
    assert (state["exit_code"], state["session_id"] in session) == (3, True)
    receipt = state["receipt"]
    assert (receipt["cause"], receipt["exit_code"], receipt["output_bytes"]) == ("exit", 3, len("1 a\nerr\nwent\n"))
    assert receipt["wall_s"] > 0
    assert receipt["cpu_s"] > 0.05
    assert sandbox.ask("GET", f"{run}/logs")[1] == "1 a\nerr\nwent\n"
    assert sandbox.ask("GET", f"{run}/logs?cursor=8")[1] == "went\n"
    assert sandbox.ask("GET", f"{run}/logs?cursor=800")[1] == ""
    assert sandbox.ask("GET", f"{session}/runs/{begun['session_id']}")[0] == 404
    status, begun = sandbox.ask("POST", f"{session}/run", {"code": "sleep 300", "background": True})
    sandbox.inside(session, "kill -9 $$")
    state = sandbox.ask("GET", f"{session}/runs/{begun['run_id']}")[1]
    assert (state["running"], state["exit_code"], state["error"]) == (False, None, "the session ended before the job")
    assert state["receipt"]["cause"] == "killed"
    assert sandbox.ask("GET", session)[1]["status"] == "dead"
    status, answer = sandbox.ask("POST", f"{session}/run", {"code": "true"})
    assert (status, answer["code"]) == (404, "SESSION_ENDED")
    sandbox.ask("DELETE", session)
    assert sandbox.run("pgrep sleep | wc -l") == "1\n"  # the sandbox's own


def test_a_run_is_ended_and_its_session_is_not(sandbox: Sandbox) -> None:
    """By its time limit, and by the client's DELETE."""
    session = sandbox.open(workspace={"path": "/ws"})
    sandbox.inside(session, "X=5")
    events = sandbox.ask("POST", f"{session}/run", {"code": "sleep 300", "timeout_seconds": 1})
    assert [event["error"]["evalue"] for event in events if event["type"] == "error"] == ["124"]
    assert sandbox.inside(session, "echo $X") == "5\n"


def test_a_strict_script_ends_its_runs_and_not_its_session(sandbox: Sandbox) -> None:
    """Nothing of what it sets shows in later runs, nor do its failures end anything but themselves."""
    session = sandbox.open(workspace={"path": "/ws"})
    assert sandbox.inside(session, "set -euo pipefail; PS1='> '; X=5") == ""
    status, begun = sandbox.ask("POST", f"{session}/run", {"code": "sleep 300", "background": True})
    assert status == 202
    assert sandbox.inside(session, "false; echo no") == ""
    assert sandbox.inside(session, ": $nope") == "bash: nope: unbound variable\n"
    assert sandbox.inside(session, "echo $X; exit 3") == "5\n"
    assert sandbox.ask("GET", session)[1]["status"] == "active"
    assert sandbox.ask("GET", f"{session}/runs/{begun['run_id']}")[1]["running"]
    text = "0123456789abcde\n" * 65_536
    assert sandbox.inside(session, f"wc -c <<'EOF'\n{text}EOF") == f"{len(text)}\n"


@pytest.mark.parametrize("asked", [{"uid": 1000, "uid_mode": "setpriv"}, {"uid": 1000, "uid_mode": "userns"}, {}])
def test_every_identity_may_open_its_own_output(sandbox: Sandbox, asked: dict[str, Any]) -> None:
    """In a session and in a command."""
    code = "echo out > /dev/stdout; echo err | tee /dev/stderr > /dev/null; id -u"
    expected = sorted(["out", "err", str(asked.get("uid", 0))])
    session = sandbox.open(workspace={"path": "/open"}, **asked)
    assert sorted(sandbox.inside(session, code).split()) == expected
    command = {"command": code} | ({"uid": 1000} if asked else {})
    assert sorted(_text(sandbox.ask("POST", "/command", command)).split()) == expected


def test_an_idle_session_ends(sandbox: Sandbox) -> None:
    """Not while something runs in it."""
    session = sandbox.open(workspace={"path": "/ws"}, idle_timeout_seconds=1)
    assert sandbox.inside(session, "sleep 2; echo done") == "done\n"
    assert sandbox.ask("GET", session)[1]["idle_remaining_seconds"] in (0, 1)
    assert sandbox.ask("POST", f"{session}/run", {"code": "sleep 2", "background": True})[0] == 202
    sandbox.run("sleep 1.5")
    assert sandbox.ask("GET", session)[0] == 200
    while sandbox.ask("GET", session)[0] == 200:
        pass
    while sandbox.run("ls -A /tmp") != "outer\n":  # It is forgotten first, then its directory is removed.
        pass


def test_sessions_leave_nothing_in_execd(sandbox: Sandbox) -> None:
    """No descriptor, no process: whether they were used, died, or never came about."""

    def use() -> None:
        for code in ("echo $((1 + 1))", "exit 3", "set -e; false", "kill -9 $$"):
            session = sandbox.open(overlays=[{"path": "/ws"}])
            sandbox.inside(session, code)
            sandbox.ask("GET", f"{session}/files/download?path=/ws/file")
            sandbox.ask("DELETE", session)
        sandbox.ask("POST", "/v1/isolated/session", {"workspace": {"path": "/ws"}, "binds": [{"source": "/none"}]})

    def left() -> tuple[int, int]:
        descriptors, processes = sandbox.run("ls /proc/1/fd | wc -l; ls -d /proc/[0-9]* | wc -l").split()
        return int(descriptors), int(processes)

    use()
    before = left()
    for _ in range(5):
        use()
    deadline = time.monotonic() + 20  # What was killed last may not have been reaped yet.
    while any(map(operator.gt, now := left(), before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(operator.gt, now, before)), (before, now)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 400, "at least one"),
        ({"workspace": {"path": "ws"}}, 400, "absolute"),
        ({"workspace": {"path": "/ws/../etc"}}, 400, "absolute"),
        ({"workspace": {"path": "/ws/"}}, 400, "absolute"),
        ({"workspace": {"path": "/nowhere"}}, 400, "is not a directory of the sandbox"),
        ({"workspace": {"path": "/ws", "mode": "rwx"}}, 400, "workspace.mode"),
        ({"workspace": {"path": "/ws"}, "overlays": [{"path": "/ws"}]}, 400, "two things"),
        ({"overlays": [{"path": "/ws", "mode": "ro", "persist": True}]}, 400, "persist"),
        ({"overlays": [{"path": f"/{n}"} for n in range(17)]}, 400, "no more than 16"),
        ({"workspace": {"path": "/ws"}, "binds": [{"source": "/nowhere"}]}, 400, "does not exist"),
        ({"workspace": {"path": "/ws"}, "binds": [{"source": "/data", "dest": "/nowhere"}]}, 400, "can cover it"),
        ({"workspace": {"path": "/ws"}, "gid": 5}, 400, "needs uid"),
        ({"workspace": {"path": "/ws"}, "uid": -1}, 400, "uid"),
        ({"workspace": {"path": "/ws"}, "profile": "loose"}, 400, "profile"),
        ({"workspace": {"path": "/ws"}, "env_passthrough": {"mode": "all"}}, 400, "env_passthrough.mode"),
        ({"workspace": {"path": "/", "mode": "overlay"}}, 400, "is mounted in it"),
    ],
)
def test_what_cannot_be_is_refused(sandbox: Sandbox, asked: dict[str, Any], status: int, words: str) -> None:
    """By its name, and nothing is left of it."""
    found, answer = sandbox.ask("POST", "/v1/isolated/session", asked)
    assert (found, words in answer["message"]) == (status, True), answer
    assert sandbox.ask("GET", "/v1/isolated/sessions")[1] == {"sessions": []}
    assert sandbox.run("ls -A /tmp") == "outer\n"


def test_bad_runs_are_refused(sandbox: Sandbox) -> None:
    """And differences are not kept."""
    session = sandbox.open(workspace={"path": "/ws"})
    for body, words in (({"code": " "}, "code"), ({"code": "x", "envs": {"A-B": "1"}}, "A-B"), ({}, "code")):
        status, answer = sandbox.ask("POST", f"{session}/run", body)
        assert (status, words in answer["message"]) == (400, True), answer
    assert sandbox.ask("GET", f"{session}/diff")[1]["code"] == "NOT_SUPPORTED"
    assert sandbox.ask("POST", f"{session}/commit")[0] == 503
    sandbox.ask("DELETE", session)
    assert sandbox.ask("DELETE", session)[0] == 404


def test_a_hardened_sandbox_has_them_too() -> None:
    """With no capability at all, as user 1000, on a read-only root; and nobody else can be made of it."""
    with LiveServer(["--pool-size", "0", "--hardened", "true", "--allow-user-namespaces", "true"]) as server:
        sandbox = Sandbox(server, extensions=ENABLE)
        container = engine_request("GET", f"/containers/{server.containers()[0]}/json")
        assert container["HostConfig"]["CapAdd"] in (None, [])
        sandbox.run("echo low > /workspace/file")
        session = sandbox.open(overlays=[{"path": "/workspace"}])
        assert sandbox.inside(session, "id -u; cat file; echo x > file; cat file") == "1000\nlow\nx\n"
        assert sandbox.ask("GET", f"{session}/files/download?path=/workspace/file")[1] == "x\n"
        assert sandbox.run("cat /workspace/file") == "low\n"
        status, answer = sandbox.ask("POST", "/v1/isolated/session", {"workspace": {"path": "/workspace"}, "uid": 5})
        assert (status, "cannot run as this user" in answer["message"]) == (503, True), answer


SDK = """
import json, os
from opensandbox import SandboxSync
from opensandbox.models.filesystem import *
from opensandbox.models.isolated import *
sandbox = SandboxSync.create("sandlot/python", extensions={"bootstrap.execd.isolation": "enable"})
sandbox.commands.run("mkdir /ws")
request = CreateIsolatedSessionRequest(overlays=[IsolatedOverlaySpec(path="/ws")])
said = {}
with sandbox.isolation.session(request) as session:
    files = session.files
    files.write_file("/ws/a", "one two", mode=600)
    files.create_directories([WriteEntry(path="/ws/dir", mode=755)])
    files.move_files([MoveEntry(src="/ws/a", dest="/ws/dir/b")])
    files.set_permissions([SetPermissionEntry(path="/ws/dir/b", mode=640)])
    files.replace_contents([ContentReplaceEntry(path="/ws/dir/b", old_content="one", new_content="1")])
    counts = files.replace_contents_detailed([ContentReplaceEntry(path="/ws/dir/b", old_content="t", new_content="T")])
    said["replaced"] = counts[0].replaced_count
    info = files.get_file_info(["/ws/dir/b"])["/ws/dir/b"]
    said["info"] = [info.mode, info.size]
    said["read"] = [files.read_file("/ws/dir/b"), files.read_file("/ws/dir/b", range_header="bytes=2-3")]
    said["found"] = [entry.path for entry in files.search(SearchEntry(path="/ws", pattern="b*"))]
    said["listed"] = [entry.path for entry in files.list_directory(DirectoryListEntry(path="/ws"))]
    big = os.urandom(5_000_000)
    files.write_file("/ws/big", big)
    said["big"] = b"".join(files.read_bytes_stream("/ws/big")) == big
    files.delete_files(["/ws/big"])
    files.delete_directories(["/ws/dir"])
    said["left"] = [line.text for line in session.run("ls -A /ws").logs.stdout]
said["outside"] = [line.text for line in sandbox.commands.run("ls -A /ws; ls -A /tmp").logs.stdout]
sandbox.kill()
print(json.dumps(said))
"""


def test_all_routes_of_files_act_in_the_session(sdk: Path, server: LiveServer) -> None:
    """Through the official SDK."""
    assert run_script(sdk, server, SDK) == {
        "replaced": 1,
        "info": [640, 5],
        "read": ["1 Two", "Tw"],
        "found": ["/ws/dir/b"],
        "listed": ["/ws/dir"],
        "big": True,
        "left": [],
        "outside": [],
    }
