"""The composition root: builds what execd consists of, serves the control plane, ends in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from execd import deputy
from execd.config import Config, parse
from execd.dispatch import Dispatcher, Handler
from execd.environment import Environment
from execd.files.serve import Files
from execd.forward import Forwarding
from execd.isolation.bubblewrap import OVERLAYS
from execd.kernel.serve import Contexts
from execd.metrics import Meter
from execd.ports import DEFAULT_PORT, VARIABLE, ProbePorts
from execd.process.reap import Reaper
from execd.process.serve import Processes
from execd.pty import Terminals
from execd.server import serve_forever
from execd.sessions import Sessions
from execd.wire.messages import Request, SandboxClaim


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; return the exit status. *argv* is without the program's name.

    Raises:
        SystemExit: with the usage, when the command line is wrong.
    """
    if argv[:1] == [deputy.FLAG]:
        return deputy.main(int(argv[1]), argv[2], *map(int, argv[3:]))
    if argv[:1] == [OVERLAYS]:
        from execd.isolation import stage  # noqa: PLC0415 — it needs ctypes, which nobody else may have

        stage.enter_overlays(list(argv[1:]))
    config = parse(argv)
    # What ordinary life brings is not logged: nobody reads the log of a sandbox that works.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="execd: %(levelname)s: %(message)s")
    asyncio.run(_run(config))
    return 0


async def _run(config: Config) -> None:
    stopped = _stop_signal()
    reaper = Reaper()
    environment = Environment(os.environ, os.getcwd())
    processes = Processes(reaper, environment)
    contexts = Contexts(reaper, environment, config.kernels_dir)
    command = deputy.own_command()
    sessions = Sessions(reaper, environment, command)
    terminals = Terminals(reaper, environment)
    ports = ProbePorts()
    ports.keep(os.environ.get(VARIABLE, DEFAULT_PORT))
    handlers = merge(
        processes.handlers(),
        Files(environment).handlers(),
        deputy.Deputies(reaper, environment, command, sessions.isolated).handlers(),
        contexts.handlers(),
        sessions.handlers(),
        terminals.handlers(),
        Forwarding().handlers(),
        Meter().handlers(),
    )
    handlers[SandboxClaim] = sessions.limited_by(contexts.limited_by(ports.kept_by(handlers[SandboxClaim])))
    gc.freeze()  # what has been made until here stays: no collection need look at it, or touch its pages
    serving = asyncio.ensure_future(serve_forever(config.socket_path, Dispatcher(handlers)))
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    terminals.shutdown()
    await asyncio.gather(processes.table.shutdown(), contexts.table.shutdown(), sessions.shutdown())
    serving.cancel()  # only now: the control plane hears how its processes ended
    await asyncio.wait([serving])
    ports.close()
    reaper.close()
    if not serving.cancelled():
        serving.result()  # it never returns: this raises what it died of


def _stop_signal() -> asyncio.Future[None]:
    """Return a future that SIGTERM and SIGINT complete. PID 1 does not get a signal that it has no handler for."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped


def merge(*tables: Mapping[type[Request], Handler]) -> dict[type[Request], Handler]:
    """Return one handler table. Raises ValueError when two parts want the same request."""
    handlers: dict[type[Request], Handler] = {}
    for table in tables:
        if twice := handlers.keys() & table.keys():
            raise ValueError(f"two handlers for {', '.join(sorted(kind.__name__ for kind in twice))}")
        handlers.update(table)
    return handlers
