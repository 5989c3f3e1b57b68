"""The table of errors."""

from __future__ import annotations

import inspect
import re

import pytest

import controlplane.errors
from controlplane.api.edge import problems
from controlplane.api.edge.operation import Operation
from controlplane.api.edge.problems import BY_AGENT_CODE, BY_CLASS, BY_CODE, documented_status, problem_of
from controlplane.api.routes import OPERATIONS
from controlplane.api.runs.replies import Lost
from controlplane.api.runs.sse import failure_event
from controlplane.api.stream.stream import failed
from controlplane.errors import (
    AgentError,
    Conflict,
    Field,
    InvalidRequest,
    LinkLost,
    NotFound,
    RuntimeFailure,
    SandlotError,
)
from execd.errors import CODES
from tests.support.server.api_routes import BY_NAME


def test_every_error_class_has_a_row() -> None:
    """A new class without a row would be answered by its parent's."""
    classes = {
        item for _, item in inspect.getmembers(controlplane.errors, inspect.isclass) if issubclass(item, SandlotError)
    }

    assert classes == set(BY_CLASS)


@pytest.mark.parametrize("field", list(Field))
def test_a_refused_field_has_the_contract_s_name(field: Field) -> None:
    """Below the API, nobody knows that name."""
    assert (
        problems.public_message(InvalidRequest("is too large", field=field))
        == f"{problems.FIELDS[field]}: is too large"
    )
    assert problems.public_message(InvalidRequest("is too large")) == "is too large"


def test_streams_have_no_words_of_the_engine() -> None:
    """As answers do not: its words name paths of its host."""
    error = RuntimeFailure("runc: /var/lib/docker: no", public="the engine refused")
    said = failure_event(Lost(error, None)).decode() + failed(1, error).message
    assert "the engine refused" in said
    assert "/var/lib" not in said


def test_every_code_of_execd_has_a_row_and_every_row_a_code() -> None:
    """A code without a row would be answered with 500."""
    assert set(BY_AGENT_CODE) == CODES


@pytest.mark.parametrize("kind", BY_CLASS)
def test_a_code_of_the_table_is_not_that_of_a_class(kind: type[SandlotError]) -> None:
    """Or says the same: the table of codes wins over the table of classes."""
    assert BY_CODE.get(kind.code, BY_CLASS[kind]) == BY_CLASS[kind]


@pytest.mark.parametrize("problem", [*BY_CLASS.values(), *BY_CODE.values(), *BY_AGENT_CODE.values()])
def test_every_row_is_an_error_with_a_code(problem: problems.Problem) -> None:
    """Statuses are errors, codes are words in capitals."""
    assert 400 <= problem.status < 600
    assert re.fullmatch(r"[A-Z]+(::)?[A-Z_]+", problem.code)


@pytest.mark.parametrize("operation", [pytest.param(each, id=f"{each.name} {each.path}") for each in OPERATIONS])
def test_what_an_operation_says_has_a_status_that_it_documents(operation: Operation) -> None:
    """Whatever execd or the checks of a body say, the official client finds the status in its list."""
    errors: list[SandlotError] = [AgentError("x", code=code) for code in [*BY_AGENT_CODE, "unheard.of"]]
    errors += [InvalidRequest("x", code=code) for code in [*BY_CODE, "request.invalid"]]

    for error in errors:
        assert documented_status(operation, error, problem_of(error).status) in operation.documented


def test_a_missing_file_stays_404_where_that_is_documented() -> None:
    """The nearest status is only taken where the own one is not documented."""
    missing = AgentError("no such file", code="file.not_found")

    assert documented_status(BY_NAME["file.download"], missing, 404) == 404
    assert documented_status(BY_NAME["file.change"], missing, 404) == 400
    assert documented_status(BY_NAME["file.remove"], missing, 404) == 400


def test_the_proxy_s_own_errors_keep_their_status_at_an_endpoint() -> None:
    """That a sandbox is gone is said by the proxy before the operation is reached."""
    for error, status in ((NotFound("x"), 404), (LinkLost("x"), 502), (Conflict("x"), 409)):
        assert documented_status(BY_NAME["file.remove"], error, problem_of(error).status) == status
    assert documented_status(BY_NAME["sandbox.create"], LinkLost("x"), 502) == 500
