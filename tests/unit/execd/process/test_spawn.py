"""Starting programs: what they get, what they do not get, and how a start fails."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from execd.errors import ExecdError
from execd.launch.environment import Identity, Launch
from execd.process.oom import CHILD_SCORE
from execd.process.spawn import MAX_ARGUMENT_BYTES, MERGED, NULL, PIPE, Child, find_shell, shell_program, spawn

PATH = os.environ["PATH"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def launch(cwd: str = "/", identity: Identity | None = None, **env: str) -> Launch:
    return Launch({"PATH": PATH, **env}, cwd, identity)


def read_to_end(fd: int) -> bytes:
    os.set_blocking(fd, True)
    with open(fd, "rb") as file:
        return file.read()


def finish(child: Child) -> tuple[int, bytes, bytes]:
    """Wait for a child, return its exit code and what it wrote."""
    if child.stdin >= 0:
        os.close(child.stdin)
    stdout = read_to_end(child.stdout) if child.stdout >= 0 else b""
    stderr = read_to_end(child.stderr) if child.stderr >= 0 else b""
    _, status = os.waitpid(child.pid, 0)
    return os.waitstatus_to_exitcode(status), stdout, stderr


def run(argv: Sequence[str], setting: Launch | None = None, **how: Any) -> tuple[int, bytes, bytes]:
    return finish(spawn(argv, setting or launch(), **how))


def children() -> set[str]:
    """Our children, zombies too. (Other tests have some that live longer, such as a server.)"""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def failure(argv: Sequence[str], setting: Launch | None = None, **how: Any) -> tuple[str, str]:
    """Start what cannot be started; return the error, having checked that nothing is left behind."""
    before = sorted(os.listdir("/proc/self/fd")), children()
    with pytest.raises(ExecdError) as error:
        spawn(argv, setting or launch(), **how)
    assert (sorted(os.listdir("/proc/self/fd")), children()) == before
    return error.value.code, error.value.message


def test_a_program_leads_its_own_session_and_group() -> None:
    child = spawn(["cat"], launch(), stdin=PIPE)
    try:
        assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
    finally:
        assert finish(child)[0] == 0


def test_output_is_apart_or_merged_and_stdin_is_null_unless_asked_for() -> None:
    script = ["sh", "-c", "echo out; echo err >&2; readlink /proc/self/fd/0 >&2"]

    assert run(script) == (0, b"out\n", b"err\n/dev/null\n")
    assert run(script, stderr=MERGED) == (0, b"out\nerr\n/dev/null\n", b"")
    assert run(script, stdout=NULL, stderr=NULL) == (0, b"", b"")


def test_our_ends_never_block() -> None:
    child = spawn(["cat"], launch(), stdin=PIPE)

    assert [os.get_blocking(fd) for fd in child[1:]] == [False] * 3
    with pytest.raises(BlockingIOError):
        os.read(child.stdout, 1)
    finish(child)


def test_a_program_gets_no_descriptor_but_those_named() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_inheritable(ours.fileno(), True)  # noqa: FBT003
        script = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
        # Listing the directory takes a descriptor of its own: the lowest free one.
        _, stdout, _ = run(["python3", "-c", script], pass_fds=(theirs.fileno(),))

        assert stdout.decode().strip() == str([0, 1, 2, 3, theirs.fileno()])


def test_environment_and_directory_are_exactly_those_given(tmp_path: Path) -> None:
    code, stdout, _ = run(["sh", "-c", "pwd; env -u PWD -u OLDPWD -u SHLVL -u _"], launch(str(tmp_path), A="ä b"))

    assert code == 0
    directory, *variables = stdout.decode().splitlines()
    assert directory == str(tmp_path)
    assert sorted(variables) == ["A=ä b", f"PATH={PATH}"]


def test_the_kernel_would_kill_children_before_us() -> None:
    own = Path("/proc/self/oom_score_adj").read_text()
    _, stdout, _ = run(["cat", "/proc/self/oom_score_adj"])

    assert int(stdout) == min(int(own) + CHILD_SCORE, 1000)
    assert Path("/proc/self/oom_score_adj").read_text() == own


@as_root
def test_another_identity_sheds_roots_groups() -> None:
    script = ["sh", "-c", "id -u; id -g; id -G; cat /proc/self/oom_score_adj"]
    _, stdout, _ = run(script, launch(identity=Identity(4242, 4343, (44, 45))))

    assert stdout.decode().split("\n")[:3] == ["4242", "4343", "4343 44 45"]
    assert int(stdout.split()[-1]) >= CHILD_SCORE


@as_root
@pytest.mark.parametrize("merged", [False, True])
def test_another_identity_may_open_its_own_output_and_input(merged: bool) -> None:
    """The pipes are its own: programs open /dev/stdout and its like by name."""
    script = "echo out > /dev/stdout; echo err > /dev/stderr; echo tee | tee /dev/stderr >/dev/null; cat < /dev/stdin"
    child = spawn(
        ["sh", "-c", script],
        launch(identity=Identity(65534, 65534, ())),
        stdin=PIPE,
        stderr=MERGED if merged else PIPE,
    )
    os.write(child.stdin, b"in\n")

    code, stdout, stderr = finish(child)

    assert code == 0
    if merged:
        assert stdout == b"out\nerr\ntee\nin\n"
    else:
        assert (stdout, stderr) == (b"out\nin\n", b"err\ntee\n")


@as_root
def test_an_identity_that_is_not_allowed_says_so(tmp_path: Path) -> None:
    """A child that is nobody cannot become somebody else."""
    script = """
