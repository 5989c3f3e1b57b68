"""Something that is asked of a context between two runs: one message, one answer."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from execd.errors import ExecdError
from execd.kernel.channel import Answer, Refused

A = TypeVar("A", bound=Answer)


class Question:
    """`answer` is set when it has been answered, or cannot be any more."""

    def __init__(self, op: str, fields: dict[str, Any], fds: list[int]) -> None:
        self.op = op
        self.fields = fields
        self.fds = fds  # go with it; they belong to whoever asks
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def set_answer(self, answer: Answer) -> None:
        """This is it."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: ExecdError) -> None:
        """There is none."""
        if not self.answer.done():
            self.answer.set_exception(error)


def expect(answer: Answer, kind: type[A], *, refusal: str) -> A:
    """Return the answer, which must be of that kind.

    Raises:
        ExecdError: the runner refused, which is told under the code *refusal*; or it answered something else.
    """
    if isinstance(answer, Refused):
        raise ExecdError(refusal, answer.message)
    if not isinstance(answer, kind):
        raise ExecdError("internal", f"its runner answered with {type(answer).__name__} where {kind.__name__} was due")
    return answer
