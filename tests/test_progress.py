"""Progress reaches whoever watches, and nobody else."""

import pytest

from compress.progress import listen, report, tell, track, watch

Step = tuple[str, int, int | None, str]


def test_each_item_is_reported_when_it_is_done() -> None:
    seen: list[Step] = []
    with watch(lambda *step: seen.append(step)):
        for item in track("ab", "spell"):
            assert len(seen) == "ab".index(item), "reported before it was done"
    assert seen == [("spell", 1, 2, ""), ("spell", 2, 2, "")]


def test_a_length_that_is_unknown_is_none_unless_given() -> None:
    seen: list[Step] = []
    with watch(lambda *step: seen.append(step)):
        assert list(track(iter("ab"), "spell")) == ["a", "b"]
        assert list(track(iter("a"), "spell", 7)) == ["a"]
    assert [total for _, _, total, _ in seen] == [None, None, 7]


def test_nobody_is_told_outside_and_the_outer_watcher_inside_again() -> None:
    outer: list[Step] = []
    inner: list[Step] = []
    report("nobody", 1)
    with watch(lambda *step: outer.append(step)):
        with pytest.raises(KeyError), watch(lambda *step: inner.append(step)):
            report("inside", 1, 2, "loss 0.1")
            raise KeyError
        report("outside", 2)
    report("nobody", 3)
    assert inner == [("inside", 1, 2, "loss 0.1")]
    assert outer == [("outside", 2, None, "")]


def test_lines_are_told_to_the_innermost_listener() -> None:
    outer: list[str] = []
    inner: list[str] = []
    tell("nobody")
    with listen(outer.append):
        with pytest.raises(KeyError), listen(inner.append):
            tell("inside")
            raise KeyError
        tell("outside")
    tell("nobody")
    assert (inner, outer) == (["inside"], ["outside"])
