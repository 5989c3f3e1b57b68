"""Globs: `*` `?` `[a-z]` `[!a-z]` within a name, `**` across directories, `{a,b}` for alternatives."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from execd.errors import ExecdError

MAX_PATTERN_CHARS = 1000
MAX_ALTERNATIVES = 64

_Segment = Callable[[str], object]
_ANYTHING_BELOW = "**"


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Return a test for paths that are relative to the root of the search.

    A pattern without a slash is matched with the last component, a pattern with a slash with the whole path.

    Raises:
        ExecdError: `request.invalid`: the pattern is empty or too large.
    """
    if not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        raise ExecdError("request.invalid", f"a pattern must have 1 to {MAX_PATTERN_CHARS} characters")
    globs = [_compile_segments(alternative) for alternative in expand_braces(pattern)]

    def matches(path: str) -> bool:
        names = path.split("/")
        return any(_match(segments, names if whole else names[-1:]) for segments, whole in globs)

    return matches


def expand_braces(pattern: str) -> set[str]:
    """Return the alternatives of a pattern: `a{b,c}` → `ab`, `ac`.

    A brace without its counterpart is an ordinary character.
    """
    done: set[str] = set()
    waiting = {pattern}
    while waiting:
        if len(done) + len(waiting) > MAX_ALTERNATIVES:
            raise ExecdError("request.invalid", f"a pattern can have at most {MAX_ALTERNATIVES} alternatives")
        pattern = waiting.pop()
        # The innermost braces come first, because the text between them contains no other braces.
        stop = pattern.find("}")
        start = pattern.rfind("{", 0, stop) if stop >= 0 else -1
        if start < 0:
            done.add(pattern)
        else:
            parts = pattern[start + 1 : stop].split(",")
            waiting.update(pattern[:start] + part + pattern[stop + 1 :] for part in parts)
    return done


def _compile_segments(pattern: str) -> tuple[list[_Segment | None], bool]:
    whole = "/" in pattern
    segments: list[_Segment | None] = []
    for segment in pattern.strip("/").split("/"):
        if segment == _ANYTHING_BELOW and whole:
            segments.append(None)
        else:
            # fnmatch writes regular expressions that do not backtrack from one `*` into the previous one.
            segments.append(re.compile(fnmatch.translate(segment.replace("[^", "[!"))).match)
    return segments, whole


def _match(segments: Sequence[_Segment | None], names: Sequence[str]) -> bool:
    # As for one `*`: on failure, let the last `**` match one more name. No recursion, and no exponential case.
    at = segment = 0
    retry_at = retry_segment = -1
    while at < len(names):
        if segment < len(segments) and (test := segments[segment]) is None:
            retry_at, retry_segment = at, segment
            segment += 1
        elif segment < len(segments) and test is not None and test(names[at]):
            at += 1
            segment += 1
        elif retry_segment >= 0:
            retry_at += 1
            at, segment = retry_at, retry_segment + 1
        else:
            return False
    return all(test is None for test in segments[segment:])
