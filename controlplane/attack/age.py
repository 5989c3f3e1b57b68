"""How old the engine, its runtimes, the kernel and our images are, and what is known of their versions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from controlplane.attack import advisories
from controlplane.attack.advisories import ADVISORIES, CONTAINERD, ENGINE, KERNEL, RUNC, Standing
from controlplane.errors import SandlotError
from controlplane.images import build
from controlplane.images.engine import engine_errors
from controlplane.runtime.docker.engine import connect, request

IMAGE_FRESH_DAYS = 60  # Debian mends something of what an image holds about every week
_COMPONENTS = {"Engine": ENGINE, "containerd": CONTAINERD, "runc": RUNC}
_UPGRADE = {
    ENGINE: "upgrade the container engine",
    CONTAINERD: "upgrade containerd",
    RUNC: "upgrade runc; sandboxes that run keep the old one until they end",
    KERNEL: "upgrade the kernel and restart the machine",
}
_REBUILD = "remove the image and the build cache (`docker builder prune --all`), then `sandlot images`"
_ASK = "see the distribution's security tracker for this revision, or upgrade"


class Aged(msgspec.Struct, frozen=True):
    """One part of what runs sandboxes. `cure` is empty when nothing is known against it."""

    component: str
    version: str
    since: str  # YYYY-MM-DD: when its branch began, or when it was built; "" if unknown
    standing: Standing
    text: str
    cure: str = ""


async def examine(engine_url: str, images_dir: Path, today: date | None = None) -> list[Aged]:
    """Look at the engine and at the images that it has. Asks no network but the engine.

    Raises:
        EngineUnavailable, RuntimeFailure: the engine does not answer.
    """
    today = today or datetime.now(UTC).date()
    engine = connect(engine_url)
    try:
        answer = await request(engine, "GET", "version")
        found = [judge(component, version, today) for component, version in versions(answer).items()]
        for status in await build.image_status(engine, images_dir):
            if status.state != "missing":
                with engine_errors():
                    shown = await engine.images.inspect(status.tag)
                found.append(judge_image(status.tag, str(shown.get("Created", "")), today))
    finally:
        await engine.close()
    return [*found, *_table(today)]


def versions(answer: Mapping[str, Any], running: str | None = None) -> dict[str, str]:
    """Return component → version from the engine's answer. *running* is what this kernel says of its build."""
    found = {}
    for part in answer.get("Components") or ():
        if (component := _COMPONENTS.get(part.get("Name", ""))) is not None:
            told = str(part.get("Version", ""))
            # Distributions put their whole revision where others have a commit.
            packed = str((part.get("Details") or {}).get("GitCommit", ""))
            found[component] = packed if told and packed.startswith(told) else told
    if kernel := str(answer.get("KernelVersion", "")):
        found[KERNEL] = _kernel(kernel, os.uname().version if running is None else running)
    return found


def _kernel(release: str, running: str) -> str:
    """Return the version of the sources: Debian's `uname -r` names an interface instead, and `uname -v` the sources."""
    found = re.search(r"Debian (\d+\.\d+\.\d+\S*)", running) if release == os.uname().release else None
    return found[1] if found else release


def judge(component: str, version: str, today: date) -> Aged:
    """Return what is known of one version."""
    since = advisories.released(component, version)
    by_standing: dict[Standing, list[str]] = {each: [] for each in Standing}
    for advisory in ADVISORIES:
        if advisory.component == component:
            name = f"{advisory.cve} ({advisory.title})"
            by_standing[advisories.standing(advisory, version)].append(name)
    age = f"; its branch began {(today - since).days // 30} months ago" if since else ""
    day = since.isoformat() if since else ""
    if names := by_standing[Standing.VULNERABLE]:
        text = f"{version} has {', '.join(names)}{age}"
        return Aged(component, version, day, Standing.VULNERABLE, text, _UPGRADE[component])
    if names := by_standing[Standing.UNKNOWN]:
        text = f"{version} may have {', '.join(names)}{age}"
        return Aged(component, version, day, Standing.UNKNOWN, text, _ASK)
    return Aged(component, version, day, Standing.FIXED, f"{version}: nothing is known against it{age}")


def judge_image(tag: str, created: str, today: date) -> Aged:
    """Return how old an image is, by the time of its creation as the engine writes it."""
    try:
        day = date.fromisoformat(created[:10])
    except ValueError:
        return Aged(tag, "", "", Standing.UNKNOWN, "its age is unknown", _REBUILD)
    days = (today - day).days
    text = f"built {days} day(s) ago"
    if days <= IMAGE_FRESH_DAYS:
        return Aged(tag, "", day.isoformat(), Standing.FIXED, text)
    return Aged(tag, "", day.isoformat(), Standing.UNKNOWN, f"{text}: security updates are likely missing", _REBUILD)


def _table(today: date) -> list[Aged]:
    """Say how old the table itself is."""
    day = advisories.TABLE_DATE.isoformat()
    days = (today - advisories.TABLE_DATE).days
    if days <= advisories.TABLE_FRESH_DAYS:
        return [Aged("table", day, day, Standing.FIXED, f"what is known is of {day}")]
    text = f"what is known is of {day}, {days} days ago"
    return [Aged("table", day, day, Standing.UNKNOWN, text, "upgrade Sandlot, which brings a newer table")]


async def examine_if_possible(engine_url: str, images_dir: Path) -> list[Aged]:
    """Return the same, or nothing where the engine cannot be asked."""
    try:
        return await examine(engine_url, images_dir)
    except SandlotError:
        return []
