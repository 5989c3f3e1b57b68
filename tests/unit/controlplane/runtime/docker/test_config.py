"""What `runtime/docker/hardening.py` and `labels.py` ask of the engine. That it works is `tests/security`'s to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from controlplane.runtime import labels
from controlplane.runtime.docker import hardening
from controlplane.runtime.docker.hardening import ExecdVolume
from controlplane.runtime.docker.seccomp import Profiles, load
from controlplane.runtime.driver import ContainerSpec
from controlplane.sandbox import EXECD_DIR, Limits, Network
from execd.launch import defaults

ROOT = Path(__file__).parents[5]

EXECD = ExecdVolume("execd-volume", "/volumes/execd-volume")
SPEC = ContainerSpec(
    sandbox_id="0123456789abcdef",
    image="some/image",
    socket_dir="/sockets/0123456789abcdef",
    limits=Limits(cpus=1.5, memory_bytes=1 << 30, pids=100),
    network=Network.NONE,
)


OURS = load("sandlot")


def config_of(spec: ContainerSpec, seccomp: Profiles = OURS) -> dict[str, Any]:
    return hardening.container_config(spec, labels={}, execd=EXECD, network="bridge-of-ours", seccomp=seccomp)


def host_config_of(spec: ContainerSpec) -> dict[str, Any]:
    found: dict[str, Any] = config_of(spec)["HostConfig"]
    return found


def mounts_of(spec: ContainerSpec) -> dict[str, dict[str, Any]]:
    return {mount["Target"]: mount for mount in host_config_of(spec)["Mounts"]}


def test_execd_is_process_1_whatever_the_image_says() -> None:
    """The entrypoint is execd's command, exactly, with nothing of the image appended and no health check beside it."""
    config = config_of(SPEC)

    assert config["Entrypoint"] == [
        "/opt/execd/bin/python3",
        "-I",
        "-S",
        "/opt/execd/boot.pyc",
        "/run/sandlot/link.sock",
    ]
    assert config["Cmd"] == []
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert "User" not in config


def test_all_mounts_are_read_only_and_none_is_made_up() -> None:
    """The agent's volume is not copied into, and a missing directory of the host is an error."""
    mounts = mounts_of(SPEC)

    assert set(mounts) == {"/opt/execd", "/run/sandlot", "/etc/hosts"}
    assert all(mount["ReadOnly"] for mount in mounts.values())
    assert mounts["/opt/execd"]["Source"] == "execd-volume"
    assert mounts["/opt/execd"]["VolumeOptions"] == {"NoCopy": True}
    assert mounts["/run/sandlot"]["Source"] == SPEC.socket_dir
    assert "Binds" not in host_config_of(SPEC)


def test_without_network_there_is_none_by_two_means() -> None:
    """Should an engine ignore one of them, the other holds."""
    config = config_of(SPEC)

    assert config["NetworkDisabled"] is True
    assert config["HostConfig"]["NetworkMode"] == "none"


def test_with_network_it_is_our_bridge() -> None:
    """The engine then writes the hosts file itself."""
    spec = replace(SPEC, network=Network.BRIDGE)

    assert config_of(spec)["NetworkDisabled"] is False
    assert host_config_of(spec)["NetworkMode"] == "bridge-of-ours"
    assert "/etc/hosts" not in mounts_of(spec)


