"""The composition root: create the services of execd, serve the control plane, end in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from execd import deputy
from execd.activity.activity import Activity
from execd.claim import Claim
from execd.config import Config, parse
from execd.dispatch import Dispatcher, Handler
from execd.files.locks import Locks
from execd.files.serve import Files
from execd.kernel.serve import Contexts
from execd.launch.defaults import defaults
from execd.launch.environment import Environment
from execd.launch.versions import load as load_versions
from execd.metrics import Meter
from execd.port.probe import DEFAULT_PORT, VARIABLE, ProbePorts
from execd.port.serve import Forwarding
from execd.process import oom
from execd.process.reap import Reaper
from execd.process.serve import Processes
from execd.recording.serve import Recordings
from execd.server import serve_forever
from execd.session.bubblewrap import OVERLAYS
from execd.session.serve import Sessions
from execd.terminal.serve import Terminals
from execd.tracing import forbid_tracing
from execd.wire.messages import ContextRun, ProcessStart, Request, SessionRun

log = logging.getLogger("execd")


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; return the exit status. *argv* does not include the program's name.

    Raises:
        SystemExit: The command line is wrong; the exception holds the usage.
    """
    if argv[:1] == [deputy.FLAG]:
        return deputy.main(int(argv[1]), int(argv[2]), argv[3], *map(int, argv[4:]))
    if argv[:1] == [OVERLAYS]:
        from execd.session import stage  # noqa: PLC0415 — it needs ctypes, which execd itself must not load

        stage.enter_overlays(list(argv[1:]))
    config = parse(argv)
    oom.keep_score_file()  # before tracing is forbidden, which closes /proc to this process
    forbid_tracing()  # before anything is started, and before the link is dialled
    # Ordinary events are not logged: nobody reads the log of a sandbox that works.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="execd: %(levelname)s: %(message)s")
    asyncio.run(_run(config))
    return 0


class Agent:
    """All services of execd, and what they share. Create it inside the running event loop."""

    def __init__(self, config: Config) -> None:
        """Create every service. Nothing is served yet, but the port for Jupyter probes."""
        self._reaper = reaper = Reaper()
        versions = load_versions(config.versions_dir)
        for problem in versions.problems:
            log.warning("%s", problem)
        environment = Environment(os.environ, os.getcwd(), defaults=defaults, choose=versions.choose)
        command, locks = deputy.own_command(), Locks()
        self._contexts = Contexts(reaper, environment, config.kernels_dir, versions)
        self.activity = activity = Activity(self._contexts.table.language_of)
        self._processes = Processes(reaper, environment, activity.witness)
        self._sessions = Sessions(reaper, environment, command)
        self._terminals = Terminals(reaper, environment, activity.witness)
        self._recordings = Recordings(
            {ProcessStart: self._processes.start, ContextRun: self._contexts.run, SessionRun: self._sessions.run},
            activity.carry_out,
        )
        self._files = Files(environment, locks=locks)
        self._deputies = deputy.Deputies(reaper, environment, command, self._sessions.isolated, locks)
        self._ports = ProbePorts(lambda: len(self._contexts.table.select()))
        self._ports.keep(os.environ.get(VARIABLE, DEFAULT_PORT))
        services = (self._contexts, self._sessions, self._recordings, self._ports)
        self._claim = Claim(environment, self._processes.table, [service.take_settings for service in services])

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return merge(
            self._claim.handlers(),
            self._processes.handlers(),
            self._contexts.handlers(),
            self._sessions.handlers(),
            self._terminals.handlers(),
            self._recordings.handlers(),
            self._files.handlers(),
            self._deputies.handlers(),
            self.activity.handlers(),
            Forwarding().handlers(),
            Meter().handlers(),
        )

    async def end_programs(self) -> None:
        """End everything that runs code. The link still reports how each program ended."""
        self._terminals.shutdown()
        await asyncio.gather(
            self._processes.table.shutdown(), self._contexts.table.shutdown(), self._sessions.shutdown()
        )

    def close(self) -> None:
        """Close the ports, and stop waiting for children."""
        self._ports.close()
        self._reaper.close()


async def _run(config: Config) -> None:
    stopped = _stop_signal()
    agent = Agent(config)
    dispatcher = Dispatcher(agent.handlers(), agent.activity.carry_out)
    gc.freeze()  # everything created so far stays: the collector need not look at it, or touch its pages
    serving = asyncio.ensure_future(serve_forever(config.socket_path, dispatcher))
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    await agent.end_programs()
    serving.cancel()  # not earlier: the control plane hears how its programs ended
    await asyncio.wait([serving])
    agent.close()
    if not serving.cancelled():
        serving.result()  # serving never returns: this raises the exception that ended it


def _stop_signal() -> asyncio.Future[None]:
    """Return a future that SIGTERM and SIGINT complete. The kernel drops a signal for which PID 1 has no handler."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped


def merge(*tables: Mapping[type[Request], Handler]) -> dict[type[Request], Handler]:
    """Return one handler table. Raises ValueError if two services handle the same request."""
    handlers: dict[type[Request], Handler] = {}
    for table in tables:
        if twice := handlers.keys() & table.keys():
            raise ValueError(f"two handlers for {', '.join(sorted(kind.__name__ for kind in twice))}")
        handlers.update(table)
    return handlers
