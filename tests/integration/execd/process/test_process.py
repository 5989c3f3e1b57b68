"""Processes over a real link: what they get, what they say, and what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from controlplane.link.stream import Data
from execd.wire.flow import INITIAL_WINDOW_BYTES
from execd.wire.frames import Channel
from execd.wire.messages import (
    ProcessExited,
    ProcessList,
    ProcessOutput,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
)
from tests.support.agent.execd_processes import Sandbox, finish, is_alive

pytestmark = pytest.mark.timeout(60)


class TestForeground:
    """A process whose stream is its life."""

    async def test_output_exit_code_and_use_are_told_in_order(self, sandbox: Sandbox) -> None:
        result = await sandbox.run("echo out; echo err >&2; exit 3")

        assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
        assert (result.exited.cause, result.exited.exit_code, result.exited.signal) == ("exit", 3, 0)
        assert 0 < result.exited.wall_s < 10
        assert result.exited.peak_memory_bytes > 0

    async def test_argv_is_executed_as_it_stands(self, sandbox: Sandbox) -> None:
        assert (await sandbox.run(argv=("printf", "%s|", "$HOME", "a b", ""))).stdout == b"$HOME|a b||"

    async def test_death_by_a_signal_is_a_cause_of_its_own(self, sandbox: Sandbox) -> None:
        exited = (await sandbox.run("kill -SEGV $$")).exited

        assert (exited.cause, exited.exit_code, exited.signal) == ("signal", 139, 11)

    async def test_environment_and_directory(self, sandbox: Sandbox, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        result = await sandbox.run('echo "$A $HOME"; pwd', env={"A": "ü", "DIR": "sub"}, cwd="$DIR")

        assert result.stdout.decode() == f"ü /root\n{tmp_path}/sub\n"

    async def test_set_env_of_the_sdks_reaches_later_commands(self, sandbox: Sandbox) -> None:
        await sandbox.run("""printf '%s\\n' "KEY='it is set'" >> "$EXECD_ENVS" """)

        assert (await sandbox.run('echo "$KEY"')).stdout == b"it is set\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    async def test_another_user(self, sandbox: Sandbox) -> None:
        assert (await sandbox.run("id -u; id -g; echo $HOME", uid=4242, cwd="/")).stdout == b"4242\n4242\n/\n"

    async def test_bytes_are_not_text(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Invalid UTF-8, NULs, no newline at all: what goes in comes out."""
        noise = os.urandom(3_000_000)
        (tmp_path / "noise").write_bytes(noise)

        assert (await sandbox.run(argv=("cat", "noise"))).stdout == noise

    async def test_a_flood_arrives_whole(self, sandbox: Sandbox) -> None:
        result = await sandbox.run("yes | head -c 50000000")

        assert result.stdout == b"y\n" * 25_000_000

    async def test_one_endless_line_costs_no_memory(self, sandbox: Sandbox) -> None:
        """A quarter of a gigabyte without a newline, counted as it comes."""
        count = 0
        async with asyncio.timeout(60), await sandbox.open("head -c 250000000 /dev/zero") as stream:
            await stream.expect(ProcessStarted)
            while isinstance(item := await stream.receive(), Data):
                assert len(item.data) <= 65536
                count += len(item.data)
        assert count == 250_000_000

    async def test_the_first_bytes_come_while_the_process_lives(self, sandbox: Sandbox) -> None:
        async with asyncio.timeout(10), await sandbox.open("printf first; cat", stdin=True) as stream:
            await stream.expect(ProcessStarted)
            assert await stream.receive() == Data(Channel.STDOUT, b"first")
            await stream.write(b"second")
            assert await stream.receive() == Data(Channel.STDOUT, b"second")
            stream.end()
            assert (await stream.expect(ProcessExited)).exit_code == 0

    async def test_a_slow_reader_stops_its_own_process_and_no_other(self, sandbox: Sandbox) -> None:
        """Its process blocks on a full pipe; another stream of the same link flows; and nothing is lost in the end."""
        total = 20_000_000
        async with asyncio.timeout(40), await sandbox.open(f"head -c {total} /dev/zero", id="slow") as slow:
            other = await sandbox.run("yes | head -c 10000000")
            assert len(other.stdout) == 10_000_000
            pipes = sandbox.processes.table.get("slow")._pipes
            # Read so far: a window, and the piece for which there was no credit.
            assert pipes.total_bytes <= INITIAL_WINDOW_BYTES + 65536
            assert is_alive(sandbox.processes.table.get("slow").pid)

            assert len((await finish(slow)).stdout) == total

    async def test_what_a_process_wrote_before_its_end_is_delivered_however_slow_the_reader(
        self, sandbox: Sandbox
    ) -> None:
        """Also when a child of its own holds the pipe open, and the drain time is long over."""
        script = f"head -c {INITIAL_WINDOW_BYTES + 100_000} /dev/zero; sleep 1000 & exit 4"
        async with asyncio.timeout(20), await sandbox.open(script, id="a") as stream:
            over = asyncio.Event()
            asyncio.get_running_loop().call_later(1.0, over.set)  # the drain time, several times
            await over.wait()
            result = await finish(stream)
        os.killpg(result.pid, signal.SIGKILL)

        assert len(result.stdout) == INITIAL_WINDOW_BYTES + 100_000
        assert result.exited.exit_code == 4

    async def test_many_at_once(self, sandbox: Sandbox) -> None:
        results = await asyncio.gather(*(sandbox.run(f"echo {i}; exit {i}") for i in range(50)))

        assert [(int(result.stdout), result.exited.exit_code) for result in results] == [(i, i) for i in range(50)]

    async def test_two_hundred_leave_no_zombie_and_no_descriptor(self, sandbox: Sandbox) -> None:
        await sandbox.run("true")
        descriptors = len(os.listdir("/proc/self/fd"))
        pids = [(await sandbox.run("true", stdin=i % 2 == 0)).pid for i in range(200)]

        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert not set(map(str, pids)) & set(os.listdir("/proc"))


