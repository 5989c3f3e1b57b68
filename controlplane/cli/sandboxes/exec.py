"""`sandlot exec`: a command in a sandbox, with its input, its output, its signals and its exit status."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import sys
from typing import Any

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes import shell
from controlplane.cli.sandboxes.program import (
    FAILED,
    STATUSES,
    add_program,
    fields,
    status_of,
    status_of_failure,
    timeout_s,
    without_dashes,
)
from controlplane.cli.sandboxes.target import sandbox_of
from controlplane.client.cures import cure
from controlplane.client.server import Json, Server
from controlplane.client.stream import Connection, Opened, OperationFailed, connected
from controlplane.client.terminal import read_input, write_output
from controlplane.errors import InvalidRequest, LinkLost

DESCRIPTION = """Run a command in a sandbox. Input, output and errors are passed on as bytes, apart from each other:
what the command prints reaches your terminal as it is. Signals are passed on."""
EXAMPLES = f"""examples:
  sandlot exec web -- ls -l /app
  sandlot exec -w /app -e DEBUG=1 web -- python main.py
  tar c src | sandlot exec web -- tar x -C /app
  sandlot exec -t web -- vim /app/main.py

{STATUSES}"""
# Passed on to the command. After INTERRUPTS of SIGINT that did not end the command, it is killed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTS = 3


def add(parser: Parser) -> None:
    """Add the options."""
    add_program(parser)
    parser.add_argument("-n", "--no-stdin", action="store_true", help="read nothing: the command's input is empty")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal, as `sandlot shell`")
    parser.add_argument("sandbox", metavar="ID", help="the beginning of an id, or a name")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the program and its arguments")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Run the command; return its exit status."""
    command = without_dashes(options.command)
    if not command:
        raise InvalidRequest("there is no command; `sandlot shell` opens a shell")
    server, sandbox_id = sandbox_of(options)
    program = fields(server, sandbox_id, options)
    if options.tty:
        return asyncio.run(shell.converse(server, sandbox_id, program | {"command": shlex.join(command)}))
    return run_command(
        server, sandbox_id, program | {"argv": command}, with_input=not options.no_stdin, timeout_s=timeout_s(options)
    )


def run_command(
    server: Server, sandbox_id: str, program: dict[str, Any], *, with_input: bool, timeout_s: float | None
) -> int:
    """Run a command with our own standard streams; return its exit status. Raises SandlotError."""
    try:
        return asyncio.run(_run(server, sandbox_id, program | {"stdin": with_input, "timeout_s": timeout_s}))
    except (OperationFailed, LinkLost) as error:
        sys.stderr.write(f"sandlot: {cure(error)}\n")
        return status_of_failure(error)


async def _run(server: Server, sandbox_id: str, command: dict[str, Any]) -> int:
    async with connected(server, sandbox_id) as connection:
        opened = await connection.open("command", **command)
        loop = asyncio.get_running_loop()
        signals = _Signals(connection, opened)
        for number in SIGNALS:
            loop.add_signal_handler(number, signals.pass_on, number)
        feeding = asyncio.ensure_future(_feed(opened)) if command["stdin"] else None
        try:
            return await _tell(opened, signals)
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.wait([feeding])


async def _tell(opened: Opened, signals: _Signals) -> int:
    while True:
        message = await opened.next()
        match message["type"]:
            case "started":
                signals.start(message["id"])
            case "data":
                await _write(2 if message.get("channel") == "stderr" else 1, message["data"])
            case "done":
                return _ended(message)


def _ended(message: Json) -> int:
    receipt = message.get("receipt")
    if receipt and receipt["cause"] in ("timeout", "oom"):
        why = "the time was up" if receipt["cause"] == "timeout" else "the sandbox's memory was full"
        sys.stderr.write(f"sandlot: the command was ended: {why}\n")
    return status_of(receipt)


async def _write(fd: int, data: bytes) -> None:
    try:
        await write_output(fd, data)
    except BrokenPipeError:
        # As a command that writes to a closed pipe: nobody reads, and that ends it, quietly.
        os._exit(128 + signal.SIGPIPE)


async def _feed(opened: Opened) -> None:
    """Pass our standard input on, until it or the command ends."""
    with contextlib.suppress(LinkLost):  # the reader of the output tells that
        async for data in read_input(0):
            await opened.send(data)
            if opened.is_over:
                return
        await opened.end()


class _Signals:
    """Passes our signals on to the command, which may not have started yet."""

    def __init__(self, connection: Connection, opened: Opened) -> None:
        self._connection = connection
        self._opened = opened
        self._id = ""
        self._early: list[signal.Signals] = []
        self._interrupts = 0
        self._sending: set[asyncio.Task[None]] = set()

    def start(self, command_id: str) -> None:
        """Note the id of the command."""
        self._id = command_id
        for number in self._early:
            self._send(number)

    def pass_on(self, number: signal.Signals) -> None:
        """Pass a signal on. Without an answer to the third Ctrl-C, end ourselves and so the command."""
        self._interrupts += number == signal.SIGINT
        if self._interrupts > INTERRUPTS:
            os._exit(128 + number)  # the end of the connection kills the command
        if self._id:
            self._send(number)
        else:
            self._early.append(number)

    def _send(self, number: signal.Signals) -> None:
        task = asyncio.ensure_future(self._ask(number))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _ask(self, number: signal.Signals) -> None:
        with contextlib.suppress(OperationFailed, LinkLost):  # it has ended
            await self._connection.ask("signal", id=self._id, signal=number.name)


__all__ = ["FAILED", "add", "run", "run_command"]
