"""A record of an activity, carried out again in another sandbox, in the same order and with the same overlaps."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from controlplane.client.answers import Refused
from controlplane.client.record import Operation, Record, activity, operations
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.stream import Connection, Opened, OperationFailed
from controlplane.errors import LinkLost, SandlotError

GRACE_S = 5.0  # for the activity to tell what has happened
LONGEST_WAIT_S = 30.0  # before an interruption, of what passed in the record
SLOWER = 5  # a repetition may take so many times as long
_PROXY = "/proxy/44772"
LEFT = frozenset({"client.gone", "link.lost"})  # ends of operations whose client left

# What a record does not have enough of to repeat it.
NOT_REPEATED = {
    "file.write": "the content of files is not in a record",
    "file.change": "the new mode and owner are not in a record",
    "terminal": "what is typed into a terminal is not in a record",
    "terminal.attach": "what is typed into a terminal is not in a record",
    "terminal.close": "what is typed into a terminal is not in a record",
    "port": "what is sent to a service is not in a record",
    "signal": "signals come at another moment",
    "session.interrupt": "interruptions of sessions come at another moment",
}
# Of these, a request with several paths is not repeated: the record has the paths as one text.
SEVERAL = frozenset({"file.remove", "directory.remove", "directory.make"})
# What happens by itself.
IMPLIED = frozenset({"entrypoint"})


class Repeated:
    """An operation of the record, and what came of it this time: a repetition, or the reason why there is none."""

    def __init__(self, before: Operation) -> None:
        self.before = before
        self.after: Operation | None = None
        self.reason = ""
        self.new_op = ""
        self.task: asyncio.Task[None] | None = None
        self.opened: Opened | None = None
        self.began_at = 0.0
        self.recorded_chars = 0  # of output, up to the present place in the record


class Replay:
    """Repeats a record in a sandbox."""

    def __init__(self, server: Server, sandbox_id: str, connection: Connection, *, patience_s: float) -> None:
        self._server = server
        self._sandbox_id = sandbox_id
        self._connection = connection
        self._patience_s = patience_s
        self._all: dict[str, Repeated] = {}
        self._contexts: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        # What the activity of the new sandbox has told so far.
        self._told: list[Json] = []
        self._news = asyncio.Event()
        self._ended: set[str] = set()
        self._chars: dict[str, int] = {}  # of output
        self._prompts: dict[str, int] = {}
        self._answers: dict[str, int] = {}
        self._unknown: set[str] = set()  # paths of files whose content is not in the record

    async def run(self, record: Record) -> tuple[list[Repeated], str]:
        """Repeat the record; return all operations, and the level at which the new sandbox keeps its activity.

        Raises:
            SandlotError: the sandbox or the connection is lost, or the sandbox keeps no activity.
        """
        self._all = {op: Repeated(each) for op, each in operations(record.entries).items()}
        watching = asyncio.ensure_future(self._watch())
        try:
            for entry in record.entries:
                if watching.done():
                    watching.result()
                each = self._all.get(str(entry.get("op", "")))
                if each is None:
                    continue
                if entry["type"] == "begun":
                    await self._begin(each)
                elif entry["type"] in ("ended", "failed"):
                    await self._finish(each, entry)
                elif entry["type"] == "output":
                    each.recorded_chars += len(str(entry.get("text", "")))
            for each in self._all.values():
                await self._leave(each)
            entries, keep = await asyncio.to_thread(activity, self._server, self._sandbox_id)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        after = operations(entries)
        for each in self._all.values():
            each.after = after.get(each.new_op)
        return [each for each in self._all.values() if not self._is_implied(each.before)], keep

    # -- the order of the record

    async def _begin(self, each: Repeated) -> None:
        what = each.before.what
        if self._is_implied(each.before):
            return
        if what == "file.write":
            self._unknown.add(str(each.before.begun.get("path", "")))
        work = self._work(each)
        if what == "file.read" and each.before.begun.get("path") in self._unknown:
            each.reason = NOT_REPEATED["file.write"]
        elif work is None:
            each.reason = NOT_REPEATED.get(what, "this release does not repeat it")
        if work is None or each.reason:
            return
        seen = len(self._told)
        each.began_at = asyncio.get_running_loop().time()
        each.task = asyncio.ensure_future(self._carry_out(each, work))
        each.new_op = await self._begun(each, seen, each.task)

    async def _finish(self, each: Repeated, end: Json) -> None:
        """Wait for the end of a repetition, whose original ended here."""
        if each.task is None:
            return
        lasted = _at(end) - _at(each.before.begun)
        if end["type"] == "failed" and end.get("code") in LEFT:
            await self._wait_until(each, min(lasted, LONGEST_WAIT_S))
            await self._leave(each)
            return
        limit_s = max(self._patience_s, SLOWER * lasted)
        done, _ = await asyncio.wait([each.task], timeout=limit_s)
        if not done:
            each.reason = "it did not end in time, and was ended"
            await self._leave(each)
            return
        each.task.result()
        if each.new_op:  # in the background, it goes on
            await self._until(lambda: each.new_op in self._ended, limit_s)

    async def _leave(self, each: Repeated) -> None:
        """Leave an operation that goes on, as its client did."""
        if each.task is None or each.task.done():
            return
        if each.opened is not None:
            with contextlib.suppress(SandlotError):
                await each.opened.cancel()
        each.task.cancel()
        await asyncio.wait([each.task])
        await self._until(lambda: each.new_op in self._ended)

    async def _carry_out(self, each: Repeated, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (OperationFailed, Refused) as error:
            if not each.new_op:  # the activity has the others
                each.reason = f"it was refused: {error.said if isinstance(error, Refused) else error.message}"

    # -- the activity of the new sandbox

    async def _watch(self) -> None:
        opened = await self._connection.open("activity", after=0)
        while (message := await opened.next())["type"] != "done":
            entry = message.get("entry") or {}
            self._told.append(entry)
            op = str(entry.get("op", ""))
            if entry.get("type") in ("ended", "failed"):
                self._ended.add(op)
            elif entry.get("type") == "output":
                self._chars[op] = self._chars.get(op, 0) + len(str(entry.get("text", "")))
            elif entry.get("type") == "prompt":
                self._prompts[op] = self._prompts.get(op, 0) + 1
            self._news.set()
        raise LinkLost("the sandbox ended")

    async def _begun(self, each: Repeated, seen: int, task: asyncio.Task[None]) -> str:
        """Return the `op` of an operation that begins after what was *seen*; "" if it does not begin."""
        found, what = "", each.before.what

        def is_there() -> bool:
            nonlocal found
            for entry in self._told[seen:]:
                is_begun = entry.get("type") == "begun" and entry.get("what") == what
                if is_begun and not self._is_implied(Operation(entry)):
                    found = str(entry["op"])
            return bool(found)

        task.add_done_callback(lambda _: self._news.set())
        await self._until(lambda: is_there() or task.done(), self._patience_s)
        if not found:  # a refusal of the server itself is not told
            await self._until(is_there, GRACE_S if each.reason else self._patience_s)
        return found

    async def _until(self, condition: Callable[[], bool], patience_s: float = GRACE_S) -> None:
        """Wait until a condition holds, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()

    async def _wait_until(self, each: Repeated, seconds: float) -> None:
        """Wait until an operation runs for so long, or has ended."""
        left = each.began_at + seconds - asyncio.get_running_loop().time()
        if each.task is not None and left > 0:
            await asyncio.wait([each.task], timeout=left)

    async def _until_printed(self, each: Repeated) -> None:
        """Wait until a repetition has printed as much as its original had at this place of the record."""
        op = each.new_op
        await self._until(lambda: self._chars.get(op, 0) >= each.recorded_chars or op in self._ended, self._patience_s)

    # -- operations

    @staticmethod
    def _is_implied(operation: Operation) -> bool:
        is_default = operation.what == "context.open" and str(operation.begun.get("context", "")).startswith("default-")
        return is_default or operation.what in IMPLIED

    def _work(self, each: Repeated) -> Callable[[], Awaitable[None]] | None:
        """Return what repeats an operation, or None."""
        works: dict[str, Callable[[Repeated], Awaitable[None]]] = {
            "code": self._run_code,
            "command": self._run_command,
            "input": self._answer,
            "context.open": self._open_context,
            "context.fork": self._fork_context,
            "context.interrupt": self._interrupt_context,
            "context.close": self._on_context,
            "context.restart": self._on_context,
            "session.open": self._open_session,
            "session": self._run_in_session,
            "session.close": self._close_session,
            "file.read": self._read_file,
            "file.remove": self._remove,
            "directory.remove": self._remove,
            "directory.make": self._make_directory,
            "file.move": self._move,
        }
        work = works.get(each.before.what)
        if each.before.what in SEVERAL and each.before.begun.get("text"):
            return None
        return None if work is None else lambda: work(each)

    async def _open(self, each: Repeated, op: str, **fields: Any) -> list[Json]:
        each.opened = await self._connection.open(op, **fields)
        return await each.opened.all()

    async def _run_code(self, each: Repeated) -> None:
        begun = each.before.begun
        context = await self._context(begun)
        where = {"context": context} if context else {"language": begun.get("language", "python")}
        await self._open(each, "run", code=begun.get("text", ""), allow_input=bool(each.before.prompts), **where)

    async def _context(self, begun: Json) -> str:
        """Return the context of a run; "" for the default one. One from before the record begins is opened anew."""
        old = str(begun.get("context", ""))
        if not old or old.startswith("default-"):
            return ""
        if old not in self._contexts:
            opened = await self._connection.ask("context.open", language=begun.get("language", "python"))
            self._contexts[old] = str(opened[0]["id"])
        return self._contexts[old]

    async def _run_command(self, each: Repeated) -> None:
        begun = each.before.begun
        text, cwd = str(begun.get("text", "")), str(begun.get("cwd", ""))
        if begun.get("background"):
            body = {"command": text, "background": True, **({"cwd": cwd} if cwd else {})}
            await self._ask("/command", body)
            return
        end = each.before.end or {}
        program = {"argv": shlex.split(text)} if end.get("code") == "process.spawn_failed" else {"command": text}
        await self._open(each, "command", cwd=cwd, **program)

    async def _answer(self, each: Repeated) -> None:
        old = str(each.before.begun.get("context", ""))
        asking = next(
            (
                one
                for one in reversed(self._all.values())
                if one.before.what == "code" and one.task is not None and one.before.begun.get("context") == old
            ),
            None,
        )
        if asking is not None:
            op = asking.new_op
            given = self._answers.get(op, 0)
            await self._until(lambda: self._prompts.get(op, 0) > given or op in self._ended, self._patience_s)
            self._answers[op] = given + 1
        context = self._contexts.get(old, old)
        await self._open(each, "input", context=context, text=each.before.begun.get("text"))

    async def _open_context(self, each: Repeated) -> None:
        begun = each.before.begun
        opened = await self._open(each, "context.open", language=begun.get("language", ""), cwd=begun.get("cwd", ""))
        self._contexts[str(begun.get("context", ""))] = str(opened[0]["id"])

    async def _fork_context(self, each: Repeated) -> None:
        copies = str(each.before.begun.get("text", "")).split()
        made = await self._open(each, "context.fork", id=self._known_context(each), count=max(1, len(copies)))
        self._contexts |= {old: str(new["id"]) for old, new in zip(copies, made, strict=False) if "id" in new}

    async def _interrupt_context(self, each: Repeated) -> None:
        """Interrupt a run when it has lasted as long, and printed as much, as in the record."""
        begun = each.before.begun
        for one in reversed(self._all.values()):
            is_running = one.task is not None and not one.task.done()
            if one.before.what == "code" and is_running and one.before.begun.get("context") == begun.get("context"):
                lasted = _at(begun) - _at(one.before.begun)
                await self._wait_until(one, min(lasted, LONGEST_WAIT_S))
                await self._until_printed(one)
                break
        await self._on_context(each)

    async def _on_context(self, each: Repeated) -> None:
        await self._open(each, each.before.what, id=self._known_context(each))

    def _known_context(self, each: Repeated) -> str:
        old = str(each.before.begun.get("context", ""))
        return self._contexts.get(old, old)

    async def _open_session(self, each: Repeated) -> None:
        cwd = each.before.begun.get("cwd")
        made = await self._ask("/session", {"cwd": cwd} if cwd else {})
        self._sessions[str(each.before.begun.get("context", ""))] = str(made["session_id"])

    async def _run_in_session(self, each: Repeated) -> None:
        path = self._session(each, "/run")
        body = {"command": each.before.begun.get("text", "")}
        await asyncio.to_thread(self._server.drain, path, body, timeout_s=self._patience_s)

    async def _close_session(self, each: Repeated) -> None:
        await asyncio.to_thread(self._server.ask, "DELETE", self._session(each))

    def _session(self, each: Repeated, rest: str = "") -> str:
        old = str(each.before.begun.get("context", ""))
        return sandbox_path(self._sandbox_id, f"{_PROXY}/session/{quote(self._sessions.get(old, old), safe='')}{rest}")

    async def _read_file(self, each: Repeated) -> None:
        each.opened = await self._connection.open("file.read", path=each.before.begun.get("path", ""))
        while (await each.opened.next())["type"] != "done":
            pass

    async def _remove(self, each: Repeated) -> None:
        kind = "files" if each.before.what == "file.remove" else "directories"
        path = quote(str(each.before.begun.get("path", "")), safe="/")
        url = sandbox_path(self._sandbox_id, f"{_PROXY}/{kind}?path={path}")
        await asyncio.to_thread(self._server.ask, "DELETE", url)

    async def _make_directory(self, each: Repeated) -> None:
        await self._ask("/directories", {each.before.begun.get("path", ""): {}})

    async def _move(self, each: Repeated) -> None:
        begun = each.before.begun
        await self._ask("/files/mv", [{"src": begun.get("path", ""), "dest": begun.get("text", "")}])

    async def _ask(self, path: str, body: object) -> Any:
        url = sandbox_path(self._sandbox_id, f"{_PROXY}{path}")
        if path == "/command":
            return await asyncio.to_thread(self._server.drain, url, body, timeout_s=self._patience_s)
        return await asyncio.to_thread(self._server.ask, "POST", url, body)


def _at(entry: Json) -> float:
    return float(entry.get("at", 0.0))
