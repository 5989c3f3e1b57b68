"""How old the engine, its runtimes and the images are: the table of known flaws, and what is read of an engine."""

from __future__ import annotations

import os
from datetime import date, timedelta

import pytest

from controlplane.attack import advisories
from controlplane.attack.advisories import (
    ADVISORIES,
    CONTAINERD,
    ENGINE,
    KERNEL,
    RUNC,
    TABLE_DATE,
    Standing,
    parse,
    standing,
)
from controlplane.attack.age import IMAGE_FRESH_DAYS, judge, judge_image, versions

TODAY = date(2026, 12, 1)


def of(cve: str, version: str) -> Standing:
    (advisory,) = [each for each in ADVISORIES if each.cve == cve]
    return standing(advisory, version)


@pytest.mark.parametrize(
    ("cve", "version", "expected"),
    [
        # Leaky Vessels: upstream's release, Debian's mend of an older one, and Debian's release before it.
        ("CVE-2024-21626", "1.1.11", Standing.VULNERABLE),
        ("CVE-2024-21626", "1.1.12", Standing.FIXED),
        ("CVE-2024-21626", "1.1.5+ds1-1+deb12u1", Standing.FIXED),
        ("CVE-2024-21626", "1.1.5+ds1-1+deb12u2", Standing.FIXED),
        ("CVE-2024-21626", "1.1.5+ds1-1", Standing.UNKNOWN),
        # Mends in three branches; a branch between or before them has none, one after them has it.
        ("CVE-2025-31133", "1.2.7", Standing.VULNERABLE),
        ("CVE-2025-31133", "1.2.8", Standing.FIXED),
        ("CVE-2025-31133", "1.3.2", Standing.VULNERABLE),
        ("CVE-2025-31133", "1.3.3", Standing.FIXED),
        ("CVE-2025-31133", "1.4.0-rc.2", Standing.VULNERABLE),
        ("CVE-2025-31133", "1.4.0-rc.3", Standing.FIXED),
        ("CVE-2025-31133", "1.4.0", Standing.FIXED),
        ("CVE-2025-31133", "1.1.15", Standing.VULNERABLE),
        ("CVE-2025-31133", "2.0.0", Standing.FIXED),
        ("CVE-2025-31133", "1.1.5+ds1-1+deb12u1", Standing.UNKNOWN),
        # Kernels: before the flaw, in it, mended in a branch, after it.
        ("CVE-2022-0847", "5.4.0-100-generic", Standing.FIXED),
        ("CVE-2022-0847", "5.10.101", Standing.VULNERABLE),
        ("CVE-2022-0847", "5.10.102", Standing.FIXED),
        ("CVE-2022-0847", "5.14.3", Standing.VULNERABLE),
        ("CVE-2022-0847", "6.18.44-fc", Standing.FIXED),
        ("CVE-2026-31431", "6.12.1", Standing.UNKNOWN),
        ("CVE-2026-31431", "7.0.1", Standing.FIXED),
        ("CVE-2026-41567", "29.5.0", Standing.VULNERABLE),
        ("CVE-2026-41567", "29.5.1", Standing.FIXED),
        ("CVE-2026-41567", "nightly", Standing.UNKNOWN),
    ],
)
def test_what_is_known_of_a_version(cve: str, version: str, expected: Standing) -> None:
    """A version that a distribution packed is only called vulnerable by the distribution."""
    assert of(cve, version) is expected


def test_the_table_can_be_read() -> None:
    """Every version in it is one, and mends stand in order of their branches."""
    for advisory in ADVISORIES:
        fixed = [parse(text) for text in advisory.fixed]
        assert None not in fixed
        assert fixed == sorted(fixed), advisory.cve  # type: ignore[type-var]
        assert not advisory.since or parse(advisory.since), advisory.cve
        assert advisory.component in {ENGINE, CONTAINERD, RUNC, KERNEL}
    assert date(2026, 1, 1) < TABLE_DATE


def test_what_an_engine_tells_of_itself() -> None:
    """Debian puts its whole revision in the place of a commit, and names the kernel's sources elsewhere."""
    release = os.uname().release
    answer = {
        "KernelVersion": release,
        "Components": [
            {"Name": "Engine", "Version": "20.10.24+dfsg1", "Details": {"GitCommit": "5d6db84"}},
            {
                "Name": "containerd",
                "Version": "v2.1.5",
                "Details": {"GitCommit": "fcd43222d6b07379a4be9786bda52438f0dd16a1"},
            },
            {"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1+deb12u1"}},
            {"Name": "docker-init", "Version": "0.19.0"},
        ],
    }
    found = versions(answer, "#1 SMP Debian 6.1.119-1 (2024-11-22)")
    assert found == {
        ENGINE: "20.10.24+dfsg1",
        CONTAINERD: "v2.1.5",
        RUNC: "1.1.5+ds1-1+deb12u1",
        KERNEL: "6.1.119-1",
    }
    assert versions(answer, "#1 SMP")[KERNEL] == release
    assert versions({"KernelVersion": "5.10.0"}, "Debian 6.1.119-1") == {KERNEL: "5.10.0"}, "another machine's engine"


def test_a_finding_names_the_flaws_and_the_cure() -> None:
    """And how old the branch is."""
    found = judge(RUNC, "1.1.11", TODAY)
    assert found.standing is Standing.VULNERABLE
    assert "CVE-2024-21626" in found.text
    assert "its branch began 59 months ago" in found.text
    assert found.cure.startswith("upgrade runc")
    assert judge(RUNC, "1.4.1", TODAY).cure == ""
    assert judge(RUNC, "1.1.5+ds1-1+deb12u1", TODAY).standing is Standing.UNKNOWN


def test_an_old_image_is_to_be_rebuilt() -> None:
    """Security updates reach an image only by a new build."""
    created = f"{TODAY - timedelta(days=IMAGE_FRESH_DAYS)}T10:00:00.123Z"
    assert judge_image("sandlot/base", created, TODAY).cure == ""
    assert "builder prune" in judge_image("sandlot/base", created, TODAY + timedelta(days=1)).cure
    assert judge_image("sandlot/base", "", TODAY).standing is Standing.UNKNOWN


def test_a_branch_that_nobody_knows_has_no_age() -> None:
    """It is newer than the table, or nobody's."""
    assert advisories.released(RUNC, "9.9.9") is None
    assert advisories.released(KERNEL, "6.1.55") == date(2022, 12, 11)
