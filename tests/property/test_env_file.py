"""The environment file: what the official SDKs append to it is what later commands get."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from execd.launch.environment import parse_env_file

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
values = st.text(
    st.one_of(st.sampled_from("'\"\\$\n\r\t =#ax"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    max_size=30,
)


def as_the_sdk_writes(key: str, value: str) -> str:
    """The line of `commands.set_env` in the Python SDK 1.1.1."""
    if "'" not in value:
        return f"{key}='{value}'\n"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'{key}="{escaped}"\n'


@given(st.lists(st.tuples(names, values), max_size=6))
def test_what_the_sdk_writes_is_read_back_exactly(entries: list[tuple[str, str]]) -> None:
    """Any values, in any order, newlines and quotes and dollars included; the last one of a name wins."""
    text = "".join(as_the_sdk_writes(key, value) for key, value in entries)

    assert parse_env_file(text) == dict(entries)


@given(st.text(max_size=200), names, values)
def test_garbage_before_an_entry_never_breaks_the_reader(garbage: str, key: str, value: str) -> None:
    """It may swallow an entry (an open quote does), but it never fails and never invents names."""
    parsed = parse_env_file(garbage + "\n" + as_the_sdk_writes(key, value))

    assert all(name.isidentifier() and "\0" not in value for name, value in parsed.items())