class TestStdin:
    """Data from the client, into a process."""

    async def test_five_mebibytes_through_cat(self, sandbox: Sandbox) -> None:
        sent = os.urandom(5 << 20)
        async with asyncio.timeout(30), await sandbox.open(argv=("cat",), stdin=True) as stream:

            async def write() -> None:
                await stream.write(sent)
                stream.end()

            writing = asyncio.ensure_future(write())
            result = await finish(stream)
            await writing

        assert result.stdout == sent
        assert result.exited.exit_code == 0

    async def test_a_process_that_does_not_read_stops_its_writer(self, sandbox: Sandbox) -> None:
        """The client waits for credit, execd holds no more than a window; then all of it arrives."""
        size = 4 << 20
        async with asyncio.timeout(30), await sandbox.open("read go; wc -c", stdin=True) as stream:
            writing = asyncio.ensure_future(stream.write(b"x" * size))
            await sandbox.run("true")  # some round trips: time enough for all that execd would take
            await sandbox.run("true")
            assert not writing.done()
            # `read` is looking for a newline meanwhile; it stays hungry until then.
            await writing
            await stream.write(b"\nrest")
            stream.end()
            assert (await finish(stream)).stdout.split() == [b"4"]

    async def test_a_process_that_closes_its_stdin_early_ends_as_it_likes(self, sandbox: Sandbox) -> None:
        """The rest of what the client sends is dropped; it is no error."""
        async with asyncio.timeout(30), await sandbox.open("head -c 1; exec 0<&-; cat >&2 <&1", stdin=True) as stream:
            await stream.write(b"x" * (3 << 20))
            stream.end()
            result = await finish(stream)

        assert result.stdout == b"x"

    async def test_end_of_input_is_end_of_file(self, sandbox: Sandbox) -> None:
        async with asyncio.timeout(10), await sandbox.open(argv=("cat",), stdin=True) as stream:
            stream.end()
            assert (await finish(stream)).stdout == b""

    async def test_without_stdin_there_is_nothing_to_read(self, sandbox: Sandbox) -> None:
        assert (await sandbox.run(argv=("cat",))).exited.exit_code == 0


class TestRefusals:
    """What cannot be is refused by a stable code, and leaves nothing behind."""

    async def test_requests_that_make_no_sense(self, sandbox: Sandbox) -> None:
        for request in (
            ProcessStart(id="a"),
            ProcessStart(id="a", argv=("true",), shell="true"),
            ProcessStart(id="", shell="true"),
            ProcessStart(id="a", argv=("",)),
            ProcessStart(id="a", argv=("echo", "\0")),
            ProcessStart(id="a", shell="echo \0"),
            ProcessStart(id="a", shell="true", cwd="/\0"),
            ProcessStart(id="a", shell="true", env={"A=": "b"}),
            ProcessStart(id="a", shell="true", timeout_s=0),
            ProcessStart(id="a", shell="true", timeout_s=float("nan")),
            ProcessStart(id="a", shell="true", gid=0),
            ProcessStart(id="a", shell="true", uid=-1),
            ProcessStart(id="a", shell="cat", background=True, stdin=True),
        ):
            assert (await sandbox.refusal(request))[0] == "request.invalid", request
        assert await sandbox.list() == []

    async def test_programs_and_directories_that_are_not_there(self, sandbox: Sandbox) -> None:
        code, message = await sandbox.refusal(ProcessStart(id="a", argv=("/no/such",)))
        assert (code, message) == ("process.spawn_failed", "/no/such: No such file or directory")
        code, message = await sandbox.refusal(ProcessStart(id="a", shell="true", cwd="/no/such"))
        assert (code, message) == ("process.spawn_failed", "the working directory /no/such does not exist")
        assert await sandbox.list() == []

    async def test_ids_that_are_unknown_or_taken(self, sandbox: Sandbox) -> None:
        for request in (ProcessOutput("a"), ProcessList("a"), ProcessSignal("a", 15)):
            assert (await sandbox.refusal(request))[0] == "process.not_found"
        await sandbox.run("true", id="a")
        assert (await sandbox.refusal(ProcessStart(id="a", shell="true")))[0] == "process.duplicate"

    async def test_signals_and_offsets_that_cannot_be(self, sandbox: Sandbox) -> None:
        await sandbox.background("a", "sleep 1000")
        for request in (
            ProcessSignal("a", 0),
            ProcessSignal("a", 65),
            ProcessSignal("a", -9),
            ProcessSignal("a", 15, kill_after_s=-1),
            ProcessSignal("a", 15, kill_after_s=float("nan")),
            ProcessOutput("a", -1),
        ):
            assert (await sandbox.refusal(request))[0] == "request.invalid", request
        assert (await sandbox.list("a"))[0].exited is None
