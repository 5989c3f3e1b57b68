"""The commands on sandboxes, as a person and as a script use them: a real server, real pipes and a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.server.live_server import LiveServer
from tests.support.terminal import PtyProgram

SANDLOT = (sys.executable, "-m", "controlplane.cli.main")
CREATE = {
    "image": {"uri": "sandlot/python"},
    "entrypoint": ["sh", "-c", r"printf 'begun\n\033[31mred\033[0m \033]0;title\007\n'; exec tail -f /dev/null"],
    "timeout": 600,
    "metadata": {"name": "cli-tests"},
}
NAME = "cli-tests"
PROMPT = r"[#$] "


class Commands:
    """Runs `sandlot` beside the server."""

    def __init__(self, server: LiveServer) -> None:
        self.environment = server.sdk_environment() | {"TERM": "xterm"}

    def __call__(
        self, *arguments: str, status: int = 0, stdin: bytes | IO[bytes] | int = b"", **options: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command, which must end with that status."""
        given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        done = subprocess.run(
            [*SANDLOT, *arguments],
            env=self.environment | options,
            capture_output=True,
            timeout=120,
            check=False,
            **given,  # type: ignore[call-overload]
        )
        assert done.returncode == status, (done.returncode, done.stdout[-1000:], done.stderr[-2000:])
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [*SANDLOT, *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def terminal(self, *arguments: str) -> PtyProgram:
        """Start a command in a terminal."""
        return PtyProgram([*SANDLOT, *arguments], self.environment)


@pytest.fixture(scope="module")
def sandlot(server: LiveServer, sandbox: str) -> Commands:
    """The command, and a sandbox with the name `cli-tests`."""
    return Commands(server)


def output(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stdout.decode()


# -- the life of a sandbox


def test_the_life_of_a_sandbox(sandlot: Commands) -> None:
    """Made, listed, named by its beginning, ended; after that it is not found."""
    made = output(sandlot("run", "-d", "--name", "short-lived", "--ttl", "5h", "sandlot/python")).strip()
    assert made in output(sandlot("ps", "-q")).split()
    (line,) = [each for each in output(sandlot("ps")).splitlines() if "short-lived" in each]
    assert line.split()[:3] == [made[:12], "Running", "sandlot/python"]
    assert " 4h" in line
    (shown,) = json.loads(output(sandlot("ps", "--json", "--filter", "metadata=name=short-lived")))
    assert shown["id"] == made
    assert output(sandlot("rm", made[:13])).strip() == made
    assert b"there is no sandbox" in sandlot("exec", "short-lived", "true", status=125).stderr
    assert b"there is no sandbox" in sandlot("logs", made, status=1).stderr


def test_a_paused_sandbox(sandlot: Commands) -> None:
    """Its refusal names the cure, and the cure works."""
    made = output(sandlot("run", "-d", "sandlot/python")).strip()
    assert output(sandlot("pause", made)).strip() == made
    assert b"`sandlot resume` it" in sandlot("exec", made, "true", status=125).stderr
    sandlot("resume", made)
    sandlot("exec", made, "true")
    sandlot("rm", made)


def test_run_with_a_command(sandlot: Commands) -> None:
    """The sandbox is gone with the command, whose status is that of `sandlot`."""
    before = set(output(sandlot("ps", "-q")).split())
    done = sandlot("run", "-e", "A=b", "sandlot/python", "--", "sh", "-c", "echo $A; exit 5", status=5)
    assert done.stdout == b"b\n"
    assert set(output(sandlot("ps", "-q")).split()) <= before
    assert b"no command, and no terminal" in sandlot("run", "sandlot/python", status=125).stderr


# -- logs


def test_logs_cannot_control_the_terminal(sandlot: Commands) -> None:
    """Colours go, everything else is shown as an escape; --raw prints what there is."""
    assert sandlot("logs", NAME).stdout == b"begun\nred \\x1b]0;title\\x07\n"
    assert sandlot("logs", "--tail", "1", NAME).stdout == b"red \\x1b]0;title\\x07\n"
    assert sandlot("logs", "--raw", NAME).stdout == b"begun\n\x1b[31mred\x1b[0m \x1b]0;title\x07\n"
    assert b"Running" in sandlot("logs", "--events", NAME).stdout


def test_logs_follow_to_the_end(server: LiveServer, sandlot: Commands) -> None:
    """Nothing is lost and nothing comes twice, also at the end of the sandbox."""
    script = "for i in 1 2 3; do echo line $i; done; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last; exit 3"
    body = CREATE | {"entrypoint": ["sh", "-c", script], "metadata": {}}
    made = server.request("POST", "/v1/sandboxes", body)["id"]
    with sandlot.start("logs", "-f", "--every", "0.1s", made) as following:
        assert following.stdout is not None
        assert [following.stdout.readline() for _ in range(3)] == [b"line 1\n", b"line 2\n", b"line 3\n"]
        sandlot("exec", made, "touch", "/tmp/go")
        rest, errors = following.communicate(timeout=60)
    assert (rest, following.returncode) == (b"last\n", 0), errors
    server.request("DELETE", f"/v1/sandboxes/{made}")


def test_the_activity_is_told(sandlot: Commands, server: LiveServer) -> None:
    """What was done and what came of it, as it comes; nothing in it reaches the terminal as it is."""
    made = output(sandlot("run", "-d", "sandlot/python")).strip()
    with sandlot.start("logs", "--activity", "-f", made) as following:
        assert following.stdout is not None
        sandlot("exec", made, "--", "printf", r"a\n\033[2Jb\n")
        lines = [following.stdout.readline().decode() for _ in range(6)]
        sandlot("rm", made)
        assert following.wait(60) == 0
    assert "entrypoint: tail -f /dev/null" in lines[1]
    assert "command: printf" in lines[2]
    assert lines[3:] == ["  | a\n", "  | \\x1b[2Jb\n", "  → exit\n"]


# -- exec


def test_exec_keeps_streams_and_status_apart(sandlot: Commands) -> None:
    done = sandlot("exec", NAME, "--", "sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in", status=3)
    assert (done.stdout, done.stderr) == (b"in", b"err\n")
    done = sandlot(
        "exec", "-w", "/tmp", "-e", "A=1", "-e", "B", "-u", "root", NAME, "sh", "-c", "pwd; echo $A$B", B="2"
    )
    assert done.stdout == b"/tmp\n12\n"
    assert sandlot("exec", "-n", NAME, "cat").stdout == b""


def test_exec_passes_bytes_through(sandlot: Commands) -> None:
    """Several megabytes of every byte, in and out."""
    data = bytes(range(256)) * 20_000
    assert sandlot("exec", NAME, "cat", stdin=data).stdout == data


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["no-such-program"], 127, "not found in PATH"),
        (["/etc/passwd"], 126, "ermission"),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["-x"], 125, "options stand before the sandbox"),
        ([], 125, "there is no command"),
    ],
)
def test_exec_status(sandlot: Commands, command: list[str], status: int, message: str) -> None:
    assert message in sandlot("exec", NAME, *command, status=status).stderr.decode()


