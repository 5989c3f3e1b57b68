"""The file requests over a real link, against a real file system."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from controlplane.errors import AgentError
from controlplane.link.link import Link
from controlplane.link.stream import Data, Stream
from execd.files import serve, tree, write
from execd.files.read import PIECE_BYTES, SMALL_BYTES
from execd.files.serve import Files
from execd.launch.environment import Environment
from execd.wire.messages import (
    DirectoryMake,
    DirectoryRemove,
    Done,
    FileAttributes,
    FileChange,
    FileInfo,
    FileList,
    FileMove,
    FileRead,
    FileRemove,
    FileReplace,
    FileReplaced,
    FileReplacement,
    FileSearch,
    FileStat,
    FileWrite,
    Request,
)
from tests.support.agent.execd_link import control_plane_of
from tests.support.agent.live_agent import LiveAgent

SIZES = [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 3_000_001]

# No file system makes a file without a name by these: then it has one, as on an old overlay.
NO_FLAGS = os.O_RDWR | os.O_DIRECTORY


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    """A link to the file handlers; relative paths are below tmp_path, `~` is its folder `home`."""
    environment = Environment({"HOME": f"{tmp_path}/home"}, str(tmp_path))
    async with control_plane_of(Files(environment).handlers()) as end:
        yield await end.next_link()


async def upload(link: Link, request: FileWrite, data: bytes) -> FileInfo:
    async with await link.open(request) as stream:
        await send(stream, data)
        stream.end()
        info = await stream.expect(FileInfo)
        assert await stream.receive() is None
        return info


async def send(stream: Stream, data: bytes) -> None:
    for at in range(0, len(data), 50_000):
        await stream.write(data[at : at + 50_000])


async def download(link: Link, request: FileRead) -> tuple[FileInfo, bytes]:
    async with await link.open(request) as stream:
        info = await stream.expect(FileInfo)
        return info, await rest(stream)


async def rest(stream: Stream) -> bytes:
    pieces: list[bytes] = []
    while (item := await stream.receive()) is not None:
        assert isinstance(item, Data)
        pieces.append(item.data)
    return b"".join(pieces)


async def replies(link: Link, request: Request) -> list[FileInfo]:
    async with await link.open(request) as stream:
        found: list[FileInfo] = []
        while (item := await stream.receive()) is not None:
            assert isinstance(item, FileInfo)
            found.append(item)
        return found


async def refused(link: Link, request: Request) -> str:
    """Return the code that a request is refused with."""

    async def ask() -> None:
        async with await link.open(request) as stream:
            if isinstance(request, FileWrite):
                stream.end()
            while await stream.receive() is not None:
                pass

    with pytest.raises(AgentError) as caught:
        await ask()
    assert caught.value.message
    return caught.value.code


def names(folder: Path) -> list[str]:
    """What is below a folder, also while it changes."""
    found = (os.path.join(place, name) for place, folders, files in os.walk(folder) for name in folders + files)
    return sorted(os.path.relpath(path, folder) for path in found)


# -- whole files ----------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_written_can_be_read(link: Link, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = f"{tmp_path}/new/folder/file"
    written = await upload(link, FileWrite(path), data)
    info, content = await download(link, FileRead(path))
    assert content == data == (tmp_path / "new/folder/file").read_bytes()
    assert info == written
    assert (info.path, info.kind, info.size, info.mode) == (path, "file", size, 0o644)
    assert (info.owner, info.group) == ("root", "root")
    assert abs(info.modified_at - time.time()) < 60
    assert names(tmp_path) == ["new", "new/folder", "new/folder/file"]


async def test_paths_are_relative_to_the_working_directory_or_home(link: Link, tmp_path: Path) -> None:
    assert (await upload(link, FileWrite("a/file"), b"1")).path == "a/file"
    await upload(link, FileWrite("~/file"), b"2")
    assert (tmp_path / "a/file").read_bytes() == b"1"
    assert (tmp_path / "home/file").read_bytes() == b"2"
    assert [info.path for info in await replies(link, FileStat(("a/file", "~/file")))] == ["a/file", "~/file"]


async def test_mode_and_owner_are_set_by_name_or_number(link: Link, tmp_path: Path) -> None:
    info = await upload(link, FileWrite("file", mode=0o600, owner="daemon", group="4321"), b"x")
    assert (info.mode, info.owner, info.group) == (0o600, "daemon", "4321")
    info = await upload(link, FileWrite("file"), b"y")
    assert (info.mode, info.owner, info.group) == (0o600, "daemon", "4321")


async def test_an_upload_that_cannot_be_changes_nothing(link: Link, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for request, code in (
        (FileWrite("file", owner="nobody-here"), "request.invalid"),
        (FileWrite("file", group="nobody-here"), "request.invalid"),
        (FileWrite("file", mode=0o10000), "request.invalid"),
        (FileWrite("file/below"), "file.not_directory"),
        (FileWrite("folder/"), "file.is_directory"),
        (FileWrite("."), "file.is_directory"),
        (FileWrite("/"), "file.is_directory"),
        (FileWrite("fifo"), "file.not_regular"),
        (FileWrite("/dev/null"), "file.not_regular"),
        (FileWrite("loop"), "file.bad_path"),
        (FileWrite("/proc/new"), "file.not_found"),
    ):
        assert await refused(link, request) == code
    assert names(tmp_path) == ["fifo", "file", "loop"]
    assert (tmp_path / "file").read_text() == "old"


async def test_a_refusal_comes_before_the_content_has_been_sent(link: Link, tmp_path: Path) -> None:
    """The sender learns of it while it still waits for credit."""
    with pytest.raises(AgentError) as caught:
        async with await link.open(FileWrite(str(tmp_path))) as stream:
            await send(stream, bytes(50 << 20))
    assert caught.value.code == "file.is_directory"
    assert link.statistics().bytes_out < 10 << 20


@pytest.mark.parametrize("size", [1000, 2_000_000])
async def test_an_upload_that_is_reset_leaves_nothing(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(write, "_UNNAMED", NO_FLAGS)
    (tmp_path / "file").write_text("old")
    async with await link.open(FileWrite("file")) as stream:
        await send(stream, bytes(size))
        await until(lambda: len(names(tmp_path)) == 2)
    await until(lambda: names(tmp_path) == ["file"])
    assert (tmp_path / "file").read_text() == "old"


async def test_an_upload_whose_link_is_lost_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_UNNAMED", NO_FLAGS)
    async with control_plane_of(Files(Environment({}, str(tmp_path))).handlers()) as end:
        link = await end.next_link()
        stream = await link.open(FileWrite("a/b/file"))
        await send(stream, bytes(2_000_000))
        await until(lambda: len(names(tmp_path)) == 3)
        await link.aclose()
        await until(lambda: names(tmp_path) == [])


async def test_an_upload_has_no_name_until_it_is_whole(tmp_path: Path) -> None:
    """So that nothing stays of it, whoever ends execd at whatever moment: not in a volume that outlives the sandbox."""
    async with control_plane_of(Files(Environment({}, str(tmp_path))).handlers()) as end:
        link = await end.next_link()
        stream = await link.open(FileWrite("file"))
        await send(stream, bytes(2_000_000))
        await until(lambda: unnamed_in(tmp_path))
        assert names(tmp_path) == []
        await link.aclose()
        await until(lambda: not unnamed_in(tmp_path))


def unnamed_in(folder: Path) -> bool:
    """Whether this process has a file open that has no name in that directory."""
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(f"{folder}/") and target.endswith(" (deleted)"):
                return True
    return False


def open_in(folder: Path) -> bool:
    """Whether this process has that directory open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == str(folder):
                return True
        except FileNotFoundError:
            pass  # the one that listed them
    return False


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (it is the file system that changes: there is no event)
            await asyncio.sleep(0)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def unmount(folder: str | Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def full_disk() -> Iterator[Path]:
    """A file system of one MiB."""
    with tempfile.TemporaryDirectory(prefix="sandlot-") as folder:
        mount("-t", "tmpfs", "-o", "size=1m", "sandlot-test", folder)
        try:
            yield Path(folder)
        finally:
            unmount(folder)


@pytest.mark.parametrize("size", [SMALL_BYTES, 5_000_000])
async def test_an_upload_to_a_full_disk_changes_nothing(link: Link, full_disk: Path, size: int) -> None:
    (full_disk / "file").write_bytes(b"old")
    (full_disk / "filler").write_bytes(bytes((1 << 20) - 2 * 4096 - 8192))
    with pytest.raises(AgentError) as caught:
        await upload(link, FileWrite(f"{full_disk}/file"), bytes(size))
    assert caught.value.code == "file.no_space"
    with pytest.raises(AgentError) as caught:
        await upload(link, FileWrite(f"{full_disk}/new/folder/file"), bytes(size))
    assert caught.value.code == "file.no_space"
    assert names(full_disk) == ["file", "filler"]
    assert (full_disk / "file").read_bytes() == b"old"
    (full_disk / "filler").unlink()
    await upload(link, FileWrite(f"{full_disk}/file"), bytes(SMALL_BYTES))
    assert (full_disk / "file").stat().st_size == SMALL_BYTES


async def test_text_replaced_on_a_full_disk_changes_nothing(link: Link, full_disk: Path) -> None:
    (full_disk / "file").write_bytes(b"ab" * 50_000)
    request = FileReplace((FileReplacement(f"{full_disk}/file", "a", "x" * 1000),))
    assert await refused(link, request) == "file.no_space"
    assert (full_disk / "file").read_bytes() == b"ab" * 50_000
    assert names(full_disk) == ["file"]


async def test_nothing_can_be_changed_on_a_read_only_file_system(link: Link, full_disk: Path) -> None:
    (full_disk / "file").write_text("old")
    (full_disk / "folder").mkdir()
    mount("-o", "remount,ro", full_disk)
    for request in (
        FileWrite(f"{full_disk}/file"),
        FileWrite(f"{full_disk}/new"),
        FileWrite(f"{full_disk}/new/file"),
        FileRemove((f"{full_disk}/file",)),
        FileMove(((f"{full_disk}/file", f"{full_disk}/moved"),)),
        FileChange((FileAttributes(f"{full_disk}/file", mode=0o600),)),
        FileReplace((FileReplacement(f"{full_disk}/file", "old", "new"),)),
        DirectoryMake((FileAttributes(f"{full_disk}/new"),)),
        DirectoryRemove((f"{full_disk}/folder",)),
    ):
        assert await refused(link, request) == "file.denied"
    assert (await download(link, FileRead(f"{full_disk}/file")))[1] == b"old"


# -- parts of files ----------------------------------------


@pytest.mark.parametrize("size", [1000, 2_000_000])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (10, None), (999, 1), (-10, None), (-10, 4), (0, 0), (5, 1 << 40), (-(1 << 40), 3)]
)
async def test_a_range_of_bytes(link: Link, tmp_path: Path, size: int, offset: int, length: int | None) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    info, content = await download(link, FileRead("file", offset=offset, length=length))
    start = max(0, size + offset) if offset < 0 else offset
    assert content == data[start:][:length]
    assert info.size == size


