"""The zygote: it imports everything once, then forks one process for each context. It never has more than one thread.

execd sends `{"op": "fork", "id": …}` with four descriptors (channel, stdin, stdout, stderr), one message a packet. The
zygote sends `ready`, `forked`, `failed` and `exited`. See docs/runner-protocol.md.
"""

from __future__ import annotations

import array
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from sandlot_python import figures
from sandlot_python.channel import FDS, Channel, Interrupts
from sandlot_python.copying import end_pools, native_threads, take_over
from sandlot_python.runner import PROTOCOL, serve
from sandlot_python.shell import ContextShell, make_shell

MAX_PACKET_BYTES = 4096
LATER_MS = 300  # without a request, until what was postponed is loaded

# Run once before any context is forked, so that everything that a first run touches is loaded and shared.
WARM_UP = """
print("", end="")
display(None)
None or 1
"""
WARM_UP_ERROR = """
try:
    1 + "1"
except TypeError:
    get_ipython().showtraceback()
"""
WARM_UP_PANDAS = "import pandas\ndisplay(pandas.DataFrame({'a': [1.5], 'b': ['x']}).describe(include='all'))"
WARM_UP_FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('x')\nplt.show()"
WARM_UPS = (
    ("sys", WARM_UP),
    ("asyncio", WARM_UP_ERROR),
    ("pandas", WARM_UP_PANDAS),
    ("matplotlib.pyplot", WARM_UP_FIGURE),
)
LOADED_LATER = ("asyncio",)  # for code that awaits; then tracebacks are warmed up


def main(environ: MutableMapping[str, str]) -> None:
    """Run as the environment says: as a zygote, or as the runner of one context."""
    os.umask(0o022)
    _prepare_streams()
    interrupts = Interrupts()
    interrupts.install()
    zygote_fd = environ.pop("SANDLOT_ZYGOTE_FD", None)
    channel_fd = environ.pop("SANDLOT_CHANNEL_FD", None)
    preload = environ.pop("SANDLOT_PRELOAD", "").split()
    figures.install()
    shell = make_shell()
    shell.flush_c = _flush_c_streams()
    if zygote_fd is None:
        if channel_fd is None:
            sys.exit("neither SANDLOT_ZYGOTE_FD nor SANDLOT_CHANNEL_FD is set: execd starts this program")
        gc.enable()
        serve(Channel(socket.socket(fileno=int(channel_fd)), interrupts), shell, interrupts)
        return
    # With nothing to preload, a client waits: what only some runs need is loaded after the first context has its
    # process.
    warnings = import_all([*LOADED_LATER, *preload] if preload else [])
    warm_up(shell)
    Zygote(socket.socket(fileno=int(zygote_fd)), shell, interrupts).run(warnings)


def import_all(names: Sequence[str]) -> list[str]:
    """Import what is installed. Return why an installed module could not be imported."""
    # One BLAS thread for each CPU that this container may use, not for each CPU of the machine.
    threads = str(available_cpus())
    limits = {name: threads for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if name not in os.environ}
    os.environ.update(limits)
    warnings = []
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                warnings.append(f"preload {name}: {error}")
        except Exception as error:
            warnings.append(f"preload {name}: {type(error).__name__}: {error}")
    for name in limits:
        del os.environ[name]
    return warnings


