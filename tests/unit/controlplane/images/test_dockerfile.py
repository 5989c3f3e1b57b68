"""A Dockerfile's stages: what each needs, and the part of the file that builds it."""

from __future__ import annotations

from controlplane.images.dockerfile import parse

TEXT = """\
# What it is for
ARG BASE=debian
FROM ${BASE} AS tools
RUN one \\
 && FROM-is-no-instruction-here
FROM sandlot/python:latest as first
COPY --from=sandlot/node /a /b
COPY a.txt \\
     b.txt /c/
from tools AS more
COPY --chown=1:1 --from=first /a /
FROM other
COPY --from=more /x /
COPY c.txt /
"""


def test_stages_and_what_each_needs() -> None:
    found = parse(TEXT)
    assert found.head == "# What it is for\nARG BASE=debian\n"
    assert [(stage.name, stage.stages, stage.parents, stage.sources) for stage in found.stages] == [
        ("tools", (), (), ()),
        ("first", (), ("python", "node"), ("a.txt", "b.txt")),
        ("more", ("tools", "first"), (), ()),
        ("", ("more",), (), ("c.txt",)),
    ]
    assert (found.parents, found.sources) == (("python", "node"), ("a.txt", "b.txt", "c.txt"))
    assert found.head + "".join(stage.text for stage in found.stages) == TEXT


def test_a_stage_needs_others_and_takes_them_from_images() -> None:
    found = parse(TEXT)
    assert [stage.name for stage in found.needed_by("more")] == ["tools", "first", "more"]
    assert [stage.name for stage in found.needed_by("first")] == ["first"]
    assert found.text_of(found.stages[1], str.upper) == found.head + found.stages[1].text
    assert found.text_of(found.stages[2], lambda name: f"sandlot/stage:x-{name}") == (
        found.head + "from sandlot/stage:x-tools AS more\nCOPY --chown=1:1 --from=sandlot/stage:x-first /a /\n"
    )
