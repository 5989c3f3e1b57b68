"""`sandlot images check`: start an image, run something in every language that it declares, print a table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from controlplane.config import Settings
from controlplane.doctor import trial
from controlplane.errors import SandlotError
from controlplane.link.link import Link
from execd.wire.aio import Data
from execd.wire.messages import (
    ContextDone,
    ContextError,
    ContextLanguage,
    ContextLanguages,
    ContextOpen,
    ContextResult,
    ContextRun,
    ContextState,
)

RUN_TIMEOUT_S = 60.0
# For languages whose manifest names no check of its own.
CHECKS = {
    "python": ("6 * 7", "42"),
    "javascript": ("6 * 7", "42"),
    "typescript": ("const n: number = 6; n * 7", "42"),
    "java": ("6 * 7", "42"),
    "go": ("fmt.Println(6 * 7)", "42"),
    "bash": ("echo $((6 * 7))", "42"),
}


class Verdict(msgspec.Struct, frozen=True):
    """What became of one language of one image; times in s, of the first context and of two runs in it."""

    image: str
    language: str
    problem: str = ""
    open_s: float = 0.0
    first_s: float = 0.0
    second_s: float = 0.0


async def check_images(settings: Settings, names: Sequence[str], announce: Callable[[str], None]) -> int:
    """Check images, by the names of our folders or any other name; return the exit status.

    Raises:
        RuntimeFailure, LinkLost: an image does not start.
    """
    announce(f"{'image':<28} {'language':<12} {'context':>9} {'first run':>10} {'next':>8}")
    failed = 0
    for name in names:
        image = name if "/" in name or ":" in name else f"sandlot/{name}"
        async for verdict in _check(settings, image):
            failed += bool(verdict.problem)
            announce(_line(verdict))
    announce(f"{failed} language(s) failed" if failed else "all is well")
    return 1 if failed else 0


def _line(verdict: Verdict) -> str:
    head = f"{verdict.image:<28} {verdict.language:<12}"
    if verdict.problem:
        return f"{head} FAIL  {verdict.problem}"
    open_ms, first_ms, second_ms = (
        f"{seconds * 1000:.1f} ms" for seconds in (verdict.open_s, verdict.first_s, verdict.second_s)
    )
    return f"{head} {open_ms:>9} {first_ms:>10} {second_ms:>8}"


async def _check(settings: Settings, image: str) -> AsyncIterator[Verdict]:
    async with trial(settings, image) as link:
        languages = await _languages(link)
        if not languages:
            yield Verdict(image, "-", "declares no language, and has no bash")
        for language in languages:
            if language.problem:
                yield Verdict(image, language.language, language.problem)
            else:
                yield await _try(link, image, language)


async def _languages(link: Link) -> list[ContextLanguage]:
    found = []
    async with await link.open(ContextLanguages()) as stream:
        stream.end()
        while (said := await stream.receive()) is not None:
            if isinstance(said, ContextLanguage):
                found.append(said)
    return sorted(found, key=lambda one: one.language)


async def _try(link: Link, image: str, language: ContextLanguage) -> Verdict:
    name = language.language
    code, expected = language.check or CHECKS.get(name, ("", ""))
    try:
        began = time.monotonic()
        async with asyncio.timeout(RUN_TIMEOUT_S):
            state = await link.call(ContextOpen(id=f"check-{name}", language=name), ContextState)
            opened = time.monotonic()
            said = await _run(link, state.id, code)
            first = time.monotonic()
            await _run(link, state.id, code)
    except TimeoutError:
        return Verdict(image, name, f"nothing happened for {RUN_TIMEOUT_S:g} s")
    except SandlotError as error:
        return Verdict(image, name, error.message)
    if expected not in said:
        return Verdict(image, name, f"{code!r} gave {said.strip()[-300:]!r}, without {expected!r}")
    return Verdict(image, name, "", opened - began, first - opened, time.monotonic() - first)


async def _run(link: Link, context_id: str, code: str) -> str:
    """Return all that a run said."""
    pieces: list[str] = []
    async with await link.open(ContextRun(context_id, code)) as stream:
        stream.end()
        while (said := await stream.receive()) is not None:
            match said:
                case Data(data=data):
                    pieces.append(data.decode(errors="replace"))
                case ContextResult(data=bundle):
                    pieces.append(bundle.get("text/plain", ""))
                case ContextError(name=name, value=value):
                    pieces.append(f"{name}: {value}")
                case ContextDone(cause=cause, message=message) if cause != "ok":
                    pieces.append(f"{cause} {message}")
    return "\n".join(pieces)
