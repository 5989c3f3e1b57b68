"""Bash as a runner, started as execd starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from execd.kernel.builtin import BASH


@pytest.mark.parametrize("number", [3, 10, 11, 61, 62, 63, 200])
def test_the_channel_may_have_any_number(number: int) -> None:
    """Also one of those that bash or the runner use themselves: execd's descriptors grow with what it serves."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as said:
        given = theirs.fileno()
        move = "" if given == number else f"{number}<&{given} {given}<&-"
        runner = subprocess.Popen(
            ["bash", "-c", f'exec "$@" {move}', "bash", *BASH.command],
            env={"PATH": os.environ["PATH"], "SANDLOT_CHANNEL_FD": str(number)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[given],
        )
        with runner:
            theirs.close()
            ours.settimeout(20)
            assert json.loads(said.readline()) == {"type": "ready", "protocol": 1}
            ours.sendall(
                b'{"op":"start","cwd":"/","env":{}}\n{"op":"run","id":1,"code":"echo $((6 * 7))","input":false}\n'
            )
            assert json.loads(said.readline()) == {"type": "started"}
            assert json.loads(said.readline()) == {"type": "done", "id": 1, "status": "ok", "exit_code": 0, "count": 1}
            ours.shutdown(socket.SHUT_RDWR)
            assert runner.communicate(timeout=20)[0] == b"42\n"
