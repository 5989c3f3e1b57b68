"""Attacks on the host by mounts and namespaces."""

from __future__ import annotations

from controlplane.attack.attacks.host.cures import CAPABILITIES, DRIVER, SECCOMP
from controlplane.attack.client.model import Attack

_MOUNTS = """
os.makedirs("/tmp/.attack", exist_ok=True)
tries = {"tmpfs": (b"none", b"tmpfs", 0, b""), "proc": (b"proc", b"proc", 0, b""), "sysfs": (b"s", b"sysfs", 0, b""),
    "cgroup": (b"c", b"cgroup", 0, b"memory"), "cgroup2": (b"c", b"cgroup2", 0, b""),
    "bind": (b"/", b"", 4096, b""), "devpts": (b"d", b"devpts", 0, b""),
    "overlay": (b"o", b"overlay", 0, b"lowerdir=/etc:/tmp"), "slave": (b"", b"", 1 << 19, b"")}
found = []
for name, (source, kind, flags, data) in tries.items():
    if not refused(call("mount", source, b"/tmp/.attack", kind, flags, data)):
        found.append(name)
        call("umount2", b"/tmp/.attack", 2)
os.rmdir("/tmp/.attack")
held_unless(found)
"""

# None of these paths is itself a mount, so that a kernel which allows remounts finds nothing to remount.
_REMOUNTS = """
paths = ("/opt/execd/bin", "/run/sandlot/link.sock", "/proc/sys/kernel", "/sys/kernel", "/dev/null")
held_unless(path for path in paths if os.path.exists(path)
    and not refused(call("mount", b"", path.encode(), b"", 32 | 4096 | 1, b"")))
"""

_NEW_MOUNT_CALLS = """
held_unless(let_through("fsopen", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr"))
"""

_NAMESPACES = """
kinds = dict(user=0x10000000, mount=0x20000, net=0x40000000, pid=0x20000000, ipc=0x8000000, uts=0x4000000,
    cgroup=0x2000000, time=0x80)
held_unless(name for name, flag in kinds.items() if in_child(lambda: call("unshare", flag)) == 0)
"""

_CLONE = """
# A process in namespaces of its own, by clone rather than unshare. x86-64: clone 56; arm64: 220.
number = 56 if os.uname().machine == "x86_64" else 220
found = []
for name, flag in dict(user=0x10000000, mount=0x20000, net=0x40000000, pid=0x20000000).items():
    ctypes.set_errno(0)
    child = _LIBC.syscall(ctypes.c_long(number), ctypes.c_long(flag | 17), 0, 0, 0, 0)
    if child == 0:
        _LIBC._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        found.append(name)
held_unless(found)
"""

_JOIN = """
found = []
for pid in ("1", str(os.getppid())):
    for kind in ("mnt", "net", "pid", "ipc", "uts", "cgroup", "user"):
        try:
            fd = os.open("/proc/%s/ns/%s" % (pid, kind), os.O_RDONLY)
        except OSError:
            continue
        if in_child(lambda: call("setns", fd, 0)) == 0:
            found.append("%s of %s" % (kind, pid))
        os.close(fd)
held_unless(found)
"""

_PROCESSES = """
names = {pid: text_of("/proc/%s/comm" % pid).strip() for pid in filter(str.isdigit, os.listdir("/proc"))}
found = [name for pid, name in names.items() if name in ("systemd", "init", "dockerd", "containerd", "kthreadd",
    "containerd-shim", "sandlot", "sshd", "cron")]
if not text_of("/proc/1/cmdline").startswith("/opt/execd/bin/python3"):
    found.append("process 1 is " + text_of("/proc/1/cmdline").replace(chr(0), " ")[:60])
held_unless(found)
"""

_NAMES = """
import re
found = []
long_id = re.compile("[0-9a-f]{32,}")
for path in ("/proc/self/cgroup", "/etc/hostname", "/etc/hosts", "/proc/sys/kernel/hostname"):
    if long_id.search(text_of(path)):
        found.append(path + " has a container's id")
name = socket.gethostname()
if re.fullmatch("[0-9a-f]{12,64}", name) or "sandlot" in name:
    found.append("the host name is " + name)
held_unless(found)
"""

_OWN_NAME = """
before = socket.gethostname()
found = [n for n in ("sethostname", "setdomainname") if not refused(call(n, before.encode(), len(before)))]
held_unless(found)
"""

_IPC = """
found = []
for kind in ("shm", "msg", "sem"):
    if len(text_of("/proc/sysvipc/" + kind).splitlines()) > 1:
        found.append("/proc/sysvipc/" + kind)
if os.path.isdir("/dev/mqueue") and os.listdir("/dev/mqueue"):
    found.append("/dev/mqueue")
held_unless(found)
"""


ATTACKS = (
    Attack(
        id="host.mounts",
        tries="Mount tmpfs, proc, sysfs, cgroups, devpts, an overlay or a bind of the root",
        outcome="Every mount is refused",
        cure=CAPABILITIES,
        program=_MOUNTS,
    ),
    Attack(
        id="host.remounts",
        tries="Remount what is read-only: the agent's tree, the link's directory, /proc/sys and /sys",
        outcome="Every remount is refused",
        cure=CAPABILITIES,
        program=_REMOUNTS,
    ),
    Attack(
        id="host.unmounts",
        tries="Unmount what hides something of the host",
        outcome="Every unmount is refused",
        cure=CAPABILITIES,
        program="held_unless(let_through('umount2', 'pivot_root'))",
    ),
    Attack(
        id="host.new-mount-calls",
        tries="Use the kernel's newer mount interface (fsopen, open_tree, move_mount, mount_setattr)",
        outcome="Each call is refused",
        cure=SECCOMP,
        program=_NEW_MOUNT_CALLS,
    ),
    Attack(
        id="host.namespaces",
        tries="Make a user, mount, network, process, IPC, UTS, cgroup or time namespace by unshare",
        outcome="Each is refused",
        cure="leave [sandbox] allow_user_namespaces false, and the engine's seccomp profile on",
        program=_NAMESPACES,
    ),
    Attack(
        id="host.namespaces-by-clone",
        tries="Start a process in new namespaces by clone",
        outcome="Each is refused",
        cure="leave [sandbox] allow_user_namespaces false, and the engine's seccomp profile on",
        program=_CLONE,
    ),
    Attack(
        id="host.join-namespaces",
        tries="Join the namespaces of process 1 and of the parent",
        outcome="setns is refused",
        cure=CAPABILITIES,
        program=_JOIN,
    ),
    Attack(
        id="host.processes",
        tries="See processes of the host or of another container",
        outcome="Only the sandbox's own are there, and process 1 is the agent",
        cure="sandboxes need a process namespace of their own: never share the host's",
        program=_PROCESSES,
    ),
    Attack(
        id="host.names",
        tries="Learn the container's id or the host's name from the host name, the cgroup's path or /etc/hosts",
        outcome="One generic name for all, and no id",
        cure=DRIVER,
        must_pass=False,
        program=_NAMES,
    ),
    Attack(
        id="host.rename",
        tries="Change the host name or the domain name",
        outcome="The kernel refuses",
        cure=CAPABILITIES,
        program=_OWN_NAME,
    ),
    Attack(
        id="host.shared-memory",
        tries="See shared memory, semaphores or message queues of others",
        outcome="There are none",
        cure="sandboxes need an IPC namespace of their own",
        program=_IPC,
    ),
)