from execd.launch.environment import *; from execd.process.spawn import *
try: spawn(["true"], Launch({"PATH": "/bin"}, "/", Identity(1, 1, ())))
except ExecdError as error: print(error.code, error.message)
"""
    root = Path(__file__).parents[4]
    _, stdout, stderr = run(
        ["python3", "-c", "from execd.errors import ExecdError" + script],
        launch(str(root), Identity(65534, 65534, ()), PYTHONDONTWRITEBYTECODE="1"),
    )

    assert stdout.decode().startswith("process.spawn_failed cannot run as 1:1: Operation not permitted"), stderr


def test_signals_that_python_ignores_are_back_to_normal() -> None:
    """A program that writes to a closed pipe dies of it, as everywhere."""
    child = spawn(["sh", "-c", "yes"], launch(), stderr=NULL)
    os.close(child.stdout)

    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) in (-13, 128 + 13)


def test_programs_that_cannot_be_executed_are_named(tmp_path: Path) -> None:
    plain, no_interpreter, garbage = tmp_path / "plain", tmp_path / "script", tmp_path / "garbage"
    plain.write_text("true")
    no_interpreter.write_text("#!/no/such/interpreter\n")
    garbage.write_bytes(b"\x7fELF garbage")
    for path in (no_interpreter, garbage):
        path.chmod(stat.S_IRWXU)

    for argv, said in (
        (["no-such-program"], f"no-such-program: not found in PATH {PATH}"),
        (["/no/such/program"], "/no/such/program: No such file or directory"),
        ([str(plain)], f"{plain}: Permission denied"),
        ([str(tmp_path)], f"{tmp_path}: Permission denied"),
        ([str(no_interpreter)], f"{no_interpreter}: its interpreter or loader does not exist"),
        ([str(garbage)], f"{garbage}: Exec format error"),
        (["true", "x" * 200_000], "too long"),
    ):
        code, message = failure(argv, stdin=PIPE)
        assert code == "process.spawn_failed"
        assert said in message


def test_bad_working_directories_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    assert failure(["true"], launch(str(tmp_path / "no"))) == (
        "process.spawn_failed",
        f"the working directory {tmp_path}/no does not exist",
    )
    assert failure(["true"], launch(str(file))) == (
        "process.spawn_failed",
        f"the working directory {file} is not a directory",
    )


@pytest.mark.parametrize("argv", [[], [""], ["true", "a\0b"], ["tr\0ue"]])
def test_arguments_that_cannot_be_are_refused(argv: list[str]) -> None:
    assert failure(argv)[0] == "request.invalid"


@pytest.mark.parametrize("free", range(9))
def test_running_out_of_descriptors_is_no_crash(free: int) -> None:
    """At whatever step they run out: the error says that there is no room, and all that was opened is closed again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = sorted(os.listdir("/proc/self/fd"))
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + free, hard))
    try:
        with pytest.raises(ExecdError) as error:
            spawn(["true"], launch(), stdin=PIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.value.code == "process.spawn_failed"
    assert "another process cannot be started" in error.value.message
    assert sorted(os.listdir("/proc/self/fd")) == before


class TestShell:
    """Which shell runs a script."""

    def test_bash_is_taken_before_sh(self, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        for path in (first / "sh", second / "bash"):
            path.parent.mkdir()
            path.symlink_to("/bin/sh")

        assert find_shell({"PATH": f"{first}:{second}"}) == ("bash", str(second / "bash"))

    def test_sh_is_taken_where_there_is_no_bash_until_there_is(self, tmp_path: Path) -> None:
        (tmp_path / "sh").symlink_to("/bin/sh")
        assert find_shell({"PATH": str(tmp_path)}) == ("sh", str(tmp_path / "sh"))

        (tmp_path / "bash").symlink_to("/bin/bash")
        assert find_shell({"PATH": str(tmp_path)})[0] == "bash"

    def test_neither_is_a_clear_error(self, tmp_path: Path) -> None:
        """Also where something of that name is there that cannot be executed, or stands in a relative directory."""
        (tmp_path / "sh").touch()
        (tmp_path / "bash").mkdir()

        with pytest.raises(ExecdError) as error:
            find_shell({"PATH": f"{tmp_path}:.:"})
        assert error.value.code == "process.spawn_failed"
        assert "neither bash nor sh" in error.value.message

    def test_the_shell_calls_itself_by_its_name(self) -> None:
        with shell_program("echo $0", {"PATH": PATH}) as program:
            assert run(program.argv, executable=program.executable)[1].decode().strip() == program.argv[0]

    @pytest.mark.parametrize("name", ["bash", "sh"])
    @pytest.mark.parametrize("size", [MAX_ARGUMENT_BYTES, MAX_ARGUMENT_BYTES + 1, 3 << 20])
    def test_a_script_may_be_longer_than_an_argument(self, tmp_path: Path, name: str, size: int) -> None:
        """It runs as a short one does: the same name, the same numbers of lines, no descriptor that bash would keep."""
        (tmp_path / name).symlink_to(f"/bin/{name}")
        begin = 'echo "$0 é"\nls -l /proc/self/fd >&2; cat <<EOF\n'
        end = "\nEOF\nnosuch\n"
        script = begin + "a" * (size - len((begin + end).encode())) + end
        before = os.listdir("/proc/self/fd")

        with shell_program(script, {"PATH": str(tmp_path)}) as program:
            code, stdout, stderr = run(program.argv, executable=program.executable, pass_fds=program.fds)

        assert len(script.encode()) == size
        assert code == 127
        assert stdout.decode() == f"{name} é\n" + "a" * (size - len((begin + end).encode())) + "\n"
        assert "nosuch" in stderr.decode().splitlines()[-1]
        if name == "bash":
            assert b"memfd" not in stderr
            assert b"line 5" in stderr.splitlines()[-1]
        assert len(os.listdir("/proc/self/fd")) == len(before)

    @as_root
    def test_another_user_may_have_a_long_script_too(self) -> None:
        with shell_program("id -u #" + "x" * MAX_ARGUMENT_BYTES, {"PATH": PATH}) as program:
            how = {"executable": program.executable, "pass_fds": program.fds}
            assert run(program.argv, launch(identity=Identity(65534, 65534, ())), **how)[:2] == (0, b"65534\n")

    def test_a_script_for_which_there_is_no_memory_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sandbox's memory is full: its client hears of that, as of every program that cannot be started."""
        monkeypatch.setattr(os, "memfd_create", lambda _: os.open("/dev/full", os.O_RDWR))
        before = os.listdir("/proc/self/fd")
        with (
            pytest.raises(ExecdError, match=r"there is no memory for a script of \d+ bytes") as caught,
            shell_program("#" * (MAX_ARGUMENT_BYTES + 1), {"PATH": PATH}),
        ):
            pass
        assert caught.value.code == "process.spawn_failed"
        assert len(os.listdir("/proc/self/fd")) == len(before)
