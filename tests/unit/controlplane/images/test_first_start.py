"""Which images a first start builds, and what a sandbox is told whose image is not there yet."""

from __future__ import annotations

from pathlib import Path

import aiodocker
import pytest

from controlplane.errors import RuntimeFailure
from controlplane.images.build import reach
from controlplane.images.first_start import Builds, is_same_image
from controlplane.images.recipes import read_recipes
from execd.launch.versions import load

IMAGES = Path(__file__).parents[4] / "images"


@pytest.mark.parametrize("name", ["sandlot/jupyter", "sandlot/jupyter:latest"])
async def test_an_image_that_is_being_built_says_so(name: str) -> None:
    async with aiodocker.Docker("unix:///nowhere") as engine:
        builds = Builds(engine, IMAGES, print)
        assert builds.reason(name).startswith(f"{name} is being built for the first time: try again")
        assert (
            builds.reason("sandlot/nothing") == builds.reason("python:3.13") == builds.reason("sandlot/jupyter:2") == ""
        )


async def test_an_image_whose_build_has_failed_is_not_said_to_be_built(tmp_path: Path) -> None:
    """Nobody builds it any more, so trying again does not help."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/Dockerfile").write_text("FROM scratch\n")
    async with aiodocker.Docker("unix:///nowhere") as engine:
        builds = Builds(engine, tmp_path, print)
        assert builds.reason("sandlot/one")
        with pytest.raises(RuntimeFailure):
            await builds.finish(print)
        assert builds.reason("sandlot/one") == ""


def test_names_mean_the_same_with_and_without_latest() -> None:
    assert is_same_image("sandlot/a", "sandlot/a:latest")
    assert not is_same_image("sandlot/a", "sandlot/a:1")
    assert is_same_image("host:5000/a", "host:5000/a:latest")
    assert not is_same_image("a@sha256:1", "a")


def test_a_first_start_needs_neither_go_nor_java() -> None:
    """The default pool's image has a stand-in: Python and Node.js."""
    recipes = read_recipes(IMAGES)
    wanted = ["execd", "code-interpreter"]
    assert reach(recipes, wanted, {"code-interpreter"}) == {
        *("base", "fetch", "execd", "python", "node", "code-interpreter")
    }
    assert {"go", "java"} <= reach(recipes, wanted, set())


def test_the_stand_in_falls_back_to_the_same_versions() -> None:
    """What it says of a version that it lacks is what the whole image has by default."""
    folder = IMAGES / "code-interpreter"
    first = {one.variable: one for one in load(str(folder / "first/versions")).declarations}
    text = {path.stem: path.read_text() for path in (folder / "versions").glob("*.toml")}
    assert first.keys() == {"PYTHON_VERSION", "NODE_VERSION"}
    for name, variable in (("python", "PYTHON_VERSION"), ("node", "NODE_VERSION")):
        assert f'default = "{first[variable].default}"' in text[name]