def test_exec_ends_in_time(sandlot: Commands) -> None:
    assert b"the time was up" in sandlot("exec", "--timeout", "300ms", NAME, "sleep", "60", status=124).stderr
    assert b"expected a time such as" in sandlot("exec", "--timeout", "soon", NAME, "true", status=125).stderr


def test_exec_passes_signals_on(sandlot: Commands) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with sandlot.start("exec", NAME, "--", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        rest, errors = running.communicate(timeout=60)
    assert (rest, running.returncode) == (b"got it\n", 7), errors


def test_exec_into_a_pipe_that_is_closed(sandlot: Commands) -> None:
    """The command ends, as in a pipe of a shell, without a traceback."""
    with sandlot.start("exec", NAME, "--", "yes") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 128 + signal.SIGPIPE


# -- shell


def test_a_shell(sandlot: Commands) -> None:
    """Its size is that of the window, also when the window changes; its status is ours."""
    with sandlot.terminal("shell", NAME) as shell:
        shell.expect(PROMPT)
        shell.type("stty size; tty\r")
        shell.expect(r"30 100\r\n/dev/pts/\d+\r\n")
        shell.resize(77, 22)
        shell.type("while [ \"$(stty size)\" != '22 77' ]; do sleep 0.05; done; echo resi''zed\r")
        shell.expect("resized")
        shell.type("exit 9\r")
        assert shell.wait() == 9


@pytest.mark.parametrize("keys", ["\x10\x11", "\r~."], ids=["ctrl-p ctrl-q", "~."])
def test_a_shell_is_left_and_taken_up(sandlot: Commands, keys: str) -> None:
    with sandlot.terminal("shell", NAME) as shell:
        shell.expect(PROMPT)
        shell.type("left=be''hind; echo $left\r")
        shell.expect("behind\r\n")
        shell.type(keys)
        terminal = shell.expect(r"sandlot shell --attach (\w+) ")[1]
        assert shell.wait() == 0
    assert f"{terminal}  runs" in output(sandlot("shell", "--list", NAME))
    with sandlot.terminal("shell", "--attach", terminal, NAME) as shell:
        shell.expect("behind\r\n")  # what was shown comes again
        shell.type("echo still $left; exit 4\r")
        shell.expect("still behind\r\n")
        assert shell.wait() == 4


def test_a_shell_ends_with_its_window(sandlot: Commands) -> None:
    """As over ssh: nobody would come back to it."""
    before = output(sandlot("shell", "--list", NAME)).count("runs")
    with sandlot.terminal("shell", NAME) as shell:
        shell.expect(PROMPT)
        shell.type("echo re''ady\r")
        shell.expect("ready")
        os.kill(shell.pid, signal.SIGHUP)
        assert shell.wait() == 128 + signal.SIGHUP
    assert output(sandlot("shell", "--list", NAME)).count("runs") == before


def test_a_program_with_a_terminal(sandlot: Commands) -> None:
    with sandlot.terminal(
        "exec", "-t", NAME, "--", "sh", "-c", "test -t 0 && echo has a ter''minal; exit 6"
    ) as program:
        program.expect("has a terminal")
        assert program.wait() == 6
    assert b"`sandlot exec` does without" in sandlot("shell", NAME, status=125).stderr


# -- cp


def test_a_directory_goes_in_and_comes_back(sandlot: Commands, tmp_path: Path) -> None:
    """With modes, empty directories, odd names and large files; links and sockets are left out, and named."""
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "a dir").mkdir()
    (source / "a dir" / "x; rm -rf $HOME\n.sh").write_text("odd")
    (source / "tool").write_text("#!/bin/sh\necho runs\n")
    (source / "tool").chmod(0o750)
    (source / "large").write_bytes(os.urandom(3 << 20))
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo")
    done = sandlot("cp", str(source), f"{NAME}:/tmp/copied")
    assert done.stderr.decode().count("left out: ") == 2
    assert sandlot("exec", NAME, "/tmp/copied/tool").stdout == b"runs\n"
    sandlot("exec", NAME, "--", "sh", "-c", "ln -s /etc/shadow /tmp/copied/evil; mkfifo /tmp/copied/pipe")
    done = sandlot("cp", f"{NAME}:/tmp/copied", str(tmp_path / "back"))
    assert "left out: /tmp/copied/evil: is a link" in done.stderr.decode()
    (source / "link").unlink()
    (source / "fifo").unlink()
    compared = subprocess.run(["diff", "-r", source, tmp_path / "back"], capture_output=True, text=True, check=False)
    assert compared.stdout == ""
    assert (tmp_path / "back" / "tool").stat().st_mode & 0o777 == 0o750
    # An existing directory takes the source into it; `/.` gives the content only.
    sandlot("cp", "-q", f"{NAME}:/tmp/copied", str(tmp_path / "back"))
    assert (tmp_path / "back" / "copied" / "tool").exists()
    sandlot("cp", "-q", f"{NAME}:/tmp/copied/.", str(tmp_path / "back" / "copied"))
    assert not (tmp_path / "back" / "copied" / "copied").exists()


