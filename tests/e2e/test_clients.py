"""Every public method of every official client that is at hand, against one server."""

from __future__ import annotations

import pytest

from tests.e2e.clients import ALL, Tour, is_refusal_known, make, missing, table
from tests.live_server import ROOT, LiveServer

_found: dict[Tour, dict[str, str]] = {}


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


def test_the_page_says_what_was_found() -> None:
    """`docs/compatibility.md` is made from such a run."""
    if set(_found) != set(ALL):
        pytest.skip("needs the results of all the tests above")
    assert (ROOT / "docs" / "compatibility.md").read_text() == table({tour: _found[tour] for tour in ALL})