async def test_a_range_that_cannot_be(link: Link, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    assert await refused(link, FileRead("file", offset=1000)) == "file.range"
    assert await refused(link, FileRead("file", offset=1 << 62)) == "file.range"
    assert await refused(link, FileRead("file", length=-1)) == "request.invalid"
    assert await refused(link, FileRead("file", offset=1, first_line=1)) == "request.invalid"
    assert await refused(link, FileRead("file", first_line=0)) == "request.invalid"
    assert await refused(link, FileRead("file", lines=-1)) == "request.invalid"


async def test_parts_of_a_huge_sparse_file_are_read_where_they_are(link: Link, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 1 << 40)
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"in the middle", 1 << 39)
    os.close(fd)
    info, content = await download(link, FileRead("file", offset=(1 << 39) - 2, length=8))
    assert content == b"\0\0in the"
    assert info.size == 1 << 40
    assert (await download(link, FileRead("file", offset=-3)))[1] == b"\0\0\0"


@pytest.mark.parametrize(
    ("first", "lines"),
    [(1, 3), (1, None), (None, 2), (2, 0), (40_000, 20_000), (99_999, None), (99_999, 9), (10**9, 1)],
)
@pytest.mark.parametrize("count", [10, 100_000])
async def test_a_window_of_lines(link: Link, tmp_path: Path, count: int, first: int | None, lines: int | None) -> None:
    whole = [b"line %d of a file" % number if number % 3 else b"" for number in range(count)] + [b"the end"]
    start = (first or 1) - 1
    for newline, end in ((b"\n", b""), (b"\r\n", b"\r\n")):
        (tmp_path / "file").write_bytes(newline.join(whole) + end)
        _, content = await download(link, FileRead("file", first_line=first, lines=lines))
        assert content == b"\n".join(whole[start:] if lines is None else whole[start : start + lines])


