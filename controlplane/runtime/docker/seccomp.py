"""The system calls of a sandbox: a list of what programs need. Everything else is refused, also what kernels add later.

Two profiles: of ordinary sandboxes, and of those that may make user namespaces, which mount and enter namespaces too.
A call in no list fails with EPERM, or with ENOSYS if programs ask for it in order to fall back to another call.
runc answers ENOSYS by itself to calls that are newer than every call in the list, and passes over
names that the libseccomp of its machine does not know: those are refused as well.

The 32-bit interfaces of the same machines are closed: SIGSYS ends a program that calls them. There, a socket is made by
a call whose arguments a filter cannot see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from controlplane.errors import ConfigError

OURS, ENGINES = "sandlot", "engine"  # the setting's words; anything else is the path of a profile

_ALLOW, _REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS, _EPROTONOSUPPORT, _EAFNOSUPPORT = 1, 38, 93, 97

_FILES = (
    *("access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3"),
    *("faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown"),
    *("fchownat", "fcntl", "fdatasync", "file_getattr", "file_setattr", "flock", "fstat", "fstatfs", "fsync"),
    *("ftruncate", "futimesat", "getcwd", "getdents", "getdents64", "lchown", "link", "linkat", "lseek", "lstat"),
    *("mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "pread64"),
    *("preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv"),
    *("rename", "renameat", "renameat2", "rmdir", "sendfile", "splice", "stat", "statfs", "statx", "symlink"),
    *("symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "umask", "unlink", "unlinkat", "utime"),
    *("utimensat", "utimes", "vmsplice", "write", "writev"),
)
_ATTRIBUTES = tuple(
    f"{before}{verb}xattr{after}"
    for verb in ("get", "list", "remove", "set")
    for before, after in (("", ""), ("f", ""), ("l", ""), ("", "at"))
)
_WAITING = (
    *("epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2"),
    *("inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy"),
    *("io_getevents", "io_pgetevents", "io_setup", "io_submit", "poll", "ppoll", "pselect6", "select", "signalfd"),
    *("signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_settime"),
)
_MEMORY = (
    *("brk", "cachestat", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "mincore", "mlock", "mlock2"),
    *("mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc"),
    *("pkey_free", "pkey_mprotect", "process_madvise", "process_mrelease", "remap_file_pages"),
)
_PROCESSES = (
    *("arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue"),
    *("futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getegid", "geteuid"),
    *("getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid"),
    *("getrlimit", "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "landlock_add_rule"),
    *("landlock_create_ruleset", "landlock_restrict_self", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64"),
    *("restart_syscall", "riscv_flush_icache", "riscv_hwprobe", "rseq", "sched_get_priority_max"),
    *("sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler"),
    *("sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"),
    *("sched_yield", "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsuid"),
    *("setgid", "setgroups", "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit"),
    *("setsid", "setuid", "sysinfo", "times", "uname", "uprobe", "uretprobe", "vfork", "wait4", "waitid"),
)
_SIGNALS = (
    *("alarm", "kill", "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn"),
    *("rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "tgkill", "tkill"),
)
_TIME = (
    *(
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "getitimer",
        "gettimeofday",
        "nanosleep",
        "setitimer",
        "time",
    ),
    *("timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime"),
)
_MESSAGES = (
    *("accept", "accept4", "bind", "connect", "getpeername", "getrandom", "getsockname", "getsockopt", "listen"),
    *("mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget"),
    *("msgrcv", "msgsnd", "recvfrom", "recvmmsg", "recvmsg", "semctl", "semget", "semop", "semtimedop", "sendmmsg"),
    *("sendmsg", "sendto", "setsockopt", "shmat", "shmctl", "shmdt", "shmget", "shutdown"),
)
# Debuggers need them, and the kernel asks who may. Before Linux 4.8 a tracer could change a call after the filter.
_DEBUGGING = ("process_vm_readv", "process_vm_writev", "ptrace")
_FIRST_WITH_SAFE_TRACING = "4.8"

# Refused as if the kernel did not have them: programs ask, and have another way.
_UNKNOWN = (
    "clone3",  # its flags are out of reach; with clone() one sees which namespaces are asked for
    *("fsconfig", "fsmount", "fsopen", "fspick", "io_uring_enter", "io_uring_register", "io_uring_setup"),
    *("mount_setattr", "move_mount", "open_tree", "open_tree_attr"),
    *("memfd_secret", "modify_ldt", "set_mempolicy_home_node"),
    *("listmount", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "statmount"),
)

# Where user namespaces may be made, their root mounts, changes its root, and enters namespaces.
_NAMESPACES = ("chroot", "mount", "pivot_root", "setdomainname", "sethostname", "setns", "umount2")
# Nobody gets a control group namespace: in one of their own they could mount the control groups, whose files belong to
# root, and lift the sandbox's limits.
_NEW_CGROUP = 0x02000000
# New mounts, control groups, host name, IPC, users, processes, network; in unshare(2) also the clock.
_NEW_NAMESPACES, _NEW_TIME = 0x7E020000, 0x00000080

# Typing into the terminal of another process: of an operator who looks into a container.
_TYPING = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# Linux itself, also with a 32-bit or an old name, without random addresses (debuggers), and the question which it is.
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

# Families of sockets, their types, protocols: see socket(2).
_UNIX, _INET, _INET6, _NETLINK, _PACKET = 1, 2, 10, 16, 17
_LAST_FAMILY = 63  # the newest today is 46
_STREAM, _DATAGRAM, _TYPES = 1, 2, 0xF  # the types, and the bits that are the type
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_SCTP, _MPTCP = 132, 262  # with another way: TCP
_ROUTE, _LAST_NETLINK = 0, 31  # of netlink: interfaces and addresses; the kernel has room for 32


class Profiles(msgspec.Struct, frozen=True):
    """What the engine is given for a sandbox, as its API takes it: JSON. "" leaves it to the engine."""

    ordinary: str
    user_namespaces: str


def load(setting: str) -> Profiles:
    """Return the profiles for the setting `[engine] seccomp`.

    Raises:
        ConfigError: it names a file that cannot be read, or that holds no profile.
    """
    if setting == OURS:
        return Profiles(profile(), profile(user_namespaces=True))
    if setting == ENGINES:  # which lets nobody make a user namespace
        return Profiles("", profile(user_namespaces=True))
    try:
        text = Path(setting).expanduser().read_text()
        found = msgspec.json.decode(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"[engine] seccomp: {setting} cannot be read as a profile: {error}; "
            f'name a file with JSON, or say "{OURS}" or "{ENGINES}"'
        ) from error
    if not isinstance(found, dict) or "defaultAction" not in found:
        raise ConfigError(f"[engine] seccomp: {setting} holds no profile: it has no defaultAction")
    return Profiles(text, text)


def profile(*, user_namespaces: bool = False) -> str:
    """Return one of our own profiles."""
    return msgspec.json.encode(
        {
            "defaultAction": _REFUSE,
            "defaultErrnoRet": _EPERM,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64"},
                {"architecture": "SCMP_ARCH_AARCH64"},
                {"architecture": "SCMP_ARCH_RISCV64"},
            ],
            "syscalls": [
                _allow(*_FILES, *_ATTRIBUTES, *_WAITING, *_MEMORY, *_PROCESSES, *_SIGNALS, *_TIME, *_MESSAGES),
                {**_allow(*_DEBUGGING), "includes": {"minKernel": _FIRST_WITH_SAFE_TRACING}},
                _refuse(_ENOSYS, *_UNKNOWN),
                *_namespaces(allowed=user_namespaces),
                *_sockets(),
                *(_allow("ioctl", args=[_has(1, bits, value)]) for bits, value in _all_but(_TYPING)),
                *(_allow("personality", args=[_is(0, value)]) for value in _PERSONALITIES),
            ],
        }
    ).decode()


def _namespaces(*, allowed: bool) -> Iterator[dict[str, Any]]:
    closed = _NEW_CGROUP if allowed else _NEW_NAMESPACES
    yield _allow("clone", args=[_has(0, closed, 0)])
    yield _allow("unshare", args=[_has(0, closed if allowed else closed | _NEW_TIME, 0)])
    if allowed:
        yield _allow(*_NAMESPACES)


def _sockets() -> Iterator[dict[str, Any]]:
    """Yield rules for sockets: local ones, TCP, UDP, ping, and the question which interfaces there are."""
    yield _allow("socketpair", args=[_is(0, _UNIX)])
    yield _allow("socket", args=[_is(0, _UNIX)])
    for family, echo in ((_INET, _ICMP), (_INET6, _ICMP6)):
        for kind, protocols in ((_STREAM, (0, _TCP)), (_DATAGRAM, (0, _UDP, echo))):
            for protocol in protocols:
                yield _allow("socket", args=[_is(0, family), _has(1, _TYPES, kind), _is(2, protocol)])
        for protocol in (_SCTP, _MPTCP):
            yield _refuse(_EPROTONOSUPPORT, "socket", args=[_is(0, family), _has(1, _TYPES, _STREAM), _is(2, protocol)])
    yield _allow("socket", args=[_is(0, _NETLINK), _is(2, _ROUTE)])
    # Of a kernel without audit or netfilter, programs hear this and go on; useradd gives up at EPERM.
    for protocol in range(_ROUTE + 1, _LAST_NETLINK + 1):
        yield _refuse(_EPROTONOSUPPORT, "socket", args=[_is(0, _NETLINK), _is(2, protocol)])
    for family in range(_LAST_FAMILY + 1):
        if family not in (_UNIX, _INET, _INET6, _NETLINK, _PACKET):  # packets are for root, and EPERM says that
            yield _refuse(_EAFNOSUPPORT, "socket", args=[_is(0, family)])


def _allow(*names: str, args: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"names": list(names), "action": _ALLOW, "args": list(args)}


def _refuse(errno: int, *names: str, args: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"names": list(names), "action": _REFUSE, "errnoRet": errno, "args": list(args)}


def _is(argument: int, value: int) -> dict[str, Any]:
    return _has(argument, 0xFFFFFFFF, value)


def _has(argument: int, bits: int, value: int) -> dict[str, Any]:
    """Compare some bits of an argument. It has 64, of which the kernel reads 32 where it wants an int."""
    return {"index": argument, "value": bits, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _all_but(values: Iterable[int], known: int = 0, prefix: int = 0, bit: int = 31) -> Iterator[tuple[int, int]]:
    """Yield (bits, value) that together are true of every 32-bit number but of these.

    "Is none of them" cannot be said of one argument: the engine makes "is not this, or is not that" of it.
    """
    values = tuple(values)
    if not values:
        yield known, prefix
    elif bit >= 0:
        for side in (0, 1 << bit):
            yield from _all_but(
                [one for one in values if one & 1 << bit == side], known | 1 << bit, prefix | side, bit - 1
            )
