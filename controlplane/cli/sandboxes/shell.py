"""`sandlot shell`: a terminal in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes.program import FAILED, add_program, fields, status_of
from controlplane.cli.sandboxes.target import sandbox_of
from controlplane.client.names import SHORT
from controlplane.client.server import Server
from controlplane.client.stream import Connection, Opened, OperationFailed, connected
from controlplane.client.terminal import Escapes, raw, read_input, window_size, write_output
from controlplane.client.text import safe, table
from controlplane.errors import InvalidRequest, LinkLost, SandlotError

DESCRIPTION = """Open a shell in a sandbox, in this terminal. What its programs print reaches your terminal as it is.
Each call opens another terminal, which ends with its shell. Ctrl-P Ctrl-Q, or ~. at the beginning of a line, leaves a
terminal without ending it; --attach goes on with it, also from another machine."""
EXAMPLES = """examples:
  sandlot shell web
  sandlot shell -u root web
  sandlot shell --list web
  sandlot shell --attach 3f2a web

exit status:
  that of the shell; 128 + N if signal N ended it; 0 after leaving; 125 if sandlot itself failed
"""
# After a lost connection, the terminal is looked for again for this time: the server may have been started anew.
RETRY_S, RETRY_PAUSE_S = 15.0, 0.5
LEFT = 0


def add(parser: Parser) -> None:
    """Add the options."""
    add_program(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--attach", metavar="TERMINAL", help="go on with a terminal; another client of it has to leave")
    which.add_argument("--list", action="store_true", help="list the terminals of the sandbox")
    which.add_argument("--close", metavar="TERMINAL", help="hang a terminal up")
    parser.add_argument("-c", "--command", default="", metavar="COMMAND", help="the program [default: a shell]")
    parser.add_argument("sandbox", metavar="ID", help="the beginning of an id, or a name")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Open a terminal, or look after those that there are; return the exit status."""
    if options.timeout:
        raise InvalidRequest("--timeout: a terminal has none; `sandlot exec` takes it")
    server, sandbox_id = sandbox_of(options)
    if options.list:
        say(asyncio.run(_list(server, sandbox_id)))
        return 0
    if options.close:
        asyncio.run(_close(server, sandbox_id, options.close))
        return 0
    program = fields(server, sandbox_id, options) | {"command": options.command}
    return asyncio.run(converse(server, sandbox_id, program, attach=options.attach or ""))


