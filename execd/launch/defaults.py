"""The variables that follow from a sandbox's CPU limit and network. Its image and its claim may override them."""

from __future__ import annotations

import math
import os

from execd.metrics import cpu_quota

# Tools that count the CPUs of the machine start that many threads, whatever the sandbox may use. On a large machine
# most of those threads only wait for one another.
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("GOMAXPROCS", "PYTHON_CPU_COUNT"),
)

# Without a network every attempt fails at once, and only the repetition takes time. pip needs one retry, because it
# reports the reason only in the warning before a retry.
OFFLINE = {
    "PIP_RETRIES": "1",
    "UV_HTTP_RETRIES": "0",
    "npm_config_fetch_retries": "0",
    "CARGO_NET_RETRY": "0",
    "APT_CONFIG": "/opt/execd/etc/apt.conf",  # part of the agent's tree
}

NETWORK_VARIABLE = "SANDLOT_NETWORK"
"""`none` in a sandbox without a network; unset in others. Tools of the images read it."""


def defaults(root: str = "/") -> dict[str, str]:
    """Return the variables as of now. *root* is the directory of /proc and /sys."""
    variables: dict[str, str] = {}
    if threads := _threads(cpu_quota(root)):
        variables |= dict.fromkeys(THREADS, str(threads))
    if not has_network(root):
        variables |= {**OFFLINE, NETWORK_VARIABLE: "none"}
    return variables


def has_network(root: str = "/") -> bool:
    """Return whether a route leaves the sandbox, or True if that is unknown."""
    try:
        with open(f"{root}/proc/net/route") as file:
            routes = file.readlines()[1:]  # after a headline; routes of the loopback are not listed
    except OSError:
        return True
    try:
        with open(f"{root}/proc/net/ipv6_route") as file:
            routes += [line for line in file if line.split()[-1:] != ["lo"]]
    except OSError:
        pass  # a kernel without IPv6
    return bool(routes)


def _threads(quota: float) -> int:
    """Return the number of threads that a quota of CPUs can use, or 0 without a quota."""
    if quota <= 0:
        return 0
    return max(1, min(math.ceil(quota), len(os.sched_getaffinity(0))))
