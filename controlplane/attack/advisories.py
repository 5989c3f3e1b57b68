"""Known ways out of containers: which versions of the engine, its runtimes and the kernel have them. No I/O.

The table is a memory, not a scanner: it holds what is well known and reachable from a container of Sandlot's, and it
ages. Flaws of containerd's CRI are not in it, because the Docker engine does not use that.
"""

from __future__ import annotations

import enum
import re
from datetime import date

import msgspec

TABLE_DATE = date(2026, 11, 28)
TABLE_FRESH_DAYS = 180  # older than this, the table itself is what should be renewed

ENGINE, CONTAINERD, RUNC, KERNEL = "engine", "containerd", "runc", "kernel"
_NO_CANDIDATE = 1 << 20  # a release comes after all of its candidates


class Standing(enum.StrEnum):
    """What is known of a version."""

    FIXED = "fixed"
    VULNERABLE = "vulnerable"
    UNKNOWN = "unknown"  # a distribution may have mended it without another version


class Advisory(msgspec.Struct, frozen=True):
    """One flaw. `fixed` has the first mended release of each branch; `debian` the first mended revisions there."""

    component: str
    cve: str
    title: str
    fixed: tuple[str, ...]
    since: str = ""
    debian: tuple[str, ...] = ()
    # Stable branches got the mend under versions that are not in the table.
    is_backported: bool = False


ADVISORIES = (
    Advisory(RUNC, "CVE-2019-5736", "a container overwrites the host's runc", ("1.0.0-rc7",)),
    Advisory(
        RUNC,
        "CVE-2021-30465",
        "a mount target that is swapped for a link leads to the host",
        ("1.0.0-rc95",),
        debian=("1.0.0~rc93+ds1-5",),
    ),
    Advisory(
        RUNC,
        "CVE-2024-21626",
        "a leaked descriptor gives a working directory on the host",
        ("1.1.12",),
        debian=("1.1.5+ds1-1+deb12u1", "1.0.0~rc93+ds1-5+deb11u3"),
    ),
    Advisory(
        RUNC, "CVE-2025-31133", "the masking of paths can be turned against the host", ("1.2.8", "1.3.3", "1.4.0-rc3")
    ),
    Advisory(RUNC, "CVE-2025-52565", "the mount of /dev/console can be led elsewhere", ("1.2.8", "1.3.3", "1.4.0-rc3")),
    Advisory(
        RUNC, "CVE-2025-52881", "writes to /proc can be led to other files of it", ("1.2.8", "1.3.3", "1.4.0-rc3")
    ),
    Advisory(CONTAINERD, "CVE-2020-15257", "the shim's abstract socket is reachable", ("1.3.9", "1.4.3")),
    Advisory(
        CONTAINERD,
        "CVE-2024-25621",
        "local users of the host may read and write containerd's directories",
        ("1.7.29", "2.0.7", "2.1.5", "2.2.0"),
    ),
    Advisory(ENGINE, "CVE-2019-14271", "`docker cp` loads libraries of the container", ("18.9.8", "19.3.1")),
    Advisory(ENGINE, "CVE-2026-41567", "an archive's upload runs programs of the container", ("29.5.1",)),
    Advisory(KERNEL, "CVE-2016-5195", "Dirty COW", ("4.4.26", "4.7.9", "4.8.3"), since="2.6.22"),
    Advisory(
        KERNEL,
        "CVE-2022-0185",
        "the mount interface overflows the heap",
        ("5.4.173", "5.10.93", "5.15.16", "5.16.2"),
        since="5.1",
    ),
    Advisory(
        KERNEL,
        "CVE-2022-0492",
        "release_agent of cgroup v1",
        ("4.9.301", "4.14.266", "4.19.229", "5.4.177", "5.10.97", "5.15.20", "5.16.6"),
    ),
    Advisory(KERNEL, "CVE-2022-0847", "Dirty Pipe", ("5.10.102", "5.15.25", "5.16.11"), since="5.8"),
    Advisory(KERNEL, "CVE-2023-0386", "OverlayFS copies set-uid files up", ("5.15.91", "6.1.9", "6.2.0"), since="5.11"),
    Advisory(
        KERNEL,
        "CVE-2024-1086",
        "nf_tables uses memory after it was freed",
        ("4.19.307", "5.4.269", "5.10.210", "5.15.149", "6.1.76", "6.6.15", "6.7.3", "6.8.0"),
        since="3.15",
    ),
    Advisory(
        KERNEL,
        "CVE-2026-31431",
        "Copy Fail: AF_ALG writes into the page cache",
        ("7.0.0",),
        since="4.14",
        is_backported=True,
    ),
)

