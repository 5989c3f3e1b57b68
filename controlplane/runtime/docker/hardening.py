"""What a sandbox's container may do and use: the engine's HostConfig, and every safety option in one place.

Left as the engine has it, because it knows its kernel better than we do: the masked and the read-only paths of /proc
and /sys, the device list, and but for sandboxes that may make user namespaces the AppArmor profile. System calls have a
list of our own, `seccomp.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from controlplane.runtime.docker.seccomp import Profiles
from controlplane.runtime.driver import ContainerSpec
from controlplane.sandbox import CPU_PERIOD_US, EXECD_DIR, MIN_CPUS, SOCKET_DIR, UNLIMITED_BYTES, Limits, Network

EXECD_COMMAND = (f"{EXECD_DIR}/bin/python3", "-I", "-S", f"{EXECD_DIR}/boot.pyc", f"{SOCKET_DIR}/link.sock")

# One name for all, so that one hosts file serves all; and code inside need not know the container's id.
HOSTNAME = "sandbox"

# What root needs to install packages and to run things as other users, and nothing that reaches beyond the container:
CAPABILITIES = (
    "CHOWN",  # unpacking packages: files get their owners,
    "FOWNER",  # their modes and times,
    "FSETID",  # and keep their set-id bits while they do
    "DAC_OVERRIDE",  # root writes into directories that packages gave to others, as every install script expects
    "SETUID",  # apt fetches as _apt, processes run as the `uid` they were asked for
    "SETGID",
    "KILL",  # execd ends processes of any user
)
# Not in the list, though engines give them by default: NET_RAW (forged packets), MKNOD, SETFCAP, SETPCAP, AUDIT_WRITE,
# SYS_CHROOT (nothing that installs packages needs it), NET_BIND_SERVICE (engines let any user bind low ports).

HARDENED_USER = "1000:1000"
HARDENED_HOME = "/workspace"

_MIN_SHM_BYTES = 64 << 20
_NETWORK_OPTIONS = {"com.docker.network.bridge.enable_icc": "false"}  # containers cannot reach each other
_BRIDGE_NAME = "com.docker.network.bridge.name"  # for an administrator's firewall rules; also keeps it unique
_OOM_SCORE = 500  # when the whole machine runs out, sandboxes go before the engine and us; execd raises its children's


class ExecdVolume(msgspec.Struct, frozen=True):
    """The volume with execd's tree, as the engine has it."""

    name: str
    path: str  # on the engine's host


