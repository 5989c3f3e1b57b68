"""A runner and a zygote of the fewest lines, in plain Python: what docs/runner-protocol.md asks for, and nothing else.

The code of a run is Python with `say(message)` in its scope, so that a test can have a runner say anything. As argument
the program takes what to do wrong at its start; see `misbehave`.
"""

import array
import json
import os
import signal
import socket
import sys
import time
from typing import Any


def load() -> None:
    """Load what the manifest names: a path is read to its end, which takes as long as a test wants."""
    for name in os.environ.get("SANDLOT_PRELOAD", "").split():
        with open(name, "rb") as file:
            file.read()


def misbehave(how: str) -> None:
    if how == "crash":
        sys.exit("toy: no such library")
    if how == "hang":
        signal.pause()


def serve(channel: socket.socket, how: str) -> None:
    lines = channel.makefile("rb")

    def say(message: object) -> None:
        channel.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    def hear() -> dict[str, Any]:
        line = lines.readline()
        if not line:
            os._exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    scope: dict[str, Any] = {
        "say": say,
        "hear": hear,
        "os": os,
        "time": time,
        "signal": signal,
        "sys": sys,
        "channel": channel,
        "heard": [],
    }
    is_running = False

    def strike(number: int, frame: object) -> None:
        """Interrupt the code of a run. Outside of it there is nothing to interrupt: execd cannot know that in time."""
        if is_running:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, strike)
    say({"type": "ready", "protocol": 2 if how == "protocol" else 1})
    start = hear()
    assert start["op"] == "start"
    if how == "failed":
        say({"type": "failed", "message": "toy: not today"})
        return
    os.environ.update(start["env"])
    os.chdir(start["cwd"])
    say({"type": "started", "pid": eval(os.environ.get("TOY_PID", "0"))})
    while True:
        request = hear()
        if request["op"] != "run":
            scope["heard"].append(request)
            continue
        status = "ok"
        scope["number"] = request["id"]
        try:
            try:
                is_running = True
                exec(request["code"], scope)
            except Exception as error:  # noqa: BLE001
                say({"type": "error", "name": type(error).__name__, "value": str(error)})
                status = "error"
            is_running = False
        except KeyboardInterrupt:
            is_running = False
            status = "interrupted"
        sys.stdout.flush()
        say({"type": "done", "id": request["id"], "status": status, "count": request["id"]})


def fork_on_request(execd: socket.socket, how: str) -> None:
    signal.set_wakeup_fd(-1)
    execd.send(json.dumps({"type": "ready", "protocol": 2 if how == "zygote-protocol" else 1}).encode())
    children: dict[int, int] = {}
    execd.settimeout(0.05)
    while True:
        while children and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)):
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            execd.send(json.dumps({"type": "exited", "id": children.pop(ended.si_pid), "code": code}).encode())
        fds = array.array("i")
        try:
            packet, ancillary, _, _ = execd.recvmsg(4096, socket.CMSG_SPACE(4 * fds.itemsize))
        except TimeoutError:
            continue
        if not packet:
            return
        request = json.loads(packet)
        if how == "nonsense":
            execd.send(b"nonsense")
            continue
        if how == "no-fork":
            execd.send(json.dumps({"type": "failed", "id": request["id"], "message": "fork: no room"}).encode())
            continue
        fds.frombytes(ancillary[0][2])
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for target, fd in enumerate(fds[1:]):
                os.dup2(fd, target)
                os.close(fd)
            execd.close()
            try:
                serve(socket.socket(fileno=fds[0]), how)
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        children[pid] = request["id"]
        execd.send(json.dumps({"type": "forked", "id": request["id"], "pid": pid}).encode())


if __name__ == "__main__":
    mistake = sys.argv[1] if len(sys.argv) > 1 else ""
    misbehave(mistake)
    load()
    if "SANDLOT_ZYGOTE_FD" in os.environ:
        fork_on_request(socket.socket(fileno=int(os.environ["SANDLOT_ZYGOTE_FD"])), mistake)
    else:
        serve(socket.socket(fileno=int(os.environ["SANDLOT_CHANNEL_FD"])), mistake)
