"""The profile of sandboxes that may make user namespaces. What it does in the kernel is for `tests/e2e` to show."""

from __future__ import annotations

import json

from controlplane.runtime.seccomp import profile


def test_it_refuses_and_does_not_kill() -> None:
    """Whoever calls what is closed hears so; everything else is as wide as the kernel."""
    found = json.loads(profile())
    assert found["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in found["syscalls"]} == {"SCMP_ACT_ERRNO"}
    names = [name for rule in found["syscalls"] if not rule["args"] for name in rule["names"]]
    assert len(names) == len(set(names))
    assert {"bpf", "keyctl", "io_uring_setup", "init_module", "kexec_load", "open_by_handle_at"} <= set(names)
    assert not {"clone", "unshare", "setns", "mount", "umount2", "pivot_root", "execve"} & set(names)


def test_no_interface_has_two_doors() -> None:
    """Where 32-bit programs could run, they would make sockets by another call, whose arguments are out of reach."""
    assert all("subArchitectures" not in architecture for architecture in json.loads(profile())["archMap"])
