"""Every public method of every official client that is at hand, and their older versions, against one server."""

from __future__ import annotations

import pytest

from tests.e2e.clients import ALL, Tour, is_refusal_known, make, missing, page
from tests.e2e.clients.versions import LINES, VERSIONS, WAYS, Version, tours
from tests.e2e.clients.versions import missing as missing_for
from tests.support.server.live_server import ROOT, LiveServer

_found: dict[Tour, dict[str, str]] = {}
_found_by_versions: dict[tuple[Version, str], dict[str, str]] = {}


@pytest.mark.parametrize("tour", ALL, ids=lambda tour: tour.name)
def test_every_method_works_or_is_refused_as_documented(tour: Tour, server: LiveServer) -> None:
    """And none is left out: a release with more methods makes this fail."""
    if why := missing(tour):
        pytest.skip(why)
    outcome = make(tour, server)
    _found[tour] = outcome.results
    assert set(outcome.surface) <= set(outcome.results)
    wrong = {
        method: result
        for method, result in outcome.results.items()
        if result != "ok" and not is_refusal_known(method, result)
    }
    assert wrong == {}, outcome.log[-5000:]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_old_versions_work_as_far_as_they_go(version: Version, server: LiveServer) -> None:
    if why := missing_for(version):
        pytest.skip(why)
    for way, results in tours(version, server).items():
        _found_by_versions[version, way] = results
        assert set(results) <= set(LINES)
        assert {thing: result for thing, result in results.items() if result not in ("ok", "–")} == {}
        assert "ok" in results.values() or results == {"create": "–"}


def test_the_page_says_what_was_found() -> None:
    """`docs/compatibility.md` is made from such a run."""
    if set(_found) != set(ALL) or len(_found_by_versions) != len(VERSIONS) * len(WAYS):
        pytest.skip("needs the results of all the tests above")
    assert (ROOT / "docs" / "compatibility.md").read_text() == page(
        {tour: _found[tour] for tour in ALL}, _found_by_versions
    )
