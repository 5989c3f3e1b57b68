"""Attacks on the agent, process 1 of a sandbox: to become it, to read it, to answer in its place."""

from __future__ import annotations

import asyncio

from controlplane.attack.client.api import Unreachable
from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable
from controlplane.attack.client.program import given
from controlplane.attack.client.target import LEAST_CPU, LEAST_MEMORY, Target

_DUMPABLE = "rebuild the agent (`sandlot images build execd`): it makes itself unreadable at its start"
ENDED_S = 20.0

_PTRACE = """
# PTRACE_SEIZE stops nobody, and ends with this process. PTRACE_ATTACH needs the same permission.
held() if call("ptrace", 0x4206, 1, 0, 0) else broken("process 1 can be traced")
"""

_WRITE_MEMORY = """
found = []
if opens("/proc/1/mem", os.O_RDWR):
    found.append("/proc/1/mem")
held_unless(found)
"""

_READ_MEMORY = """
found = [name for name in ("mem", "environ", "maps", "auxv", "pagemap", "stack", "syscall")
    if opens("/proc/1/" + name, os.O_RDONLY) and (name == "mem" or text_of("/proc/1/" + name))]
held_unless("/proc/1/" + name for name in found)
"""

_VM_CALLS = """
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
own = ctypes.create_string_buffer(8)
here, there = Piece(ctypes.addressof(own), 8), Piece(0x10000, 8)
found = [name for name in ("process_vm_readv", "process_vm_writev")
    if not refused(call(name, 1, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))]
held_unless(found)
"""

# The numbers of its descriptors can be listed by root, which gives none of them away.
_STEAL_DESCRIPTOR = """
found = []
number = _NUMBERS.get("pidfd_open")
pidfd = _LIBC.syscall(ctypes.c_long(number), 1, 0) if number else -1
for fd in range(32):
    path = "/proc/1/fd/%d" % fd
    if not error_of(os.readlink, path) or opens(path, os.O_RDONLY):
        found.append(path)
    if pidfd >= 0 and call("pidfd_getfd", pidfd, fd, 0) == 0:
        found.append("descriptor %d" % fd)
held_unless(found)
"""

_INHERITED = """
found = []
for name in os.listdir("/proc/self/fd"):
    try:
        where = os.readlink("/proc/self/fd/" + name)
    except OSError:
        continue  # of the listing itself
    if int(name) > 2:
        found.append("%s is %s" % (name, where))
held_unless(found)
"""

_OOM_ORDER = """
ours, agents = (int(text_of("/proc/%s/oom_score_adj" % pid) or "0") for pid in ("self", "1"))
held() if ours > agents else broken("the kernel would kill the agent (%d) before user code (%d)" % (agents, ours))
"""

_LISTENERS = """
found = []
for name, is_local in (("tcp", lambda a: a.endswith("7F")), ("tcp6", lambda a: a == "0" * 24 + "01000000")):
    for line in text_of("/proc/net/" + name).splitlines()[1:]:
        words = line.split()
        address, _, port = words[1].partition(":")
        if words[3] == "0A" and not is_local(address):
            found.append("port %d" % int(port, 16))
held_unless(found)
"""

_LINK = """
import base64, time
path = "/run/sandlot/link.sock"
if not os.path.exists(path):
    not_applicable("there is no link socket")
line = socket.socket(socket.AF_UNIX)
line.settimeout(5)
try:
    line.connect(path)
    key = base64.b64encode(os.urandom(16)).decode()
    line.sendall(("GET / HTTP/1.1\\r\\nHost: sandlot\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Key: %s\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n" % key).encode())
    answer = line.recv(4096)
except OSError as error:
    held("refused: %s" % error)
broken("the server took user code for the agent") if b" 101 " in answer else held()
"""

# What a server takes that rests after some refusals, with its backlog, is some hundred.
STORM_PROGRAM = """
import time
path, taken, end = "/run/sandlot/link.sock", 0, time.monotonic() + 3
if not os.path.exists(path):
    not_applicable("there is no link socket")
while time.monotonic() < end and taken < most:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(0.2)
    if not error_of(line.connect, path):
        taken += 1
    line.close()
held("%d in 3 s" % taken) if taken < most else broken("%d connections in less than 3 s" % taken)
"""
STORM = 1500

_KILL = """
import signal
for number in sorted(signal.Signals):
    error_of(os.kill, 1, number)
print("sent")
"""

_OCCUPY = """
import threading
def serve(port):
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        return
    while True:
        line, _ = listener.accept()
        line.recv(65536)
        line.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\nConnection: close\\r\\n\\r\\nevil")
        line.close()
for port in (44772, 18080):
    threading.Thread(target=serve, args=(port,)).start()
"""


