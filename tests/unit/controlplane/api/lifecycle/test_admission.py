"""What may be created, from the bodies that clients send."""

from __future__ import annotations

import json
import platform
from typing import Any

import pytest

from controlplane.api.edge.bodies import decode
from controlplane.api.lifecycle.admission import MAX_ENTRIES, admit
from controlplane.api.lifecycle.schema import CreateSandboxRequest
from controlplane.errors import InvalidRequest
from controlplane.lifecycle.uses import IDLE_KEY, RENEWAL_KEY
from controlplane.sandbox import CreateRequest, Limits, Network, Platform

DEFAULTS = Limits(cpus=2.0, memory_bytes=1 << 30, pids=99)
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def admitted(**changes: Any) -> CreateRequest:
    """Admit a good body with changes, in the JSON of the wire."""
    body = {"image": {"uri": "python:3.11"}, "entrypoint": ["tail", "-f", "/dev/null"], **changes}
    text = json.dumps({key: value for key, value in body.items() if value is not ...})
    return admit(decode(text.encode(), CreateSandboxRequest, code="request.invalid"), DEFAULTS)


def test_what_the_python_sdk_sends() -> None:
    """The body that opensandbox 1.1.1 makes of its defaults, and what it means."""
    request = admitted(
        timeout=600,
        resourceLimits={"cpu": "1", "memory": "2Gi"},
        env={"A": "b", "DROPPED": None},
        metadata={"app.kubernetes.io/name": "x", "empty": ""},
        extensions={"team": "blue"},
        secureAccess=False,
    )

    assert request == CreateRequest(
        image="python:3.11",
        entrypoint=("tail", "-f", "/dev/null"),
        env={"A": "b"},
        metadata={"app.kubernetes.io/name": "x", "empty": ""},
        extensions={"team": "blue"},
        limits=Limits(cpus=1.0, memory_bytes=2 << 30, pids=99),
        timeout_s=600,
    )


def test_what_is_left_out_is_left_to_the_settings() -> None:
    """Absent and null mean the same."""
    for value in (..., None):
        names = ("timeout", "resourceLimits", "env", "metadata", "extensions", "networkPolicy", "volumes", "platform")
        request = admitted(**dict.fromkeys(names, value))

        assert (request.timeout_s, request.limits, request.network) == (None, None, None)
        assert request.env == request.metadata == request.extensions == {}


def test_limits_that_are_given_in_part_are_filled_from_the_defaults() -> None:
    """One given limit does not take the others away."""
    assert admitted(resourceLimits={"cpu": "500m"}).limits == Limits(cpus=0.5, memory_bytes=1 << 30, pids=99)
    assert admitted(resourceLimits={"memory": "64Mi"}).limits == Limits(cpus=2.0, memory_bytes=64 << 20, pids=99)


def test_what_costs_nothing_to_grant_is_granted() -> None:
    """Our own platform, in any case, endpoints that are always protected, and a policy that forbids everything."""
    request = admitted(platform={"os": " Linux", "arch": MACHINE.upper()}, secureAccess=True)
    assert (request.image, request.platform) == ("python:3.11", Platform("linux", MACHINE))
    assert admitted(platform=None).platform is None
    assert admitted(networkPolicy={"defaultAction": "deny"}).network is Network.NONE
    assert admitted(credentialProxy={"enabled": False}, volumes=[], lifecycle={}).network is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": ...}, "image"),
        ({"image": {"uri": ""}}, "image.uri"),
        ({"image": {"uri": "a b"}}, "image.uri"),
        ({"image": {"uri": "a\0b"}}, "image.uri"),
        ({"image": {"uri": "x" * 600}}, "image.uri"),
        ({"image": "python"}, "image"),
        ({"image": {"uri": 5}}, "image.uri"),
        ({"snapshotId": "s"}, "image and snapshotId"),
        ({"templateId": "t"}, "image and templateId"),
        ({"timeout": 59}, "timeout"),
        ({"timeout": -5}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "600"}, "timeout"),
        ({"resourceLimits": {"memory": "lots"}}, "resourceLimits.memory"),
        ({"resourceLimits": {"cpu": "-1"}}, "resourceLimits.cpu"),
        ({"resourceLimits": {"cpu": 1}}, "resourceLimits"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": "x\0"}}, "env.A"),
        ({"env": {"A": 5}}, "env"),
        ({"env": {"A": "x" * 140_000}}, "env.A"),
        ({"env": {"OPENSANDBOX_LIFECYCLE": "x"}}, "env.OPENSANDBOX_LIFECYCLE"),
        ({"env": {f"K{i}": "x" for i in range(MAX_ENTRIES + 1)}}, "env"),
        ({"extensions": {"a": 5}}, "extensions"),
    ],
)
def test_bad_bodies_are_refused_and_the_field_is_named(changes: dict[str, Any], field: str) -> None:
    """InvalidRequest, and its message tells which field."""
    with pytest.raises(InvalidRequest, match=rf"^{field}"):
        admitted(**changes)


@pytest.mark.parametrize("key", [IDLE_KEY, RENEWAL_KEY])
@pytest.mark.parametrize("text", ["", "9", "1e3", "-300", "٣٠٠", "2592001", "0000003009", "000000300" + "0" * 5000])
def test_times_of_extensions_are_numbers_within_bounds(key: str, text: str) -> None:
    """Also those that begin with a good one."""
    with pytest.raises(InvalidRequest, match=rf"^extensions\.{key}: must be a number of seconds from"):
        admitted(extensions={key: text})
    assert admitted(extensions={key: "300"}).extensions == {key: "300"}


