"""The console's pages, copied out of an image on the real engine; and the checks of their sources."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiodocker
import pytest

from controlplane.errors import ImageError, ImageMissing
from controlplane.images import recipes
from controlplane.images.build import build_images
from controlplane.images.pages import publish_pages

ROOT = Path(__file__).parents[3]
NAME = "test-pages"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def listing(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files if path.name != ".image"}


@pytest.fixture
async def root(engine: aiodocker.Docker, tmp_path: Path) -> AsyncIterator[Path]:
    """Sources of an image that has pages."""
    write(tmp_path / f"images/{NAME}/Dockerfile", f'FROM scratch\nCOPY images/{NAME}/tree/ /dist/\nCMD ["/none"]\n')
    write(tmp_path / f"images/{NAME}/tree/index.html", f"first {tmp_path.name}")
    write(tmp_path / f"images/{NAME}/tree/assets/a.js", "a")
    yield tmp_path
    if await engine.images.list(filters={"reference": [f"sandlot/{NAME}"]}):
        await engine.images.delete(f"sandlot/{NAME}", force=True)


async def publish(engine: aiodocker.Docker, root: Path) -> bool:
    [built] = await build_images(engine, root / "images", [NAME], lambda _: None)
    return await publish_pages(engine, lambda _: None, dist=root / "dist", image=built.tag)


async def test_pages_are_copied_once(engine: aiodocker.Docker, root: Path) -> None:
    assert await publish(engine, root)
    assert listing(root / "dist") == {"index.html": f"first {root.name}", "assets/a.js": "a"}
    assert not await publish(engine, root)


async def test_new_pages_replace_old_ones(engine: aiodocker.Docker, root: Path) -> None:
    await publish(engine, root)
    write(root / f"images/{NAME}/tree/index.html", "second")
    (root / f"images/{NAME}/tree/assets/a.js").rename(root / f"images/{NAME}/tree/assets/b.js")
    assert await publish(engine, root)
    assert listing(root / "dist") == {"index.html": "second", "assets/b.js": "a"}


@pytest.mark.parametrize("lost", ["index.html", ".image"])
async def test_pages_that_somebody_removed_are_copied_again(engine: aiodocker.Docker, root: Path, lost: str) -> None:
    await publish(engine, root)
    (root / "dist" / lost).unlink()
    assert await publish(engine, root)
    assert (root / "dist/index.html").is_file()


async def test_an_image_without_pages_replaces_nothing(engine: aiodocker.Docker, root: Path) -> None:
    await publish(engine, root)
    (root / f"images/{NAME}/tree/index.html").unlink()
    with pytest.raises(ImageError, match=r"no index\.html"):
        await publish(engine, root)
    assert listing(root / "dist")["index.html"] == f"first {root.name}"
    leftovers = await engine.containers.list(all=True, filters={"ancestor": [f"sandlot/{NAME}"]})
    assert leftovers == []


async def test_a_folder_that_cannot_be_made_is_named(engine: aiodocker.Docker, root: Path) -> None:
    write(root / "dist", "a file")
    with pytest.raises(ImageError, match=f"cannot be written to {root / 'dist'}"):
        await publish(engine, root)


async def test_without_the_image_it_says_what_to_run(engine: aiodocker.Docker, tmp_path: Path) -> None:
    with pytest.raises(ImageMissing, match="run `sandlot images build console`"):
        await publish_pages(engine, print, dist=tmp_path, image="sandlot/no-such-pages:latest")


@pytest.mark.timeout(600)  # the first time, packages are fetched for the image
async def test_sources_have_no_errors_of_types_and_pass_their_tests(engine: aiodocker.Docker) -> None:
    """In the container in which the pages are built, without a network."""
    await build_images(engine, ROOT / "images", ["console"], lambda _: None)
    [console] = [recipe for recipe in recipes.read_recipes(ROOT / "images", ["console"]) if recipe.name == "console"]
    command = ["docker", "run", "--rm", "--network", "none", console.stage_tag("build")]
    script = "cd /web && npm run check && npm test"
    ended = await asyncio.to_thread(
        subprocess.run, [*command, "sh", "-c", script], capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_lock_file_names_no_registry_and_has_every_checksum() -> None:
    lines = (ROOT / "controlplane/console/web/package-lock.json").read_text().splitlines()
    assert [line for line in lines if '"resolved"' in line] == []
    versions = sum(line.startswith('      "version"') for line in lines)
    assert versions == sum(line.startswith('      "integrity"') for line in lines) > 20
