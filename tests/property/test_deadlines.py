"""The heap of deadlines does what a plain dictionary would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.lifecycle.deadlines import Deadlines

NAMES = st.sampled_from("abcd")
# Few moments, so that equal ones meet.
MOMENTS = st.integers(0, 8).map(float)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NAMES, MOMENTS),
        st.tuples(st.just("drop"), NAMES),
        st.tuples(st.just("pop"), MOMENTS),
    ),
    max_size=200,
)


@given(STEPS)
def test_any_sequence_gives_what_a_dictionary_gives(steps: list[tuple[object, ...]]) -> None:
    """After each step: the same count, the same next moment; every pop returns the same, in order of time."""
    deadlines = Deadlines()
    model: dict[str, float] = {}
    for step in steps:
        match step:
            case ("set", str(name), float(due)):
                deadlines.set(name, due)
                model[name] = due
            case ("drop", str(name)):
                deadlines.drop(name)
                model.pop(name, None)
            case ("pop", float(now)):
                popped = deadlines.pop_due(now)
                assert sorted(popped) == sorted(name for name, due in model.items() if due <= now)
                moments = [model.pop(name) for name in popped]
                assert moments == sorted(moments)
        assert len(deadlines) == len(model)
        assert deadlines.next_due() == min(model.values(), default=None)
        assert len(deadlines._heap) <= 2 * len(model) + 64 + 1
