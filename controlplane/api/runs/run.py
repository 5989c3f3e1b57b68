"""One run, while a client listens to it."""

from __future__ import annotations

import time
from typing import Literal

from controlplane.api.runs.replies import Replies
from controlplane.link.stream import Stream
from execd.wire.messages import RunState

Kind = Literal["process", "context", "session"]

FROM_START = RunState(kind="", place="", lines=True, timeout_s=None)


class Run:
    """One run, while its client listens. `place` is the id of its context or session; "" of a command."""

    def __init__(
        self,
        run_id: str,
        sandbox_id: str,
        kind: Kind,
        place: str,
        timeout_s: float | None,
        replies: Replies,
        state: RunState = FROM_START,
        *,
        is_from_start: bool = True,
        language: str = "",
    ) -> None:
        self.id = run_id
        self.sandbox_id = sandbox_id
        self.kind = kind
        self.place = place
        self.timeout_s = timeout_s
        self.language = language  # "" of a command, and where the server does not know it
        self.began = time.perf_counter()  # to be read
        self.replies = replies
        self.state = state  # where its reader stands
        self.is_from_start = is_from_start
        self.is_interrupted = False

    @property
    def stream(self) -> Stream:
        """The stream that the run is read from."""
        return self.replies.stream