def test_what_is_in_the_way_stops_no_other_file(sandlot: Commands, tmp_path: Path) -> None:
    """A link or a file in the place of a directory is left alone, and named."""
    make = "mkdir -p /tmp/way/a /tmp/way/b && touch /tmp/way/a/lost /tmp/way/b/lost /tmp/way/z"
    sandlot("exec", NAME, "--", "sh", "-c", make)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "back" / "b").write_text("mine")
    done = sandlot("cp", f"{NAME}:/tmp/way/.", str(tmp_path / "back"), status=1)
    assert done.stderr.decode().count("failed: ") == 4
    assert (tmp_path / "back" / "z").exists()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "back" / "b").read_text() == "mine"


def test_links_are_followed_when_that_is_wanted(sandlot: Commands, tmp_path: Path) -> None:
    (tmp_path / "source" / "d").mkdir(parents=True)
    (tmp_path / "source" / "f").write_text("content")
    (tmp_path / "source" / "d" / "link").symlink_to("../f")
    (tmp_path / "source" / "d" / "loop").symlink_to("..")
    assert b"loop" in sandlot("cp", "-L", str(tmp_path / "source"), f"{NAME}:/tmp/followed").stderr
    sandlot("exec", NAME, "--", "ln", "-s", "link", "/tmp/followed/d/again")
    sandlot("cp", "-L", f"{NAME}:/tmp/followed", str(tmp_path / "back"))
    assert (tmp_path / "back" / "d" / "again").read_text() == "content"
    assert not (tmp_path / "back" / "d" / "again").is_symlink()