async def test_files_of_the_kernel_are_as_long_as_their_content(link: Link) -> None:
    """In /proc they say 0 and hold something, in /sys they say 4096 and hold less."""
    for path in ("/proc/self/mountinfo", "/proc/cpuinfo", "/sys/kernel/mm/transparent_hugepage/enabled"):
        info, content = await download(link, FileRead(path))
        assert info.size == len(content) > 0
    _, content = await download(link, FileRead("/proc/self/mountinfo", first_line=2, lines=1))
    assert content
    assert b"\n" not in content


async def test_a_file_that_shrinks_while_it_is_read_ends_with_an_error(link: Link, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8_000_000))
    async with await link.open(FileRead("file")) as stream:
        assert (await stream.expect(FileInfo)).size == 8_000_000
        os.truncate(tmp_path / "file", 1000)
        with pytest.raises(AgentError, match="shorter") as caught:
            await rest(stream)
    assert caught.value.code == "file.failed"


async def test_a_file_that_grows_while_it_is_read_gives_what_was_promised(link: Link, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    async with await link.open(FileRead("file")) as stream:
        size = (await stream.expect(FileInfo)).size
        os.truncate(tmp_path / "file", 6_000_000)
        assert len(await rest(stream)) == size == 3_000_000


async def test_what_is_no_regular_file_is_not_read(link: Link, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/socket")
        for path, code in (
            ("fifo", "file.not_regular"),
            ("socket", "file.not_regular"),
            ("/dev/zero", "file.not_regular"),
            (".", "file.is_directory"),
            ("nothing", "file.not_found"),
            ("fifo/below", "file.not_directory"),
        ):
            assert await refused(link, FileRead(path)) == code


async def test_a_slow_reader_stops_only_itself(link: Link, tmp_path: Path) -> None:
    data = os.urandom(8_000_000)
    (tmp_path / "large").write_bytes(data)
    async with await link.open(FileRead("large")) as slow:
        await slow.expect(FileInfo)
        for _ in range(5):
            assert (await download(link, FileRead("large")))[1] == data
            await upload(link, FileWrite("other"), data)
        assert await rest(slow) == data


async def test_a_slow_writer_stops_only_itself(link: Link, tmp_path: Path) -> None:
    async with await link.open(FileWrite("slow")) as slow:
        await slow.write(b"first ")
        for number in range(20):
            await upload(link, FileWrite(f"other{number}"), bytes(100_000))
        await slow.write(b"second")
        slow.end()
        await slow.expect(FileInfo)
    assert (tmp_path / "slow").read_bytes() == b"first second"


# -- changes at once ----------------------------------------


async def test_replacements_at_once_all_land(link: Link, tmp_path: Path) -> None:
    """Whoever edits a file in several places at once finds all edits in it: by its name, a symlink or a hard link."""
    wanted = "".join(f"[{number}]" for number in range(40))
    (tmp_path / "file").write_text(wanted.replace("[", "<").replace("]", ">") + "x" * SMALL_BYTES)
    (tmp_path / "link").symlink_to("file")
    paths = ["file", "link", str(tmp_path / "file"), "./file"]

    found = await asyncio.gather(
        *(
            link.call(FileReplace((FileReplacement(paths[number % 4], f"<{number}>", f"[{number}]"),)), FileReplaced)
            for number in range(40)
        )
    )

    assert [replaced.count for replaced in found] == [1] * 40
    assert (tmp_path / "file").read_text() == wanted + "x" * SMALL_BYTES
    assert names(tmp_path) == ["file", "link"]


async def test_of_moves_to_one_place_one_succeeds(link: Link, tmp_path: Path) -> None:
    """The others are told, and their files are where they were."""
    for number in range(20):
        (tmp_path / f"{number}").write_text(f"{number}")

    moves = [link.call(FileMove(((f"{number}", "new/place"),)), Done) for number in range(20)]
    answers = await asyncio.gather(*moves, return_exceptions=True)

    (moved,) = [number for number, answer in enumerate(answers) if isinstance(answer, Done)]
    refusals = {answer.code for answer in answers if isinstance(answer, AgentError)}
    assert (len(answers), refusals) == (20, {"file.exists"})
    assert (tmp_path / "new/place").read_text() == f"{moved}"
    assert names(tmp_path) == sorted([*(f"{number}" for number in range(20) if number != moved), "new", "new/place"])


async def test_a_change_of_mode_is_not_lost_to_an_upload(link: Link, tmp_path: Path) -> None:
    """The new content has the mode that the file has when it takes the file's place."""
    (tmp_path / "file").write_text("old")
    async with await link.open(FileWrite("file")) as stream:
        await stream.write(b"new")
        await link.call(FileChange((FileAttributes("file", mode=0o600),)), Done)
        stream.end()
        assert (await stream.expect(FileInfo)).mode == 0o600
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


async def test_what_is_removed_at_once_with_a_replacement_is_gone(link: Link, tmp_path: Path) -> None:
    """A replacement does not bring a file back."""
    for number in range(20):
        (tmp_path / "file").write_text("x" * 1_000_000)
        replacing = asyncio.ensure_future(link.call(FileReplace((FileReplacement("file", "xx", "y"),)), FileReplaced))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        await link.call(FileRemove(("file",)), Done)
        await asyncio.wait([replacing])
        if (error := replacing.exception()) is not None:
            assert isinstance(error, AgentError)
            assert error.code == "file.not_found"
        assert names(tmp_path) == []


# -- paths ----------------------------------------


@pytest.mark.parametrize("path", ["", "a\0b", "..", "a/../b", "/../etc/passwd", "x" * 256, "/d" * 3000, "~/../x"])
async def test_a_path_that_cannot_be_is_refused_everywhere(link: Link, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    for request in (
        FileRead(path),
        FileWrite(path),
        FileStat(("file", path)),
        FileList(path),
        FileSearch(path, "*"),
        FileRemove(("file", path)),
        FileMove((("file", path),)),
        FileMove(((path, "other"),)),
        FileChange((FileAttributes("file", mode=0), FileAttributes(path, mode=0))),
        FileReplace((FileReplacement(path, "a", "b"),)),
        DirectoryMake((FileAttributes("new"), FileAttributes(path))),
        DirectoryRemove((path,)),
    ):
        assert await refused(link, request) == "file.bad_path"
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


async def test_a_path_of_two_thousand_levels(link: Link) -> None:
    """As long as a path can be. (In a directory of its own: the length of any other counts, too.)"""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="s") as folder:
        path = f"{folder}/" + "d/" * 2000 + "file"
        await upload(link, FileWrite(path), b"deep")
        assert (await download(link, FileRead(path)))[1] == b"deep"
        (found,) = await replies(link, FileSearch(folder, "file"))
        assert found.path == path
        assert len(await replies(link, FileList(folder, depth=5000))) == 2001
        assert isinstance(await link.call(DirectoryRemove((f"{folder}/d",)), Done), Done)
        assert os.listdir(folder) == []


async def test_names_of_any_bytes_are_listed_found_and_removed(link: Link, tmp_path: Path) -> None:
    for name in (b"new\nline", b"\xff\xfe", b"tab\t", "ü".encode(), b"-rf", b"*"):
        os.mknod(os.fsencode(tmp_path) + b"/" + name)
    expected = ["*", "-rf", "new\nline", "tab\t", "ü", "\ufffd\ufffd"]
    assert [info.path.removeprefix(f"{tmp_path}/") for info in await replies(link, FileList("."))] == expected
    assert len(await replies(link, FileSearch(".", "*"))) == 6
    assert [info.path for info in await replies(link, FileSearch(".", "*\n*"))] == [f"{tmp_path}/new\nline"]
    await link.call(FileRemove((f"{tmp_path}/new\nline", f"{tmp_path}/ü")), Done)
    await link.call(DirectoryRemove((str(tmp_path),)), Done)
    assert tmp_path.name not in os.listdir(tmp_path.parent)


# -- what is there ----------------------------------------


async def test_stat_tells_symlinks_from_what_they_lead_to(link: Link, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    infos = await replies(link, FileStat(("folder", "link", "fifo", "/dev/null")))
    assert [info.kind for info in infos] == ["directory", "symlink", "other", "other"]
    assert await refused(link, FileStat(("folder", "nothing"))) == "file.not_found"


async def test_many_paths_in_one_request(link: Link, tmp_path: Path) -> None:
    paths = tuple(f"{number:05}" for number in range(3000))
    for path in paths:
        (tmp_path / path).touch()
    assert tuple(info.path for info in await replies(link, FileStat(paths))) == paths
    await link.call(FileRemove(paths), Done)
    assert names(tmp_path) == []


async def test_a_listing_is_in_order_and_as_deep_as_asked(link: Link, tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("z", "b/y", "b/c/x", "a"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("b")

    async def listed(path: str, depth: int) -> list[str]:
        return [info.path.removeprefix(f"{tmp_path}/") for info in await replies(link, FileList(path, depth))]

    assert await listed(".", 1) == ["a", "b", "link", "z"]
    assert await listed(".", 2) == ["a", "b", "b/c", "b/y", "link", "z"]
    assert await listed(".", 9) == ["a", "b", "b/c", "b/c/x", "b/y", "link", "z"]
    assert await listed("link", 1) == ["link/c", "link/y"]
    assert await refused(link, FileList("a")) == "file.not_directory"
    assert await refused(link, FileList("nothing")) == "file.not_found"
    assert await refused(link, FileList(".", 0)) == "request.invalid"


async def test_listings_and_searches_are_bounded(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(10):
            (tmp_path / folder / f"{number}").touch()
    monkeypatch.setattr(serve, "MAX_RESULTS", 15)
    assert await refused(link, FileList(".", 2)) == "request.invalid"
    assert len(await replies(link, FileList("a"))) == 10
    assert len(await replies(link, FileSearch(".", "[0-6]"))) == 14
    monkeypatch.setattr(serve, "MAX_VISITED", 15)
    assert await refused(link, FileSearch(".", "[0-6]")) == "request.invalid"
    monkeypatch.setattr(tree, "MAX_DIRECTORY_ENTRIES", 9)
    assert await refused(link, FileList("a")) == "request.invalid"


async def test_an_abandoned_listing_ends(link: Link, tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number}").touch()
    async with await link.open(FileList(".")) as stream:
        await stream.receive()
        assert open_in(tmp_path)
    await until(lambda: not open_in(tmp_path))


async def test_a_search_matches_names_or_with_a_slash_paths(link: Link, tmp_path: Path) -> None:
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "tests.py").mkdir()
    for name in ("top.py", "src/a.py", "src/deep/b.py", "src/deep/c.txt"):
        (tmp_path / name).touch()

    async def found(pattern: str) -> list[str]:
        return [info.path.removeprefix(f"{tmp_path}/") for info in await replies(link, FileSearch(".", pattern))]

    assert await found("*.py") == ["src/a.py", "src/deep/b.py", "top.py"]
    assert await found("src/*") == ["src/a.py"]
    assert await found("src/**/*.{py,txt}") == ["src/a.py", "src/deep/b.py", "src/deep/c.txt"]
    assert await found("nothing") == []
    assert await refused(link, FileSearch(".", "")) == "request.invalid"
    assert await refused(link, FileSearch("top.py", "*")) == "file.not_directory"


# -- changing ----------------------------------------


async def test_files_are_removed_symlinks_not_followed_missing_ones_ignored(link: Link, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/kept").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "link2").symlink_to("folder/kept")
    (tmp_path / "file").touch()
    assert await refused(link, FileRemove(("file", "folder"))) == "file.is_directory"
    assert (tmp_path / "file").exists()
    await link.call(FileRemove(("file", "link", "link2", "nothing")), Done)
    assert names(tmp_path) == ["folder", "folder/kept"]


async def test_directories_are_removed_but_never_through_a_symlink(link: Link, tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "folder/out").symlink_to("../kept")
    (tmp_path / "link").symlink_to("kept")
    assert await refused(link, DirectoryRemove(("folder", "link"))) == "file.not_directory"
    assert await refused(link, DirectoryRemove(("folder", "link/"))) == "file.not_directory"
    assert await refused(link, DirectoryRemove(("folder", "kept/file"))) == "file.not_directory"
    assert (tmp_path / "folder/deep").exists()
    await link.call(DirectoryRemove(("folder", "nothing", "folder/deep")), Done)
    assert names(tmp_path) == ["kept", "kept/file", "link"]


async def test_the_root_directory_is_never_removed() -> None:
    """Asked of an execd to which everything is read-only, should it ever obey."""
    read_only = ("unshare", "--mount", "sh", "-c", 'mount -o bind,remount,ro / && exec "$@"', "sh")
    async with LiveAgent(cwd=Path("/"), prefix=read_only) as agent:
        assert await refused(agent.link, FileWrite("/tmp/new")) == "file.denied"
        for root in ("/", "//", "/./", ".", "./"):
            assert await refused(agent.link, DirectoryRemove((root,))) == "file.bad_path"


async def test_an_abandoned_removal_stops(link: Link, tmp_path: Path) -> None:
    """Thousands of files take longer than the reset. What is left then is left for good."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number}").touch()
    async with await link.open(DirectoryRemove(("folder",))):
        await until(lambda: len(os.listdir(folder)) < 10_000)
    await until(lambda: not open_in(folder))
    assert 0 < len(os.listdir(folder)) < 10_000


async def test_moves_are_checked_before_the_first_one(link: Link, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "folder").mkdir()
    for pairs, code in (
        ((("a", "new"), ("b", "a")), "file.exists"),
        ((("a", "new"), ("b", "new")), "file.exists"),
        ((("a", "new"), ("nothing", "other")), "file.not_found"),
        ((("a", "new"), ("folder", "folder/inner/new")), "file.bad_path"),
        ((("a", "new"), ("/", "other")), "file.bad_path"),
        ((("a", "new"), ("b", "b/below")), "file.not_directory"),
        ((("a", "a"),), "file.exists"),
    ):
        assert await refused(link, FileMove(pairs)) == code
    assert names(tmp_path) == ["a", "b", "folder"]
    await link.call(FileMove((("a", "x/y/a"), ("folder", "x/folder"))), Done)
    assert names(tmp_path) == ["b", "x", "x/folder", "x/y", "x/y/a"]


async def test_a_move_to_a_full_disk_leaves_the_source(link: Link, tmp_path: Path, full_disk: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/large").write_bytes(bytes(2_000_000))
    assert await refused(link, FileMove((("folder", f"{full_disk}/x/folder"),))) == "file.no_space"
    assert names(full_disk) == []
    (tmp_path / "folder/large").write_bytes(bytes(20_000))
    await link.call(FileMove((("folder", f"{full_disk}/x/folder"),)), Done)
    assert names(full_disk) == ["x", "x/folder", "x/folder/large"]
    assert names(tmp_path) == []


async def test_a_directory_of_an_image_moves_in_a_container_s_layers(link: Link, tmp_path: Path) -> None:
    """In an overlay a directory of the lower layer cannot be renamed, and its identity is the overlay's own."""
    for layer in ("lower/folder/deep", "upper", "work", "merged"):
        (tmp_path / layer).mkdir(parents=True)
    (tmp_path / "lower/folder/deep/file").write_text("from the image")
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    merged = tmp_path / "merged"
    mount("-t", "overlay", "overlay", "-o", options, merged)
    try:
        await link.call(FileMove(((f"{merged}/folder", f"{merged}/moved"),)), Done)
        assert names(merged) == ["moved", "moved/deep", "moved/deep/file"]
        assert len(await replies(link, FileList(str(merged), 9))) == 3
        await link.call(DirectoryRemove((f"{merged}/moved",)), Done)
        assert names(merged) == []
    finally:
        unmount(merged)


async def test_attributes_are_changed_all_or_none(link: Link, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    missing = (FileAttributes("file", mode=0o600), FileAttributes("nothing", mode=0o600))
    assert await refused(link, FileChange(missing)) == "file.not_found"
    unknown = (FileAttributes("file", mode=0o600), FileAttributes("file", owner="nobody-here"))
    assert await refused(link, FileChange(unknown)) == "request.invalid"
    assert (await replies(link, FileStat(("file",))))[0].mode == 0o644
    await link.call(FileChange((FileAttributes("file", mode=0o4755, owner="daemon", group="12345"),)), Done)
    (info,) = await replies(link, FileStat(("file",)))
    assert (info.mode, info.owner, info.group) == (0o4755, "daemon", "12345")


async def test_text_is_replaced_and_counted(link: Link, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("grün und grün")
    (tmp_path / "b").write_text("blau")
    request = FileReplace((FileReplacement("a", "grün", "rot"), FileReplacement("b", "grün", "rot")))
    async with await link.open(request) as stream:
        assert await stream.expect(FileReplaced) == FileReplaced("a", 2)
        assert await stream.expect(FileReplaced) == FileReplaced("b", 0)
        assert await stream.receive() is None
    assert (tmp_path / "a").read_text() == "rot und rot"
    assert await refused(link, FileReplace((FileReplacement("a", "", "x"),))) == "request.invalid"
    assert await refused(link, FileReplace((FileReplacement("nothing", "a", "x"),))) == "file.not_found"


async def test_directories_are_made_with_parents_and_attributes(link: Link, tmp_path: Path) -> None:
    await link.call(DirectoryMake((FileAttributes("a/b", mode=0o700, owner="daemon"), FileAttributes("a/c"))), Done)
    infos = await replies(link, FileStat(("a", "a/b", "a/c")))
    assert [(info.mode, info.owner) for info in infos] == [(0o755, "root"), (0o700, "daemon"), (0o755, "root")]
    (tmp_path / "file").touch()
    assert await refused(link, DirectoryMake((FileAttributes("file"),))) == "file.not_directory"


# -- speed ----------------------------------------


async def test_throughput_and_round_trips_of_a_real_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 MiB up and down and a thousand small files; the numbers are for reading, the bytes are checked."""
    data = os.urandom(64 << 20)
    small = data[:1024]
    async with LiveAgent(cwd=tmp_path) as agent:
        began = time.perf_counter()
        await upload(agent.link, FileWrite("large"), data)
        up_s = time.perf_counter() - began
        began = time.perf_counter()
        _, content = await download(agent.link, FileRead("large"))
        down_s = time.perf_counter() - began
        assert content == data
        writes: list[float] = []
        reads: list[float] = []
        for number in range(500):
            began = time.perf_counter()
            await upload(agent.link, FileWrite(f"small{number % 10}"), small)
            writes.append(time.perf_counter() - began)
            began = time.perf_counter()
            _, content = await download(agent.link, FileRead(f"small{number % 10}"))
            reads.append(time.perf_counter() - began)
            assert content == small
    with capsys.disabled():
        print(  # noqa: T201 (for whoever reads the run)
            f"\nfiles: 64 MiB up {64 / up_s:.0f} MiB/s, down {64 / down_s:.0f} MiB/s; 1 KB write p50 "
            f"{statistics.median(writes) * 1e3:.2f} ms, read p50 {statistics.median(reads) * 1e3:.2f} ms"
        )
