"""Who is at the other end of a socket: only process 1 of the container itself counts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from controlplane.link.peer import is_init_of, peer_pid

OURS = "a" * 64
OTHER = "b" * 64
SHIM, EXECD, USER, NESTED = 100, 200, 300, 400


def process(proc: Path, pid: int, *, parent: int, pids: str, cgroup: str) -> None:
    """A process as /proc shows it."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "status").write_text(f"Name:\tx y: z\nPPid:\t{parent}\nNSpid:\t{pids}\nThreads:\t1\n")
    (proc / str(pid) / "cgroup").write_text(cgroup)


@pytest.fixture(params=["v1", "v2"])
def proc(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A host with a shim, execd as its child, a user's process, and a user's process in a namespace made inside."""
    inside, outside = {
        "v1": (f"5:pids:/docker/{OURS}\n4:memory:/docker/{OURS}\n0::/\n", "5:pids:/system.slice\n0::/\n"),
        "v2": (f"0::/system.slice/docker-{OURS}.scope\n", "0::/system.slice/containerd.service\n"),
    }[request.param]
    process(tmp_path, SHIM, parent=1, pids="100", cgroup=outside)
    process(tmp_path, EXECD, parent=SHIM, pids="200\t1", cgroup=inside)
    process(tmp_path, USER, parent=EXECD, pids="300\t7", cgroup=inside)
    process(tmp_path, NESTED, parent=USER, pids="400\t8\t1", cgroup=inside)
    return tmp_path


def test_execd_is_known(proc: Path) -> None:
    """Process 1 of that container, and of no other."""
    assert is_init_of(EXECD, OURS, proc)
    assert not is_init_of(EXECD, OTHER, proc)


@pytest.mark.parametrize("pid", [SHIM, USER, NESTED], ids=["shim", "user", "nested"])
def test_nobody_else_is(pid: int, proc: Path) -> None:
    """Not user code, not even as process 1 of a namespace that it made itself, and nobody outside."""
    assert not is_init_of(pid, OURS, proc)


def test_an_engine_in_a_container(proc: Path, tmp_path: Path) -> None:
    """The engine's own namespace is one level more; execd is still the one whose parent is outside."""
    process(proc, 500, parent=SHIM, pids="500\t50\t1", cgroup=f"0::/docker/outer/docker/{OURS}\n")
    assert is_init_of(500, OURS, proc)


@pytest.mark.parametrize("pid", [0, -1, 999], ids=["unseen", "negative", "gone"])
def test_who_cannot_be_seen_is_refused(pid: int, proc: Path) -> None:
    """A peer of another namespace has pid 0 here; one that has ended is nobody any more."""
    assert not is_init_of(pid, OURS, proc)


def test_without_a_container_nobody_is_let_in(proc: Path) -> None:
    """Every text contains the empty one."""
    assert not is_init_of(EXECD, "", proc)


@pytest.mark.parametrize("status", ["", "NSpid:\n", "NSpid:\t200\t1\n", "PPid:\tx\nNSpid:\t200\t1\n", "\udcff"])
def test_strange_files_are_a_refusal(status: str, proc: Path) -> None:
    """An old kernel, a process that ends while it is looked at."""
    (proc / str(EXECD) / "status").write_text(status, errors="surrogateescape")
    assert not is_init_of(EXECD, OURS, proc)


def test_an_ordinary_process_of_this_machine_is_no_init() -> None:
    """On the real /proc."""
    assert not is_init_of(os.getpid(), OURS)


def test_the_kernel_says_who_connected() -> None:
    """Of a pair made here, both ends are this process; a socket of another kind says nothing."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_pid(one) == os.getpid()
    with socket.socket(socket.AF_INET) as tcp:
        assert peer_pid(tcp) == 0
