"""The lifecycle contract over HTTP."""

from __future__ import annotations

import platform
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from controlplane.api.app import ApiSettings
from controlplane.errors import InvalidRequest, LinkLost, QuotaExceeded, StartFailed
from controlplane.sandbox import Network, State, Volume
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
BODY = {"image": {"uri": "python:3.11"}, "entrypoint": ["tail", "-f", "/dev/null"]}


async def create(edge: Edge, **changes: Any) -> httpx.Response:
    """POST /sandboxes."""
    async with edge.client() as client:
        return await client.post("/sandboxes", json=BODY | changes)


async def test_create_answers_202_with_a_running_sandbox() -> None:
    """The Python SDK takes nothing but 202; the Go SDK polls until it reads Running."""
    async with serving() as edge:
        response = await create(edge, timeout=600, metadata={"a": "b"})

    assert (response.status_code, response.headers["location"]) == (202, f"/v1/sandboxes/{SANDBOX_ID}")
    assert response.json() == {
        "id": SANDBOX_ID,
        "status": {
            "state": "Running",
            "reason": "CONTAINER_RUNNING",
            "message": "The sandbox is running.",
            "lastTransitionAt": "2026-11-23T04:38:07.317029Z",
        },
        "metadata": {"a": "b"},
        "entrypoint": ["tail", "-f", "/dev/null"],
        "expiresAt": "2026-11-23T04:48:07.317029Z",
        "createdAt": "2026-11-23T04:38:07.317029Z",
    }


async def test_a_platform_that_was_asked_for_is_answered() -> None:
    """By create, get and list, as the SDKs spell it; both fields, whatever their defaults; else there is none."""
    asked = {"os": "Linux", "arch": MACHINE}
    async with serving() as edge, edge.client() as client:
        made = await create(edge, platform=asked)
        got = await client.get(f"/sandboxes/{SANDBOX_ID}")
        plain = await create(edge, platform=None)
        listed = await client.get("/sandboxes")

    assert made.json()["platform"] == got.json()["platform"] == {"os": "linux", "arch": MACHINE}
    assert "platform" not in plain.json()
    assert [item.get("platform") for item in listed.json()["items"]] == [None, got.json()["platform"]]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"timeout": -5}, "SANDBOX::INVALID_PARAMETER"),
        ({"resourceLimits": {"memory": "lots"}}, "SANDBOX::INVALID_PARAMETER"),
        ({"entrypoint": []}, "DOCKER::INVALID_ENTRYPOINT"),
        ({"metadata": {"a": "x y"}}, "SANDBOX::INVALID_METADATA_LABEL"),
        ({"volumes": [{}]}, "SANDBOX::INVALID_PARAMETER"),
        ({"image": {"uri": "no/such:image"}}, "DOCKER::SANDBOX_IMAGE_PULL_FAILED"),
    ],
)
async def test_a_bad_create_is_400_and_creates_nothing(changes: dict[str, Any], code: str) -> None:
    """Each with the contract's own code."""
    async with serving() as edge:
        response = await create(edge, **changes)
        after = edge.sandboxes.list()

    assert (response.status_code, response.json()["code"]) == (400, code)
    assert after == []


VOLUME = {"name": "data", "mountPath": "/data", "pvc": {"claimName": "claim"}}
HOST = {"name": "data", "mountPath": "/data", "host": {"path": "/srv"}}