async def _kill_the_agent(target: Target) -> Outcome:
    """Send every signal to process 1; the sandbox answers afterwards, or is said to have ended."""
    neighbour = await target.neighbour()
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU) as box:
        try:
            said = await box.output_of(_KILL)
        except Unreachable:
            said = "sent"
        if "sent" not in said:
            return not_applicable("the program that sends signals did not run")
        if not await neighbour.answers():
            return broken("another sandbox answers no more")
        async with asyncio.timeout(ENDED_S):
            while not await box.answers():
                answer = await target.api.request("GET", f"/v1/sandboxes/{box.id}")
                state = told.get("status", {}).get("state") if isinstance(told := answer.json(), dict) else None
                if answer.status == 404 or state in ("Failed", "Terminated", "Stopping"):
                    return held(f"the sandbox is {state or 'gone'}, and says so")
                await asyncio.sleep(0.5)
        return held("the sandbox goes on")


async def _killed_and_said(target: Target) -> Outcome:
    try:
        return await _kill_the_agent(target)
    except TimeoutError:
        return broken("the sandbox answers nothing, and is said to be running")


async def _occupy_its_ports(target: Target) -> Outcome:
    """Listen on the ports of the agent's and the egress contract; what clients hear is still the server's word."""
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU) as box:
        await box.start(_OCCUPY)
        for _ in range(5):
            for port, path in ((44772, "/ping"), (44772, "/command/status/none"), (18080, "/policy")):
                answer = await target.api.request("GET", box.port(port) + path)
                if b"evil" in answer.body:
                    return broken(f"a program in the sandbox answers in the place of port {port}")
            await asyncio.sleep(0.1)
        return held() if await box.answers() else broken("commands reach the program in the sandbox")


ATTACKS = (
    Attack(
        id="agent.ptrace",
        tries="Trace process 1 as root",
        outcome="PTRACE_SEIZE is refused",
        cure=_DUMPABLE,
        program=_PTRACE,
    ),
    Attack(
        id="agent.write-memory",
        tries="Write the memory of process 1 by /proc/1/mem",
        outcome="It cannot be opened for writing",
        cure=_DUMPABLE,
        program=_WRITE_MEMORY,
    ),
    Attack(
        id="agent.read-memory",
        tries="Read the memory, the environment and the maps of process 1",
        outcome="None can be read",
        cure=_DUMPABLE,
        program=_READ_MEMORY,
    ),
    Attack(
        id="agent.memory-calls",
        tries="Read and write the memory of process 1 by process_vm_readv and process_vm_writev",
        outcome="Both are refused",
        cure=_DUMPABLE,
        program=_VM_CALLS,
    ),
    Attack(
        id="agent.steal-descriptors",
        tries="Take an open descriptor of process 1, such as its link",
        outcome="Neither /proc/1/fd nor pidfd_getfd gives one",
        cure=_DUMPABLE,
        program=_STEAL_DESCRIPTOR,
    ),
    Attack(
        id="agent.inherited-descriptors",
        tries="Look for a descriptor of the agent that its children inherited",
        outcome="A command has its standard streams and nothing else",
        cure="report it: an agent that lends its descriptors is a fault of Sandlot",
        program=_INHERITED,
    ),
    Attack(
        id="agent.oom-order",
        tries="Have the kernel kill the agent instead of user code when memory runs out",
        outcome="User code has the higher OOM score",
        cure=_DUMPABLE,
        program=_OOM_ORDER,
    ),
    Attack(
        id="agent.impersonate",
        tries="Connect to the link's socket and speak as the agent",
        outcome="The server closes the connection: the kernel tells it who called",
        cure="report it: only process 1 of the container may be taken for the agent",
        program=_LINK,
    ),
    Attack(
        id="agent.connection-storm",
        tries="Connect to the link's socket as often as it takes it",
        outcome="The server rests after some refusals, and takes no more than some hundred connections in 3 s",
        cure="upgrade Sandlot: a storm at one link costs a core of the server",
        program=given(STORM_PROGRAM, most=STORM),
    ),
    Attack(
        id="agent.listeners",
        tries="Find a port of the agent that others could reach",
        outcome="Nothing listens in the sandbox but on its loopback",
        cure="no official agent may run beside Sandlot's own; see what the image's entrypoint starts",
        program=_LISTENERS,
    ),
    Attack(
        id="agent.kill",
        tries="Send every signal to process 1",
        outcome="The sandbox goes on or is said to have ended, and others notice nothing",
        cure="report it: a sandbox without an agent must not be called running",
        act=_killed_and_said,
    ),
    Attack(
        id="agent.occupy-ports",
        tries="Listen on the agent's ports inside the sandbox and answer its clients",
        outcome="Clients hear the server, which asks the agent over the link",
        cure="report it: ports 44772 and 18080 are never forwarded into a sandbox",
        act=_occupy_its_ports,
    ),
)
