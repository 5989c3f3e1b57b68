"""How processes end over a real link, with a stated cause each; and those that go on without one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from controlplane.errors import LinkLost
from controlplane.link.stream import Data
from execd.process.output import HEAD_BYTES, TAIL_BYTES
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessSignal,
    ProcessStarted,
)
from tests.support.agent.execd_processes import Sandbox, is_alive, until_dead

pytestmark = pytest.mark.timeout(60)


class TestEndings:
    """Every run ends with a stated cause."""

    async def test_a_timeout_ends_the_whole_group(self, sandbox: Sandbox) -> None:
        result = await sandbox.run("sleep 1000 & echo $!; sleep 1000", timeout_s=0.3)

        assert (result.exited.cause, result.exited.signal) == ("timeout", signal.SIGTERM)
        await until_dead(int(result.stdout))

    async def test_who_ignores_term_is_killed(self, sandbox: Sandbox) -> None:
        """So is the rest of a group whose leader went in time."""
        result = await sandbox.run("trap '' TERM; echo deaf; while :; do sleep 1000; done", timeout_s=0.1)
        assert (result.exited.cause, result.exited.signal) == ("timeout", signal.SIGKILL)
        assert 2.0 <= result.exited.wall_s < 4.0

        result = await sandbox.run("(trap '' TERM; sleep 1000; sleep 1000) & echo $!; wait", timeout_s=0.1)
        assert (result.exited.cause, result.exited.signal) == ("timeout", signal.SIGTERM)
        await until_dead(int(result.stdout))

    async def test_who_stopped_itself_is_ended_too(self, sandbox: Sandbox) -> None:
        exited = (await sandbox.run("kill -STOP $$", timeout_s=0.2)).exited

        assert (exited.cause, exited.signal) == ("timeout", signal.SIGTERM)

    async def test_a_timeout_that_is_not_reached_changes_nothing(self, sandbox: Sandbox) -> None:
        assert (await sandbox.run("exit 5", timeout_s=30)).exited.cause == "exit"

    async def test_a_client_that_goes_away_ends_the_group(self, sandbox: Sandbox) -> None:
        stream = await sandbox.open("sleep 1000 & echo $!; sleep 1000", id="a")
        await stream.expect(ProcessStarted)
        child = await stream.receive()
        assert isinstance(child, Data)
        stream.close()

        assert (await sandbox.ended("a")).cause == "killed"
        await until_dead(int(child.data))

    async def test_a_client_that_goes_away_does_not_leave_a_flood_blocked(self, sandbox: Sandbox) -> None:
        """With a full pipe and no credit; TERM is ignored, KILL is not."""
        stream = await sandbox.open("trap '' TERM; yes", id="a")
        await stream.expect(ProcessStarted)
        stream.close()

        exited = await sandbox.ended("a")
        assert exited.cause == "killed"

    async def test_a_lost_link_ends_foreground_processes(self, sandbox: Sandbox) -> None:
        stream = await sandbox.open("sleep 1000", id="a")
        pid = (await stream.expect(ProcessStarted)).pid
        await sandbox.link.aclose()
        with pytest.raises(LinkLost):
            await stream.receive()

        assert (await sandbox.ended("a")).cause == "link_lost"
        assert not is_alive(pid)

    async def test_a_signal_goes_to_the_group(self, sandbox: Sandbox) -> None:
        async with asyncio.timeout(10), await sandbox.open("sleep 1000; true", id="a") as stream:
            await stream.expect(ProcessStarted)
            await sandbox.link.call(ProcessSignal("a", signal.SIGKILL), Done)
            exited = await stream.expect(ProcessExited)

        assert (exited.cause, exited.exit_code, exited.signal) == ("killed", 137, 9)

    async def test_an_interrupt_is_the_processes_own_affair(self, sandbox: Sandbox) -> None:
        """A signal that it handles is not a cause; one that does not mean death is told as what it is."""
        script = "trap 'echo heard; exit 6' INT; echo ready; while :; do sleep 0.01; done"
        async with asyncio.timeout(10), await sandbox.open(script, id="a") as stream:
            await stream.expect(ProcessStarted)
            await stream.receive()
            await sandbox.link.call(ProcessSignal("a", signal.SIGINT), Done)
            assert await stream.receive() == Data(Channel.STDOUT, b"heard\n")
            exited = await stream.expect(ProcessExited)
        assert (exited.cause, exited.exit_code) == ("exit", 6)

        async with asyncio.timeout(10), await sandbox.open(argv=("sleep", "1000"), id="b") as stream:
            await stream.expect(ProcessStarted)
            await sandbox.link.call(ProcessSignal("b", signal.SIGINT), Done)
            exited = await stream.expect(ProcessExited)
        assert (exited.cause, exited.signal) == ("signal", 2)

    async def test_kill_follows_a_signal_that_was_ignored(self, sandbox: Sandbox) -> None:
        async with asyncio.timeout(10), await sandbox.open("trap '' INT; echo deaf; sleep 1000", id="a") as stream:
            await stream.expect(ProcessStarted)
            await stream.receive()
            await sandbox.link.call(ProcessSignal("a", signal.SIGINT, kill_after_s=0.1), Done)
            exited = await stream.expect(ProcessExited)

        assert (exited.cause, exited.signal) == ("killed", 9)

    async def test_daemons_survive_the_normal_end_of_their_starter(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """With its pipes open, in its group, in another session, double-forked: it lives and may go on writing."""
        gate, proof = tmp_path / "gate", tmp_path / "proof"
        os.mkfifo(gate)
        os.mkfifo(proof)
        daemon = f"read x < {gate}; echo late; head -c 1000000 /dev/zero; echo alive > {proof}"
        for starter in (f"({daemon}) &", f"(setsid sh -c '{daemon}' &)", f"{{ {daemon}; }} & disown"):
            result = await sandbox.run(f"{starter}\necho started")
            assert result.stdout == b"started\n"
            assert result.exited.cause == "exit"
            assert result.exited.wall_s < 1.0

            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.run_in_executor(None, gate.write_text, "go\n"), 10)
            assert await asyncio.wait_for(loop.run_in_executor(None, proof.read_text), 10) == "alive\n"

    async def test_what_fled_its_group_before_a_timeout_delays_nothing(self, sandbox: Sandbox) -> None:
        """A double fork into its own session is not followed, but the end is told, on time and with its cause."""
        result = await sandbox.run("setsid sleep 1000 & echo $!; wait", timeout_s=0.2)
        os.kill(int(result.stdout), signal.SIGKILL)

        assert result.exited.cause == "timeout"
        assert result.exited.wall_s < 2.0


class TestBackground:
    """Processes that outlive the stream that started them."""

    async def test_output_is_merged_kept_and_read_from_an_offset(self, sandbox: Sandbox) -> None:
        await sandbox.background("a", "echo one; echo two >&2; read x || echo no stdin; exit 2")
        exited = await sandbox.ended("a")
        assert (exited.cause, exited.exit_code, exited.output_bytes) == ("exit", 2, 17)

        state, data = await sandbox.output("a")
        assert data == b"one\ntwo\nno stdin\n"
        assert (state.output_start, state.output_end, state.exited) == (0, 17, exited)
        state, data = await sandbox.output("a", 4)
        assert (state.output_start, data) == (4, b"two\nno stdin\n")
        assert (await sandbox.output("a", 17))[1] == b""
        assert (await sandbox.output("a", 1000))[0].output_start == 17

    async def test_of_much_output_head_and_tail_are_kept(self, sandbox: Sandbox) -> None:
        await sandbox.background("a", "seq -f %09.0f 1 500000")
        everything = b"".join(b"%09d\n" % i for i in range(1, 500_001))
        assert (await sandbox.ended("a")).output_bytes == len(everything)

        state, data = await sandbox.output("a")
        assert data == everything[:HEAD_BYTES] + everything[-TAIL_BYTES:]
        assert (state.output_start, state.output_end) == (0, len(everything))
        state, data = await sandbox.output("a", HEAD_BYTES)
        assert data == everything[-TAIL_BYTES:]
        assert state.output_start == len(everything) - TAIL_BYTES

    async def test_it_survives_the_loss_of_the_link_and_is_read_after_the_redial(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        pid = await sandbox.background("a", f"echo before; cat {gate}; echo after")
        await sandbox.link.aclose()
        sandbox.link = await sandbox.end.next_link()

        (state,) = await sandbox.list("a")
        assert (state.pid, state.exited, state.finished_at) == (pid, None, None)
        await asyncio.get_running_loop().run_in_executor(None, gate.write_text, "through\n")
        assert (await sandbox.ended("a")).exit_code == 0
        assert (await sandbox.output("a"))[1] == b"before\nthrough\nafter\n"

    async def test_its_daemons_output_is_kept_after_its_end(self, sandbox: Sandbox, tmp_path: Path) -> None:
        gate, proof = tmp_path / "gate", tmp_path / "proof"
        os.mkfifo(gate)
        os.mkfifo(proof)
        await sandbox.background("a", f"(read x < {gate}; echo late; echo > {proof}) & echo early")
        assert (await sandbox.ended("a")).output_bytes == 6
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(None, gate.write_text, "go\n"), 10)
        await asyncio.wait_for(loop.run_in_executor(None, proof.read_text), 10)

        assert (await sandbox.output("a"))[1] == b"early\nlate\n"

    async def test_a_timeout_and_a_signal_end_it_too(self, sandbox: Sandbox) -> None:
        await sandbox.background("a", "sleep 1000", timeout_s=0.1)
        assert (await sandbox.ended("a")).cause == "timeout"

        await sandbox.background("b", "sleep 1000")
        await sandbox.link.call(ProcessSignal("b", signal.SIGTERM), Done)
        assert (await sandbox.ended("b")).cause == "killed"
        await sandbox.link.call(ProcessSignal("b", signal.SIGTERM), Done)  # ended: nothing to do, no error

    async def test_the_list_knows_the_living_and_the_dead(self, sandbox: Sandbox) -> None:
        assert await sandbox.list() == []
        await sandbox.run("exit 1", id="a")
        pid = await sandbox.background("b", "sleep 1000")
        dead, living = await sandbox.list()

        assert (dead.id, dead.command, dead.exited and dead.exited.exit_code) == ("a", "exit 1", 1)
        assert dead.finished_at is not None
        assert dead.started_at <= dead.finished_at
        assert (living.id, living.pid, living.exited) == ("b", pid, None)
        assert await sandbox.list("a") == [dead]
        assert (await sandbox.output("a"))[1] == b""  # what a foreground process wrote went to its stream
