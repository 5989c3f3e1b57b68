"""What an image is made from, in which order images are built, and what is wrong with a folder, without any engine."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tomllib
from pathlib import Path

import pytest

from controlplane.errors import BadImageFolder, ImageBuildFailed
from controlplane.images import publish
from controlplane.images.recipes import read_recipes

ROOT = Path(__file__).parents[4]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three images: b on a, c on b, with a file that only c copies from beside them."""
    write(tmp_path / "images/a/Dockerfile", "FROM debian:trixie-slim\nCOPY images/a/conf /etc/\n")
    write(tmp_path / "images/a/conf", "one")
    write(tmp_path / "images/b/Dockerfile", "FROM sandlot/a AS tools\nFROM sandlot/a:latest\nRUN true\n")
    write(tmp_path / "images/c/Dockerfile", "FROM sandlot/b\nCOPY --chmod=755 \\\n  shared/ \\\n  images/c/run /opt/\n")
    write(tmp_path / "images/c/run", "run")
    write(tmp_path / "shared/deep/file.py", "pass")
    write(tmp_path / "unrelated", "x")
    return tmp_path / "images"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def digests(folders: Path) -> dict[str, str]:
    return {recipe.name: recipe.digest for recipe in read_recipes(folders)}


def changed(folders: Path, before: dict[str, str]) -> set[str]:
    return {name for name, digest in digests(folders).items() if digest != before[name]}


def test_parents_come_before_their_children(folders: Path) -> None:
    assert [recipe.name for recipe in read_recipes(folders, ["c", "a"])] == ["a", "b", "c"]
    assert [recipe.parents for recipe in read_recipes(folders)] == [(), ("a",), ("b",)]


def test_names_bring_their_parents_and_nothing_else(folders: Path) -> None:
    assert [recipe.name for recipe in read_recipes(folders, ["b"])] == ["a", "b"]


def test_a_stage_copied_from_another_image_makes_it_a_parent(folders: Path) -> None:
    write(folders / "d/Dockerfile", "FROM scratch\nCOPY --from=sandlot/b /etc/ /etc/\n")
    assert read_recipes(folders, ["d"])[-1].parents == ("b",)


def test_the_context_holds_the_folder_and_what_the_dockerfile_copies(folders: Path) -> None:
    paths = [item.path for item in read_recipes(folders)[-1].inputs]
    assert paths == ["images/c/Dockerfile", "images/c/run", "shared/deep/file.py"]


def test_a_change_reaches_the_image_and_all_that_build_on_it(folders: Path) -> None:
    before = digests(folders)
    write(folders / "a/conf", "two")
    assert changed(folders, before) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("shared/deep/file.py", "changed"),
        ("shared/new.py", "added"),
        ("images/c/run", "changed"),
        ("images/c/helper", "added to the folder, read by the build's own tools"),
        ("images/c/Dockerfile", "FROM sandlot/b\nCOPY shared/ images/c/run /opt/\n"),
    ],
)
def test_a_change_of_inputs_changes_only_the_images_that_have_them(folders: Path, path: str, text: str) -> None:
    before = digests(folders)
    write(folders.parent / path, text)
    assert changed(folders, before) == {"c"}


def test_a_removed_input_and_a_new_executable_bit_are_changes(folders: Path) -> None:
    before = digests(folders)
    (folders / "c/run").chmod(0o755)
    assert changed(folders, before) == {"c"}
    write(folders.parent / "shared/second", "")
    before = digests(folders)
    (folders.parent / "shared/deep/file.py").unlink()
    assert changed(folders, before) == {"c"}


def test_what_is_no_input_changes_nothing(folders: Path) -> None:
    before = digests(folders)
    write(folders.parent / "unrelated", "y")
    write(folders / "c/README.md", "for people")
    write(folders / "c/__pycache__/run.cpython-311.pyc", "")
    write(folders.parent / "shared/.mypy_cache/x", "")
    (folders / "c/run").touch()
    assert changed(folders, before) == set()


