"""Programs that run inside a sandbox: what they may use, how they are started, and how their verdict is read.

A program runs by the agent's own interpreter, so it needs nothing of the image, not even a shell. It ends by one of
`held()`, `broken(text)` and `not_applicable(reason)`. A program that ends in another way has no verdict.
"""

from __future__ import annotations

import secrets

import msgspec

from controlplane.attack.client.outcome import Outcome, Verdict, unclear

PYTHON = ("/opt/execd/bin/python3", "-I", "-S", "-c")
MAX_TEXT_CHARS = 400
_MARK_CHARS = 16

# `refused` tells a system call that a filter or a missing privilege refused from one that the kernel looked at: the
# attacks pass arguments that no kernel accepts, so that a call which is let through does no harm either.
PRELUDE = """
import ctypes, errno, json, os, socket, struct, sys
_LIBC = ctypes.CDLL(None, use_errno=True)
_X86 = dict(mount=165, umount2=166, pivot_root=155, unshare=272, setns=308, bpf=321, perf_event_open=298,
    userfaultfd=323, keyctl=250, add_key=248, request_key=249, open_by_handle_at=304, name_to_handle_at=303,
    fanotify_init=300, io_uring_setup=425, io_uring_enter=426, io_uring_register=427, init_module=175,
    finit_module=313, delete_module=176, kexec_load=246, kexec_file_load=320, reboot=169, swapon=167, swapoff=168,
    acct=163, quotactl=179, syslog=103, vhangup=153, clock_settime=227, settimeofday=164, clock_adjtime=305,
    iopl=172, ioperm=173, fsopen=430, fsmount=432, fspick=433, open_tree=428, move_mount=429, mount_setattr=442,
    ptrace=101, process_vm_readv=310, process_vm_writev=311, pidfd_open=434, pidfd_getfd=438, chroot=161,
    sethostname=170, setdomainname=171, mknod=133, kcmp=312, lookup_dcookie=212, sched_setscheduler=144,
    process_madvise=440, setpriority=141, move_pages=279, shmget=29, memfd_create=319, mlock=149)
_ARM = dict(mount=40, umount2=39, pivot_root=41, unshare=97, setns=268, bpf=280, perf_event_open=241,
    userfaultfd=282, keyctl=219, add_key=217, request_key=218, open_by_handle_at=265, name_to_handle_at=264,
    fanotify_init=262, io_uring_setup=425, io_uring_enter=426, io_uring_register=427, init_module=105,
    finit_module=273, delete_module=106, kexec_load=104, kexec_file_load=294, reboot=142, swapon=224, swapoff=225,
    acct=89, quotactl=60, syslog=116, vhangup=58, clock_settime=112, settimeofday=170, clock_adjtime=266,
    fsopen=430, fsmount=432, fspick=433, open_tree=428, move_mount=429, mount_setattr=442, ptrace=117,
    process_vm_readv=270, process_vm_writev=271, pidfd_open=434, pidfd_getfd=438, chroot=51, sethostname=161,
    setdomainname=162, kcmp=272, lookup_dcookie=18, sched_setscheduler=119, process_madvise=440, setpriority=140,
    move_pages=239, shmget=194, memfd_create=279, mlock=228)
_NUMBERS = {"x86_64": _X86, "aarch64": _ARM}.get(os.uname().machine, {})

def _end(verdict, text):
    sys.stdout.write("\\n" + sys.argv[1] + json.dumps({"verdict": verdict, "text": text[:400]}) + "\\n")
    sys.stdout.flush()
    os._exit(0)

def held(text=""): _end("held", text)
def broken(text): _end("broken", text)
def not_applicable(text): _end("not applicable", text)

def held_unless(found):
    found = list(found)
    if found:
        broken(", ".join(map(str, found[:8])) + (" and %d more" % (len(found) - 8) if len(found) > 8 else ""))
    held()

def call(name, *arguments):
    "Make a system call; return 0 or the error's number, or None where this machine has no such call."
    number = _NUMBERS.get(name)
    if number is None:
        return None
    ctypes.set_errno(0)
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _LIBC.syscall(ctypes.c_long(number), *arguments)
    return ctypes.get_errno() if result == -1 else 0

def refused(error):
    return error in (None, errno.EPERM, errno.EACCES, errno.ENOSYS)

def let_through(*names):
    "Return the names of the calls of which the kernel looked at the arguments, which are nonsense."
    return [n for n in names if not refused(call(n, -1, -1, -1, -1, -1, -1))]

def error_of(act, *arguments):
    "Return the number of the error that a function raises, or 0."
    try:
        act(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0

def in_child(act):
    "Run a function in a child process; return what it returns, as JSON allows, or None if the child dies."
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None

def opens(path, flags):
    "Whether a file can be opened; nothing is read or written."
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True

def text_of(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode(errors="replace")
    except OSError:
        return ""

def status(pid="self"):
    return dict(line.split(":", 1) for line in text_of("/proc/%s/status" % pid).splitlines() if ":" in line)
"""


def given(source: str, **values: object) -> str:
    """Return a program that begins with these variables; their values are what Python writes as literals."""
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + source


class Said(msgspec.Struct, frozen=True):
    """The last line of a program."""

    verdict: Verdict
    text: str


def command(source: str) -> tuple[tuple[str, ...], str]:
    """Return the command that runs a program, and the mark that its verdict begins with.

    The mark is new each time: nothing else that the program prints can be taken for its verdict.
    """
    mark = secrets.token_hex(_MARK_CHARS // 2)
    return (*PYTHON, PRELUDE + source, mark), mark


def judge(output: str, mark: str, problem: str = "") -> Outcome:
    """Return the outcome that a program printed. *problem* is how the program ended, if it did not end well."""
    for line in reversed(output.splitlines()):
        if line.startswith(mark):
            try:
                said = msgspec.json.decode(line.removeprefix(mark), type=Said)
            except msgspec.DecodeError:
                break
            return Outcome(said.verdict, said.text)
    last = output.strip().splitlines()[-1:] or [problem or "it printed nothing"]
    return unclear(f"the program did not run to its end: {last[0][:MAX_TEXT_CHARS]}")