def but(volume: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A volume with changes; without what is None."""
    return {key: value for key, value in {**volume, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("volumes", "code", "field"),
    [
        ([but(VOLUME, name="")], "VOLUME::INVALID_NAME", "volumes[0].name"),
        ([but(VOLUME, name="Data")], "VOLUME::INVALID_NAME", "volumes[0].name"),
        ([but(VOLUME, name="-data")], "VOLUME::INVALID_NAME", "volumes[0].name"),
        ([but(VOLUME, name="data\n")], "VOLUME::INVALID_NAME", "volumes[0].name"),
        ([but(VOLUME, name="x" * 64)], "VOLUME::INVALID_NAME", "volumes[0].name"),
        ([VOLUME, but(HOST, mountPath="/other")], "VOLUME::DUPLICATE_NAME", "'data'"),
        ([but(VOLUME, pvc=None)], "VOLUME::INVALID_BACKEND", "volumes[0]"),
        ([VOLUME | HOST], "VOLUME::INVALID_BACKEND", "volumes[0]"),
        ([but(VOLUME, ossfs={})], "VOLUME::INVALID_BACKEND", "volumes[0]"),
        ([but(VOLUME, pvc=None, ossfs={"bucket": "b"})], "VOLUME::UNSUPPORTED_BACKEND", "volumes[0].ossfs"),
        ([but(VOLUME, mountPath="")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="data")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="/data/../etc")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="/a\0b")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="/")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="/proc/1")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="//opt/./execd/")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([but(VOLUME, mountPath="/run")], "VOLUME::INVALID_MOUNT_PATH", "volumes[0].mountPath"),
        ([VOLUME, but(HOST, name="other", mountPath="/data/")], "VOLUME::INVALID_MOUNT_PATH", "'/data'"),
        ([but(VOLUME, pvc={"claimName": ""})], "VOLUME::INVALID_PVC_NAME", "volumes[0].pvc.claimName"),
        ([VOLUME, but(VOLUME, pvc={"claimName": "../x"})], "VOLUME::INVALID_PVC_NAME", "volumes[1].pvc.claimName"),
        ([but(VOLUME, pvc={"claimName": "x" * 64})], "VOLUME::INVALID_PVC_NAME", "volumes[0].pvc.claimName"),
        ([but(VOLUME, subPath="/a")], "VOLUME::INVALID_SUB_PATH", "volumes[0].subPath"),
        ([but(VOLUME, subPath="a/../../b")], "VOLUME::INVALID_SUB_PATH", "volumes[0].subPath"),
        ([but(VOLUME, subPath="a//b")], "VOLUME::INVALID_SUB_PATH", "volumes[0].subPath"),
        ([but(HOST, host={"path": "srv"})], "VOLUME::INVALID_HOST_PATH", "volumes[0].host.path"),
        ([but(HOST, host={"path": "/srv/../etc"})], "VOLUME::INVALID_HOST_PATH", "volumes[0].host.path"),
        ([but(HOST, host={"path": "/srv/"})], "VOLUME::INVALID_HOST_PATH", "volumes[0].host.path"),
        ([but(VOLUME, name=f"v{number}") for number in range(33)], "SANDBOX::INVALID_PARAMETER", "volumes"),
    ],
)
async def test_bad_volumes_are_refused_by_the_contracts_codes(
    volumes: list[dict[str, Any]], code: str, field: str
) -> None:
    """400, the message names the volume and the field, and nothing is created."""
    async with serving() as edge:
        response = await create(edge, volumes=volumes)
        after = edge.creation.requests

    assert (response.status_code, response.json()["code"]) == (400, code)
    assert response.json()["message"].startswith((field, f"volumes: {field}"))
    assert after == []


async def test_good_volumes_are_taken_as_they_are() -> None:
    """What the table above changes is good without the change."""
    async with serving() as edge:
        response = await create(edge, volumes=[VOLUME, but(HOST, name="host", mountPath="/mnt/host/", readOnly=True)])
        (request,) = edge.creation.requests

    assert response.status_code == 202
    assert request.volumes == (
        Volume(name="data", mount_path="/data", volume_name="claim"),
        Volume(name="host", mount_path="/mnt/host", host_root="/srv", read_only=True),
    )


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * (10 << 20), b"[1]", b'"x"'])
async def test_a_create_that_is_no_json_is_400(content: bytes) -> None:
    """Whatever it is and however large."""
    async with serving() as edge, edge.client() as client:
        response = await client.post("/sandboxes", content=content)
        after = await client.get("/sandboxes")

    assert (response.status_code, response.json()["code"]) == (400, "SANDBOX::INVALID_PARAMETER")
    assert (after.status_code, edge.creation.requests) == (200, [])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StartFailed("the container ended"), 500, "DOCKER::SANDBOX_START_FAILED"),
        (LinkLost("its agent did not come"), 500, "BACKEND_CONNECTION_FAILED"),
        (InvalidRequest("too long", code="sandbox.invalid_expiration"), 400, "DOCKER::INVALID_EXPIRATION"),
    ],
)
async def test_a_failed_create_has_a_documented_status(error: Any, status: int, code: str) -> None:
    """502 is not documented for create: it becomes a 500 that keeps its code."""
    async with serving() as edge:
        edge.creation.fails_with = error
        response = await create(edge)

    assert (response.status_code, response.json()) == (status, {"code": code, "message": error.message})


async def test_get_and_delete() -> None:
    """200 with the image, 204 without a body, 404 afterwards; /stop is another name for DELETE."""
    async with serving() as edge, edge.client() as client:
        await create(edge)
        await create(edge)
        got = await client.get(f"/sandboxes/{SANDBOX_ID}")
        deleted = await client.delete(f"/sandboxes/{SANDBOX_ID}")
        stopped = await client.post(f"/sandboxes/{edge.sandboxes.list()[0].id}/stop")
        gone = [
            await client.get(f"/sandboxes/{SANDBOX_ID}"),
            await client.delete(f"/sandboxes/{SANDBOX_ID}"),
            await client.post(f"/sandboxes/{SANDBOX_ID}/renew-expiration", json={"expiresAt": "2099-01-01T00:00:00Z"}),
            await client.get(f"/sandboxes/{SANDBOX_ID}/endpoints/44772"),
        ]

    assert got.json()["image"] == {"uri": "python:3.11"}
    assert (deleted.status_code, deleted.content, stopped.status_code) == (204, b"", 204)
    assert {(response.status_code, response.json()["code"]) for response in gone} == {
        (404, "DOCKER::SANDBOX_NOT_FOUND")
    }


async def test_the_pool_that_was_asked_for_is_shown_while_it_is_held() -> None:
    """As upstream's server shows it: on get and list, not on create, and no more when the sandbox ends."""
    async with serving() as edge, edge.client() as client:
        created = await client.post("/sandboxes", json={"extensions": {"poolRef": "big"}})
        sandbox = edge.sandboxes.list()[0]
        shown = (await client.get(f"/sandboxes/{sandbox.id}")).json()
        (listed,) = (await client.get("/sandboxes")).json()["items"]
        edge.registry.put(replace(sandbox, state=State.STOPPING))
        ending = (await client.get(f"/sandboxes/{sandbox.id}")).json()

    assert created.status_code == 202
    assert "allocation" not in created.json()
    assert shown["allocation"] == listed["allocation"] == {"mode": "pool", "poolRef": "big", "state": "allocated"}
    assert "allocation" not in ending


async def test_what_the_settings_do_not_allow_has_the_status_of_the_contract() -> None:
    """Too many sandboxes: 403. No such pool: 400."""
    async with serving() as edge, edge.client() as client:
        answers = []
        for error in (QuotaExceeded("no more"), InvalidRequest("no pool", code="pool.not_found")):
            edge.creation.fails_with = error
            answers.append(await client.post("/sandboxes", json={"extensions": {"poolRef": "big"}}))
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (403, "KUBERNETES::QUOTA_EXCEEDED"),
        (400, "KUBERNETES::POOL_NOT_FOUND"),
    ]


