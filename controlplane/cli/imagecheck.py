"""`sandlot images check`: start an image, and run code in each version of every language that it declares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import msgspec

from controlplane.errors import SandlotError
from controlplane.images.names import OUR_IMAGES
from controlplane.link.link import Link
from controlplane.server.doctor.trial import trial
from controlplane.settings.sections import Settings
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
    SandboxClaim,
    SandboxClaimed,
)

RUN_TIMEOUT_S = 60.0
# The checks of languages whose manifest has none.
CHECKS = {
    "python": ("6 * 7", "42"),
    "javascript": ("6 * 7", "42"),
    "typescript": ("const n: number = 6; n * 7", "42"),
    "java": ("6 * 7", "42"),
    "go": ("fmt.Println(6 * 7)", "42"),
    "bash": ("echo $((6 * 7))", "42"),
}


class Verdict(msgspec.Struct, frozen=True):
    """The result for one language of one image, with the times of the first context and of two runs in it, in s."""

    image: str
    language: str
    version: str = ""  # if the image declares several
    problem: str = ""
    open_s: float = 0.0
    first_s: float = 0.0
    second_s: float = 0.0


async def check_images(settings: Settings, names: Sequence[str], announce: Callable[[str], None]) -> int:
    """Check images, named by a folder of ours or any other name. Return the exit status.

    Raises:
        RuntimeFailure, LinkLost: an image does not start.
    """
    announce(f"{'image':<28} {'language':<15} {'context':>9} {'first run':>10} {'next':>8}")
    failed = 0
    for name in names:
        image = name if "/" in name or ":" in name else OUR_IMAGES + name
        async for verdict in _check(settings, image):
            failed += bool(verdict.problem)
            announce(_line(verdict))
    announce(f"{failed} language(s) failed" if failed else "all is well")
    return 1 if failed else 0


def _line(verdict: Verdict) -> str:
    head = f"{verdict.image:<28} {f'{verdict.language} {verdict.version}':<15}"
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
            yield Verdict(image, "-", problem="declares no language, and has no bash")
        for language in languages:
            yield await _try(link, image, language)
    for env in _other_choices(languages):
        async with trial(settings, image) as link:
            await _claim(link, env)
            for language in await _languages(link):
                if language.variable in env:
                    yield await _try(link, image, language, asked=env[language.variable])


def _other_choices(languages: Sequence[ContextLanguage]) -> list[dict[str, str]]:
    """Return the variables of as few containers as can have every version beside the default."""
    others = {
        language.variable: [name for name in language.versions if name != language.version] for language in languages
    }
    rounds = max(map(len, others.values()), default=0)
    return [{key: names[i] for key, names in others.items() if i < len(names)} for i in range(rounds)]


async def _claim(link: Link, env: dict[str, str]) -> None:
    stream = await link.open(SandboxClaim("check", env=env))
    try:
        await stream.expect(SandboxClaimed)
    finally:
        stream.close()


async def _languages(link: Link) -> list[ContextLanguage]:
    found = []
    async with await link.open(ContextLanguages()) as stream:
        stream.end()
        while (said := await stream.receive()) is not None:
            if isinstance(said, ContextLanguage):
                found.append(said)
    return sorted(found, key=lambda one: one.language)


async def _try(link: Link, image: str, language: ContextLanguage, *, asked: str = "") -> Verdict:
    name = language.language
    verdict = partial(Verdict, image, name, language.version)
    if language.problem:
        return verdict(problem=language.problem)
    if asked and language.version != asked:
        return verdict(problem=f"{language.variable}={asked} has no effect")
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
        return verdict(problem=f"no output for {RUN_TIMEOUT_S:g} s")
    except SandlotError as error:
        return verdict(problem=error.message)
    if expected not in said:
        return verdict(problem=f"{code!r} gave {said.strip()[-300:]!r}, without {expected!r}")
    return verdict(open_s=opened - began, first_s=first - opened, second_s=time.monotonic() - first)


async def _run(link: Link, context_id: str, code: str) -> str:
    """Return all output of a run."""
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
