"""Attacks on the host by rights: devices, capabilities, set-uid programs, scores and limits."""

from __future__ import annotations

from controlplane.attack.attacks.host.cures import CAPABILITIES, SECCOMP
from controlplane.attack.client.model import Attack
from controlplane.attack.client.program import given

_NODES = """
found = []
for name, mode, device in (("block", 0o60600, (8, 0)), ("disk", 0o60600, (254, 0)), ("memory", 0o20600, (1, 1)),
    ("fuse", 0o20600, (10, 229)), ("kmsg", 0o20600, (1, 11))):
    path = "/tmp/.node-" + name
    if not error_of(os.mknod, path, mode, os.makedev(*device)):
        found.append(name)
        os.unlink(path)
held_unless(found)
"""

_DEVICES = """
import stat
found = []
for where, folders, names in os.walk("/dev"):
    for name in names:
        path = os.path.join(where, name)
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISBLK(mode):
            found.append(path)
found += [p for p in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vsock",
    "/dev/vhost-vsock", "/dev/vhost-net", "/dev/loop-control", "/dev/mapper/control", "/dev/uinput", "/dev/uhid",
    "/dev/userfaultfd", "/dev/cpu_dma_latency") if os.path.exists(p)]
held_unless(found)
"""

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID and SETUID.
_CAPABILITY_SETS = """
allowed = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7))
told = status()
found = ["%s has %x" % (name, int(told[name], 16) & ~allowed) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")
    if int(told[name], 16) & ~allowed]
if int(told["CapAmb"], 16):
    found.append("CapAmb is not empty")
held_unless(found)
"""

_CONFINEMENT = """
told = status()
found = []
if told.get("NoNewPrivs", "").strip() != "1":
    found.append("NoNewPrivs is not set")
if told.get("Seccomp", "").strip() != "2":
    found.append("no seccomp filter")
held_unless(found)
"""

# A program of a few instructions that ends with its effective user id: no program of the image is needed.
_SET_UID = """
codes = {"x86_64": "b86b0000000f0589c7b83c0000000f05", "aarch64": "e81580d2010000d4a80b80d2010000d4"}
code = codes.get(os.uname().machine)
if code is None:
    not_applicable("no program for this machine")
if os.geteuid():
    not_applicable("nobody in this sandbox is root, so no set-uid root program can be made")
code = bytes.fromhex(code)
machine = 62 if os.uname().machine == "x86_64" else 183
magic = b"\\x7fELF\\x02\\x01\\x01"
head = struct.pack("<16sHHIQQQIHHHHHH", magic, 2, machine, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
head += struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 120 + len(code), 120 + len(code), 4096)
path = "/var/tmp/.set-uid" if os.path.isdir("/var/tmp") else "/.set-uid"
with open(path, "wb") as file:
    file.write(head + code)
os.chmod(path, 0o6755)
child = os.fork()
if not child:
    os.setgroups([])
    os.setgid(1000)
    os.setuid(1000)
    try:
        os.execv(path, [path])
    finally:
        os._exit(99)
_, ended = os.waitpid(child, 0)
os.unlink(path)
code = os.waitstatus_to_exitcode(ended)
if code == 0:
    broken("a set-uid program makes uid 1000 root")
if code == 1000 & 255:
    held()
not_applicable("the program did not run: %d" % code)
"""

_FILE_CAPABILITIES = """
path = "/tmp/.capable"
open(path, "w").close()
try:
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000") + bytes(12))
except OSError as error:
    held() if error.errno in (errno.EPERM, errno.EACCES) else not_applicable("no such attributes here")
finally:
    os.unlink(path)
broken("a program can be given capabilities")
"""

_CORE_FILES = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
held() if hard == 0 else broken("core files of up to %d bytes may be written, by the host's own rule" % hard)
"""

OOM_SCORE = """
def tries():
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(wanted))
    except OSError:
        return False
    return True
held() if not in_child(tries) else broken("a process can make itself the last that the kernel would kill")
"""

_PRIORITY = """
def tries():
    found = []
    if not error_of(os.setpriority, os.PRIO_PROCESS, 0, -20):
        found.append("nice -20")
    if not error_of(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)):
        found.append("real-time scheduling")
    return found
held_unless(in_child(tries) or ())
"""

_CHROOT = """
held_unless(n for n in ("chroot",) if not refused(in_child(lambda: call("chroot", b"/"))))
"""


ATTACKS = (
    Attack(
        id="host.device-nodes",
        tries="Make device nodes for disks, memory, FUSE and the kernel's log",
        outcome="mknod is refused",
        cure=CAPABILITIES,
        program=_NODES,
    ),
    Attack(
        id="host.devices",
        tries="Find a disk or a device of the machine in /dev",
        outcome="/dev has only what every program expects",
        cure="no privileged container, and no device passed in",
        program=_DEVICES,
    ),
    Attack(
        id="host.capabilities",
        tries="Look for a capability beyond the few that package installs need",
        outcome="No set of a process holds another one",
        cure=CAPABILITIES,
        program=_CAPABILITY_SETS,
    ),
    Attack(
        id="host.confinement",
        tries="Look whether no-new-privileges or the seccomp filter is missing",
        outcome="Both are on",
        cure=SECCOMP,
        program=_CONFINEMENT,
    ),
    Attack(
        id="host.set-uid",
        tries="Become root again by a set-uid root program",
        outcome="The program runs as the user who started it",
        cure="no-new-privileges must be set on every container",
        program=_SET_UID,
    ),
    Attack(
        id="host.file-capabilities",
        tries="Give a program capabilities by an extended attribute",
        outcome="The kernel refuses",
        cure=CAPABILITIES,
        program=_FILE_CAPABILITIES,
    ),
    Attack(
        id="host.core-files",
        tries="Have the host's core handler run or write for a crash",
        outcome="No process may write a core file, and the limit cannot be raised",
        cure="the container's ulimit for core must be 0",
        program=_CORE_FILES,
    ),
    Attack(
        id="host.oom-score",
        tries="Lower one's own OOM score, so that the kernel kills others first",
        outcome="The kernel refuses",
        cure=CAPABILITIES,
        program=given(OOM_SCORE, wanted=-900),
    ),
    Attack(
        id="host.priority",
        tries="Take a negative nice value or real-time scheduling",
        outcome="The kernel refuses",
        cure=CAPABILITIES,
        program=_PRIORITY,
    ),
    Attack(
        id="host.chroot",
        tries="Change the root directory",
        outcome="chroot is refused",
        cure=CAPABILITIES,
        program=_CHROOT,
    ),
)