async def test_list_filters_by_any_state_and_all_metadata_and_pages() -> None:
    """The metadata filter is encoded twice, as the SDKs do it."""
    async with serving() as edge, edge.client() as client:
        for index in range(5):
            await create(edge, metadata={"n": str(index), "odd": str(index % 2), "a": "b"})
        first = edge.sandboxes.list()[-1]
        edge.registry.put(replace(first, state=State.PAUSED))

        everything = (await client.get("/sandboxes")).json()
        page = (await client.get("/sandboxes", params={"page": 2, "pageSize": 2})).json()
        beyond = (await client.get("/sandboxes", params={"page": 9})).json()
        states = (await client.get("/sandboxes?state=Paused&state=Failed")).json()
        handed_over = (await client.get("/sandboxes?state=Allocated")).json()
        paused = (await client.get("/sandboxes?state=Allocated&state=Paused")).json()
        odd = (await client.get("/sandboxes?metadata=odd%3D1%26a%3Db")).json()
        escaped = (await client.get("/sandboxes?metadata=a%3Db%2520c%26d%3De")).json()

    assert [item["metadata"]["n"] for item in everything["items"]] == ["4", "3", "2", "1", "0"]
    assert everything["pagination"] == {
        "page": 1,
        "pageSize": 20,
        "totalItems": 5,
        "totalPages": 1,
        "hasNextPage": False,
    }
    assert [item["metadata"]["n"] for item in page["items"]] == ["2", "1"]
    assert (page["pagination"]["totalPages"], page["pagination"]["hasNextPage"]) == (3, True)
    assert (beyond["items"], beyond["pagination"]["hasNextPage"]) == ([], False)
    assert [item["metadata"]["n"] for item in states["items"]] == ["0"]
    assert (handed_over["items"], handed_over["pagination"]["totalItems"]) == ([], 0)
    assert paused == states
    assert [item["metadata"]["n"] for item in odd["items"]] == ["3", "1"]
    assert escaped["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "pageSize=0",
        "pageSize=201",
        "pageSize=1.5",
        "state=Sleeping",
        "metadata=nonsense",
    ],
)
async def test_bad_list_queries_are_400(query: str) -> None:
    """And name the parameter."""
    async with serving() as edge, edge.client() as client:
        response = await client.get(f"/sandboxes?{query}")

    assert (response.status_code, response.json()["code"]) == (400, "SANDBOX::INVALID_PARAMETER")
    assert query.partition("=")[0] in response.json()["message"]