@pytest.mark.parametrize("text", ["1", "64", "all"])
def test_gpus_that_can_be_asked_for(text: str) -> None:
    """Whether there are some, the engine says. They are no part of the limits that can be changed later."""
    request = admitted(resourceLimits={"cpu": "1", "gpu": text})
    assert (request.gpus, request.limits) == (text, Limits(cpus=1.0, memory_bytes=1 << 30, pids=99))
    assert admitted(resourceLimits={"cpu": "1"}).gpus == ""


@pytest.mark.parametrize("text", ["0", "-1", "65", "1.5", "All", "some", "1,2", "٣", "9" * 5000])
def test_gpus_must_be_a_number_or_all(text: str) -> None:
    """Nothing else is handed to the engine."""
    with pytest.raises(InvalidRequest, match=r'^resourceLimits\.gpu: must be "all" or a number from 1 to 64') as caught:
        admitted(resourceLimits={"gpu": text})
    assert caught.value.code == "request.invalid"


@pytest.mark.parametrize("entrypoint", [..., None, [], [""], ["  "], ["a", "b\0"], ["a", "x" * 200_000]])
def test_an_entrypoint_must_be_one(entrypoint: object) -> None:
    """Required, at least one item, a program's name first, nothing that no kernel would take."""
    with pytest.raises(InvalidRequest, match=r"^entrypoint") as caught:
        admitted(entrypoint=entrypoint)
    assert caught.value.code == "sandbox.invalid_entrypoint"


@pytest.mark.parametrize(
    "metadata",
    [
        {"": "x"},
        {"-a": "x"},
        {"a b": "x"},
        {"a" * 64: "x"},
        {"/a": "x"},
        {"a/": "x"},
        {"A.b/c": "x"},
        {"a..b/c": "x"},
        {"a/b/c": "x"},
        {"opensandbox.io/id": "x"},
        {"a": "x" * 64},
        {"a": "x y"},
        {"a": "x-"},
        {"a": "grün"},
        {"a": "x\n"},
        {"a": "x\0"},
    ],
)
def test_metadata_must_be_labels(metadata: dict[str, str]) -> None:
    """Kubernetes' syntax, because the contract's other servers have it; one prefix is reserved."""
    with pytest.raises(InvalidRequest, match=r"^metadata\.") as caught:
        admitted(metadata=metadata)
    assert caught.value.code == "sandbox.invalid_metadata"


def test_a_pool_is_asked_for_by_an_extension() -> None:
    """Image, entrypoint and limits may be left out with it; blanks around it, or nothing, name no pool."""
    request = admitted(extensions={"poolRef": " big "}, image=..., entrypoint=..., resourceLimits=...)
    assert (request.pool, request.image, request.entrypoint) == ("big", "", ("tail", "-f", "/dev/null"))
    assert admitted(extensions={"poolRef": "big"}, entrypoint=["sleep", "1"]).entrypoint == ("sleep", "1")
    assert admitted(extensions={"poolRef": " "}).pool == ""
    with pytest.raises(InvalidRequest, match="image: is missing"):
        admitted(extensions={"poolRef": ""}, image=...)


def test_the_server_chooses_a_pool() -> None:
    """By the image, or the default one."""
    assert admitted(extensions={"poolRef": "*"}).pool == ""
    assert admitted(extensions={"poolRef": "*"}, image=...).pool == "default"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ..., "snapshotId": "s"},
        {"volumes": [{"name": "v", "mountPath": "/v", "pvc": {"claimName": "c"}}]},
        {"networkPolicy": {"defaultAction": "deny"}},
        {"platform": {"os": "linux", "arch": MACHINE}},
    ],
)
def test_what_a_pooled_container_cannot_be_given_any_more(changes: dict[str, Any]) -> None:
    """It is refused by name, as upstream's server does."""
    with pytest.raises(InvalidRequest, match=rf"^{list(changes)[-1]}: cannot be used together with extensions.poolRef"):
        admitted(extensions={"poolRef": "big"}, **changes)


@pytest.mark.parametrize(("value", "is_asked"), [("enable", True), ("disable", False)])
def test_user_namespaces_are_asked_for_by_an_extension(value: str, is_asked: bool) -> None:
    """The one of the contract; any other value is a mistake."""
    extensions = {"bootstrap.execd.isolation": value}
    request = admitted(extensions=extensions)
    assert (request.user_namespaces, request.extensions) == (is_asked, extensions)
    with pytest.raises(InvalidRequest, match='must be "enable" or "disable"'):
        admitted(extensions={"bootstrap.execd.isolation": "true"})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": ..., "templateId": "t"}, "templateId"),
        ({"lifecycle": {"preStart": {"command": ["a"]}}}, "lifecycle"),
        ({"credentialProxy": {"enabled": True}}, "credentialProxy"),
        ({"resourceRequests": {"disk": "1"}}, "resourceRequests.disk"),
        ({"resourceLimits": {"disk": "1"}}, "resourceLimits.disk"),
        ({"platform": {"os": "windows", "arch": MACHINE}}, "platform"),
        ({"platform": {"os": "linux", "arch": "riscv64"}}, "platform"),
        ({"networkPolicy": {"defaultAction": "allow"}}, "networkPolicy"),
        ({"networkPolicy": {"egress": [{"action": "allow", "target": "example.com"}]}}, "networkPolicy"),
        ({"extensions": {"bootstrap.execd.resume": "enable"}}, "extensions.bootstrap"),
    ],
)
def test_what_is_not_supported_is_said_and_never_ignored(changes: dict[str, Any], field: str) -> None:
    """Its own code, and the field by its name."""
    with pytest.raises(InvalidRequest, match=rf"^{field}.*not supported") as caught:
        admitted(**changes)
    assert caught.value.code == "sandbox.unsupported"
