"""A question that is asked of a context between two runs: one message, one answer."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from execd.errors import Code, ExecdError
from execd.kernel.runner.channel import Answer, Refused

A = TypeVar("A", bound=Answer)


class Question:
    """A question. `answer` is done when the runner has answered, or cannot answer any more."""

    def __init__(self, op: str, fields: dict[str, Any], fds: list[int]) -> None:
        self.op = op
        self.fields = fields
        self.fds = fds  # sent with the question; they belong to the caller
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def set_answer(self, answer: Answer) -> None:
        """Deliver the answer."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: ExecdError) -> None:
        """Report that there is no answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


def expect(answer: Answer, kind: type[A], *, refusal: Code) -> A:
    """Return the answer, which must be of the given kind.

    Raises:
        ExecdError: The runner refused, which is reported under the code *refusal*; or the answer is of another kind.
    """
    if isinstance(answer, Refused):
        raise ExecdError(refusal, answer.message)
    if not isinstance(answer, kind):
        raise ExecdError("internal", f"its runner answered with {type(answer).__name__} instead of {kind.__name__}")
    return answer