async def test_renew_sets_the_deadline() -> None:
    """The SDK's own spelling of a moment, and one without a zone, which is UTC."""
    later = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=317029)
    async with serving() as edge, edge.client() as client:
        await create(edge)
        path = f"/sandboxes/{SANDBOX_ID}/renew-expiration"
        renewed = await client.post(path, json={"expiresAt": later.isoformat()})
        naive = await client.post(path, json={"expiresAt": later.replace(tzinfo=None).isoformat()})
        past = await client.post(path, json={"expiresAt": "2020-01-01T00:00:00Z"})
        bad = [
            await client.post(path, content=content)
            for content in (b"", b"{}", b'{"expiresAt": null}', b'{"expiresAt": "0001-01-01T00:00:00+23:59"}')
        ]

    assert (renewed.status_code, datetime.fromisoformat(renewed.json()["expiresAt"])) == (200, later)
    assert datetime.fromisoformat(naive.json()["expiresAt"]) == later
    assert (past.status_code, past.json()["code"]) == (400, "DOCKER::INVALID_EXPIRATION")
    assert [response.status_code for response in bad] == [400, 400, 400, 400]


async def test_endpoints_are_this_server_with_a_token_for_the_sandbox() -> None:
    """Each contract's own header; the address is the one that the client used."""
    async with serving() as edge, edge.client() as client:
        await create(edge)
        path = f"/sandboxes/{SANDBOX_ID}/endpoints"
        execd = await client.get(f"{path}/44772", params={"use_server_proxy": "false"})
        egress = await client.get(f"{path}/18080", params={"use_server_proxy": "true"})
        other = await client.get(f"{path}/8080", headers={"Host": "sandlot.example:81"})
        strange = await client.get(f"{path}/8080", headers={"Host": "evil/../path"})

    base = f"{edge.address}/v1/sandboxes/{SANDBOX_ID}/proxy"
    assert execd.json() == {"endpoint": f"{base}/44772", "headers": {"X-EXECD-ACCESS-TOKEN": edge.token}}
    assert egress.json() == {"endpoint": f"{base}/18080", "headers": {"OPENSANDBOX-EGRESS-AUTH": edge.token}}
    assert other.json() == {
        "endpoint": f"sandlot.example:81/v1/sandboxes/{SANDBOX_ID}/proxy/8080",
        "headers": {"OpenSandbox-Secure-Access": edge.token},
    }
    assert strange.json()["endpoint"] == f"{base}/8080"


async def test_a_configured_address_stands_in_endpoints() -> None:
    """Behind a reverse proxy the Host header is not what clients can reach."""
    async with serving(settings=ApiSettings(public_address="box.example")) as edge, edge.client() as client:
        await create(edge)
        endpoint = await client.get(f"/sandboxes/{SANDBOX_ID}/endpoints/44772")

    assert endpoint.json()["endpoint"] == f"box.example/v1/sandboxes/{SANDBOX_ID}/proxy/44772"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "80x", "1e3", "٣"])
async def test_what_is_no_port(port: str) -> None:
    """400 with the contract's code."""
    async with serving() as edge, edge.client() as client:
        await create(edge)
        response = await client.get(f"/sandboxes/{SANDBOX_ID}/endpoints/{port}")

    assert (response.status_code, response.json()["code"]) == (400, "DOCKER::INVALID_PORT")


async def test_the_egress_policy_is_the_truth() -> None:
    """Everything or nothing, at the egress port and in the lifecycle API."""
    async with serving() as edge, edge.client() as client:
        await create(edge, networkPolicy={"defaultAction": "deny"})
        denied = await client.get(f"{edge.proxy}/18080/policy", headers={"OPENSANDBOX-EGRESS-AUTH": edge.token})
        sandbox = edge.sandboxes.get(SANDBOX_ID)
        edge.registry.put(replace(sandbox, spec=replace(sandbox.spec, network=Network.BRIDGE)))
        allowed = await client.get(f"/sandboxes/{SANDBOX_ID}/networkpolicy")

    assert (denied.json()["mode"], denied.json()["policy"]) == ("deny_all", {"defaultAction": "deny", "egress": []})
    assert (allowed.json()["mode"], allowed.json()["policy"]["defaultAction"]) == ("allow_all", "allow")


