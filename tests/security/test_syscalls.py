"""The system calls of a sandbox, each tried by its number, against `syscalls.txt`; and what their arguments decide."""

from __future__ import annotations

import json
import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from controlplane.runtime.docker.seccomp import Profiles
from tests.contract.worlds import DockerWorld
from tests.support.server.boxes import Box, running

EPERM, ENOSYS = 1, 38
REFUSALS = {"EPERM": EPERM, "ENOSYS": ENOSYS}
WIDE_OPEN = '{"defaultAction": "SCMP_ACT_ALLOW"}'
# Beyond the list: room for what kernels add.
LAST_NUMBER = 520
# They end, copy or stop the process that makes them, whatever the arguments.
NEVER_TRIED = {"exit", "exit_group", "fork", "vfork", "pause", "rt_sigreturn", "uretprobe", "uprobe"}
# The first that a libseccomp of 2022 (Debian 12) does not know by name: there they are refused, and programs fall back.
FIRST_UNKNOWN = 451

# Prints {number: answer}: an errno, 0, or "signal N". Every argument is -1, which nothing can be done with.
PROBE = """
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
nothing = [ctypes.c_long(-1)] * 6
answers = {}
for number in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(5)
        failed = libc.syscall(ctypes.c_long(number), *nothing) == -1
        os.write(writing, b"%d" % (ctypes.get_errno() if failed else 0))
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 16)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    answers[number] = int(told) if told else f"signal {status & 0x7f}"
print(json.dumps(answers))
"""
# Prints {call: errno}, 0 where it works.
ARGUMENTS = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
answers = {}
for call in json.loads(sys.argv[1]):
    number, *arguments = map(int, call.split()[1:])
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    answers[call] = ctypes.get_errno() if result == -1 else 0
print(json.dumps(answers))
"""


class Call(NamedTuple):
    """One line of the list."""

    name: str
    ordinary: str
    user_namespaces: str


def _calls() -> dict[int, Call]:
    """Return the list by the numbers of this machine."""
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    lines = [line.split() for line in (Path(__file__).parent / "syscalls.txt").read_text().splitlines()]
    return {int(line[column]): Call(*line[2:]) for line in lines if line[0] != "#" and line[column] != "-"}


CALLS = _calls()
NUMBERS = {call.name: number for number, call in CALLS.items()}

REFUSED = pytest.mark.attack(
    "host",
    "every system call of the kernel's table, by number, as root",
    "what is not in the list of what programs need is refused: io_uring, bpf, keys, performance events, the mount "
    "interfaces, modules, and all numbers that newer kernels may give away",
)
SOCKETS = pytest.mark.attack(
    "network",
    "sockets of every family, type and protocol that leave the network's walls: vsock, kernel crypto, raw and other "
    "packets, XDP, SCTP, MPTCP, and every protocol of netlink but routes",
    "the profile refuses them, also with rubbish in the half of the argument that the kernel does not read",
)
NAMESPACES = pytest.mark.attack(
    "host",
    "clone and unshare with the flag of each namespace, clone3, setns",
    "no namespace is made, but for those of a sandbox that may make user namespaces; a control group namespace never",
)
TYPING = pytest.mark.attack(
    "host",
    "typing into the terminal of an operator who looks into a container, by ioctl, with all 64 bits of the command",
    "the profile refuses the two commands",
)
FOREIGN = pytest.mark.attack(
    "host",
    "system calls of the 32-bit interfaces of the same machine, where sockets cannot be told apart",
    "the process is ended",
)


@pytest.fixture
async def open_box(world: DockerWorld) -> AsyncIterator[Box]:
    """A container whose system calls nobody filters."""
    driver = world.with_seccomp(Profiles(WIDE_OPEN, WIDE_OPEN))
    async with running(world, driver) as box:
        yield box
    await driver.aclose()


async def _probe(box: Box) -> dict[int, object]:
    never = {NUMBERS[name] for name in NEVER_TRIED if name in NUMBERS}
    ran = await box.python(PROBE, json.dumps([number for number in range(LAST_NUMBER) if number not in never]))
    return {int(number): answer for number, answer in json.loads(ran.output).items()}


@REFUSED
@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", ["ordinary", "user_namespaces"])
async def test_every_system_call_is_as_the_list_says(world: DockerWorld, open_box: Box, profile: str) -> None:
    """What is refused answers as the list says. What is allowed answers what an unfiltered kernel answers."""
    async with running(world, user_namespaces=profile == "user_namespaces") as box:
        ours, unfiltered = await _probe(box), await _probe(open_box)

    wrong = []
    for number, answer in ours.items():
        call = CALLS.get(number)
        if call is None:
            is_right = answer in (EPERM, ENOSYS)
        elif (verdict := getattr(call, profile)) in REFUSALS:
            is_right = answer == REFUSALS[verdict] or (number >= FIRST_UNKNOWN and answer == ENOSYS)
        elif verdict == "allowed":
            is_right = answer == unfiltered[number] or (number >= FIRST_UNKNOWN and answer in (EPERM, ENOSYS))
        else:
            is_right = True
        if not is_right:
            wrong.append((number, call, answer, unfiltered[number]))
    assert not wrong

    closed = {"bpf", "io_uring_setup", "keyctl", "perf_event_open", "userfaultfd", "fsopen", "open_tree", "add_key"}
    assert {name for name in closed if unfiltered[NUMBERS[name]] not in (EPERM, ENOSYS)}, "nothing is filtered here"


async def _ask(box: Box, calls: list[str]) -> dict[str, int]:
    numbered = {f"{name} {NUMBERS[name]} {rest}": call for call in calls for name, _, rest in [call.partition(" ")]}
    answers: dict[str, int] = json.loads((await box.python(ARGUMENTS, json.dumps(list(numbered)))).output)
    return {numbered[call]: answer for call, answer in answers.items()}


RUBBISH = 0x5A5A << 32  # in the half of an argument that the kernel does not read
SOCK_FLAGS = 0o2000000 | 0o4000  # close on exec, non-blocking
CLOSED_SOCKETS = {
    **{f"socket {family} 1 0": 97 for family in (3, 9, 21, 29, 30, 31, 38, 40, 43, 44, 45, 46)},
    f"socket {40 | RUBBISH} {1 | RUBBISH} 0": 97,  # vsock
    f"socket {38 | RUBBISH} 5 0": 97,  # the kernel's cryptography
    "socket 17 3 768": EPERM,
    "socket 2 3 1": EPERM,
    f"socket {2 | RUBBISH} {3 | SOCK_FLAGS | RUBBISH} 255": EPERM,
    "socket 10 3 58": EPERM,
    "socket 2 2 115": EPERM,  # L2TP
    "socket 2 1 132": 93,  # SCTP
    "socket 2 1 262": 93,  # MPTCP
    "socket 10 5 132": EPERM,
    "socket 2 6 33": EPERM,  # DCCP
    **{f"socket 16 3 {protocol}": 93 for protocol in (2, 4, 5, 6, 9, 12, 15, 16, 21)},
    f"socket {16 | RUBBISH} 2 {12 | RUBBISH}": 93,
    "socketpair 30 1 0 0": EPERM,
}
OPEN_SOCKETS = [
    *("socket 1 1 0", "socket 1 2 0", "socket 1 5 0", f"socket 1 {1 | SOCK_FLAGS} 0"),
    *(
        f"socket {family} {kind} {protocol}"
        for family in (2, 10)
        for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17))
    ),
    *("socket 16 3 0", f"socket 16 {2 | SOCK_FLAGS} 0"),
]
THREAD = 0x00010F00  # as pthread_create has it: memory, files, signals, thread
CLONE_FLAGS = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
CLONE_CGROUP, CLONE_TIME = 0x02000000, 0x00000080
TIOCSTI, TIOCLINUX, TIOCGWINSZ = 0x5412, 0x541C, 0x5413


@SOCKETS
@pytest.mark.parametrize("user_namespaces", [False, True], ids=["ordinary", "user namespaces"])
async def test_only_known_sockets_are_made(world: DockerWorld, open_box: Box, user_namespaces: bool) -> None:
    """TCP, UDP, local sockets and the question for routes; without the profile, some others are made as well."""
    async with running(world, user_namespaces=user_namespaces) as box:
        answers = await _ask(box, [*CLOSED_SOCKETS, *OPEN_SOCKETS])
    unfiltered = await _ask(open_box, [*CLOSED_SOCKETS])

    assert {call: answers[call] for call in CLOSED_SOCKETS} == CLOSED_SOCKETS
    assert {call: answers[call] for call in OPEN_SOCKETS} == dict.fromkeys(OPEN_SOCKETS, 0)
    assert {answer for call, answer in unfiltered.items() if call.startswith("socket 16 ")} == {0, 93}


@NAMESPACES
async def test_no_namespace_is_made(world: DockerWorld, box: Box, open_box: Box) -> None:
    """By no flag, alone or with those of a thread; only where user namespaces are allowed they are, but for cgroups."""
    flags = {**CLONE_FLAGS, "cgroup": CLONE_CGROUP}
    # A thread without a stack would crash: this is refused first, or by the kernel because the flags contradict.
    calls = [f"clone {flag | THREAD | RUBBISH} 0 0 0 0" for flag in flags.values()]
    calls += [f"unshare {flag | RUBBISH}" for flag in (*flags.values(), CLONE_TIME)]
    answers = await _ask(box, [*calls, "clone3 0 0", f"setns -1 {CLONE_FLAGS['net']}", "unshare 1536"])
    assert {answers[call] for call in calls} == {EPERM}
    assert (answers["clone3 0 0"], answers[f"setns -1 {CLONE_FLAGS['net']}"]) == (ENOSYS, EPERM)
    assert answers["unshare 1536"] == 0  # a directory and descriptors of one's own are no namespace

    unfiltered = await _ask(open_box, [f"unshare {CLONE_FLAGS['user']}"])
    assert list(unfiltered.values()) == [0]

    async with running(world, user_namespaces=True) as roomy:
        user, cgroup = f"unshare {CLONE_FLAGS['user']}", f"unshare {CLONE_CGROUP | RUBBISH}"
        assert await _ask(roomy, [user, cgroup, "clone3 0 0"]) == {user: 0, cgroup: EPERM, "clone3 0 0": ENOSYS}


@TYPING
async def test_nobody_types_for_an_operator(box: Box, open_box: Box) -> None:
    """Refused by the profile before the kernel looks at the descriptor, which is none."""
    closed = [f"ioctl -1 {command | high} 0" for command in (TIOCSTI, TIOCLINUX) for high in (0, RUBBISH)]
    usual = [f"ioctl -1 {command} 0" for command in (TIOCGWINSZ, 0x5401, 0x541B, 0x541D, 0x5411, 0x80045430, 0)]

    answers = await _ask(box, [*closed, *usual])
    assert {answers[call] for call in closed} == {EPERM}
    assert {answers[call] for call in usual} == {9}  # EBADF, of the kernel
    assert set((await _ask(open_box, closed)).values()) == {9}


# getpid by the 32-bit door.
THIRTY_TWO = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
code = bytes.fromhex("b814000000cd80c3")
ctypes.memmove(page, code, len(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(page)() == os.getpid())
"""


@FOREIGN
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the door is x86's")
@pytest.mark.parametrize("user_namespaces", [False, True], ids=["ordinary", "user namespaces"])
async def test_the_32_bit_door_is_closed(world: DockerWorld, user_namespaces: bool) -> None:
    """SIGSYS; the engine's own profile leaves it open, where the kernel has it."""
    async with running(world, user_namespaces=user_namespaces) as box:
        assert (await box.python(THIRTY_TWO)).exit_code == 128 + 31
        x32 = f"import os, ctypes; ctypes.CDLL(None).syscall(ctypes.c_long({0x40000000 | NUMBERS.get('getpid', 39)}))"
        assert (await box.python(x32)).exit_code == 128 + 31

    driver = world.with_seccomp(Profiles("", ""))
    async with running(world, driver) as weaker:
        assert (await weaker.python(THIRTY_TWO)).exit_code != 128 + 31
    await driver.aclose()
