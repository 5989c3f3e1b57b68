"""Messages: their bytes, what an older or newer peer makes of them, and what is refused."""

from __future__ import annotations

import tracemalloc
import typing

import msgspec
import pytest

from execd.wire import messages
from execd.wire.errors import MAX_REASON_CHARS, RemoteProtocolError
from execd.wire.messages import (
    CUT,
    MAX_COMMAND_CHARS,
    MAX_PATH_CHARS,
    MAX_SENTENCE_CHARS,
    MAX_WORD_CHARS,
    ContextDone,
    ContextResult,
    Done,
    FileInfo,
    Hello,
    Message,
    Problem,
    ProcessExited,
    ProcessSignal,
    ProcessStarted,
    ProcessState,
    Reply,
    Request,
    decode_hello,
    decode_problem,
    decode_reply,
    decode_request,
    encode_message,
)


def test_a_message_is_a_msgpack_array_that_begins_with_its_tag() -> None:
    """The bytes of generation 1, written out."""
    assert encode_message(ProcessStarted(pid=300)) == b"\x92\xafprocess.started\xcd\x01\x2c"
    assert encode_message(Done()) == b"\x91\xa4done"


def test_every_message_has_a_tag_of_its_own() -> None:
    """Requests and replies together: a tag is a name for good."""
    tags = [cls.__struct_config__.tag for cls in (*typing.get_args(Message), Hello, Problem)]
    assert len(set(tags)) == len(tags)


def test_fields_that_an_older_peer_does_not_know_have_their_defaults() -> None:
    """Within a generation messages grow at their end; an older peer sends less."""
    older = msgspec.msgpack.encode(["process.exited", "exit", 0])
    assert decode_reply(older) == ProcessExited("exit", 0, signal=0, output_bytes=0)


def test_fields_that_a_newer_peer_adds_are_skipped() -> None:
    """Within a generation messages grow at their end."""
    newer = msgspec.msgpack.encode(["process.started", 12, "new", {"deep": [1, 2]}])
    assert decode_reply(newer) == ProcessStarted(12)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"\x92\xafprocess.star", id="cut"),
        pytest.param(encode_message(Done()) + b"\x00", id="bytes behind"),
        pytest.param(msgspec.msgpack.encode({"pid": 3}), id="a map"),
        pytest.param(msgspec.msgpack.encode(["process.started", "three"]), id="a wrong type"),
        pytest.param(msgspec.msgpack.encode(["process.started"]), id="a field missing"),
        pytest.param(msgspec.msgpack.encode(["process.vanished", 1]), id="an unknown tag"),
        pytest.param(b"\x92\xafprocess.started" + b"\x91" * 100_000 + b"\xc0", id="a wrong type, deep"),
        pytest.param(b"\x93\xafprocess.started\x01" + b"\x91" * 60_000 + b"\xc0", id="an unknown field, deep"),
        pytest.param(b"\x92\xa4done\xdd\xff\xff\xff\xff", id="an array of four billion"),
        pytest.param(b"\x93\xaccontext.done\xdb\xff\xff\xff\xff", id="a string of four gigabytes"),
        pytest.param(b"\x92\xafcontext.error\xa2\xff\xfe\xa0", id="no UTF-8"),
    ],
)
def test_what_cannot_be_decoded_is_the_peers_fault(payload: bytes) -> None:
    """One error for all of it, and never a crash."""
    with pytest.raises(RemoteProtocolError):
        decode_reply(payload)


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    """One decoder a direction."""
    with pytest.raises(RemoteProtocolError):
        decode_reply(encode_message(ProcessSignal("p", 9)))
    with pytest.raises(RemoteProtocolError):
        decode_request(encode_message(Done()))


@pytest.mark.parametrize("generation", [0, -1, 1 << 17, "1", None, 1.5])
def test_a_generation_is_a_small_positive_number(generation: object) -> None:
    """The lower of two rules, so nobody may offer less than 1."""
    with pytest.raises(RemoteProtocolError):
        decode_hello(msgspec.msgpack.encode(["hello", generation, "0.1.0"]))


def test_a_later_generation_is_welcome() -> None:
    """Hello is what all generations understand."""
    assert decode_hello(msgspec.msgpack.encode(["hello", 7, "9.0.0", "new"])) == Hello(7, "9.0.0")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(["context.error", "E", "", [""] * 100_001], id="lines of a traceback"),
        pytest.param(["context.result", "result", {f"{n}": "" for n in range(1001)}], id="MIME types"),
        pytest.param(["problem", "c" * 65, ""], id="a code"),
        pytest.param(["problem", "", "m" * 1001], id="a problem's text"),
        pytest.param(["hello", 1, "v" * 101], id="a version"),
    ],
)
def test_collections_and_texts_have_a_bound(payload: list[object]) -> None:
    """A peer chooses how often, but not how much at once."""
    decode = {"problem": decode_problem, "hello": decode_hello}.get(str(payload[0]), decode_reply)
    with pytest.raises(RemoteProtocolError):
        decode(msgspec.msgpack.encode(payload))