def available_cpus() -> int:
    """Return the CPUs that this container may use, rounded up: its affinity and the quota of its cgroup, v2 or v1."""
    count = len(os.sched_getaffinity(0))
    root = "/sys/fs/cgroup"
    try:
        if os.path.exists(f"{root}/cpu.max"):
            with open(f"{root}/cpu.max") as file:
                quota, period = file.read().split()
        else:
            with open(f"{root}/cpu/cpu.cfs_quota_us") as file, open(f"{root}/cpu/cpu.cfs_period_us") as other:
                quota, period = file.read(), other.read()
        return max(1, min(count, -(-int(quota) // int(period)))) if int(quota) > 0 else count
    except (OSError, ValueError):
        return count  # no limit, or none that is visible


def warm_up(shell: ContextShell) -> None:
    """Run what a first run would have to load, as far as it belongs to what is loaded."""
    for module, code in WARM_UPS:
        if module in sys.modules:
            shell.warm_up(code)


class Zygote:
    """Forks children on request, and reports how each of them ended."""

    def __init__(self, execd: socket.socket, shell: ContextShell, interrupts: Interrupts) -> None:
        self._execd = execd
        self._shell = shell
        self._interrupts = interrupts
        self._children: dict[int, str] = {}
        self._wake_reading, self._wake_writing = os.pipe()
        os.set_blocking(self._wake_reading, False)
        os.set_blocking(self._wake_writing, False)

    def run(self, warnings: list[str]) -> None:
        """Serve until execd is gone."""
        end_pools()
        _freeze()
        signal.set_wakeup_fd(self._wake_writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if (threads := native_threads()) > 1:
            warnings.append(f"{threads} threads run after the preload: contexts may hang in locks that these held")
        self._say(type="ready", protocol=PROTOCOL, warnings=warnings)
        poll = select.poll()
        poll.register(self._execd, select.POLLIN)
        poll.register(self._wake_reading, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(None if "asyncio" in sys.modules else LATER_MS)}
            if not ready:
                import_all(LOADED_LATER)
                warm_up(self._shell)
                _freeze()
            if self._wake_reading in ready:
                os.read(self._wake_reading, 4096)
                self._reap()
            if self._execd.fileno() in ready and not self._serve_request():
                return

    def _serve_request(self) -> bool:
        packet, fds = _receive(self._execd)
        if not packet:
            return False
        request = json.loads(packet)
        try:
            pid = os.fork()
        except OSError as error:
            self._say(type="failed", id=request["id"], message=f"fork: {error.strerror}")
            pid = -1
        if pid == 0:
            self._become_context(fds)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._children[pid] = request["id"]
            self._say(type="forked", id=request["id"], pid=pid)
        return True

    def _reap(self) -> None:
        """Report ended children. Kill the rest of a child's process group while no other group can have its number."""
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            name = self._children.pop(ended.si_pid, None)
            if name is not None:
                try:
                    os.killpg(ended.si_pid, signal.SIGKILL)
                except OSError:
                    pass  # nothing is left of the group
            _, status, used = os.wait4(ended.si_pid, 0)
            if name is not None:
                cpu_s, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
                code = os.waitstatus_to_exitcode(status)
                self._say(type="exited", id=name, code=code, cpu_s=cpu_s, peak_memory_bytes=peak)

    def _say(self, **message: Any) -> None:
        self._execd.send(json.dumps(message).encode())

    def _become_context(self, fds: list[int]) -> None:
        """Take the descriptors in the child, serve, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wake_reading)
            os.close(self._wake_writing)
            self._execd.close()
            channel = take_over(fds, self._interrupts)
            gc.enable()
            serve(channel, self._shell, self._interrupts)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _freeze() -> None:
    """Keep the collector of a child from touching, and so copying, what all processes share."""
    gc.collect()
    gc.freeze()


def _receive(execd: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    space = socket.CMSG_SPACE(FDS * fds.itemsize)
    try:
        packet, ancillary, _, _ = execd.recvmsg(MAX_PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def _prepare_streams() -> None:
    """Make text UTF-8 that never fails to encode and is flushed at line ends, whatever the environment says."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable()  # a crash reports on stderr where it happened


def _flush_c_streams() -> Callable[[], object]:
    """Flush what C code prints at once, before Python prints more. Return the function that flushes the rest."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        unbuffered = 2
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, unbuffered, 0)
    except (ImportError, OSError, ValueError, AttributeError):
        return lambda: None
    fflush = libc.fflush  # looked up once, not in every context
    return lambda: fflush(None)
