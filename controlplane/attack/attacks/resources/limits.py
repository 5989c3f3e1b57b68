"""Attacks on processes, memory, CPU and time."""

from __future__ import annotations

from controlplane.attack.attacks.resources.survival import attack, is_left_alone
from controlplane.attack.client.api import Unreachable
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable, unclear
from controlplane.attack.client.program import command, given
from controlplane.attack.client.target import LEAST_CPU, LEAST_MEMORY, Target

MANY = 2048  # processes, threads: more than a sandbox has use for

_SMALL = 128 << 20  # LEAST_MEMORY, in bytes

ORPHANS_S = 5.0  # processes that ended are gone within this time

_FORKS = """
import signal
children, text = [], ""
try:
    for _ in range(many):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        children.append(child)
except OSError as error:
    text = "the limit is near %d" % len(children)
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
held(text) if text else broken("%d processes at once" % len(children))
"""

_THREADS = """
import threading
threading.stack_size(65536)
stop, text, threads = threading.Event(), "", []
try:
    for _ in range(many):
        thread = threading.Thread(target=stop.wait)
        thread.start()
        threads.append(thread)
except (RuntimeError, MemoryError):
    text = "the limit is near %d" % len(threads)
count = len(threads)
stop.set()
held(text) if text else broken("%d threads at once" % count)
"""

# What is taken is written, page by page: memory that is only reserved counts nowhere.
_MEMORY = """
blocks = []
for taken in range(0, most, 1 << 20):
    blocks.append(b"x" * (1 << 20))
print("took it all")
"""

_MEMORY_FILE = """
fd = os.memfd_create("attack")
for taken in range(0, most, 1 << 20):
    os.write(fd, b"x" * (1 << 20))
print("took it all")
"""

_SHARED_MEMORY = """
if not os.path.isdir("/dev/shm"):
    print("no /dev/shm")
    os._exit(0)
with open("/dev/shm/attack", "wb", buffering=0) as file:
    for taken in range(0, most, 1 << 20):
        file.write(b"x" * (1 << 20))
print("took it all")
"""

_SYSTEM_V_MEMORY = """
_LIBC.shmat.restype = ctypes.c_void_p
identity = _LIBC.shmget(0, ctypes.c_size_t(most), 0o1600)
if identity < 0:
    print("refused")
    os._exit(0)
where = _LIBC.shmat(identity, None, 0)
_LIBC.shmctl(identity, 0, None)
for taken in range(0, most, 4096):
    ctypes.memset(where + taken, 1, 1)
print("took it all")
"""

_DESCRIPTORS = """
found, text = [], ""
try:
    for _ in range(many):
        found.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    text = "the limit is %d" % len(found)
held(text) if text else broken("%d open files in one process" % len(found))
"""

DESCRIPTORS = 1 << 20  # the kernel's own ceiling for a process, unless an administrator raised it

_SPIN = """
import time
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print(os.times().children_user + os.times().children_system)
"""

SPIN_CPU = "200m"

SPIN_S = 3 * 0.2 * 2 + 0.4  # what that much CPU gives in the time, with a generous margin

_ORPHANS = """
import time
for _ in range(200):
    if not os.fork():
        if not os.fork():
            os._exit(0)
        os._exit(0)
    os.wait()
end = time.monotonic() + patience
while True:
    left = sum("\\tZ" in text_of("/proc/%s/status" % pid) for pid in filter(str.isdigit, os.listdir("/proc")))
    if not left:
        held()
    if time.monotonic() > end:
        broken("%d processes that ended are still there" % left)
    time.sleep(0.1)
"""

_IGNORE = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
time.sleep(120)
"""

_STOP = "import signal\nos.kill(os.getpid(), signal.SIGSTOP)"

_HIDE = """
import time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(120)  # it holds the output open
    os._exit(0)
