"""Attacks on execd, process 1 of its container, by whoever runs beside it. Attackers have every right of a sandbox."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from controlplane.runtime.driver import ContainerState
from execd.wire.messages import FileAs, FileInfo, FileStat, Metrics, MetricsRead
from tests.contract.driver import only
from tests.contract.worlds import docker_world
from tests.support.server.boxes import PYTHON, Box, running

# Each of them is a way to take a process over, or to learn what it knows. Prints those that work on the process named.
TAKE_OVER = """
import ctypes, os, sys
target, arm = int(sys.argv[1]), os.uname().machine == "aarch64"
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = libc.syscall.restype = ctypes.c_long
SEIZE, DETACH, INTERRUPT = 0x4206, 17, 0x4207
buffer = ctypes.create_string_buffer(8)
class Part(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def call(number, *arguments):
    return libc.syscall(number, *map(ctypes.c_long, arguments)) >= 0
def trace():
    if libc.ptrace(SEIZE, target, None, None):
        return False
    libc.ptrace(INTERRUPT, target, None, None)
    os.waitpid(target, 0x40000000)
    libc.ptrace(DETACH, target, None, None)
    return True
def first_address():
    return int(open(f"/proc/{target}/maps").read().partition("-")[0], 16)
def copy(function):
    try:
        there = Part(first_address(), 8)
    except OSError:
        there = Part(0x1000, 8)
    return function(target, ctypes.byref(Part(ctypes.addressof(buffer), 8)), 1, ctypes.byref(there), 1, 0) == 8
def lent_descriptor():
    process = os.pidfd_open(target)
    return call(438, process, 0, 0)
def read(name):
    return lambda: bool(open(f"/proc/{target}/{name}", "rb").read(8))
def write_memory():
    with open(f"/proc/{target}/mem", "r+b", buffering=0):
        return True
def listed(name):
    return lambda: os.listdir(f"/proc/{target}/{name}") is not None
def led(name):
    return lambda: bool(os.stat(f"/proc/{target}/{name}"))
WAYS = {
    "ptrace": trace,
    "process_vm_readv": lambda: copy(libc.process_vm_readv),
    "pidfd_getfd": lent_descriptor,
    "kcmp": lambda: call(272 if arm else 312, target, os.getpid(), 1, 0, 0),
    "mem": write_memory,
    **{name: read(name) for name in ("environ", "maps", "smaps", "auxv", "pagemap")},
    **{name: listed(name) for name in ("fdinfo", "map_files")},
    **{name: led(name) for name in ("root/etc", "cwd", "exe", "fd/0", "ns/mnt")},
}
for name, way in WAYS.items():
    try:
        if way():
            print(name)
    except OSError:
        pass
"""
# The least that works on a process that does not defend itself, whatever the kernel and its settings.
ORDINARY_PREY = {"ptrace", "mem", "environ", "maps", "fdinfo", "root/etc", "cwd", "exe", "fd/0"}

PROFILES = {"ordinary": {}, "hardened": {"hardened": True}, "user namespaces": {"user_namespaces": True}}

TRACED = pytest.mark.attack(
    "agent",
    "user code traces process 1, reads and writes its memory, opens its descriptors, environment and root, as root, "
    "as the user of the hardened profile, and where user namespaces are allowed",
    "the kernel refuses all of it: nobody but execd speaks for the sandbox",
)
SIGNALLED = pytest.mark.attack(
    "agent",
    "user code sends every signal to process 1 but the two that end a sandbox",
    "execd goes on and answers",
)


@pytest.fixture
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Box]:
    """A container of the profile that the test names."""
    async with docker_world() as world, running(world, **PROFILES[request.param]) as box:
        yield box


every_profile = pytest.mark.parametrize("box", PROFILES, indirect=True)


@TRACED
@every_profile
async def test_process_1_cannot_be_taken_over(box: Box) -> None:
    """No way works on process 1; the same program takes over a process that does not forbid it."""
    assert await box.python(TAKE_OVER, "1") == (0, "")

    prey = await box.sh("sleep 60 >/dev/null 2>&1 & echo $!")
    taken = set((await box.python(TAKE_OVER, prey.output)).output.split())
    assert taken >= ORDINARY_PREY


@TRACED
@pytest.mark.parametrize("box", ["user namespaces"], indirect=True)
async def test_root_of_a_namespace_cannot_take_process_1_over(box: Box) -> None:
    """It may trace everybody in its own user namespace; process 1 is in none of those."""
    become_root = ("unshare", "--user", "--map-root-user", *PYTHON)
    assert await box.world.run_inside(box.id, *become_root, TAKE_OVER, "1") == (0, "")

    prey = await box.sh("unshare --user --map-root-user sleep 60 >/dev/null 2>&1 & echo $!")
    taken = set((await box.world.run_inside(box.id, *PYTHON, TAKE_OVER, prey.output)).output.split())
    assert "ptrace" in taken


@TRACED
@pytest.mark.parametrize("box", ["ordinary"], indirect=True)
async def test_a_deputy_cannot_be_taken_over(box: Box) -> None:
    """What serves files as a user is as closed to the programs of that user as execd is."""
    await box.link.call(FileAs(uid=1000, request=FileStat(("/etc",))), FileInfo)
    found = await box.sh("grep -l -e --deputy /proc/[0-9]*/cmdline")
    deputy = found.output.split("/")[2]

    assert await box.python(TAKE_OVER, deputy, user="1000") == (0, "")


@SIGNALLED
@every_profile
async def test_signals_do_not_reach_process_1(box: Box) -> None:
    """The kernel keeps from process 1 what it has no handler for; SIGTERM and SIGINT would end the sandbox."""
    numbers = [number for number in range(1, signal.NSIG) if number not in (signal.SIGTERM, signal.SIGINT)]
    ran = await box.python(f"import os\nfor number in {numbers}: os.kill(1, number)")

    assert ran == (0, "")
    assert (await box.link.call(MetricsRead(), Metrics)).memory_used_bytes
    state = (await only(box.world.driver, box.id)).state
    assert state is ContainerState.RUNNING

    prey = "import os, signal\nfor number in (1, 3, 19, 9):\n    if not (pid := os.fork()): signal.pause()\n"
    ran = await box.python(prey + "    os.kill(pid, number)\n    print(os.waitpid(pid, 2)[1] & 0x7f)")
    assert ran.output.split() == ["1", "3", "127", "9"]
