"""Building and publishing on the real engine, with small images of the test's own; and what is in the real ones."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from controlplane.errors import ImageBuildFailed, ImageMissing
from controlplane.images import build, publish, recipes
from controlplane.images import engine as images_engine
from controlplane.images.build import BuildResult, BuildStep, build_images, image_status
from controlplane.images.first_start import Builds
from controlplane.images.publish import publish_execd

IMAGES = Path(__file__).parents[3] / "images"
TREE = {"bin/python3": "not really", "boot": "code"}


@pytest.fixture
async def folders(engine: aiodocker.Docker, tmp_path: Path) -> AsyncIterator[Path]:
    """Two small images, `test-tree` and `test-child`, which look to the engine like ours."""
    manifest = "".join(f"{hashlib.sha256(text.encode()).hexdigest()} 644  {path}\n" for path, text in TREE.items())
    write(tmp_path / "images/test-tree/Dockerfile", 'FROM scratch\nCOPY tree/ /opt/execd/\nCMD ["/none"]\n')
    for path, text in {**TREE, "MANIFEST": manifest}.items():
        write(tmp_path / "tree" / path, text)
    write(tmp_path / "images/test-child/Dockerfile", "FROM sandlot/test-tree\nCOPY images/test-child/file /\n")
    write(tmp_path / "images/test-child/file", tmp_path.name)
    yield tmp_path / "images"
    for name in ("test-child", "test-tree"):
        if await find(engine, f"sandlot/{name}"):
            await engine.images.delete(f"sandlot/{name}", force=True)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def find(engine: aiodocker.Docker, reference: str) -> list[Any]:
    return await engine.images.list(filters={"reference": [reference]})


def rebuilt(results: list[BuildResult]) -> list[str]:
    return [result.name for result in results if result.rebuilt]


class TestBuild:
    async def test_builds_what_is_missing_then_only_what_changed(self, engine: aiodocker.Docker, folders: Path) -> None:
        lines: list[str] = []
        assert rebuilt(await build_images(engine, folders, None, lines.append)) == ["test-tree", "test-child"]
        assert any(line.startswith("test-child: 1/") for line in lines)

        lines.clear()
        results = await build_images(engine, folders, None, lines.append)
        assert (rebuilt(results), lines) == ([], [])

        replaced = results[1].image_id
        write(folders / "test-child/file", "changed")
        assert [state.state for state in await image_status(engine, folders)] == ["current", "outdated"]
        assert rebuilt(await build_images(engine, folders, None, lines.append)) == ["test-child"]
        assert {state.state for state in await image_status(engine, folders)} == {"current"}
        with pytest.raises(aiodocker.DockerError, match="No such image"):
            await engine.images.inspect(replaced)

        write(folders.parent / "tree/boot", "changed")
        assert rebuilt(await build_images(engine, folders, ["test-tree"], lines.append)) == ["test-tree"]
        assert rebuilt(await build_images(engine, folders, None, lines.append)) == ["test-child"]

    async def test_what_becomes_of_each_build_is_told(self, engine: aiodocker.Docker, folders: Path) -> None:
        """Its beginning, its steps and its end; nothing of an image that is current, and why one has failed."""
        told: list[BuildStep] = []
        await build_images(engine, folders, None, print, told=told.append)
        child = [step for step in told if step.tag == "sandlot/test-child:latest"]
        assert [(step.event, step.step.partition(" ")[0]) for step in child[:2]] == [
            ("building", ""),
            ("building", "1/4"),
        ]
        assert [step.event for step in told].count("built") == 2
        assert (child[-1].event, child[-1].message) == ("built", "")
        told.clear()
        write(folders / "test-child/Dockerfile", "FROM sandlot/test-tree\nCOPY images/test-child/file /\nRUN /none\n")
        with pytest.raises(ImageBuildFailed):
            await build_images(engine, folders, None, print, told=told.append)
        assert {step.tag for step in told} == {"sandlot/test-child:latest"}
        assert told[-1].event == "failed"
        assert told[-1].message.startswith("image test-child: failed at step 3/")
        assert "\n" not in told[-1].message

    async def test_images_carry_their_inputs_and_the_version(self, engine: aiodocker.Docker, folders: Path) -> None:
        [built] = await build_images(engine, folders, ["test-tree"], print)
        labels = (await engine.images.inspect(built.tag))["Config"]["Labels"]
        assert labels[images_engine.INPUTS_LABEL] == recipes.read_recipes(folders, ["test-tree"])[0].digest
        assert labels[images_engine.VERSION_LABEL] == images_engine.version()

    async def test_a_failed_step_is_named_and_its_output_shown(self, engine: aiodocker.Docker, folders: Path) -> None:
        await build_images(engine, IMAGES, ["base"], print)
        dockerfile = "ARG FOREIGN=sandlot/base\nFROM ${FOREIGN}\nRUN echo a reason; exit 7\n"
        write(folders / "test-child/Dockerfile", dockerfile)
        write(folders / "test-grandchild/Dockerfile", "FROM sandlot/test-child\n")
        with pytest.raises(ImageBuildFailed) as failure:
            await build_images(engine, folders, ["test-grandchild"], print)
        assert failure.value.image == "test-child"
        assert failure.value.step.startswith("step 3/")
        assert "a reason" in failure.value.tail
        assert "returned a non-zero code: 7" in str(failure.value)

    async def test_a_failed_image_keeps_no_other_from_being_built(
        self, engine: aiodocker.Docker, folders: Path
    ) -> None:
        """Of a first start: the pool gets the images that could be built, and the failure is told."""
        write(folders / "test-broken/Dockerfile", 'FROM scratch\nRUN ["/nothing"]\n')
        write(folders / "test-upon/Dockerfile", "FROM sandlot/test-broken\n")
        changed: list[str] = []
        with pytest.raises(ImageBuildFailed) as failure:
            await Builds(engine, folders, print).finish(changed.append)
        assert failure.value.image == "test-broken"
        assert sorted(changed) == ["sandlot/test-child:latest", "sandlot/test-tree:latest"]

    async def test_status_of_images_that_were_never_built(self, engine: aiodocker.Docker, folders: Path) -> None:
        assert {state.state for state in await image_status(engine, folders)} == {"missing"}


STAGES = """
FROM sandlot/test-tree AS first
COPY images/test-child/file /first
FROM first AS made
COPY images/test-child/more /made
FROM sandlot/test-tree
COPY --from=made /made /
COPY images/test-child/last /
"""


class TestStages:
    @pytest.fixture
    async def staged(self, engine: aiodocker.Docker, folders: Path) -> AsyncIterator[Path]:
        """`test-child` with a stage that stands in for it, and one more."""
        write(folders / "test-child/Dockerfile", STAGES)
        for name in ("more", "last"):
            write(folders / "test-child" / name, folders.parent.name)
        yield folders
        for stage in ("first", "made"):
            if await find(engine, f"sandlot/stage:test-child-{stage}"):
                await engine.images.delete(f"sandlot/stage:test-child-{stage}", force=True)

    @staticmethod
    async def nameless(engine: aiodocker.Docker) -> set[str]:
        """Of this test's size: somebody else may be building images of ours."""
        found = await engine.images.list(filters={"dangling": ["true"]})
        return {image["Id"] for image in found if image["Size"] < 1 << 20}

    async def test_builds_leave_no_image_without_a_name(self, engine: aiodocker.Docker, staged: Path) -> None:
        before = await self.nameless(engine)
        await build_images(engine, staged, None, print)
        assert await self.nameless(engine) <= before
        old = (await engine.images.inspect("sandlot/stage:test-child-made"))["Id"]

        write(staged / "test-child/more", "changed")
        await build_images(engine, staged, None, print)
        assert await self.nameless(engine) <= before
        with pytest.raises(aiodocker.DockerError, match="No such image"):
            await engine.images.inspect(old)

    async def test_an_image_that_was_in_use_goes_later_and_other_peoples_stay(
        self, engine: aiodocker.Docker, staged: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is built upon one of ours inherits its labels, and is not ours to remove."""
        monkeypatch.setattr(build, "TAGGING_S", -1)
        await build_images(engine, staged, None, print)
        old = (await engine.images.inspect("sandlot/test-child"))["Id"]
        user = await engine.containers.create({"Image": old, "Cmd": ["none"]})
        write(staged / "test-child/last", "changed")
        await build_images(engine, staged, None, print)
        await engine.images.inspect(old)  # it is in use still

        await user.delete(force=True)
        theirs = await self._upon(engine, "sandlot/test-child")
        await build_images(engine, staged, None, print)
        with pytest.raises(aiodocker.DockerError, match="No such image"):
            await engine.images.inspect(old)
        await engine.images.delete(theirs)  # it is still there

    @staticmethod
    async def _upon(engine: aiodocker.Docker, tag: str) -> str:
        """An image without a name that somebody made of a container."""
        container = await engine.containers.create({"Image": tag, "Cmd": ["none"]})
        try:
            return str((await container.commit())["Id"])
        finally:
            await container.delete(force=True)

    async def test_a_small_change_repeats_no_stage(self, engine: aiodocker.Docker, staged: Path) -> None:
        await build_images(engine, staged, None, print)
        stage = (await engine.images.inspect("sandlot/stage:test-child-made"))["Id"]
        write(staged / "test-child/last", "changed")
        assert rebuilt(await build_images(engine, staged, None, print)) == ["test-child"]
        assert (await engine.images.inspect("sandlot/stage:test-child-made"))["Id"] == stage

    async def test_a_stage_stands_in_for_an_image_until_it_is_built(
        self, engine: aiodocker.Docker, staged: Path
    ) -> None:
        built = await build_images(engine, staged, ["test-child"], print, first=True)
        assert rebuilt(built) == ["test-tree", "test-child"]
        states = {state.name: state.state for state in await image_status(engine, staged)}
        assert states == {"test-tree": "current", "test-child": "outdated"}

        assert rebuilt(await build_images(engine, staged, ["test-child"], print, first=True)) == []
        assert rebuilt(await build_images(engine, staged, None, print)) == ["test-child"]
        assert {state.state for state in await image_status(engine, staged)} == {"current"}
        assert built[1].image_id != (await engine.images.inspect("sandlot/test-child"))["Id"]

        write(staged / "test-child/file", "changed")
        assert rebuilt(await build_images(engine, staged, ["test-child"], print, first=True)) == ["test-child"]
        assert {state.state for state in await image_status(engine, staged)} == {"current"}


class TestPublish:
    @pytest.fixture
    async def tree(self, engine: aiodocker.Docker, folders: Path) -> AsyncIterator[str]:
        """The tag of an image with a small tree, new in every test."""
        dockerfile = folders / "test-tree/Dockerfile"
        write(dockerfile, f"{dockerfile.read_text()}LABEL test={folders}\n")
        [built] = await build_images(engine, folders, ["test-tree"], print)
        yield built.tag
        for volume in await self.volumes(engine, built.tag):
            await (await engine.volumes.get(volume)).delete()  # type: ignore[no-untyped-call]

    @staticmethod
    async def volumes(engine: aiodocker.Docker, tag: str) -> list[str]:
        listing = await engine.volumes.list(filters={"label": [f"{publish.TREE_LABEL}={tag}"]})  # type: ignore[no-untyped-call]
        return [volume["Name"] for volume in listing["Volumes"]]

    async def test_fills_one_volume_and_leaves_no_container(self, engine: aiodocker.Docker, tree: str) -> None:
        volume = await publish_execd(engine, print, image=tree)
        assert volume == await publish_execd(engine, print, image=tree)
        assert await self.volumes(engine, tree) == [volume]
        assert await engine.containers.list(all=True, filters={"volume": [volume]}) == []
        assert await run(engine, "sandlot/base", "cat /tree/boot", volume) == "code"

    async def test_builders_at_the_same_time_agree(self, engine: aiodocker.Docker, tree: str) -> None:
        names = await asyncio.gather(*(publish_execd(engine, print, image=tree) for _ in range(4)))
        assert await self.volumes(engine, tree) == [names[0]]
        assert len(set(names)) == 1

    async def test_a_half_filled_volume_is_filled_again(self, engine: aiodocker.Docker, tree: str) -> None:
        volume = await publish_execd(engine, print, image=tree)
        await run(engine, "sandlot/base", "rm /tree/boot", volume)
        lines: list[str] = []
        assert await publish_execd(engine, lines.append, image=tree) == volume
        assert lines == [f"execd: volume {volume} is incomplete, filling it again"]
        assert await run(engine, "sandlot/base", "cat /tree/boot", volume) == "code"

    async def test_a_dead_builder_s_claim_is_taken_over(
        self, engine: aiodocker.Docker, tree: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = await publish_execd(engine, print, image=tree)
        await engine.containers.create({"Image": tree, "Cmd": ["/none"]}, name=f"{volume}-publisher")
        monkeypatch.setattr(publish, "PUBLISH_WAIT_S", 0.2)
        assert await publish_execd(engine, print, image=tree) == volume

    async def test_many_builders_wait_for_a_dead_one(
        self, engine: aiodocker.Docker, tree: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of them give it up at the same moment; one after the other they take its place."""
        volume = await publish_execd(engine, print, image=tree)
        await engine.containers.create({"Image": tree, "Cmd": ["/none"]}, name=f"{volume}-publisher")
        monkeypatch.setattr(publish, "PUBLISH_WAIT_S", 0.5)
        names = await asyncio.gather(*(publish_execd(engine, print, image=tree) for _ in range(6)))
        assert names == [volume] * 6
        left = await engine.containers.list(all=True, filters={"name": [f"{volume}-publisher"]})
        assert left == []

    async def test_old_unused_volumes_go_and_used_ones_stay(
        self, engine: aiodocker.Docker, folders: Path, tree: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = []
        for text in ("unused", "used", "current"):
            dockerfile = folders / "test-tree/Dockerfile"
            write(dockerfile, f"{dockerfile.read_text()}LABEL text={text}\n")
            await build_images(engine, folders, ["test-tree"], print)
            names.append(await publish_execd(engine, print, image=tree))
        assert len(set(names)) == 3
        assert set(names) <= set(await self.volumes(engine, tree))
        user = await engine.containers.create(
            {"Image": "sandlot/base", "HostConfig": {"Mounts": [mount(names[1])], "NetworkMode": "none"}}
        )
        try:
            monkeypatch.setattr(publish, "OLD_VOLUME_AGE", -publish.OLD_VOLUME_AGE)
            await publish_execd(engine, print, image=tree)
            assert set(await self.volumes(engine, tree)) == set(names[1:])
        finally:
            await user.delete(force=True)

    async def test_an_image_that_is_not_there_is_named(self, engine: aiodocker.Docker) -> None:
        with pytest.raises(ImageMissing, match="the engine has no image sandlot/test-none: run `make images`"):
            await publish_execd(engine, print, image="sandlot/test-none")


def mount(volume: str) -> dict[str, Any]:
    return {"Type": "volume", "Source": volume, "Target": "/tree"}


async def run(
    engine: aiodocker.Docker, image: str, script: str, volume: str | None = None, *, user: str = "", **host: Any
) -> str:
    """Output of a shell script in a container without network; it must succeed."""
    config: dict[str, Any] = {
        "Image": image,
        "Cmd": ["bash", "-ec", script],
        "User": user,
        "HostConfig": {"NetworkMode": "none", "Mounts": [mount(volume)] if volume else [], **host},
    }
    container = await engine.containers.create(config)
    try:
        await container.start()
        status = (await container.wait())["StatusCode"]
        output = "".join(await container.log(stdout=True, stderr=status != 0))
        assert status == 0, output
        return output
    finally:
        await container.delete(force=True)


@pytest.mark.parametrize("user", ["root", "sandbox"])
class TestContents:
    """What people who type commands into a sandbox count on."""

    @pytest.fixture
    async def code_interpreter(self, engine: aiodocker.Docker) -> str:
        return (await build_images(engine, IMAGES, ["code-interpreter"], print))[-1].tag

    async def test_python_and_pip_see_the_same_packages(
        self, engine: aiodocker.Docker, code_interpreter: str, user: str
    ) -> None:
        script = """
            python3 -c 'import IPython, numpy, pandas, matplotlib.pyplot, requests'
            python --version >&2
            pip list --format=json
        """
        packages = {item["name"].lower(): item["version"] for item in json.loads(await run_(engine, script, user))}
        assert {"numpy", "pandas", "matplotlib", "requests"} <= set(packages)
        assert packages["ipython"].startswith("9.")

    async def test_pip_installs_without_being_refused(
        self, engine: aiodocker.Docker, code_interpreter: str, user: str
    ) -> None:
        # No network is needed to find out whether pip considers this interpreter off limits.
        assert "already satisfied" in await run_(engine, "pip install --no-index requests", user)

    async def test_the_font_cache_is_there(self, engine: aiodocker.Docker, code_interpreter: str, user: str) -> None:
        script = """
            cd ~/.cache/matplotlib; stat -c '%n %Y' *; python3 -c 'import matplotlib.font_manager'; stat -c '%n %Y' *
        """
        before, after = (await run_(engine, script, user)).splitlines()
        assert before == after
        assert before.startswith("fontlist-")

    async def test_node_and_its_tools(self, engine: aiodocker.Docker, code_interpreter: str, user: str) -> None:
        script = "node -p process.versions.node; npm --version; npx --version"
        node, npm, npx = (await run_(engine, script, user)).split()
        assert tuple(map(int, node.split("."))) >= (22, 13)
        assert npm == npx

    async def test_the_usual_programs_and_accounts(
        self, engine: aiodocker.Docker, code_interpreter: str, user: str
    ) -> None:
        script = """
            for program in bash curl git ps jq unzip apt-get; do command -v $program >/dev/null; done
            getent group audio games nogroup users www-data >/dev/null
            touch ~/file ./file
            id -un; pwd; id -u sandbox
        """
        assert (await run_(engine, script, user)).split() == [user, "/workspace", "1000"]


async def run_(engine: aiodocker.Docker, script: str, user: str) -> str:
    return await run(engine, "sandlot/code-interpreter", script, user=user)