async def test_the_sdk_s_telemetry_is_taken_and_dropped() -> None:
    """204, whatever it says."""
    async with serving() as edge, httpx.AsyncClient(headers={"OPEN-SANDBOX-API-KEY": API_KEY}) as client:
        event = {"eventType": "sandbox.create", "createDurationMs": 5, "success": True}
        response = await client.post(f"{edge.url}/v1/metrics/events", json=event)

    assert (response.status_code, response.content) == (204, b"")


async def test_pause_and_resume_answer_202_and_409_with_the_contracts_codes() -> None:
    """The state is what the answer to GET says right afterwards."""
    async with serving() as edge, edge.client() as client:
        await create(edge)
        path = f"/sandboxes/{SANDBOX_ID}"
        answers = [await client.post(f"{path}/{verb}") for verb in ("pause", "pause", "resume", "resume")]
        unknown = await client.post("/sandboxes/nothing/pause")
        state = (await client.get(path)).json()["status"]["state"]

    assert [answer.status_code for answer in answers] == [202, 409, 202, 409]
    assert [answers[1].json()["code"], answers[3].json()["code"]] == [
        "DOCKER::SANDBOX_NOT_RUNNING",
        "DOCKER::SANDBOX_NOT_PAUSED",
    ]
    assert (unknown.status_code, state) == (404, "Running")


async def test_metadata_is_patched() -> None:
    """Null drops a key; keys and values keep the rules of create; the answer is the sandbox."""
    async with serving() as edge, edge.client() as client:
        await create(edge, metadata={"a": "1", "b": "2"})
        path = f"/sandboxes/{SANDBOX_ID}/metadata"
        answer = await client.patch(path, json={"a": None, "c": "3"})
        bad = [
            await client.patch(path, json=body)
            for body in ({"opensandbox.io/x": None}, {"c": "x y"}, {"c": 1}, ["a"], {"bad key": "1"})
        ]
        after = (await client.get(f"/sandboxes/{SANDBOX_ID}")).json()

    assert (answer.status_code, answer.json()["metadata"]) == (200, {"b": "2", "c": "3"})
    assert [one.status_code for one in bad] == [400] * 5
    assert bad[0].json()["code"] == "SANDBOX::INVALID_METADATA_LABEL"
    assert after["metadata"] == {"b": "2", "c": "3"}


@pytest.mark.parametrize(
    ("setting", "agent", "is_in_path"),
    [
        ("auto", "OpenSandbox-Python-SDK/0.1.0", True),
        ("auto", "OpenSandbox-Python-SDK/0.1.16", True),
        ("auto", "OpenSandbox-Python-SDK/1.1.1", False),
        ("auto", "OpenSandbox-Python-SDK/0.10.0", False),
        ("auto", "OpenSandbox-Kotlin-SDK/1.0.0", True),
        ("auto", "OpenSandbox-Kotlin-SDK/1.1.0", False),
        ("auto", "OpenSandbox-JS-SDK/0.1.11", False),
        ("auto", "curl/8.0", False),
        ("path", "curl/8.0", True),
        ("header", "OpenSandbox-Python-SDK/0.1.4", False),
    ],
)
async def test_clients_that_cannot_send_headers_get_the_token_in_the_path(
    setting: Any, agent: str, is_in_path: bool
) -> None:
    """A signed path that is valid as long as the sandbox; it is said in the headers as well."""
    async with (
        serving(settings=ApiSettings(endpoint_tokens=setting, port_domain="ports.example")) as edge,
        edge.client(**{"User-Agent": agent}) as client,
        httpx.AsyncClient() as bare,
    ):
        await create(edge)
        for port, proxied in ((44772, "false"), (44772, "true"), (18080, "false"), (8080, "true")):
            path = f"/sandboxes/{SANDBOX_ID}/endpoints/{port}"
            answer = (await client.get(path, params={"use_server_proxy": proxied})).json()
            assert edge.token in answer["headers"].values()
            assert (f"/signed/{port}/zzzzzzz/" in answer["endpoint"]) == is_in_path
        policy = f"/sandboxes/{SANDBOX_ID}/endpoints/18080"
        address = (await client.get(policy)).json()["endpoint"]
        assert (await bare.get(f"http://{address}/policy")).status_code == (200 if is_in_path else 401)
