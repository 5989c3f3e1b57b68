"""Attacks on the host by the files that a sandbox sees: sockets, /proc, /sys and what the server lends."""

from __future__ import annotations

from controlplane.attack.attacks.host.cures import DRIVER
from controlplane.attack.client.model import Attack

_SOCKETS = """
found = []
for top, folders, names in os.walk("/"):
    if top == "/":
        folders[:] = [n for n in folders if n not in ("proc", "sys")]
    for name in names:
        path = os.path.join(top, name)
        try:
            is_socket = os.lstat(path).st_mode & 0o170000 == 0o140000
        except OSError:
            continue
        if is_socket and path != "/run/sandlot/link.sock":
            found.append(path)
held_unless(n for n in found if any(w in n for w in ("docker", "containerd", "crio", "podman", "buildkit", "dbus",
    "systemd", "libvirt", "kubelet", "snapd", "sandlot", "host")))
"""

_OTHER_ROOTS = """
ours = os.stat("/")
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    for link in ("root", "cwd"):
        try:
            there = os.stat("/proc/%s/%s" % (pid, link))
        except OSError:
            continue
        if link == "root" and (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            found.append("/proc/%s/root" % pid)
held_unless(found)
"""

_KERNEL_SETTINGS = """
paths = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug", "/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/panic",
    "/proc/sys/vm/drop_caches", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom",
    "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/suid_dumpable", "/proc/irq/default_smp_affinity",
    "/proc/mtrr", "/proc/acpi/wakeup"]
held_unless(path for path in paths if opens(path, os.O_WRONLY))
"""

_SYSFS = """
found, seen = [], 0
for top in ("/sys/kernel", "/sys/module", "/sys/power", "/sys/class", "/sys/firmware", "/sys/block"):
    for where, folders, names in os.walk(top):
        for name in names:
            seen += 1
            path = os.path.join(where, name)
            if opens(path, os.O_WRONLY):
                found.append(path)
        if seen > 20000 or len(found) > 8:
            held_unless(found)
held_unless(found) if seen else not_applicable("there is no /sys")
"""

_CGROUPS = """
found, seen = [], 0
for where, folders, names in os.walk("/sys/fs/cgroup"):
    for name in names:
        seen += 1
        if opens(os.path.join(where, name), os.O_WRONLY):
            found.append(os.path.join(where, name))
held_unless(found) if seen else not_applicable("no cgroup files are to be seen")
"""

_KERNEL_MEMORY = """
def has_bytes(path):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return bool(os.read(fd, 1))
        finally:
            os.close(fd)
    except OSError:
        return False
paths = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/dev/mem", "/dev/kmem", "/dev/port",
    "/dev/kmsg", "/proc/kmsg", "/sys/firmware/dmi/tables/DMI", "/sys/firmware/acpi/tables/DSDT"]
held_unless(path for path in paths if has_bytes(path))
"""

_KERNEL_FILE_SYSTEMS = """
found = []
for path in ("/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/fs/pstore",
    "/sys/firmware/efi/efivars"):
    try:
        if os.listdir(path):
            found.append(path)
    except OSError:
        pass
held_unless(found)
"""

_LENT = """
attacks = {
    "touch /run/sandlot": lambda: os.close(os.open("/run/sandlot/attack", os.O_CREAT | os.O_WRONLY)),
    "write /opt/execd": lambda: os.close(os.open("/opt/execd/attack", os.O_CREAT | os.O_WRONLY)),
    "write boot.pyc": lambda: os.close(os.open("/opt/execd/boot.pyc", os.O_WRONLY)),
    "write python3": lambda: os.close(os.open("/opt/execd/bin/python3", os.O_WRONLY)),
    "symlink": lambda: os.symlink("/etc/passwd", "/run/sandlot/attack"),
    "hard link": lambda: os.link("/run/sandlot/link.sock", "/run/sandlot/attack"),
    "chmod": lambda: os.chmod("/run/sandlot/link.sock", 0o777),
    "rename": lambda: os.rename("/run/sandlot", "/run/attack"),
}
found = [name for name, act in attacks.items() if not error_of(act)]
for path in ("/run/sandlot/attack", "/opt/execd/attack"):
    error_of(os.unlink, path)
held_unless(found)
"""


ATTACKS = (
    Attack(
        id="host.engine-socket",
        tries="Find the socket of the container engine, or another of the host's",
        outcome="No socket of the host but the sandbox's own link is in its file system",
        cure="never mount an engine's socket; keep it out of [storage] allowed_host_paths",
        program=_SOCKETS,
    ),
    Attack(
        id="host.other-roots",
        tries="Reach another file system by /proc/PID/root or /proc/PID/cwd of any process",
        outcome="Every process that can be seen has the sandbox's own root",
        cure="sandboxes need a process namespace of their own: never share the host's",
        program=_OTHER_ROOTS,
    ),
    Attack(
        id="host.kernel-settings",
        tries="Open core_pattern, modprobe, sysrq-trigger and other settings of the kernel for writing",
        outcome="None can be opened",
        cure=DRIVER,
        program=_KERNEL_SETTINGS,
    ),
    Attack(
        id="host.sysfs",
        tries="Open anything below /sys/kernel, /sys/module, /sys/power, /sys/class and /sys/block for writing",
        outcome="None can be opened",
        cure=DRIVER,
        program=_SYSFS,
    ),
    Attack(
        id="host.cgroups",
        tries="Open a control group's files for writing: release_agent, limits, members",
        outcome="None can be opened",
        cure="cgroups must be mounted read-only: no privileged container",
        program=_CGROUPS,
    ),
    Attack(
        id="host.kernel-memory",
        tries="Read the kernel's memory, log, keys or firmware tables",
        outcome="They are absent, masked or refused",
        cure=DRIVER,
        program=_KERNEL_MEMORY,
    ),
    Attack(
        id="host.kernel-file-systems",
        tries="List the kernel's debugging, tracing, security and BPF file systems",
        outcome="They are absent or empty",
        cure=DRIVER,
        program=_KERNEL_FILE_SYSTEMS,
    ),
    Attack(
        id="host.lent-files",
        tries="Change what the server lends: the agent's tree and the link's directory",
        outcome="Nothing in them can be written, linked, renamed or given another mode",
        cure="both must be mounted read-only",
        program=_LENT,
    ),
)
