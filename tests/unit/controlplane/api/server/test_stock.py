"""`/images` and `/volumes`: what there is, and what may be removed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from controlplane.api.server import stock
from controlplane.sandbox import Volume
from tests.support.server.application import World, served
from tests.support.server.control_plane import IMAGE, a_request, until

LATEST = f"{IMAGE}:latest"


async def items(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return {item["name"]: item for item in answer.json()["items"]}


def a_volume(name: str, **changes: Any) -> Volume:
    return Volume(name="data", mount_path="/data", volume_name=name, **changes)


async def test_images_and_who_needs_them(world: World) -> None:
    """With a tag; snapshots and what images are made of are left out."""
    engine = world.home.engine
    engine.images |= {"other:1", "sandlot/python", "sandlot/stage:x", "sandlot-snapshots:s", "sandlot/debian:y"}
    await world.plane.sandboxes.create(a_request())
    async with world.client(world.admin) as client:
        found = await items(client, "/images")
    assert set(found) == {LATEST, "other:1", "sandlot/python:latest"}
    ours, pooled = found["sandlot/python:latest"], found[LATEST]
    assert (ours["is_ours"], ours["sandboxes"], ours["pooled"]) == (True, 0, False)
    assert (pooled["is_ours"], pooled["sandboxes"], pooled["pooled"]) == (False, 1, True)


@pytest.mark.attack(
    "resources",
    "A key with the scope read asks for the lists of images and volumes, and for the server, a hundred times at once",
    "The engine is asked by one after the other, whose answers the others share",
)
@pytest.mark.parametrize(
    ("path", "part", "name"),
    [
        ("/images", "images", "list"),
        ("/volumes", "volumes", "list"),
        ("/volumes?sizes=true", "volumes", "list"),
        ("/server", "", "describe"),
    ],
)
async def test_a_flood_of_questions_is_one_for_the_engine(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str, part: str, name: str
) -> None:
    """The engine may take seconds, and starts no container meanwhile."""
    place: Any = getattr(world.plane.driver, part) if part else world.plane.driver
    ask = getattr(type(place), name)
    asked = at_once = most = 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal asked, at_once, most
        asked += 1
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        return await ask(*arguments, **options)

    monkeypatch.setattr(type(place), name, counted)
    async with served(world.plane) as address, httpx.AsyncClient(base_url=f"http://{address}/v1") as client:
        client.headers["OPEN-SANDBOX-API-KEY"] = world.admin
        answers = await asyncio.gather(*(client.get(path) for _ in range(60)))
    assert {answer.status_code for answer in answers} == {200}
    assert most == 1
    assert asked < 30


async def test_languages_are_those_of_the_image_folders(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others nothing is known without starting them, and no folder is no failure."""
    world.home.engine.images.add("sandlot/code-interpreter")
    async with world.client(world.admin) as client:
        assert (await items(client, "/images"))["sandlot/code-interpreter:latest"]["languages"] == []
        monkeypatch.setattr(stock, "declared_languages", lambda _: stock_languages())
        assert (await items(client, "/images"))["sandlot/code-interpreter:latest"]["languages"] == ["go", "python"]


def stock_languages() -> dict[str, tuple[str, ...]]:
    return {"sandlot/code-interpreter:latest": ("go", "python")}


async def test_an_image_is_removed_and_its_removal_is_told(world: World) -> None:
    """By its name, with the tag or without."""
    world.home.engine.images |= {"some/image:1", "other"}
    ears = await world.listen(world.admin)
    async with world.client(world.admin) as client:
        assert (await client.delete("/images/some/image:1")).status_code == 204
        assert (await client.delete("/images/other")).status_code == 204
        assert (await client.delete("/images/other")).json()["code"] == "IMAGE_NOT_FOUND"
        assert set(await items(client, "/images")) == {LATEST}
    assert [(await ears.until("image"))["name"] for _ in range(2)] == ["some/image:1", "other:latest"]


