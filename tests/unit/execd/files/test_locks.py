"""Locks on what is being changed, within a process and between processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from execd.files import locks as module
from execd.files.locks import Locks, path_key

HOLDER = """
import asyncio, sys
from execd.files.locks import Locks

async def main():
    async with Locks(int(sys.argv[1])).hold([7]):
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


async def in_turn(locks: list[Locks], keys: list[list[int]]) -> list[int]:
    """Hold keys many times over by these locks in turn; return how many held one of them at once, at most."""
    inside: dict[int, int] = {}
    most: list[int] = []

    async def change(number: int) -> None:
        mine = set(keys[number % len(keys)])
        async with locks[number % len(locks)].hold(mine):
            for key in mine:
                inside[key] = inside.get(key, 0) + 1
            await asyncio.sleep(0)
            most.append(max(inside[key] for key in mine))
            for key in mine:
                inside[key] -= 1

    async with asyncio.timeout(20):
        await asyncio.gather(*(change(number) for number in range(40)))
    return most


async def test_one_after_another_within_a_process() -> None:
    assert await in_turn([Locks()], [[7]]) == [1] * 40


async def test_one_after_another_between_processes() -> None:
    """As if each were one: what they share are descriptors of the same file, opened on their own."""
    ours = Locks()
    assert await in_turn([ours, Locks(ours.share()), Locks(ours.share())], [[7]]) == [1] * 40


async def test_several_keys_at_once_never_wait_for_each_other() -> None:
    """Whatever the order in which they are named."""
    ours = Locks()
    assert await in_turn([ours, Locks(ours.share())], [[1, 2], [2, 3, 1], [3, 2], [2, 2]]) == [1] * 40


async def test_others_do_not_wait() -> None:
    """Another key is free."""
    locks = Locks()
    async with asyncio.timeout(5), locks.hold([1]), locks.hold([2]):
        pass


@contextlib.asynccontextmanager
async def held_elsewhere(locks: Locks) -> AsyncIterator[Process]:
    """Inside, another process holds key 7."""
    descriptor = locks.share()
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, str(descriptor)), pass_fds=(descriptor,), stdin=PIPE, stdout=PIPE
    )
    os.close(descriptor)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    yield holder
    with contextlib.suppress(ProcessLookupError):
        holder.kill()
    await holder.communicate()


async def test_a_process_that_dies_lets_go() -> None:
    locks = Locks()
    async with held_elsewhere(locks) as holder:
        waiting = asyncio.ensure_future(locks.hold([7]).__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        holder.kill()
        async with asyncio.timeout(10):
            await waiting


async def test_a_process_that_does_not_let_go_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in the hands of user code."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    locks = Locks()
    async with held_elsewhere(locks):
        with pytest.raises(OSError, match="try again later"):
            await locks.hold([7]).__aenter__()
    async with locks.hold([7]):
        pass


def test_paths_to_one_place_have_one_key(tmp_path: Path) -> None:
    """Whatever leads to their directory, and whether it is there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    keys = {path_key(f"{tmp_path}/{name}") for name in ("real/file", "link/file")}

    assert len(keys) == 1
    assert path_key(f"{tmp_path}/real/other") not in keys
    assert path_key(f"{tmp_path}/file") not in keys
    assert path_key(f"{tmp_path}/link/new/file") == path_key(f"{tmp_path}/real/new/file")
    assert path_key("/") == path_key("/")


async def test_names_of_one_file_wait_for_each_other(tmp_path: Path) -> None:
    """A hard link, or a mount of the file alone, is the same file."""
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    directory = os.open(tmp_path, os.O_PATH)
    locks = Locks()
    async with locks.hold_file(directory, "a"):
        second = asyncio.ensure_future(locks.hold_file(directory, "b").__aenter__())
        done, _ = await asyncio.wait([second], timeout=0.05)
        assert not done
    async with asyncio.timeout(5):
        await second
    os.close(directory)