def test_safety_options() -> None:
    """The engine's AppArmor profile stays in force; privileges cannot be gained."""
    config = host_config_of(SPEC)

    assert config["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in config["SecurityOpt"]
    assert not [option for option in config["SecurityOpt"] if "unconfined" in option]
    assert config["Privileged"] is False
    assert config["LogConfig"] == {"Type": "none"}
    assert config["RestartPolicy"] == {"Name": "no"}
    assert not {"MaskedPaths", "ReadonlyPaths", "Devices", "Sysctls"} & set(config)


@pytest.mark.parametrize(
    "capability",
    ["SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT", "NET_ADMIN", "NET_RAW", "MKNOD", "SETFCAP", "SETPCAP", "DAC_READ_SEARCH"],
)
def test_capabilities_that_nobody_gets(capability: str) -> None:
    """Each of these has let somebody out of a container, or at others in one."""
    assert capability not in host_config_of(SPEC)["CapAdd"]


def test_hardened() -> None:
    """No capability at all, an ordinary user, and only memory to write to, from which code still runs."""
    config = config_of(replace(SPEC, hardened=True))
    host = config["HostConfig"]

    assert host["CapAdd"] == []
    assert host["ReadonlyRootfs"] is True
    assert config["User"] == "1000:1000"
    assert config["WorkingDir"] == "/workspace"
    assert set(host["Tmpfs"]) == {"/tmp", "/var/tmp", "/workspace"}
    for options in host["Tmpfs"].values():
        assert {"exec", "nosuid", "nodev", f"size={1 << 29}"} <= set(options.split(","))


def test_user_namespaces() -> None:
    """The one capability that root needs to be root in one, and profiles that let it; nothing is unmasked."""
    host = host_config_of(replace(SPEC, user_namespaces=True))

    assert set(host["CapAdd"]) - set(host_config_of(SPEC)["CapAdd"]) == {"SETFCAP"}
    calls = f"seccomp={OURS.user_namespaces}"
    assert sorted(host["SecurityOpt"]) == ["apparmor=unconfined", "no-new-privileges", calls]
    assert not {"MaskedPaths", "ReadonlyPaths", "Devices", "Sysctls"} & set(host)
    assert host_config_of(replace(SPEC, user_namespaces=True, hardened=True))["CapAdd"] == []


def test_system_calls() -> None:
    """A list of ours, unless they are left to the engine; the AppArmor profile is always the engine's."""
    assert host_config_of(SPEC)["SecurityOpt"] == ["no-new-privileges", f"seccomp={OURS.ordinary}"]
    assert config_of(SPEC, load("engine"))["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]


def test_runtime_by_name() -> None:
    """Left to the engine unless one is named."""
    assert "Runtime" not in host_config_of(SPEC)
    assert host_config_of(replace(SPEC, runtime="runsc"))["Runtime"] == "runsc"


@pytest.mark.parametrize(("gpus", "count"), [("all", -1), ("1", 1), ("64", 64)])
def test_gpus(gpus: str, count: int) -> None:
    """A request to whatever driver of the engine has some; -1 is its word for all. Without the wish, none."""
    assert host_config_of(replace(SPEC, gpus=gpus))["DeviceRequests"] == [
        {"Driver": "", "Count": count, "Capabilities": [["gpu"]]}
    ]
    assert "DeviceRequests" not in host_config_of(SPEC)


def test_resources() -> None:
    """Swap counts as memory; a fraction of a core is a fraction of the period."""
    assert hardening.resources(SPEC.limits) == {
        "CpuPeriod": 100_000,
        "CpuQuota": 150_000,
        "Memory": 1 << 30,
        "MemorySwap": 1 << 30,
        "PidsLimit": 100,
    }


def test_resources_without_limits() -> None:
    """0 is no limit, said so that an update takes an earlier limit away; 0 there would mean: as it is."""
    none = hardening.resources(Limits(cpus=0, memory_bytes=0, pids=0))

    assert (none["CpuQuota"], none["PidsLimit"]) == (-1, -1)
    assert none["Memory"] == none["MemorySwap"] > 1 << 50


def test_smallest_cpu_quota() -> None:
    """A tiny share is the least that the kernel takes, not an error."""
    assert hardening.resources(Limits(cpus=0.0001))["CpuQuota"] == 1000


def test_labels() -> None:
    """All that a restarted control plane needs to know; the caller's labels are kept beside ours, never instead."""
    spec = replace(SPEC, network=Network.BRIDGE, runtime="runsc", labels={"a": "b", "sandlot.instance": "forged"})

    assert labels.labels_of(spec, "mine") == {
        "a": "b",
        "sandlot.instance": "mine",
        "sandlot.sandbox": "0123456789abcdef",
        "sandlot.image": "some/image",
        "sandlot.network": "bridge",
        "sandlot.runtime": "runsc",
        "sandlot.hardened": "false",
    }


@pytest.mark.parametrize(
    ("network", "confined"),
    [
        (hardening.network_config("n"), True),
        ({"Driver": "bridge", "Options": {}}, False),
        ({"Driver": "bridge", "Options": None}, False),
        ({"Driver": "bridge", "Options": {"com.docker.network.bridge.enable_icc": "true"}}, False),
        ({"Driver": "macvlan", "Options": {"com.docker.network.bridge.enable_icc": "false"}}, False),
    ],
)
def test_only_a_confining_network_is_ours(network: dict[str, Any], confined: bool) -> None:
    """A network of our name that lets containers talk to each other must not be used."""
    assert hardening.is_confined(network) is confined


def test_the_agent_is_where_its_image_and_the_agent_itself_say() -> None:
    """execd imports nothing of the control plane, and a Dockerfile nothing at all."""
    dockerfile = (ROOT / "images" / "execd" / "Dockerfile").read_text()
    assert json.loads(dockerfile.rpartition("CMD ")[2]) == list(hardening.EXECD_COMMAND)
    assert f" {EXECD_DIR}/ {EXECD_DIR}/" in dockerfile
    assert defaults.OFFLINE["APT_CONFIG"].startswith(f"{EXECD_DIR}/")


@pytest.mark.parametrize(("cpus", "quota"), [(0.001, 1_000), (0.01, 1_000), (0.5, 50_000), (2, 200_000), (0, -1)])
def test_cpus_are_a_share_of_each_period(cpus: float, quota: int) -> None:
    """The kernel takes no less than its least."""
    resources = hardening.resources(Limits(cpus=cpus))
    assert (resources["CpuPeriod"], resources["CpuQuota"]) == (100_000, quota)