async def test_images_in_use_stay(world: World) -> None:
    """And the refusal says what needs them."""
    engine = world.home.engine
    engine.images |= {"some/image", "busy/image", "sandlot/execd", "sandlot-snapshots:abc"}
    sandbox = await world.plane.sandboxes.create(a_request(image="some/image"))
    container = next(iter(engine.containers.values()))
    container.spec = replace(container.spec, image="busy/image:latest")
    async with world.client(world.admin) as client:
        for name, reason in (
            (IMAGE, "a warm pool keeps containers of fake/image:latest"),
            ("some/image", f"some/image:latest is the image of sandbox {sandbox.id}: delete it first"),
            ("busy/image", "containers are made from busy/image"),
            ("sandlot/execd", "the agent of every sandbox"),
            ("sandlot-snapshots:abc", "delete the snapshot abc"),
        ):
            answer = await client.delete(f"/images/{name}")
            assert (answer.status_code, answer.json()["code"]) == (409, "IMAGE_IN_USE"), name
            assert reason in answer.json()["message"]
    assert {"some/image", "busy/image", IMAGE, "sandlot/execd", "sandlot-snapshots:abc"} <= engine.images


async def test_volumes_of_owners(world: World) -> None:
    """Each sees his own, and of the sandboxes that use one those that he sees."""
    one = world.key("one", "create", "read")
    mine = await world.plane.sandboxes.create(
        a_request(volumes=(a_volume("mine"), replace(a_volume("same"), name="two", mount_path="/two"))),
        by=world.caller("one"),
    )
    theirs = await world.plane.sandboxes.create(a_request(volumes=(a_volume("same"),)))
    owner = world.caller("one").owner
    async with world.client(one) as client:
        found = await items(client, "/volumes")
        assert {name: volume["in_use_by"] for name, volume in found.items()} == {
            f"{owner}.mine": [mine.id],
            f"{owner}.same": [mine.id],
        }
        assert all("size_bytes" not in volume for volume in found.values())
        assert (await client.delete(f"/volumes/{owner}.mine")).status_code == 403
    async with world.client(world.admin) as client:
        found = await items(client, "/volumes?sizes=true")
        assert {name: volume["owner"] for name, volume in found.items()} == {
            f"{owner}.mine": owner,
            f"{owner}.same": owner,
            "same": "admin",
        }
        assert found["same"]["in_use_by"] == [theirs.id]
        assert all(volume["size_bytes"] == 0 for volume in found.values())
        answer = await client.delete("/volumes/same")
        assert (answer.status_code, answer.json()["code"]) == (409, "VOLUME_IN_USE")
        assert f"sandbox {theirs.id}" in answer.json()["message"]
        await client.delete(f"/sandboxes/{theirs.id}")
        await until(lambda: world.plane.registry.find(theirs.id) is None)
        assert (await client.delete("/volumes/same")).status_code == 204
        assert (await client.delete("/volumes/same")).json()["code"] == "VOLUME_NOT_FOUND"
        assert set(await items(client, "/volumes")) == {f"{owner}.mine", f"{owner}.same"}


async def test_a_volume_whose_container_is_not_removed_yet(world: World) -> None:
    """The engine knows, and its refusal is told."""
    sandbox = await world.plane.sandboxes.create(a_request(volumes=(a_volume("data"),)))
    record = world.plane.registry.get(sandbox.id)
    world.plane.registry._sandboxes[sandbox.id] = replace(record, spec=replace(record.spec, volumes=()))
    async with world.client(world.admin) as client:
        answer = await client.delete("/volumes/data")
        assert (answer.status_code, answer.json()["message"]) == (409, "a container has the volume data")


@pytest.mark.parametrize("path", ["/images", "/volumes"])
async def test_stock_is_for_those_who_watch(world: World, path: str) -> None:
    """Not for keys that only make sandboxes."""
    async with world.client(world.key("maker", "create")) as client:
        assert (await client.get(path)).status_code == 403
    async with world.client(world.key("reader", "read")) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.delete(f"{path}/x")).status_code == 403


def test_many_sandboxes_are_not_all_named() -> None:
    """A refusal stays readable."""
    assert stock._some(["a"]) == "sandbox a"
    assert stock._some(list("abcde")) == "sandboxes a, b, c and 2 more"
