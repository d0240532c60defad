"""A part of the data stands for the whole: even over the classes, the same on each call, in no order."""

from collections import Counter

from compress.data.subset import spread


def test_all_are_taken_in_another_order() -> None:
    labels = [0] * 30 + [1] * 5 + [2] * 15
    chosen = spread(labels, None)
    assert sorted(chosen) == list(range(50))
    assert chosen != sorted(chosen)
    assert chosen == spread(labels, None)


def test_a_limit_takes_evenly_until_a_class_is_used_up() -> None:
    labels = [0] * 30 + [1] * 5 + [2] * 15
    assert Counter(labels[i] for i in spread(labels, 12)) == {0: 4, 1: 4, 2: 4}
    assert Counter(labels[i] for i in spread(labels, 25)) == {0: 10, 1: 5, 2: 10}


def test_the_beginning_holds_all_classes() -> None:
    """Calibration takes what comes first, and the validation tenth is every tenth: neither may be of one class."""
    labels = [index // 100 for index in range(1000)]
    chosen = spread(labels, None)
    assert len({labels[i] for i in chosen[:60]}) == 10
    assert len({labels[i] for i in chosen[9::10]}) == 10


def test_no_samples_and_no_room() -> None:
    assert spread([], 5) == []
    assert spread([0, 1], 0) == []