time.sleep(120)
"""


async def _bounded(target: Target, source: str) -> Outcome:
    """Run a program with a verdict in a small sandbox."""
    async with target.sandbox(memory="512Mi", cpu="1") as box:
        return await is_left_alone(target, box, await box.attack(source, timeout_s=40))


async def _takes(target: Target, source: str, *, left: str = "") -> Outcome:
    """Have a program take twice the memory that its sandbox may have. The agent removes the file that is *left*."""
    async with target.sandbox(memory=LEAST_MEMORY, cpu="1") as box:
        ran = await box.run(command(given(source, most=2 * _SMALL))[0], timeout_s=30)
        if "took it all" in ran.output:
            return broken(f"{2 * _SMALL >> 20} MiB were taken in a sandbox with {LEAST_MEMORY}")
        if "no /dev/shm" in ran.output:
            return not_applicable("the sandbox has no /dev/shm")
        if ran.exit_code == 0 and "refused" not in ran.output:
            return unclear(f"the program did nothing: {ran.output[-100:]}")
        if left:
            await target.api.request("DELETE", f"{box.agent}/files?path={left}")
        return await is_left_alone(target, box, held(ran.error))


async def _forks(target: Target) -> Outcome:
    return await _bounded(target, given(_FORKS, many=MANY))


async def _threads(target: Target) -> Outcome:
    return await _bounded(target, given(_THREADS, many=MANY))


async def _descriptors(target: Target) -> Outcome:
    return await _bounded(target, given(_DESCRIPTORS, many=DESCRIPTORS))


async def _orphans(target: Target) -> Outcome:
    return await _bounded(target, given(_ORPHANS, patience=ORPHANS_S))


async def _memory(target: Target) -> Outcome:
    return await _takes(target, _MEMORY)


async def _memory_file(target: Target) -> Outcome:
    return await _takes(target, _MEMORY_FILE)


async def _shared_memory(target: Target) -> Outcome:
    # What is in the file stays in memory. Too little may be left to start a program, but the agent needs none.
    return await _takes(target, _SHARED_MEMORY, left="/dev/shm/attack")  # noqa: S108 - in the sandbox


async def _system_v_memory(target: Target) -> Outcome:
    return await _takes(target, _SYSTEM_V_MEMORY)


async def _cpu(target: Target) -> Outcome:
    """Spin in more processes than the sandbox has CPUs, and count what they got."""
    async with target.sandbox(cpu=SPIN_CPU) as box:
        used = float((await box.output_of(_SPIN, timeout_s=40)).split()[-1])
        if used > SPIN_S:
            return broken(f"{used:.1f} s of CPU within 3 s, where {SPIN_CPU} were asked for")
        return held(f"{used:.1f} s of CPU within 3 s")


async def _ends_in_time(target: Target, source: str) -> Outcome:
    """Run a program that does not want to end, with a time limit of 1 s."""
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU) as box:
        try:
            ran = await box.run(command(source)[0], timeout_s=1)
        except Unreachable as error:
            return broken(f"the command did not end: {error}")
        if ran.exit_code == 0:
            return unclear("the program ended by itself")
        return await is_left_alone(target, box, held(ran.error))


async def _ignores(target: Target) -> Outcome:
    return await _ends_in_time(target, _IGNORE)


async def _stops(target: Target) -> Outcome:
    return await _ends_in_time(target, _STOP)


async def _hides(target: Target) -> Outcome:
    return await _ends_in_time(target, _HIDE)


_SURVIVES = "The attempt ends at the sandbox's own limit; it and its neighbour go on"


ATTACKS = (
    attack("processes", f"Have {MANY:,} processes at once", _SURVIVES, _forks),
    attack("threads", f"Have {MANY:,} threads at once", _SURVIVES, _threads),
    attack("descriptors", f"Open {DESCRIPTORS:,} files in one process", _SURVIVES, _descriptors),
    attack("memory", "Take twice the memory of the sandbox", _SURVIVES, _memory),
    attack("memory-files", "Take twice the memory by an anonymous file", _SURVIVES, _memory_file),
    attack("shared-memory", "Take twice the memory by /dev/shm", _SURVIVES, _shared_memory),
    attack("system-v-memory", "Take twice the memory by a System V segment", _SURVIVES, _system_v_memory),
    attack(
        "cpu",
        "Compute in four processes with a fifth of a CPU",
        "All together get what the sandbox was given",
        _cpu,
    ),
    attack(
        "orphans",
        "Leave 200 processes behind that ended",
        "The agent takes their ends; none stays",
        _orphans,
        "report it: process 1 must reap every orphan",
    ),
    attack(
        "ignored-signals",
        "Ignore every signal that can be ignored, beyond the command's time limit",
        "The command is killed, and the client hears so",
        _ignores,
        "report it: a time limit must end in SIGKILL",
    ),
    attack(
        "stopped-process",
        "Stop oneself by SIGSTOP, beyond the command's time limit",
        "The command is killed, and the client hears so",
        _stops,
        "report it: a time limit must end in SIGKILL",
    ),
    attack(
        "hidden-process",
        "Hide a process in a session of its own that holds the output open, beyond the command's time limit",
        "The client hears the end all the same",
        _hides,
        "report it: what holds a pipe must not hold the answer",
    ),
)
