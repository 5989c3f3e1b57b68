"""Attacks on the host's kernel by sockets and system calls that have no business in a sandbox."""

from __future__ import annotations

from controlplane.attack.attacks.host.cures import CAPABILITIES, SECCOMP
from controlplane.attack.client.model import Attack

_EXOTIC_SOCKETS = """
families = dict(AX25=3, IPX=4, APPLETALK=5, X25=9, PACKET=17, ATM=20, RDS=21, IRDA=23, PPPOX=24, LLC=26, CAN=29,
    TIPC=30, BLUETOOTH=31, RXRPC=33, PHONET=35, IEEE802154=36, CAIF=37, NFC=39, KCM=41, QIPCRTR=42, SMC=43, XDP=44,
    MCTP=45)
found = []
for name, number in families.items():
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(number, kind, 0).close()
        except OSError:
            continue
        found.append("AF_" + name)
        break
held_unless(found)
"""

_VSOCK = """
error = error_of(lambda: socket.socket(40, socket.SOCK_STREAM, 0).close())
broken("a socket to the machine's hypervisor can be opened") if error == 0 else held()
"""

_ALG = """
error = error_of(lambda: socket.socket(38, socket.SOCK_SEQPACKET, 0).close())
broken("the kernel's cipher code can be reached by AF_ALG") if error == 0 else held()
"""

_RAW_SOCKETS = """
tries = {"AF_INET raw": (2, 3, 1), "AF_INET6 raw": (10, 3, 58), "AF_PACKET": (17, 3, 3), "raw IP": (2, 3, 255)}
held_unless(name for name, three in tries.items() if not error_of(lambda: socket.socket(*three).close()))
"""

# NETLINK_ROUTE (0) is what every program needs that asks for its own addresses.
_NETLINK = """
families = {4: "sock_diag", 6: "xfrm", 7: "selinux", 8: "iscsi", 9: "audit", 10: "fib_lookup", 11: "connector",
    12: "netfilter", 15: "kobject_uevent", 16: "generic", 18: "scsi", 19: "ecryptfs", 20: "rdma", 21: "crypto"}
held_unless(name for number, name in families.items()
    if not error_of(lambda: socket.socket(16, socket.SOCK_RAW, number).close()))
"""


def _calls(name: str, *calls: str, tries: str) -> Attack:
    """Return the attack by system calls that have no business in a sandbox."""
    return Attack(
        id=f"host.{name}",
        tries=tries,
        outcome="The kernel refuses each call before it looks at an argument, for root and for others",
        cure=SECCOMP,
        program=f"held_unless(let_through(*{calls!r}))",
    )


ATTACKS = (
    Attack(
        id="host.exotic-sockets",
        tries="Open sockets of rarely used families, whose kernel code is little tested",
        outcome="None can be opened",
        cure=SECCOMP,
        program=_EXOTIC_SOCKETS,
    ),
    Attack(
        id="host.vsock",
        tries="Open a socket to the hypervisor (AF_VSOCK), which no network namespace holds",
        outcome="It cannot be opened",
        cure=SECCOMP,
        program=_VSOCK,
    ),
    Attack(
        id="host.kernel-ciphers",
        tries="Reach the kernel's cipher code (AF_ALG)",
        outcome="It cannot be reached",
        cure=SECCOMP,
        program=_ALG,
    ),
    Attack(
        id="host.raw-sockets",
        tries="Forge packets by raw and packet sockets",
        outcome="None can be opened",
        cure=CAPABILITIES,
        program=_RAW_SOCKETS,
    ),
    Attack(
        id="host.netlink",
        tries="Open netlink families beyond the one that tells addresses",
        outcome="None can be opened",
        cure=SECCOMP,
        must_pass=False,
        program=_NETLINK,
    ),
    _calls("kernel-modules", "init_module", "finit_module", "delete_module", tries="Load or remove kernel modules"),
    _calls("another-kernel", "kexec_load", "kexec_file_load", tries="Load another kernel"),
    _calls("bpf", "bpf", tries="Load a BPF program"),
    _calls("perf", "perf_event_open", tries="Open performance events"),
    _calls("userfaultfd", "userfaultfd", tries="Handle page faults in user space, which makes races winnable"),
    _calls("keyrings", "keyctl", "add_key", "request_key", tries="Use the kernel's keyrings, which no namespace holds"),
    _calls("io-uring", "io_uring_setup", "io_uring_enter", "io_uring_register", tries="Use io_uring"),
    _calls("file-handles", "open_by_handle_at", tries="Open files by handles, around mount points"),
    _calls("file-watches", "fanotify_init", tries="Watch a whole file system"),
    _calls("machine", "reboot", "swapon", "swapoff", "acct", "vhangup", tries="Reboot, swap, account or hang up"),
    _calls("kernel-log", "syslog", tries="Read or clear the kernel's log"),
    _calls("clock", "clock_settime", "settimeofday", tries="Set the machine's clock"),
    _calls("io-ports", "iopl", "ioperm", tries="Take I/O ports"),
    _calls("compare-processes", "kcmp", "lookup_dcookie", tries="Compare processes inside the kernel"),
)
