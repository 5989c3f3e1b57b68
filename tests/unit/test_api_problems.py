"""The table of errors."""

from __future__ import annotations

import inspect
import re

import pytest

import controlplane.errors
import execd.errors
from controlplane.api import problems
from controlplane.api.problems import BY_AGENT_CODE, BY_CLASS, BY_CODE, DOCUMENTED, documented_status, problem_of
from controlplane.errors import AgentError, Conflict, InvalidRequest, LinkLost, NotFound, SandlotError

AGENT_CODES = re.findall(r"\b(?:request|process|file|context)\.[a-z_]+\b|\binternal\b", execd.errors.__doc__ or "")


def test_every_error_class_has_a_row() -> None:
    """A new class without a row would be answered by its parent's."""
    classes = {
        item for _, item in inspect.getmembers(controlplane.errors, inspect.isclass) if issubclass(item, SandlotError)
    }

    assert classes == set(BY_CLASS)


@pytest.mark.parametrize("code", AGENT_CODES)
def test_every_code_of_execd_has_a_row(code: str) -> None:
    """`execd/errors.py` lists them; one without a row would be a 500."""
    assert code in BY_AGENT_CODE


def test_the_codes_of_execd_were_found() -> None:
    """The list above is not empty because its format has changed."""
    assert len(AGENT_CODES) > 15


@pytest.mark.parametrize("problem", [*BY_CLASS.values(), *BY_CODE.values(), *BY_AGENT_CODE.values()])
def test_every_row_is_an_error_with_a_code(problem: problems.Problem) -> None:
    """Statuses are errors, codes are words in capitals."""
    assert 400 <= problem.status < 600
    assert re.fullmatch(r"[A-Z]+(::)?[A-Z_]+", problem.code)


@pytest.mark.parametrize("operation", DOCUMENTED)
def test_what_an_operation_says_has_a_status_that_it_documents(operation: str) -> None:
    """Whatever execd or the checks of a body say, the official client finds the status in its list."""
    errors: list[SandlotError] = [AgentError("x", code=code) for code in [*BY_AGENT_CODE, "unheard.of"]]
    errors += [InvalidRequest("x", code=code) for code in [*BY_CODE, "request.invalid"]]

    for error in errors:
        assert documented_status(operation, error, problem_of(error).status) in DOCUMENTED[operation]


def test_a_missing_file_stays_404_where_that_is_documented() -> None:
    """The nearest status is only taken where the own one is not documented."""
    missing = AgentError("no such file", code="file.not_found")

    assert documented_status("file.download", missing, 404) == 404
    assert documented_status("file.change", missing, 404) == 400
    assert documented_status("file.remove", missing, 404) == 400


def test_the_proxy_s_own_errors_keep_their_status_at_an_endpoint() -> None:
    """That a sandbox is gone is said by the proxy before the operation is reached."""
    for error, status in ((NotFound("x"), 404), (LinkLost("x"), 502), (Conflict("x"), 409)):
        assert documented_status("file.remove", error, problem_of(error).status) == status
    assert documented_status("sandbox.create", LinkLost("x"), 502) == 500
