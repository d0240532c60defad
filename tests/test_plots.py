"""The pictures show the numbers that they were given."""

import itertools
import sys
from pathlib import Path

import pytest
from torch import nn

from compress import plots
from compress.errors import UserError
from compress.pareto import front
from compress.quant.layer_errors import LayerError
from compress.run import Run
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
    monkeypatch.delitem(sys.modules, "compress.plots.picture", raising=False)  # which was imported when it was there
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


def rows() -> list[dict]:
    def row(run: str, latency: float, accuracy: float | None, **more: object) -> dict:
        spread = {"latency_ms_p50_std": None, "accuracy_percent_std": None}
        shared = {"setting": 1, "model": "net", "data": "digits", "eval_samples": 9, "machine": "A CPU", **more}
        return {"run": run, "stage": "int8", "latency_ms_p50": latency, "accuracy_percent": accuracy, **spread, **shared}

    folded = row("b, c", 2.0, 92.0, latency_ms_p50_std=0.5, accuracy_percent_std=0.25)
    return [row("baseline", 4.0, 93.0, stage="baseline"), row("a", 1.0, 90.0), folded, row("worse", 3.0, 91.0)]


def drawn(axes: object) -> tuple[dict[str, tuple[float, float]], list[tuple[float, float]]]:
    """Labels with their points, and the corners of the front."""
    labels = {text.get_text(): tuple(text.xy) for text in axes.texts}  # type: ignore[attr-defined]
    front = next(line for line in axes.lines if line.get_label() == "Pareto front")  # type: ignore[attr-defined]
    return labels, list(zip(*front.get_data(), strict=True))


def test_each_run_is_a_mark_and_the_front_holds_those_that_nothing_beats() -> None:
    (axes,) = plots.pareto(rows()).axes
    labels, front = drawn(axes)
    assert labels == {"baseline": (4.0, 93.0), "a": (1.0, 90.0), "b, c": (2.0, 92.0), "worse": (3.0, 91.0)}
    assert front[:-1] == [(1.0, 90.0), (2.0, 92.0), (4.0, 93.0)]
    assert front[-1] == (pytest.approx(4.8), 93.0)  # to the edge of the picture
    bars = [part.get_segments()[0].tolist() for part in axes.collections]
    assert [[1.5, 92.0], [2.5, 92.0]] in bars and [[2.0, 91.75], [2.0, 92.25]] in bars
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("latency, ms (p50)", "accuracy, %", "")


def test_the_original_alone_is_a_square() -> None:
    (axes,) = plots.pareto([{**row, "run": row["stage"]} for row in rows()]).axes
    assert [bar[0].get_marker() for bar in axes.containers] == ["s", "o", "o", "o"]


def test_equal_points_and_ties_are_on_the_front_once() -> None:
    points = [(1.0, 5.0), (1.0, 5.0), (1.0, 4.0), (2.0, 5.0), (3.0, 6.0), (0.5, 1.0)]
    dominated = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert front(points) == sorted(set(points) - dominated) == [(0.5, 1.0), (1.0, 5.0), (3.0, 6.0)]


def test_another_machine_and_other_data_have_panels_of_their_own_and_another_model_has_not() -> None:
    mine = rows()[1]
    others = [
        {**mine, "run": "elsewhere", "setting": 2, "machine": "B CPU"},
        {**mine, "run": "few", "setting": 3, "eval_samples": 8},
        {**mine, "run": "student", "setting": 4, "model": "small", "latency_ms_p50": 0.5},
        {**mine, "run": "nameless", "setting": 5, "data": None},
        {**mine, "run": "nameless too", "setting": 6, "data": None},
    ]
    panels = plots.pareto([*rows(), *others]).axes
    assert [axes.get_title() for axes in panels] == ["settings 1, 4", "setting 2", "setting 3", "setting 5", "setting 6"]
    labels, front = drawn(panels[0])
    assert labels["a (net)"] == (1.0, 90.0) and labels["student (small)"] == (0.5, 90.0)
    assert front[0] == (0.5, 90.0) and (1.0, 90.0) not in front


def test_a_frame_is_drawn_like_its_rows_and_stages_are_told_apart() -> None:
    pandas = pytest.importorskip("pandas", reason="a DataFrame needs pandas")
    plain = [*rows()[:2], {**rows()[1], "stage": "finetune", "accuracy_percent": None}, {**rows()[1], "stage": "prune"}]
    expected = {"baseline": (4.0, 93.0), "a, int8": (1.0, 90.0), "a, prune": (1.0, 90.0)}
    assert drawn(plots.pareto(plain).axes[0])[0] == drawn(plots.pareto(pandas.DataFrame(plain)).axes[0])[0] == expected


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    near = [{**rows()[1], "run": f"a rather long name {number}", "latency_ms_p50": 1 + number / 100} for number in range(4)]
    figure = plots.pareto([rows()[0], *near])
    labels = [text for text in figure.axes[0].texts if text.get_text()]
    assert len(labels) == 5
    boxes = [each.get_window_extent() for each in (*labels, figure.axes[0].get_legend())]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_runs_without_a_score_have_no_picture() -> None:
    with pytest.raises(UserError) as caught:
        plots.pareto([{**row, "accuracy_percent": None} for row in rows()])
    assert str(caught.value) == "no run was scored, so there is no accuracy to draw; give --data, or a Task with evaluate"


def stage(name: str, latency: float, accuracy: float | None) -> dict:
    return {"name": name, "latency_ms": {"p50": latency}, "accuracy": accuracy}


def test_a_run_draws_its_stages_that_were_scored() -> None:
    stages = [stage("baseline", 4.0, 0.93), stage("prune", 1.0, None), stage("finetune", 1.0, 0.9), stage("int8", 0.5, 0.91)]
    (axes,) = Run(nn.Identity(), {"stages": stages}, None).plot.pareto().axes
    labels, front = drawn(axes)
    assert labels == {"baseline": (4.0, 93.0), "finetune": (1.0, 90.0), "int8": (0.5, 91.0)}
    assert front[:-1] == [(0.5, 91.0), (4.0, 93.0)]
    assert [bar[0].get_marker() for bar in axes.containers] == ["s", "o", "o"]  # the original is a square
    with pytest.raises(UserError) as caught:
        Run(nn.Identity(), {"stages": [stage("baseline", 4.0, None)]}, None).plot.pareto()
    assert str(caught.value) == "no run was scored, so there is no accuracy to draw; give --data, or a Task with evaluate"


def layer(name: str, before: int | None, after: int | None, sparsity: float | None) -> dict:
    return {"name": name, "width_before": before, "width_after": after, "sparsity": sparsity}


def test_each_layer_has_its_width_before_and_after_and_its_zeros() -> None:
    rows = [layer("stem", 16, 8, 0.25), layer("gone", 10, None, None), layer("new", None, 4, 0.0)]
    axes = Run(nn.Identity(), {"layers": rows}, None).plot.layers().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "gone", "new"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[16, 10, 0], [8, 0, 4], [2, 0, 0]]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["before", "after", "share of weights that are zero"]
    assert len(plots.layers([layer("stem", 16, 8, 0.0)]).axes[0].containers) == 2  # no zeros, nothing said of them


def test_a_network_without_layers_has_no_picture_of_them() -> None:
    with pytest.raises(UserError) as caught:
        plots.layers([])
    assert str(caught.value) == "the report has no layers to draw: the network has no convolution and no linear layer"


def test_a_notebook_shows_a_picture_without_pyplot() -> None:
    assert plots.sensitivity(found())._repr_png_().startswith(b"\x89PNG")
