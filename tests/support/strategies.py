"""What hypothesis draws from: messages of the link, frames of any kind, and ways to cut bytes."""

from __future__ import annotations

import typing

import msgspec
from hypothesis import strategies as st

from execd.wire.frames import encode
from execd.wire.messages import Hello, Message, Problem, Reply, Request, encode_message

_SCALARS: dict[type, st.SearchStrategy[object]] = {
    msgspec.inspect.StrType: st.text(max_size=20),
    msgspec.inspect.IntType: st.integers(1, 1 << 16),
    msgspec.inspect.FloatType: st.floats(allow_nan=False),
    msgspec.inspect.BoolType: st.booleans(),
    msgspec.inspect.BytesType: st.binary(max_size=8),
    msgspec.inspect.NoneType: st.none(),
}


def _of_type(info: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    if isinstance(info, msgspec.inspect.Metadata):  # beside a type, what is known of it
        return _of_type(info.type)
    if isinstance(info, msgspec.inspect.UnionType):
        return st.one_of([_of_type(each) for each in info.types])
    if isinstance(info, msgspec.inspect.VarTupleType):
        longest = 3 if info.max_length is None else min(3, info.max_length)
        return st.lists(_of_type(info.item_type), min_size=info.min_length or 0, max_size=longest).map(tuple)
    if isinstance(info, msgspec.inspect.TupleType):
        return st.tuples(*[_of_type(each) for each in info.item_types])
    if isinstance(info, msgspec.inspect.DictType):
        return st.dictionaries(_of_type(info.key_type), _of_type(info.value_type), max_size=3)
    if isinstance(info, msgspec.inspect.StructType):
        return st.builds(info.cls, **{field.name: _of_type(field.type) for field in info.fields})
    return _SCALARS[type(info)]


def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[typing.Any]:
    """Any value of a Struct class."""
    return _of_type(msgspec.inspect.type_info(cls))


requests: st.SearchStrategy[Request] = st.one_of([structs(cls) for cls in typing.get_args(Request)])
replies: st.SearchStrategy[Reply] = st.one_of([structs(cls) for cls in typing.get_args(Reply)])
messages: st.SearchStrategy[Message] = requests | replies
hellos = structs(Hello)
problems = structs(Problem)


def payloads() -> st.SearchStrategy[bytes]:
    """What a frame may carry: good messages, cut ones, numbers, garbage, nothing."""
    good = (messages | hellos | problems).map(encode_message)
    cut = st.tuples(good, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    numbers = st.integers(0, (1 << 32) - 1).map(lambda number: number.to_bytes(4, "big"))
    return good | cut | numbers | st.binary(max_size=60) | st.just(b"")


# Frames that often are nearly right, so that a test gets far before it breaks the rules.
frames: st.SearchStrategy[bytes] = st.builds(
    encode,
    stream_id=st.integers(0, 4) | st.integers(0, (1 << 32) - 1),
    kind=st.integers(1, 7) | st.integers(0, 255),
    payload=payloads(),
    flags=st.sampled_from([0, 0, 0, 1, 2]) | st.integers(0, 255),
)


@st.composite
def cut_up(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, cut anywhere into chunks, in order."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
