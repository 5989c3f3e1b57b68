"""Any Jupyter kernel as a language: runner.py KERNELSPEC. The protocol: docs/runner-protocol.md.

The kernel is a child of this process, connected over Unix sockets by `jupyter_client`. It is started when the sandbox
is known, because it needs the sandbox's variables and directory. It shares stdout and stderr with this process, so the
output of its programs needs no help. Output that comes as messages is written there too, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from plain import bundle, line_of, lines, number, text

PROTOCOL = 1
MAX_MATCHES = 1000
# The colours of tracebacks and descriptions in kernels that were made for terminals.
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BIND = str(Path(__file__).with_name("bind.py"))


class Channel:
    """One JSON object a line, in both directions."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        """Take over the socket."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=1 << 24)

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None at the end."""
        line = await self._reader.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def say(self, **message: Any) -> None:
        """Send a message, made of what `plain` returns."""
        self._writer.write(line_of(message))


class Run:
    """The run that goes on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_interrupted = False
        self.count = 0


class Runner:
    """One context."""

    def __init__(self, channel: Channel, kernel: str) -> None:
        self._channel = channel
        self._manager = AsyncKernelManager(kernel_name=kernel, transport="ipc")
        self._client: AsyncKernelClient
        self._run: Run | None = None
        self._acks = 0
        self._acked: asyncio.Future[None] | None = None
        self._answer: asyncio.Future[str] | None = None
        self._directory = tempfile.mkdtemp(prefix="sandlot-jupyter-")
        self._manager.ip = f"{self._directory}/kernel"

    async def serve(self) -> None:
        """Serve the channel until it ends, or the kernel does."""
        self._manager.kernel_spec  # noqa: B018  # raises NoSuchKernel before anybody is told that we are ready
        self._channel.say(type="ready", protocol=PROTOCOL)
        tasks: set[asyncio.Task[Any]] = set()
        try:
            while (message := await self._channel.receive()) is not None:
                match message["op"]:
                    case "ack":
                        if self._acked is not None and not self._acked.done():
                            self._acked.set_result(None)
                    case "input":
                        if self._answer is not None and not self._answer.done():
                            self._answer.set_result(message["text"] or "")
                    case "interrupt":
                        if self._run is not None and self._run.number == message["id"]:
                            self._run.is_interrupted = True
                            await self._manager.interrupt_kernel()
                    case "start":
                        await self._start(message)
                        tasks.add(asyncio.create_task(self._watch()))
                    case "run":
                        self._run = Run(message["id"])
                        tasks.add(asyncio.create_task(self._execute(self._run, message)))
                    case "complete" | "inspect":
                        tasks.add(asyncio.create_task(self._reply(message)))
        finally:
            for task in tasks:
                task.cancel()
            await self._end()

    async def _start(self, message: dict[str, Any]) -> None:
        try:
            os.chdir(message["cwd"])
        except OSError as error:
            self._channel.say(type="failed", message=f"{message['cwd']}: {error.strerror}")
            return
        try:
            spec = self._manager.kernel_spec
            spec.argv = [sys.executable, _BIND, *spec.argv]
            await self._manager.start_kernel(cwd=message["cwd"], env=message["env"])
            self._client = self._manager.client()
            self._client.start_channels()
            await self._client.wait_for_ready()  # as long as the kernel lives; execd checks whether it does anything
        except (OSError, RuntimeError) as error:
            raise SystemExit(f"kernel {self._manager.kernel_name}: {error}") from None
        self._channel.say(type="started", pid=getattr(self._manager.provisioner, "pid", None) or 0)

    async def _watch(self) -> None:
        """End in the way of the kernel when the kernel ends, so that execd reports it."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        status = await provisioner.wait() or 0
        await self._end()
        if status < 0:
            if -status not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)

    async def _execute(self, run: Run, message: dict[str, Any]) -> None:
        allow_input = bool(message.get("input"))
        parent = self._client.execute(message["code"], store_history=True, allow_stdin=allow_input)
        asking = asyncio.create_task(self._ask()) if allow_input else None
        try:
            status = await self._listen(run, parent)
        except Exception as error:  # a kernel that breaks the protocol costs its run, and nothing more
            status, value = "error", f"the kernel sent an invalid message: {type(error).__name__}: {error}"
            await self._tell(type="error", name="KernelError", value=text(value), traceback=[])
        finally:
            if asking is not None:
                asking.cancel()
        if run.is_interrupted:
            status = "interrupted"
        self._run = None
        self._channel.say(type="done", id=run.number, status=status, count=run.count)

    async def _listen(self, run: Run, parent: str) -> str:
        """Pass on what the kernel publishes until it is idle again. Return how the run ended."""
        while True:
            told = await self._client.get_iopub_msg()
            if told["parent_header"].get("msg_id") != parent:
                continue
            content = told["content"]
            match told["msg_type"]:
                case "stream":
                    write(2 if content["name"] == "stderr" else 1, text(content["text"]))
                case "execute_result":
                    run.count = number(content["execution_count"])
                    await self._tell(type="result", data=bundle(content["data"]), count=run.count)
                case "display_data" | "update_display_data":
                    name = content.get("transient", {}).get("display_id")
                    extra = {"display_id": text(name)} if name else {}
                    update = told["msg_type"] == "update_display_data"
                    await self._tell(type="display", data=bundle(content["data"]), update=update, **extra)
                case "error":
                    if not (run.is_interrupted and content["ename"] in ("KeyboardInterrupt", "")):
                        trace = [_COLOURS.sub("", line) for line in lines(content["traceback"])]
                        name, value = text(content["ename"]), text(content["evalue"])
                        await self._tell(type="error", name=name, value=value, traceback=trace)
                case "status" if content["execution_state"] == "idle":
                    break
        while True:
            reply = await self._client.get_shell_msg()
            if reply["parent_header"].get("msg_id") == parent:
                run.count = number(reply["content"].get("execution_count")) or run.count
                return "ok" if reply["content"]["status"] == "ok" else "error"

    async def _ask(self) -> None:
        while True:
            asked = await self._client.get_stdin_msg()
            content = asked["content"]
            self._answer = asyncio.get_running_loop().create_future()
            prompt, password = text(content["prompt"]), bool(content["password"])
            self._channel.say(type="input_request", prompt=prompt, password=password)
            self._client.input(await self._answer)

    async def _reply(self, message: dict[str, Any]) -> None:
        code, cursor = message["code"], message["cursor"]
        try:
            if message["op"] == "complete":
                content = (await self._client.complete(code, cursor, reply=True, timeout=8))["content"]
                self._channel.say(
                    type="completion",
                    id=message["id"],
                    matches=lines(content["matches"])[:MAX_MATCHES],
                    start=number(content["cursor_start"]),
                    end=number(content["cursor_end"]),
                )
            else:
                level = 1 if message.get("detail") else 0
                content = (await self._client.inspect(code, cursor, level, reply=True, timeout=8))["content"]
                data = bundle(content["data"]) if content.get("found") else {}
                data = {mime: _COLOURS.sub("", one) for mime, one in data.items()}
                self._channel.say(type="inspection", id=message["id"], data=data)
        except Exception as error:  # no answer, or an invalid one
            problem = text(f"the kernel did not answer: {type(error).__name__} {error}")
            self._channel.say(type="refused", id=message["id"], message=problem)

    async def _tell(self, **message: Any) -> None:
        """Send a message that later output must not overtake."""
        self._acks += 1
        self._acked = asyncio.get_running_loop().create_future()
        self._channel.say(**message, ack=self._acks)
        await self._acked

    async def _end(self) -> None:
        with contextlib.suppress(Exception):
            if self._manager.has_kernel:
                await self._manager.shutdown_kernel(now=True)
        shutil.rmtree(self._directory, ignore_errors=True)


def write(descriptor: int, text: str) -> None:
    """Write a whole text at the pace of its reader."""
    data = memoryview(text.encode(errors="replace"))
    while data:
        data = data[os.write(descriptor, data) :]


async def main(kernel: str) -> None:
    """Run as the runner of a kernel."""
    channel = Channel(int(os.environ.pop("SANDLOT_CHANNEL_FD")))
    await channel.open()
    await Runner(channel, kernel).serve()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: runner.py KERNELSPEC")
    try:
        asyncio.run(main(sys.argv[1]))
    except NoSuchKernel:
        sys.exit(f"there is no Jupyter kernel {sys.argv[1]}: `jupyter kernelspec list` tells which there are")
