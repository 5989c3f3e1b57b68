"""The system calls of a sandbox that may make user namespaces.

Engines' own profiles let nobody make one without being almost root. This one names what is refused, and otherwise is as
wide as the kernel: whoever is root in a namespace of its own reaches parts of the kernel that few others do, so what
has been broken there before, and no sandbox needs, is closed.
"""

from __future__ import annotations

from typing import Any

import msgspec

_EPERM, _ENOSYS = 1, 38

# The machine, its clock, its modules, its disks: root's business, and a namespace's root is not that root.
_MACHINE = (
    *("acct", "adjtimex", "clock_adjtime", "clock_settime", "delete_module", "fanotify_init", "finit_module"),
    *("init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "lookup_dcookie", "name_to_handle_at"),
    *("open_by_handle_at", "quotactl", "quotactl_fd", "reboot", "settimeofday", "swapoff", "swapon"),
    *("syslog", "vhangup"),
)
# Wide interfaces to the kernel's inside, with a history.
_INSIDE = ("add_key", "bpf", "kcmp", "keyctl", "perf_event_open", "request_key", "userfaultfd")
# The same, but programs ask whether they exist, and have another way when they do not. bubblewrap mounts with mount().
_UNKNOWN = (
    "clone3",  # its flags are out of reach; with clone() one sees which namespaces are asked for
    *("fsconfig", "fsmount", "fsopen", "fspick", "io_uring_enter", "io_uring_register", "io_uring_setup"),
    *("mount_setattr", "move_mount", "open_tree"),
)

# Nobody gets a control group namespace: in one of their own they could mount the control groups, whose files belong to
# root, and lift the sandbox's limits.
_NEW_CGROUP = 0x02000000

_INET, _NETLINK, _INET6, _PACKET, _VSOCK = 2, 16, 10, 17, 40  # families of sockets
_RAW, _TYPES = 3, 0xF  # the type, and the bits that are the type
_XFRM, _NETFILTER = 6, 12  # protocols of netlink


def profile() -> str:
    """Return it, as the engine's API takes it: JSON in an option of security."""
    return msgspec.json.encode(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            # Nothing but these: in the 32-bit interfaces of the same machines sockets cannot be told apart.
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64"},
                {"architecture": "SCMP_ARCH_AARCH64"},
                {"architecture": "SCMP_ARCH_RISCV64"},
            ],
            "syscalls": [
                _refuse(_MACHINE + _INSIDE, _EPERM),
                _refuse(_UNKNOWN, _ENOSYS),
                _refuse(("clone", "unshare"), _EPERM, _is(0, _NEW_CGROUP, _NEW_CGROUP)),
                _refuse(("socket",), _EPERM, _is(0, _PACKET)),
                _refuse(("socket",), _EPERM, _is(0, _VSOCK)),
                *(_refuse(("socket",), _EPERM, _is(0, family), _is(1, _RAW, _TYPES)) for family in (_INET, _INET6)),
                *(_refuse(("socket",), _EPERM, _is(0, _NETLINK), _is(2, kind)) for kind in (_XFRM, _NETFILTER)),
            ],
        }
    ).decode()


def _refuse(names: tuple[str, ...], errno: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": list(conditions)}


def _is(argument: int, value: int, bits: int = 0) -> dict[str, Any]:
    """Compare an argument of the call, or some bits of it. It is compared in 64 bits, of which the kernel reads 32."""
    return {"index": argument, "value": bits or 0xFFFFFFFF, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