async def converse(server: Server, sandbox_id: str, program: dict[str, Any], *, attach: str = "") -> int:
    """Connect our terminal with a new one of the sandbox, or with the one that *attach* names.

    Return the exit status of its program. Raises SandlotError.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise InvalidRequest("a terminal needs one here too; `sandlot exec` does without")
    async with connected(server, sandbox_id) as connection:
        if attach:
            terminal = await _find(connection, attach)
        else:
            columns, rows = window_size(1)
            (opened, *_) = await connection.ask("pty.open", cols=columns, rows=rows, **program)
            terminal = opened["id"]
        session = _Session(server, sandbox_id, terminal)
        with raw(0):
            status = await session.hold(connection)
    if status is None:
        again = f"sandlot shell --attach {terminal[:SHORT]} {sandbox_id[:SHORT]}"
        sys.stderr.write(f"\r\n[left; the terminal goes on: {again}]\n")
        return LEFT
    return status


class _Session:
    """Our terminal, connected with one of a sandbox."""

    def __init__(self, server: Server, sandbox_id: str, terminal: str) -> None:
        self._server = server
        self._sandbox_id = sandbox_id
        self._terminal = terminal
        self._received = 0  # the offset of the next byte that the terminal prints
        self._keys = Escapes()
        self._is_leaving = False

    async def hold(self, connection: Connection) -> int | None:
        """Pass keys and output on until the program ends; return its exit status, or None if the user leaves.

        A lost connection is opened again.
        """
        try:
            return await self._attached(connection)
        except LinkLost as lost:
            sys.stderr.write(f"\r\n[{safe(lost.message)}; connecting again]\r\n")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RETRY_S
        while True:
            await asyncio.sleep(RETRY_PAUSE_S)
            try:
                async with connected(self._server, self._sandbox_id) as again:
                    deadline = loop.time() + RETRY_S
                    return await self._attached(again)
            except OperationFailed:
                raise
            except SandlotError:
                if loop.time() > deadline:
                    raise

    async def _attached(self, connection: Connection) -> int | None:
        opened = await connection.open("pty.attach", id=self._terminal, since=self._received, takeover=True)
        typing = asyncio.ensure_future(self._type(connection, opened))
        printing = asyncio.ensure_future(self._print(opened))
        loop = asyncio.get_running_loop()
        resizes: set[asyncio.Future[None]] = set()

        def resize() -> None:
            task = asyncio.ensure_future(self._resize(connection))
            resizes.add(task)
            task.add_done_callback(resizes.discard)

        resize()  # a terminal that another window has left
        loop.add_signal_handler(signal.SIGWINCH, resize)
        try:
            for number in (signal.SIGHUP, signal.SIGTERM):
                loop.add_signal_handler(number, typing.cancel)
            await asyncio.wait([typing, printing], return_when=asyncio.FIRST_COMPLETED)
            if printing.done():
                return printing.result()
            if self._is_leaving:
                await opened.cancel()
                return None
            # Our terminal is gone, or we are to end: nobody would come back to the one of the sandbox.
            with contextlib.suppress(SandlotError):
                await connection.ask("pty.close", id=self._terminal)
            return 128 + signal.SIGHUP
        finally:
            tasks: list[asyncio.Future[Any]] = [typing, printing, *resizes]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for number in (signal.SIGWINCH, signal.SIGHUP, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _type(self, connection: Connection, opened: Opened) -> None:
        """Pass keys on until our terminal or the user leaves."""
        async for typed in read_input(0):
            keys = self._keys.take(typed)
            try:
                await opened.send(keys.data)
            except LinkLost:
                break  # `_print` tells that
            if keys.is_leaving:
                self._is_leaving = True
                return
        else:
            return
        await asyncio.Event().wait()

    async def _print(self, opened: Opened) -> int:
        while True:
            message = await opened.next()
            match message["type"]:
                case "pty":
                    self._received = message.get("output_start", 0)
                case "data":
                    self._received += len(message["data"])
                    await write_output(1, message["data"])
                case "done":
                    return status_of(message.get("receipt"))

    async def _resize(self, connection: Connection) -> None:
        columns, rows = window_size(1)
        with contextlib.suppress(SandlotError):  # the next change tries again
            await connection.ask("pty.resize", id=self._terminal, cols=columns, rows=rows)


async def _list(server: Server, sandbox_id: str) -> str:
    async with connected(server, sandbox_id) as connection:
        found = [each for each in await connection.ask("pty.list") if each["type"] == "pty"]
    rows = [
        (each["id"][:SHORT], "runs" if each["running"] else "not started, or ended", str(each.get("output_end", 0)))
        for each in found
    ]
    return table(("TERMINAL", "PROGRAM", "BYTES"), rows)


async def _close(server: Server, sandbox_id: str, text: str) -> None:
    async with connected(server, sandbox_id) as connection:
        await connection.ask("pty.close", id=await _find(connection, text))


async def _find(connection: Connection, text: str) -> str:
    """Return the id of the terminal that a text means. Raises InvalidRequest."""
    found = [each["id"] for each in await connection.ask("pty.list") if each["type"] == "pty"]
    matches = [each for each in found if each.startswith(text)]
    if len(matches) == 1:
        return str(matches[0])
    known = ", ".join(each[:SHORT] for each in found) or "none"
    raise InvalidRequest(f"there is no terminal {safe(text[:80])}, or more than one; there are: {known}")


__all__ = ["FAILED", "add", "converse", "run"]
