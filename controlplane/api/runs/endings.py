"""How the end of a run is told as events: of a command, of code in a context, of code in a session."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from controlplane.api.runs import sse
from controlplane.api.runs.receipt import Receipt
from controlplane.api.runs.replies import Ended, Lost
from controlplane.api.runs.run import Kind, Run
from controlplane.errors import AgentError

# What shells say of a command that could not be started; the SDKs read exit codes from nowhere else.
NOT_STARTED = "127"
# What `timeout` of the GNU coreutils exits with.
TIMED_OUT = 124
INTERRUPTED = 130


def describe(receipt: Receipt, timeout_s: float | None = None) -> str:
    """Say how a process ended; "" when it ended well."""
    match receipt.cause:
        case "exit":
            return f"exit status {receipt.exit_code}" if receipt.exit_code else ""
        case "signal":
            return f"ended by signal {receipt.signal} ({_signal_name(receipt.signal)})"
        case "timeout":
            return _timed_out(timeout_s)
        case "oom":
            return sse.OUT_OF_MEMORY
        case "killed":
            return "ended on request"
        case "link_lost":
            return "ended because the link to the sandbox broke"
        case cause:
            return cause


def failure_events(lost: Lost) -> bytes:
    """Return the events for a command that was broken off.

    Why it could not be started is on stderr as well, where shells say it, and people look.
    """
    error = lost.error
    if isinstance(error, AgentError) and error.code == "process.spawn_failed":
        said = sse.text_event("stderr", error.message)
        return said + sse.error_event(sse.COMMAND_ERROR, NOT_STARTED, [error.message])
    return sse.failure_event(lost)


def _command_ended(run: Run, ended: Ended, _has_raised: bool) -> bytes:
    receipt = ended.receipt
    if receipt.exit_code == 0 and receipt.cause == "exit":
        return sse.complete_event(receipt.wall_s, receipt)
    return sse.error_event(sse.COMMAND_ERROR, str(receipt.exit_code), [describe(receipt, run.timeout_s)], receipt)


def _command_lost(_run: Run, lost: Lost) -> bytes:
    return failure_events(lost)


def _session_ended(run: Run, ended: Ended, _has_raised: bool) -> bytes:
    receipt = ended.receipt
    match receipt.cause:
        case "ok":
            return sse.complete_event(receipt.wall_s, receipt)
        case "timeout":
            code, why = TIMED_OUT, _timed_out(run.timeout_s)
        case "interrupted":
            code, why = INTERRUPTED, "interrupted"
        case "died":
            code, why = receipt.exit_code, f"the shell has ended: {ended.message}"
        case "oom":
            code, why = receipt.exit_code, sse.OUT_OF_MEMORY
        case _:
            code, why = receipt.exit_code, f"exit status {receipt.exit_code}"
    return sse.error_event(sse.COMMAND_ERROR, str(code), [why], receipt)


def _session_lost(_run: Run, lost: Lost) -> bytes:
    return sse.failure_event(lost)


def _code_ended(run: Run, ended: Ended, has_raised: bool) -> bytes:
    """Return the cause, unless the code's own error has told it; then `complete`."""
    receipt, events = ended.receipt, b""
    match receipt.cause:
        case "timeout":
            limit = f" after {run.timeout_s:g} s" if run.timeout_s else ""
            lost = ", and its context with it" if receipt.died_of else ""
            events = sse.error_event("TimeoutError", f"the run was stopped{limit}{lost}")
        case "died":
            events = sse.error_event("ContextDied", ended.message or "the interpreter ended during the run")
        case "interrupted" if not has_raised:
            events = sse.error_event("KeyboardInterrupt", ended.message or "the run was interrupted")
        case "error" | "oom" if not has_raised and receipt.exit_code:  # a shell
            why = sse.OUT_OF_MEMORY if receipt.cause == "oom" else f"exit status {receipt.exit_code}"
            events = sse.error_event(sse.COMMAND_ERROR, str(receipt.exit_code), [why])
        case "error" if not has_raised:
            events = sse.error_event("Error", ended.message or "the run failed")
    return events + sse.complete_event(receipt.wall_s, receipt)


def _code_lost(run: Run, lost: Lost) -> bytes:
    if run.is_interrupted:
        why = "the run was interrupted while it waited for its turn"
        return sse.error_event("KeyboardInterrupt", why, receipt=Receipt("interrupted", 0.0, 0.0, 0, 0))
    return sse.failure_event(lost)


def _timed_out(timeout_s: float | None) -> str:
    return "timed out" + (f" after {timeout_s:g} s" if timeout_s else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


ENDINGS: Mapping[Kind, sse.Endings] = {
    "process": sse.Endings(_command_ended, _command_lost),
    "context": sse.Endings(_code_ended, _code_lost),
    "session": sse.Endings(_session_ended, _session_lost),
}
