"""The pictures show the numbers that they were given."""

import sys
from pathlib import Path

import pytest

from compress import plots
from compress.errors import UserError
from compress.quant.layer_errors import LayerError
from compress.sensitivity import Effect, Sensitivity

pytest.importorskip("matplotlib", reason="the pictures need matplotlib")


def found(score: float | None = 0.9) -> Sensitivity:
    def effect(name: str, ratio: float | None, drop: float, saved: float) -> Effect:
        change = "int8" if ratio is None else f"prune {ratio}"
        return Effect(name, change, ratio, None if score is None else score - drop, None if score is None else drop, 1, saved, 9)

    effects = (
        effect("a", 0.25, 0.01, 0.1),
        effect("a", 0.5, 0.04, 0.3),
        effect("b", 0.3, -0.002, 0.2),
        effect("a", None, 0.0, 0.5),
    )
    return Sensitivity("validate", score, 1.0, 9, effects, {"a": 0.25, "b": 0.3}, {}, 0.01)


def test_each_bar_is_a_change_and_stands_at_its_group() -> None:
    figure = plots.sensitivity(found())
    lost, saved = figure.axes
    assert [label.get_text() for label in lost.get_yticklabels()] == ["a", "b"]

    def bars(axes: object) -> list[tuple[int, float]]:
        return [(round(bar.get_y() + bar.get_height() / 2), round(bar.get_width(), 6)) for bar in axes.patches]  # type: ignore[attr-defined]

    assert bars(lost) == [(0, 1.0), (1, -0.2), (0, 4.0), (0, 0.0)]
    assert bars(saved) == [(0, 0.1), (1, 0.2), (0, 0.3), (0, 0.5)]
    legend = [text.get_text() for text in saved.get_legend().get_texts()]
    assert legend == ["25 to 30 % of channels cut", "50 % of channels cut", "int8"]
    assert (lost.get_xlabel(), saved.get_xlabel()) == ("points of accuracy lost", "milliseconds saved")
    assert figure.get_suptitle() == "one group at a time; the original: 90.00 % on validate data, 1.000 ms"
    assert [line.get_xdata()[0] for line in lost.lines] == [0, 1.0]


def test_without_scores_only_time_is_drawn() -> None:
    figure = plots.sensitivity(found(score=None))
    assert [axes.get_xlabel() for axes in figure.axes] == ["milliseconds saved"]
    assert figure.get_suptitle() == "one group at a time; the original: 1.000 ms"


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_name_says_the_format(tmp_path: Path, name: str, start: bytes) -> None:
    plots.save(plots.sensitivity(found()), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        plots.check_format(tmp_path / "a.jpg")
    assert str(caught.value) == f"a picture's name ends in .png, .svg or .pdf, got {tmp_path}/a.jpg"
    with pytest.raises(UserError) as caught:
        plots.save(plots.sensitivity(found()), tmp_path / "no" / "a.png")
    assert str(caught.value) == f"{tmp_path}/no/a.png cannot be written: No such file or directory"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError) as caught:
        plots.check_format(tmp_path / "a.png")
    assert str(caught.value) == "a plot needs matplotlib; install it with: pip install 'compress-toolkit[plot]'"


def test_each_layer_has_its_errors_beside_its_name() -> None:
    def layer(name: str, own: float | None, together: float | None) -> LayerError:
        return LayerError(name, "conv", 8, 40.0, 0.0, 1.0, 0.0, own, 12.0, together)

    axes = plots.layer_errors([layer("a", 30.0, 20.0), layer("b", None, 10.0)]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    own, channels, together = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert own == ([30.0], [0])  # a layer without error has no mark
    assert (channels, together) == (([12.0, 12.0], [0, 1]), ([20.0, 10.0], [0, 1]))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