def test_sixteen_megabytes_of_empty_strings_are_refused_before_they_are_made() -> None:
    """The bound is checked on the array's header, not after the memory is gone."""
    payload = b"\x94\xadcontext.error\xa1E\xa0\xdd\x00\xf0\x00\x00" + b"\xa0" * (15 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="length"):
            decode_reply(payload)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_problem_is_clipped_to_what_may_travel() -> None:
    """An error's text may hold a file name that is no UTF-8, or a whole file."""
    problem = Problem("file.not_found", "no \udcff here" + "x" * 5000).clipped()
    assert problem.message.startswith("no \\udcff here")
    assert decode_problem(encode_message(problem)) == problem
    assert len(encode_message(Problem("c" * 100, "\U0001f600" * 5000).clipped())) < 8192


def test_a_result_keeps_its_bundle() -> None:
    """Dictionaries travel as they are."""
    result = ContextResult("display", {"text/plain": "<Figure>", "image/png": "iVBO"}, 3)
    assert decode_reply(encode_message(result)) == result


def test_every_request_and_reply_is_in_the_table_of_the_docstring() -> None:
    """The table at the head of messages.py is what handlers are written from."""
    import execd.wire.messages as module

    table = module.__doc__ or ""
    rows = {line.split()[0] for line in table.splitlines() if line.startswith("    ")} - {"request"}
    assert rows == {cls.__struct_config__.tag for cls in typing.get_args(Request)}
    for cls in typing.get_args(Reply):
        assert cls.__struct_config__.tag in table


# What only the caller of a run sees, whole: what its code showed, and how it failed.
WHOLE = {
    "ContextCompletion.matches",
    "ContextInspection.data",
    "ContextResult.data",
    "ContextError.name",
    "ContextError.value",
    "ContextError.traceback",
    "ContextPrompt.prompt",
}


def _is_bounded(hint: object) -> bool:
    """Whether no text of a type is longer than its kind allows."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return True  # its own fields are looked at
    for meta in getattr(hint, "__metadata__", ()):
        if CUT in (meta.extra or {}) or (typing.get_args(hint)[0] is str and meta.max_length is not None):
            return True
    parts = [part for part in typing.get_args(hint) if part is not Ellipsis and not isinstance(part, msgspec.Meta)]
    return hint is not str and all(map(_is_bounded, parts))


@pytest.mark.parametrize("reply", typing.get_args(Reply), ids=lambda reply: reply.__name__)
def test_every_text_of_a_reply_has_a_kind(reply: type[msgspec.Struct]) -> None:
    """A new field of a reply is a `Word`, a `Sentence`, … or stands above with its reason."""
    hints = typing.get_type_hints(reply, include_extras=True)
    unbounded = {f"{reply.__name__}.{name}" for name, hint in hints.items() if not _is_bounded(hint)}
    assert unbounded == {name for name in WHOLE if name.startswith(f"{reply.__name__}.")}


@pytest.mark.attack(
    "agent",
    "A hijacked agent says megabytes where a word is due, such as the cause of an end",
    "The control plane keeps, logs and lists only as much as such a word needs",
)
@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "unbounded"])
def test_the_words_of_an_agent_are_cut(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the message, in messages in it, and in tuples; what is short enough is not touched."""
    if not bounded:
        monkeypatch.setattr(messages, "_SHORTENERS", {})
    long = "x" * (1 << 20)
    state = ProcessState(long, long, 1, 0.0, exited=ProcessExited(long, 1, limits_hit=(long, "pids"), notice=long))
    said = [decode_reply(encode_message(state)), decode_reply(encode_message(FileInfo(long, long, 0, 0, 0, 0, "", "")))]
    size = len(encode_message(said[0])) + len(encode_message(said[1]))
    most = MAX_COMMAND_CHARS + 6 * MAX_WORD_CHARS + MAX_SENTENCE_CHARS + MAX_PATH_CHARS
    assert (size < most) is bounded


def test_texts_that_are_short_enough_are_not_copied() -> None:
    """The check costs little where nothing is wrong."""
    done = ContextDone("ok", 3, notice="n" * MAX_SENTENCE_CHARS, limits_hit=("memory",))
    assert decode_reply(encode_message(done)) == done
    assert messages._cut(done) is done


def test_a_list_of_limits_has_a_bound() -> None:
    """There are two limits that a process can run into."""
    with pytest.raises(RemoteProtocolError, match="length"):
        decode_reply(msgspec.msgpack.encode(["process.exited", "exit", 0, 0, 0.0, 0.0, 0, 0, [""] * 17]))


def test_what_a_breach_says_is_cut() -> None:
    """The decoder quotes a tag that it does not know, and the reason is logged."""
    with pytest.raises(RemoteProtocolError, match="undecodable message: Invalid value 'xxx") as error:
        decode_reply(msgspec.msgpack.encode(["x" * (1 << 20), 1]))
    assert len(str(error.value)) <= MAX_REASON_CHARS
