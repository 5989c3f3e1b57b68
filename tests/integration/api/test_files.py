"""Files over HTTP, on a real execd's file system."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server.api_server import SANDBOX_ID, Edge

BOUNDARY = "sandlot-test-boundary"
CONTENT_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"--{BOUNDARY}--\r\n".encode()


def part(name: str, content: bytes, more: str = "") -> bytes:
    """One part of a multipart body."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n{more}\r\n'
    return head.encode() + content + b"\r\n"


def metadata(path: Path | str, **fields: Any) -> bytes:
    """A metadata part, with the nulls that the SDK sends."""
    return part("metadata", json.dumps({"path": str(path), "owner": None, "group": None, **fields}).encode())


def pair(path: Path | str, content: bytes, **fields: Any) -> bytes:
    """A metadata part and its file part."""
    return metadata(path, **fields) + part("file", content)


def files(directory: Path) -> dict[str, bytes]:
    """The files in a directory, by name, with their content."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def everything(directory: Path) -> list[str]:
    """All names below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def upload(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    """POST /files/upload."""
    return await client.post("/files/upload", content=body, headers=CONTENT_TYPE)


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    """A body that is sent with chunked encoding, in pieces of that size."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


async def test_a_file_comes_back_as_it_was_sent(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Every byte, with its mode; parents are made; the answer names the file and its length."""
    path = tmp_path / "new" / "grün & 'x'.bin"
    content = os.urandom(3 << 20) + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r\n--"

    sent = await upload(client, pair(path, content, mode=640) + END)
    got = await client.get("/files/download", params={"path": str(path)})

    assert (sent.status_code, sent.content) == (200, b"")
    assert path.read_bytes() == got.content == content
    assert path.stat().st_mode & 0o7777 == 0o640
    assert got.headers["content-length"] == str(len(content))
    assert got.headers["content-type"] == "application/octet-stream"
    assert "filename*=UTF-8''gr%C3%BCn%20%26%20%27x%27.bin" in got.headers["content-disposition"]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_parts_are_read_however_they_are_cut(client: httpx.AsyncClient, tmp_path: Path, size: int) -> None:
    """Several files in one body, chunked, also an empty one."""
    contents = {"a": b"first\r\n", "b": b"", "c": b"\r\n--" * 50}
    body = b"".join(pair(tmp_path / name, content) for name, content in contents.items()) + END

    response = await client.post("/files/upload", content=in_chunks(body, size), headers=CONTENT_TYPE)

    assert response.status_code == 200, response.text
    assert files(tmp_path) == contents


@pytest.mark.attack(
    "resources",
    "a client asks for a replacement in thousands of files and leaves",
    "the work ends with its client, and no temporary file is left",
)
async def test_a_replacement_ends_with_its_client(edge: Edge, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """What was replaced until then is whole; the rest is as it was."""
    paths = [tmp_path / f"{number:05}" for number in range(4000)]
    for path in paths:
        path.write_text("old")
    body = {str(path): {"old": "old", "new": "new"} for path in paths}
    asking = asyncio.ensure_future(client.post("/files/replace", json=body, timeout=60))
    await until(lambda: paths[0].read_text() == "new")
    asking.cancel()
    await asyncio.wait([asking])
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    await until(lambda: not link.statistics().streams)

    texts = [path.read_text() for path in paths]
    replaced = texts.count("new")
    assert 0 < replaced < len(paths)
    assert texts == ["new"] * replaced + ["old"] * (len(paths) - replaced)
    assert everything(tmp_path) == [path.name for path in paths]


async def test_bad_uploads_are_refused(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Each with the contract's code, and nothing is written."""
    path = tmp_path / "x"
    bodies = {
        END: "INVALID_FILE",
        b"": "INVALID_FILE_CONTENT",
        b"nonsense": "INVALID_FILE_CONTENT",
        part("file", b"x") + END: "INVALID_FILE_METADATA",
        part("metadata", b"{") + part("file", b"x") + END: "INVALID_FILE_METADATA",
        part("metadata", b"[]") + part("file", b"x") + END: "INVALID_FILE_METADATA",
        part("metadata", b" " * 70_000) + part("file", b"x") + END: "INVALID_FILE_METADATA",
        metadata(path) + END: "INVALID_FILE",
        metadata(path) + pair(path, b"x") + END: "INVALID_FILE_CONTENT",
        part("other", b"x") + END: "INVALID_FILE_CONTENT",
        pair("", b"x") + END: "INVALID_FILE_METADATA",
        pair("/a\0b", b"x") + END: "INVALID_FILE_METADATA",
        pair(path, b"x", mode=999) + END: "INVALID_FILE_METADATA",
        pair(path, b"x", mode=-5) + END: "INVALID_FILE_METADATA",
        pair(path, b"x", mode="755") + END: "INVALID_FILE_METADATA",
        pair(path, b"x" * 100)[:-50]: "INVALID_FILE_CONTENT",
        metadata(path, owner="no-such-user") + part("file", b"x") + END: "INVALID_REQUEST_BODY",
    }
    for body, code in bodies.items():
        response = await upload(client, body)

        assert (response.status_code, response.json()["code"]) == (400, code), body[:200]
    plain = await client.post("/files/upload", json={})
    assert (plain.status_code, plain.json()["code"]) == (400, "INVALID_FILE_CONTENT")
    assert everything(tmp_path) == []


async def test_an_upload_that_breaks_off_leaves_the_old_file(
    edge: Edge, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Half a file never stands where a whole one stood; files before it in the body have been written and stay."""
    path, before = tmp_path / "x", tmp_path / "before"
    path.write_bytes(b"old")
    body = pair(before, b"whole") + pair(path, b"n" * 500_000)
    host, _, port = edge.address.partition(":")

    reader, writer = await asyncio.open_connection(host, int(port))
    url = f"{edge.proxy}/44772/files/upload".removeprefix(edge.url)
    head = f"POST {url} HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {edge.token}\r\n"
    head += f"Content-Type: {CONTENT_TYPE['Content-Type']}\r\nContent-Length: {len(body) + len(END)}\r\n\r\n"
    writer.write(head.encode() + body[:-200_000])
    await writer.drain()
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    await until(lambda: link.statistics().bytes_out > 250_000)  # it is being written
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await reader.read()

    await until(lambda: not link.statistics().streams)
    await until(lambda: len(everything(tmp_path)) == 2)  # what was half written is taken away
    assert files(tmp_path) == {"x": b"old", "before": b"whole"}
    assert (await client.get("/ping")).status_code == 200


@pytest.mark.parametrize(
    ("header", "status", "expected", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=8-300", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=5-2", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=x-", 416, None, "bytes */10"),
        ("bytes=-", 416, None, "bytes */10"),
        ("bytes=99999999999999999999999-", 416, None, "bytes */10"),
        ("bytes=0-9223372036854775807", 206, b"0123456789", "bytes 0-9/10"),
        (f"bytes=2-{'9' * 5000}", 206, b"23456789", "bytes 2-9/10"),
        (f"bytes=-{'9' * 5000}", 206, b"0123456789", "bytes 0-9/10"),
        (f"bytes={'9' * 5000}-{'9' * 5000}", 416, None, "bytes */10"),
        (f"bytes={'0' * 5000}1-2", 206, b"12", "bytes 1-2/10"),
        ("Bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes= 0-3 ,", 206, b"0123", "bytes 0-3/10"),
        ("bytes=,", 416, None, "bytes */10"),
        ("bytes=0-1,", 206, b"01", "bytes 0-1/10"),
        ("bytes=0-1,-3,20-", 200, b"0123456789", None),
        ("bytes", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    client: httpx.AsyncClient,
    tmp_path: Path,
    header: str,
    status: int,
    expected: bytes | None,
    content_range: str | None,
) -> None:
    """What HTTP says about them."""
    (tmp_path / "x").write_bytes(b"0123456789")

    response = await client.get("/files/download", params={"path": str(tmp_path / "x")}, headers={"Range": header})

    assert (response.status_code, response.headers.get("content-range")) == (status, content_range)
    if expected is None:
        assert set(response.json()) == {"code", "message"}
    else:
        assert response.content == expected


async def test_a_range_of_another_version_is_ignored(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Files have no validators here, so that none matches `If-Range`; and a file that is missing is a 404."""
    (tmp_path / "x").write_bytes(b"0123456789")
    headers = {"Range": "bytes=2-3", "If-Range": '"v1"'}

    old = await client.get("/files/download", params={"path": str(tmp_path / "x")}, headers=headers)
    none = await client.get("/files/download", params={"path": str(tmp_path / "y")}, headers={"Range": "bytes=x-"})

    assert (old.status_code, old.content) == (200, b"0123456789")
    assert (none.status_code, none.json()["code"]) == (404, "FILE_NOT_FOUND")


async def test_lines_are_a_window_of_text(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Counted from 1, with newlines between them; bytes and lines at once are refused."""
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo\r\nthree\nfour\n")

    async def lines(**window: int) -> httpx.Response:
        return await client.get("/files/download", params={"path": str(path), **window})

    assert (await lines(offset=2, limit=2)).content == b"two\nthree"
    assert (await lines(offset=4)).content == b"four"
    assert (await lines(limit=1)).content == b"one"
    assert (await lines(offset=9)).content == b""
    assert (await lines(limit=1)).headers["content-type"] == "text/plain; charset=utf-8"
    for wrong in ({"offset": 0}, {"limit": 0}, {"offset": -1}):
        assert (await lines(**wrong)).status_code == 400
    both = await client.get("/files/download", params={"path": str(path), "limit": 1}, headers={"Range": "bytes=0-1"})
    assert both.status_code == 400


async def test_empty_files_and_those_that_lie_about_their_size(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """An empty file has no ranges, /proc no sizes."""
    (tmp_path / "empty").touch()
    empty = await client.get("/files/download", params={"path": str(tmp_path / "empty")})
    ranged = await client.get(
        "/files/download", params={"path": str(tmp_path / "empty")}, headers={"Range": "bytes=0-9"}
    )
    kernel = await client.get("/files/download", params={"path": "/proc/self/status"})

    assert [(reply.status_code, reply.content) for reply in (empty, ranged)] == [(200, b""), (200, b"")]
    assert kernel.text.startswith("Name:")


async def test_what_cannot_be_downloaded(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Missing, a directory, a FIFO, NUL in the path, no path at all: flat, with documented statuses."""
    os.mkfifo(tmp_path / "fifo")
    wanted = {
        str(tmp_path / "missing"): (404, "FILE_NOT_FOUND"),
        str(tmp_path / "fifo" / "below"): (400, "INVALID_FILE"),
        str(tmp_path): (400, "INVALID_FILE"),
        str(tmp_path / "fifo"): (400, "INVALID_FILE"),
        "/a\0b": (400, "MISSING_QUERY"),
        "/" + "x" * 5000: (400, "MISSING_QUERY"),
        "": (400, "MISSING_QUERY"),
    }
    for path, problem in wanted.items():
        response = await client.get("/files/download", params={"path": path})

        assert (response.status_code, response.json()["code"]) == problem, path


async def test_a_client_that_stops_reading_holds_nothing_but_its_own_download(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A large file half read does not keep other requests waiting."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (16 << 20))
    async with client.stream("GET", "/files/download", params={"path": str(path)}) as response:
        pieces = response.aiter_raw()  # kept: a client that drops it closes the connection
        await anext(pieces)
        async with asyncio.timeout(5):
            other = await client.get("/files/info", params={"path": str(path)})

    assert other.json()[str(path)]["size"] == 16 << 20


async def test_info_describes_without_following(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Modes as their digits, times as RFC 3339; one missing path makes the whole question a 404."""
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "x").chmod(0o640)
    (tmp_path / "link").symlink_to("x")
    paths = [str(tmp_path / "x"), str(tmp_path / "link")]

    found = (await client.get("/files/info", params={"path": paths})).json()
    missing = await client.get("/files/info", params={"path": [*paths, str(tmp_path / "y")]})

    assert list(found) == paths
    info = found[paths[0]]
    assert (info["path"], info["type"], info["size"], info["mode"]) == (paths[0], "file", 5, 640)
    assert info["modified_at"].endswith("Z")
    assert found[paths[1]]["type"] == "symlink"
    assert (missing.status_code, missing.json()["code"]) == (404, "FILE_NOT_FOUND")


async def test_the_way_up_is_refused_everywhere(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """`..` in a path is an error of the caller, in every request; nothing is read, written or removed."""
    (tmp_path / "kept").write_bytes(b"kept")
    up = f"{tmp_path}/down/../kept"

    answers = [
        await client.get("/files/download", params={"path": up}),
        await client.get("/files/info", params={"path": up}),
        await client.get("/directories/list", params={"path": f"{tmp_path}/.."}),
        await client.delete("/files", params={"path": up}),
        await client.delete("/directories", params={"path": f"{tmp_path}/kept/.."}),
        await client.post("/files/mv", json=[{"src": up, "dest": str(tmp_path / "moved")}]),
        await client.post("/files/permissions", json={up: {"mode": 777}}),
        await client.post("/directories", json={f"{tmp_path}/new/../x": {}}),
        await upload(client, pair(up, b"new") + END),
    ]

    assert {answer.json()["code"] for answer in answers} == {"INVALID_FILE"}
    assert files(tmp_path) == {"kept": b"kept"}


async def test_trees_are_listed_and_searched(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """To a depth, and by a glob on names."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.txt").touch()
    (tmp_path / "top.txt").touch()

    async def paths(url: str, **params: Any) -> list[str]:
        reply = await client.get(url, params={"path": str(tmp_path), **params})
        return sorted(str(Path(item["path"]).relative_to(tmp_path)) for item in reply.json())

    assert await paths("/directories/list") == ["a", "top.txt"]
    assert await paths("/directories/list", depth=2) == ["a", "a/b", "top.txt"]
    assert await paths("/directories/list", depth=0) == ["a", "top.txt"]
    assert await paths("/files/search", pattern="*.txt") == ["a/b/deep.txt", "top.txt"]
    assert (await client.get("/directories/list", params={"path": str(tmp_path / "no")})).status_code == 404
    assert (await client.get("/directories/list", params={"path": str(tmp_path / "top.txt")})).status_code == 400
    assert (await client.get("/directories/list", params={"path": str(tmp_path), "depth": "x"})).status_code == 400
    assert (await client.get("/files/search", params={"path": str(tmp_path), "pattern": "a\0"})).status_code == 400


async def test_files_are_made_moved_changed_and_removed(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The everyday requests, by the contract's paths."""
    one, two = tmp_path / "d" / "one", tmp_path / "d" / "two"

    async def post(url: str, body: object, **params: str) -> httpx.Response:
        return await client.post(url, json=body, params=params)

    made = await post("/directories", {str(tmp_path / "d"): {"mode": 750, "owner": None, "group": None}})
    assert (made.status_code, (tmp_path / "d").stat().st_mode & 0o777) == (200, 0o750)
    one.write_text("a b a")
    quiet = await post("/files/replace", {str(one): {"old": "b", "new": "c"}})
    counted = await post("/files/replace", {str(one): {"old": "a", "new": "x"}}, verbose="true")
    assert (quiet.content, counted.json(), one.read_text()) == (b"", {str(one): {"replacedCount": 2}}, "x c x")
    assert (await post("/files/replace", {str(one): {"old": "", "new": "x"}})).status_code == 400
    assert (await post("/files/permissions", {str(one): {"mode": 600}})).status_code == 200
    assert one.stat().st_mode & 0o777 == 0o600
    assert (await post("/files/permissions", {str(tmp_path / "no"): {"mode": 600}})).status_code == 400
    assert (await post("/files/mv", [{"src": str(one), "dest": str(two)}])).status_code == 200
    one.write_text("other")
    taken = await post("/files/mv", [{"src": str(one), "dest": str(two)}])
    assert (taken.status_code, taken.json()["code"], two.read_text()) == (400, "INVALID_FILE", "x c x")
    assert (await post("/files/mv", [{"src": str(tmp_path / "no"), "dest": str(two)}])).status_code == 404
    both = {"path": [str(one), str(tmp_path / "no")]}
    assert (await client.delete("/files", params=both)).status_code == 200
    directory = await client.delete("/files", params={"path": str(tmp_path / "d")})
    assert (directory.status_code, directory.json()["code"]) == (400, "INVALID_FILE")
    assert (await client.delete("/directories", params={"path": str(tmp_path / "d")})).status_code == 200
    assert everything(tmp_path) == []


async def test_a_symlink_is_removed_and_never_what_it_points_to(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Neither its file nor its directory."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept" / "file")

    await client.delete("/files", params={"path": str(tmp_path / "link")})
    await client.delete("/directories", params={"path": str(tmp_path / "tree")})

    assert everything(tmp_path) == ["kept", "kept/file"]


@pytest.mark.parametrize("identity", ["x/0", "0/x", "-1/0", "4294967295/0", "0/99999999999", "1%2f2/0"])
async def test_an_identity_that_cannot_be(client: httpx.AsyncClient, tmp_path: Path, identity: str) -> None:
    """400, before the agent is asked."""
    answer = await client.get(f"/v1/filesystem/{identity}/files/download", params={"path": str(tmp_path / "a")})
    assert answer.status_code in (400, 404)
    assert set(answer.json()) == {"code", "message"}


async def test_replacements_by_two_users_at_once_all_land(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Files of another identity are changed by a process of its own, for which execd waits, and the other way round."""
    path, numbers = tmp_path / "file", range(40)
    padding = "x" * 1_000_000  # so that a replacement takes its time
    path.write_text("".join(f"<{number}>" for number in numbers) + padding)
    group = os.getegid() + (os.geteuid() == 0)  # who is not root can only be the one that execd is
    roads = ("/files", f"/v1/filesystem/{os.geteuid()}/{group}/files")

    for road in roads:  # the process is there
        assert (await client.get(f"{road}/info", params={"path": str(path)})).status_code == 200

    answers = await asyncio.gather(
        *(
            client.post(
                f"{roads[number % 2]}/replace?verbose=true",
                json={str(path): {"old": f"<{number}>", "new": f"[{number}]"}},
            )
            for number in numbers
        )
    )

    assert [answer.json() for answer in answers] == [{str(path): {"replacedCount": 1}}] * 40
    assert path.read_text().removesuffix(padding) == "".join(f"[{number}]" for number in numbers)


async def test_the_identity_that_the_agent_has_already(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """No process is started for that."""
    path = f"/v1/filesystem/{os.geteuid()}/{os.getegid()}/files"
    answer = await client.post(f"{path}/upload", content=pair(tmp_path / "a", b"mine") + END, headers=CONTENT_TYPE)
    assert answer.status_code == 200
    assert (await client.get(f"{path}/download", params={"path": str(tmp_path / "a")})).content == b"mine"