def test_a_moved_file_is_a_change(folders: Path) -> None:
    before = digests(folders)
    (folders.parent / "shared/deep/file.py").rename(folders.parent / "shared/file.py")
    assert changed(folders, before) == {"c"}


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("b/Dockerfile", "FROM sandlot/nowhere\n", r"image nowhere: there is no .*/nowhere/Dockerfile, which image b"),
        ("a/Dockerfile", "FROM sandlot/c\n", "image a: builds upon itself: a → c → b → a"),
        ("c/Dockerfile", "FROM scratch\nCOPY images/c/ missing/ /\n", "image c: its Dockerfile copies missing/"),
    ],
)
def test_a_bad_folder_is_named(folders: Path, path: str, text: str, message: str) -> None:
    write(folders / path, text)
    with pytest.raises(BadImageFolder, match=message):
        read_recipes(folders)


def test_an_unknown_image_and_a_missing_folder_are_named(folders: Path) -> None:
    with pytest.raises(BadImageFolder, match="image nope: there is no"):
        read_recipes(folders, ["nope"])
    (folders / "python").mkdir()
    (folders / "python" / "Dockerfile").write_text("FROM scratch\n")
    for name in ("pyton", "sandlot/pyton"):
        with pytest.raises(BadImageFolder, match=r"\(did you mean python\?\)$"):
            read_recipes(folders, [name])
    with pytest.raises(BadImageFolder, match="no image folders at /nowhere"):
        read_recipes(Path("/nowhere"))


def test_a_failed_build_names_image_and_step_and_shows_the_output() -> None:
    error = ImageBuildFailed("python", "step 3/9 : RUN pip install", ["Collecting x", "No matching distribution"])
    assert str(error).splitlines() == [
        "image python: failed at step 3/9 : RUN pip install",
        "  | Collecting x",
        "  | No matching distribution",
    ]
    assert error.code == "image.build_failed"


class TestTreeCheck:
    """`is_complete` vouches for the agent's volume: nothing missing, nothing altered, nothing added."""

    FILES = (("bin/python3", b"\x7fELF", 0o755), ("boot.pyc", b"code", 0o644))
    MANIFEST = "".join(f"{hashlib.sha256(data).hexdigest()} {mode:o}  {path}\n" for path, data, mode in FILES)

    @staticmethod
    def tar(files: list[tuple[str, bytes, int]]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            folder = tarfile.TarInfo("execd")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for path, data, mode in files:
                member = tarfile.TarInfo(f"execd/{path}")
                member.size, member.mode = len(data), mode
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def whole(self) -> list[tuple[str, bytes, int]]:
        return [*self.FILES, ("MANIFEST", self.MANIFEST.encode(), 0o644)]

    def test_a_whole_tree_passes(self) -> None:
        assert publish.is_complete(self.tar(self.whole()))

    @pytest.mark.parametrize("left_out", range(3))
    def test_any_missing_file_fails(self, left_out: int) -> None:
        files = self.whole()
        del files[left_out]
        assert not publish.is_complete(self.tar(files))

    def test_an_empty_tree_fails(self) -> None:
        assert not publish.is_complete(self.tar([]))

    def test_an_altered_a_truncated_and_an_added_file_fail(self) -> None:
        for damage in (("boot.pyc", b"c0de", 0o644), ("boot.pyc", b"", 0o644), ("boot.pyc", b"code", 0o600)):
            assert not publish.is_complete(self.tar([self.FILES[0], damage, self.whole()[2]]))
        assert not publish.is_complete(self.tar([*self.whole(), ("extra", b"", 0o644)]))


def test_the_repository_s_own_folders_are_sound() -> None:
    names = [recipe.name for recipe in read_recipes(ROOT / "images")]
    assert names.index("base") < names.index("python") < names.index("code-interpreter")
    assert "execd" in names


def test_the_agent_has_the_library_versions_that_the_project_pins() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    in_tree = (ROOT / "images/execd/requirements.txt").read_text().split()
    assert set(in_tree) <= set(pinned)