# When the first release of a branch came out.
BRANCHES = {
    ENGINE: {
        (19, 3): date(2019, 7, 22),
        (20, 10): date(2020, 12, 8),
        (23, 0): date(2023, 2, 1),
        (24, 0): date(2023, 5, 16),
        (25, 0): date(2024, 1, 19),
        (26, 0): date(2024, 3, 20),
        (26, 1): date(2024, 4, 22),
        (27, 0): date(2024, 6, 24),
        (28, 0): date(2025, 2, 19),
        (29, 0): date(2025, 11, 10),
    },
    CONTAINERD: {
        (1, 6): date(2022, 2, 15),
        (1, 7): date(2023, 3, 10),
        (2, 0): date(2024, 11, 5),
        (2, 1): date(2025, 5, 7),
        (2, 2): date(2025, 11, 6),
    },
    RUNC: {(1, 0): date(2021, 6, 22), (1, 1): date(2022, 1, 17), (1, 2): date(2024, 10, 22), (1, 3): date(2025, 4, 29)},
    KERNEL: {
        (5, 4): date(2019, 11, 24),
        (5, 10): date(2020, 12, 13),
        (5, 15): date(2021, 10, 31),
        (6, 1): date(2022, 12, 11),
        (6, 6): date(2023, 10, 29),
        (6, 12): date(2024, 11, 17),
        (6, 18): date(2025, 11, 30),
    },
}

Version = tuple[int, int, int, int]


def parse(text: str) -> Version | None:
    """Return a version that can be compared, from text such as 1.1.5+ds1, 6.1.0-28-amd64 or 1.4.0-rc.3."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]?rc\.?(\d+))?", text)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else _NO_CANDIDATE


def standing(advisory: Advisory, version: str) -> Standing:
    """Tell whether a version has the flaw. *version* is the distribution's own where one packed it."""
    parsed = parse(version)
    if parsed is None:
        return Standing.UNKNOWN
    if advisory.since and parsed < _certain(advisory.since):
        return Standing.FIXED
    if _is_mended(parsed, [_certain(each) for each in advisory.fixed]):
        return Standing.FIXED
    if any(_has_revision(version, each) for each in advisory.debian):
        return Standing.FIXED
    is_packed = "+deb" in version or "+ds" in version or "dfsg" in version or "ubuntu" in version
    return Standing.UNKNOWN if is_packed or advisory.is_backported else Standing.VULNERABLE


def released(component: str, version: str) -> date | None:
    """Return when the branch of a version began; None if the table has not got it."""
    parsed = parse(version)
    return BRANCHES.get(component, {}).get(parsed[:2]) if parsed else None


def _certain(text: str) -> Version:
    parsed = parse(text)
    if parsed is None:
        raise ValueError(f"{text!r} is no version")
    return parsed


def _is_mended(version: Version, fixed: list[Version]) -> bool:
    """Return whether a version has the fix of its branch; a branch without a fix is compared with the last one."""
    own = [each for each in fixed if each[:2] == version[:2]]
    return version >= (own[0] if own else max(fixed))


def _has_revision(version: str, mended: str) -> bool:
    """Return whether a Debian version has the upstream release of *mended*, and is not older."""
    (upstream, _, revision), (wanted, _, least) = version.partition("-"), mended.partition("-")
    return upstream == wanted and _numbers(revision) >= _numbers(least)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