def test_a_file_and_standard_streams(sandlot: Commands, tmp_path: Path) -> None:
    """A file into a directory, under another name, from the input, to the output, to a device."""
    (tmp_path / "f").write_text("one")
    sandlot("cp", str(tmp_path / "f"), f"{NAME}:/tmp/")
    sandlot("cp", str(tmp_path / "f"), f"{NAME}:/tmp/new/name")
    sandlot("cp", "-", f"{NAME}:/tmp/new/stream", stdin=b"from a pipe")
    assert sandlot("exec", NAME, "cat", "/tmp/f", "/tmp/new/name", "/tmp/new/stream").stdout == b"oneonefrom a pipe"
    assert sandlot("cp", f"{NAME}:/tmp/new/stream", "-").stdout == b"from a pipe"
    sandlot("cp", f"{NAME}:/tmp/f", str(tmp_path / "g"))
    assert (tmp_path / "g").read_text() == "one"
    sandlot("cp", f"{NAME}:/tmp/f", "/dev/null")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("source", "destination", "status", "message"),
    [
        (f"{NAME}:/no/such", "x", 1, "/no/such: the sandbox has no such file"),
        ("/no/such", f"{NAME}:/tmp/", 1, "/no/such: No such file"),
        (f"{NAME}:/tmp", "-", 1, "is a directory"),
        (f"{NAME}:/etc/passwd", "/no/such/x", 1, "there is no such directory"),
        ("a", "b", 1, "one side must be ID:PATH"),
        (f"{NAME}:", "b", 1, "write a path after the colon"),
        ("/etc/hostname", f"{NAME}:/proc/x", 1, "/proc/x: No such file"),
    ],
)
def test_copies_that_fail(sandlot: Commands, source: str, destination: str, status: int, message: str) -> None:
    done = sandlot("cp", source, destination, status=status)
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


# -- the server


def test_the_link_to_the_console_works_once(sandlot: Commands, server: LiveServer) -> None:
    url = output(sandlot("console")).strip()
    address, _, code = url.partition("/console/#code=")
    assert address == server.address.replace("127.0.0.1", "localhost")  # as a start prints it: a cookie is for one name
    body = json.dumps({"code": code}).encode()
    headers = {"Content-Type": "application/json", "Sandlot-Console": "1", "Origin": address}
    request = urllib.request.Request(f"{address}/v1/console/sign-in", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "sandlot-console" in answer.headers["Set-Cookie"]
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()


@pytest.fixture
def other_server() -> Iterator[LiveServer]:
    with LiveServer(["--pool-size", "1", "--image", "sandlot/python"]) as live:
        yield live


def test_down(other_server: LiveServer) -> None:
    """Asks, ends the sandboxes, and stops the server of this machine with its pool."""
    server = other_server
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPEN_SANDBOX_")} | {
        "SANDBOX_CONFIG_PATH": os.devnull,
        "SANDLOT_SERVER_PORT": server.address.rpartition(":")[2],
        "SANDLOT_PATHS_STATE_DIR": str(server.directory / "state"),
    }

    def down(*arguments: str, status: int = 0) -> str:
        command = [*SANDLOT, "down", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=-3, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    server.request("POST", "/v1/sandboxes", CREATE)
    assert f"and stop the server (process {server.pid})? Nobody can be asked here: say --yes" in down(status=1)
    assert "goes on, with its warm pool" in down("--yes", "--keep-server")
    assert server.request("GET", "/v1/sandboxes")["items"] == []
    assert server.pid
    server.request("POST", "/v1/sandboxes", CREATE)
    assert down("--yes").splitlines()[0] == "ended 1 sandbox(es)"
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert server._process is not None
        server._process.wait(60)
    assert (server.pid, server.containers()) == (0, [])
    assert "nothing to do: no server answers" in down("--yes")
