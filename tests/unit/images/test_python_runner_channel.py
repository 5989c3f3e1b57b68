"""The Python runner's end of its channel: whole lines and acknowledgements, whenever Ctrl-C strikes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# It lives in the image, not in a package of ours.
sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "kernels" / "python"))
channel = importlib.import_module("sandlot_python.channel")
sys.path.pop(0)


class Ends(NamedTuple):
    interrupts: Any
    channel: Any
    execd: socket.socket

    def execd_says(self, **message: object) -> None:
        self.execd.sendall(json.dumps(message).encode() + b"\n")


@pytest.fixture
def ends() -> Iterator[Ends]:
    theirs, execd = socket.socketpair()
    execd.settimeout(20)
    before = signal.getsignal(signal.SIGINT)
    interrupts = channel.Interrupts()
    interrupts.install()
    ours = channel.Channel(theirs, interrupts)
    ours.acknowledges = True
    yield Ends(interrupts, ours, execd)
    signal.signal(signal.SIGINT, before)
    theirs.close()
    execd.close()


def strike() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_strikes_only_while_code_runs(ends: Ends) -> None:
    strike()

    ends.interrupts.armed = True
    with pytest.raises(KeyboardInterrupt):
        strike()


def test_behind_a_shield_it_strikes_at_the_end(ends: Ends) -> None:
    ends.interrupts.armed = True
    reached = []

    def strike_behind_two() -> None:
        with ends.interrupts:
            with ends.interrupts:
                strike()
            reached.append("inner end")
        reached.append("outer end")

    with pytest.raises(KeyboardInterrupt):
        strike_behind_two()
    assert reached == ["inner end"]
    with ends.interrupts:
        pass  # and only once


def test_what_struck_behind_a_shield_is_forgotten_when_no_code_runs(ends: Ends) -> None:
    with ends.interrupts:
        strike()

    ends.interrupts.armed = True
    with ends.interrupts:
        pass


def test_install_takes_the_signal_back_from_user_code(ends: Ends) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends.interrupts.install()
    ends.interrupts.armed = True

    with pytest.raises(KeyboardInterrupt):
        strike()


def test_a_message_is_sent_whole_although_ctrl_c_strikes_in_the_middle(ends: Ends) -> None:
    ends.interrupts.armed = True
    received = []

    def read_slowly() -> None:
        received.append(ends.execd.recv(1))  # the sender is in the middle of it now: no socket holds so much
        os.kill(os.getpid(), signal.SIGINT)
        received.append(ends.execd.makefile("rb").readline())

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with pytest.raises(KeyboardInterrupt):
        ends.channel.send({"text": "x" * 5_000_000})
    reader.join()

    assert json.loads(b"".join(received)) == {"text": "x" * 5_000_000}


def test_in_order_waits_for_its_own_acknowledgement(ends: Ends) -> None:
    ends.execd_says(op="ack", ack=1)
    ends.channel.send({"type": "display"}, in_order=True)
    line = ends.execd.makefile("rb").readline()

    assert json.loads(line) == {"type": "display", "ack": 1}


def test_waiting_for_an_acknowledgement_can_be_interrupted_and_a_late_one_confuses_nothing(ends: Ends) -> None:
    ends.interrupts.armed = True
    lines = ends.execd.makefile("rb")

    def strike_when_it_waits() -> None:
        lines.readline()
        os.kill(os.getpid(), signal.SIGINT)

    reader = threading.Thread(target=strike_when_it_waits)
    reader.start()
    with pytest.raises(KeyboardInterrupt):
        ends.channel.send({}, in_order=True)
    reader.join()

    ends.execd_says(op="ack", ack=1)
    ends.execd_says(op="ack", ack=2)
    ends.channel.send({}, in_order=True)
    assert json.loads(lines.readline()) == {"ack": 2}


def test_messages_that_come_while_it_waits_are_kept(ends: Ends) -> None:
    ends.execd_says(op="run", id=7)
    ends.execd_says(op="ack", ack=1)

    ends.channel.send({}, in_order=True)

    assert ends.channel.receive() == {"op": "run", "id": 7}


def test_an_interrupt_is_remembered_by_its_run(ends: Ends) -> None:
    ends.execd_says(op="interrupt", id=3)
    ends.channel.take_what_is_there()

    assert ends.channel.interrupted_run == 3


def test_the_end_of_the_channel_is_no_message(ends: Ends) -> None:
    ends.execd.close()

    assert ends.channel.receive() is None


def test_a_message_that_execd_would_refuse_is_not_sent(ends: Ends) -> None:
    with pytest.raises(channel.TooLarge):
        ends.channel.send({"text": "x" * (channel.MAX_LINE_BYTES + 1)})

    ends.channel.send({"text": "next"})
    assert json.loads(ends.execd.makefile("rb").readline()) == {"text": "next"}


def test_both_ends_have_the_same_limit() -> None:
    from execd.kernel.runner.channel import MAX_LINE_BYTES

    assert channel.MAX_LINE_BYTES == MAX_LINE_BYTES


def test_what_utf_8_cannot_say_is_replaced(ends: Ends) -> None:
    ends.channel.send({"text": "a\ud800é"})

    assert json.loads(ends.execd.makefile("rb").readline()) == {"text": "a?é"}


def test_a_forked_child_says_nothing_in_its_parent_s_name(ends: Ends) -> None:
    pid = os.fork()
    if pid == 0:
        ends.channel.send({"from": "child"})
        os._exit(ends.channel.is_ours)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    ends.channel.send({"from": "parent"})
    assert json.loads(ends.execd.makefile("rb").readline()) == {"from": "parent"}