def container_config(
    spec: ContainerSpec,
    *,
    labels: dict[str, str],
    execd: ExecdVolume,
    network: str,
    seccomp: Profiles,
    mounts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the body of the engine's "create container" for a spec. *mounts* are its volumes, for the engine."""
    config: dict[str, Any] = {
        "Image": spec.image,
        "Labels": labels,
        # Both together replace the image's: execd is process 1, whatever the image would have run.
        "Entrypoint": list(EXECD_COMMAND),
        "Cmd": [],
        "Hostname": HOSTNAME,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        # Not only "none": then the engine runs no hook of its own for the network, and a start takes 100 ms less.
        "NetworkDisabled": spec.network is Network.NONE,
        "HostConfig": _host_config(spec, [*_mounts(spec, execd), *mounts], network, seccomp),
    }
    # The loader reads these before any code of ours runs: an image's allocator must not end up in execd.
    environment = ["LD_PRELOAD=", "LD_AUDIT="]
    if spec.hardened:
        config["User"] = HARDENED_USER
        config["WorkingDir"] = HARDENED_HOME
        environment.append(f"HOME={HARDENED_HOME}")
    config["Env"] = environment
    return config


def resources(limits: Limits) -> dict[str, int]:
    """Return the part of the HostConfig that can be changed later: an update says all of it, too."""
    memory = limits.memory_bytes or UNLIMITED_BYTES  # the engine takes no "unlimited" in an update
    # Quota and period rather than NanoCpus, which has no "unlimited" and refuses more cores than the machine has.
    quota = int(max(MIN_CPUS, limits.cpus) * CPU_PERIOD_US) if limits.cpus else -1
    return {
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": quota,
        "Memory": memory,
        "MemorySwap": memory,  # the sum of both: no swap
        "PidsLimit": limits.pids or -1,
    }


def network_config(name: str) -> dict[str, Any]:
    """Return the body of the engine's "create network" for the bridge of all sandboxes that have a network."""
    return {
        "Name": name,
        "CheckDuplicate": True,  # engines before 25 allow two networks of one name
        "Driver": "bridge",
        "Options": {_BRIDGE_NAME: name, **_NETWORK_OPTIONS},
    }


def is_confined(network: dict[str, Any]) -> bool:
    """Return whether a network in the engine's list separates its containers."""
    options = network.get("Options") or {}
    return network.get("Driver") == "bridge" and _NETWORK_OPTIONS.items() <= options.items()


def _host_config(spec: ContainerSpec, mounts: list[dict[str, Any]], network: str, seccomp: Profiles) -> dict[str, Any]:
    config: dict[str, Any] = {
        **resources(spec.limits),
        "CapDrop": ["ALL"],
        "CapAdd": [] if spec.hardened else list(CAPABILITIES),
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "ReadonlyRootfs": spec.hardened,
        "Mounts": mounts,
        "NetworkMode": "none" if spec.network is Network.NONE else network,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        # Its pages count as the sandbox's memory, so this is no way around the limit.
        "ShmSize": max(_MIN_SHM_BYTES, spec.limits.memory_bytes // 2),
        # No core files. Open files stay at the engine's own limit: one above it makes every start fail, and what they
        # use of the kernel's memory counts as the sandbox's.
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "OomScoreAdj": _OOM_SCORE,
        "LogConfig": {"Type": "none"},  # output goes over the link; nothing may fill the host's disk
        "RestartPolicy": {"Name": "no"},
        "Init": False,  # execd reaps
        "AutoRemove": False,  # how it ended must be readable
    }
    if spec.user_namespaces:
        config["CapAdd"] += [] if spec.hardened else ["SETFCAP"]  # without which root cannot be root in one of them
        # Engines' own profile refuses the mounts that namespaces are for.
        config["SecurityOpt"] += ["apparmor=unconfined"]
    if calls := seccomp.user_namespaces if spec.user_namespaces else seccomp.ordinary:
        config["SecurityOpt"] += [f"seccomp={calls}"]
    if spec.gpus:
        count = {"Count": -1} if spec.gpus == "all" else {"Count": int(spec.gpus)}
        config["DeviceRequests"] = [{"Driver": "", **count, "Capabilities": [["gpu"]]}]
    if spec.runtime:
        config["Runtime"] = spec.runtime
    if spec.hardened:
        size = max(_MIN_SHM_BYTES, spec.limits.memory_bytes // 2)  # memory of the sandbox as well
        # exec: code that people install or compile must run. Set-id bits and devices mean nothing there.
        options = f"rw,exec,nosuid,nodev,size={size}"
        config["Tmpfs"] = {
            "/tmp": f"{options},mode=1777",  # noqa: S108  # inside the container
            "/var/tmp": f"{options},mode=1777",  # noqa: S108
            HARDENED_HOME: f"{options},mode=0755,uid=1000,gid=1000",
        }
    return config


def _mounts(spec: ContainerSpec, execd: ExecdVolume) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {
            "Type": "volume",
            "Source": execd.name,
            "Target": EXECD_DIR,
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True},
        },
        bind(spec.socket_dir, SOCKET_DIR),
    ]
    if spec.network is Network.NONE:
        # Without a network the engine writes no hosts file, and not even `localhost` would have an address.
        mounts.append(bind(f"{execd.path}/etc/hosts", "/etc/hosts"))
    return mounts


def bind(source: str, target: str, *, read_only: bool = True) -> dict[str, Any]:
    """Return the mount of a directory or file of the host."""
    # Mounts, not Binds: a source that is missing is an error, not a directory that the engine makes.
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        # What the host mounts below it stays outside: only the mount itself would be read-only.
        "BindOptions": {"NonRecursive": True},
    }
