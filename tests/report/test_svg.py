"""Elements, axes and pictures, read back by an XML parser."""

import math
import xml.etree.ElementTree as ET

import pytest

from compress.report.html.axes import Axis
from compress.report.html.bars import Bar, bars
from compress.report.html.curves import MOST_POINTS, Curve, curves, thinned
from compress.report.html.histogram import BOTTOM, histogram
from compress.report.html.scatter import LEFT, Point, on_front, scatter
from compress.report.html.svg import element, shortened, words

ODD = "<b>&\"'\x00\x1b\ud800é→"
LEGIBLE = "<b>&\"'\ufffd\ufffd\ufffdé→"


def classed(picture: str, class_: str) -> list[ET.Element]:
    return [part for part in ET.fromstring(picture).iter() if class_ in part.get("class", "").split()]


def test_whatever_a_name_holds_is_text() -> None:
    read = ET.fromstring(element("g", words(1, 2, ODD), aria_label=ODD, class_=""))
    assert (read.get("aria-label"), read[0].text) == (LEGIBLE, LEGIBLE)
    assert "class" not in read.attrib
    assert ET.fromstring(words(1.26, -0.04, "a")).attrib == {"x": "1.3", "y": "0"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused_and_not_drawn(value: float) -> None:
    with pytest.raises(ValueError, match=f"^{value} cannot be drawn$"):
        element("rect", x=value)
    with pytest.raises(ValueError, match=r"cannot be drawn$"):
        bars("x", [Bar("a", value, "a")], 300)


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("layer1.conv1", 12) == "layer1.conv1"
    assert shortened("encoder.layer.11.attention.output.dense", 20) == "encode….output.dense"


@pytest.mark.parametrize(
    ("low", "high", "whole", "texts"),
    [
        (0, 17, False, ["0", "5", "10", "15"]),
        (0.21, 0.29, False, ["0.22", "0.24", "0.26", "0.28"]),
        (79.2, 93.4, False, ["80", "85", "90"]),
        (0.8, 2.2, True, ["1", "2"]),
        (1234567, 1234570, False, ["1234567", "1234568", "1234569", "1234570"]),
    ],
)
def test_ticks_are_round_and_at_their_values(low: float, high: float, whole: bool, texts: list[str]) -> None:
    axis = Axis(low, high, 10, 110)
    ticks = axis.ticks(5, whole)
    assert [text for _, text in ticks] == texts
    for at, text in ticks:
        assert 10 - 1e-6 <= at <= 110 + 1e-6
        assert low + (at - 10) / 100 * (high - low) == pytest.approx(float(text))


def test_an_axis_has_room_for_one_value_alone() -> None:
    for value in (5.0, 0.0, -3.0):
        assert Axis.around([value], 0, 100).at(value) == pytest.approx(50)
    assert Axis.around([2.0, 4.0], 0, 100, zero=True).low == 0
    assert Axis.around([0.0], 0, 100, zero=True).at(0.0) == 0


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    rows = [Bar("a", 4.0, "4 / 5", 5.0, "before"), Bar("b", 1.0, "1"), Bar("c", None, "-"), Bar("d", 2.0, "2", None, "end")]
    picture = bars("Time in ms", rows, 300)
    lengths = [float(part.get("width", "")) for part in classed(picture, "bar")]
    assert lengths[1:] == pytest.approx([lengths[0] / 4, lengths[0] / 2], abs=0.1)
    root = ET.fromstring(picture)
    assert (root.get("role"), root.get("aria-label")) == ("img", "Time in ms: a 4 / 5; b 1; c -; d 2")
    whiskers = classed(picture, "whisker")
    assert len(whiskers) == 2  # the line and its end, of the first alone
    assert max(float(text.get("x", "")) for text in root.iter("text")) < 300
    outlined = bars("Share", [Bar("a", 0.5, "25 %")], 300, full=2.0)
    outline, bar = (float(classed(outlined, name)[0].get("width", "")) for name in ("outline", "bar"))
    assert bar == pytest.approx(outline / 4, abs=0.1)
    assert ET.fromstring(bars("nothing", [], 300)).get("aria-label") == "nothing: "


POINTS = [Point("original", 4.0, 90.0), Point("cut", 2.0, 50.0), Point("tuned", 2.0, 88.0), Point("int8", 1.0, 88.0)]


def test_marks_stand_at_their_numbers_and_the_front_is_what_nothing_beats() -> None:
    beaten = {
        p.name
        for p in POINTS
        for q in POINTS
        if (q.latency_ms, q.accuracy) != (p.latency_ms, p.accuracy) and q.latency_ms <= p.latency_ms and q.accuracy >= p.accuracy
    }
    assert {point.name for point in on_front(POINTS)} == {point.name for point in POINTS} - beaten == {"original", "int8"}
    picture = scatter(POINTS)
    marks = {part[0].text.split(":")[0]: part for part in classed(picture, "point")}
    at = {name: float(part.get("cx") or float(part.get("x")) + 5) for name, part in marks.items()}
    up = {name: float(part.get("cy") or float(part.get("y")) + 5) for name, part in marks.items()}
    assert marks["original"].tag == "rect"
    assert {name for name, part in marks.items() if "beaten" in part.get("class", "")} == beaten
    assert at["cut"] == at["tuned"]
    assert at["original"] - at["cut"] == pytest.approx(2 * (at["cut"] - at["int8"]), abs=0.3)  # 2 ms, and 1
    assert at["cut"] - LEFT == pytest.approx(2 * (at["int8"] - LEFT), abs=0.2)  # the axis begins at 0
    assert up["original"] < up["int8"] == up["tuned"] < up["cut"]
    assert set(at) <= {part.text for part in ET.fromstring(picture).iter("text")}
    assert ET.fromstring(picture).get("aria-label", "").endswith("Pareto front: int8, original")


def test_labels_never_lie_on_each_other() -> None:
    crowd = [Point(f"stage {number}", 1 + 0.01 * number, 90.0) for number in range(30)]
    texts = [part for part in ET.fromstring(scatter(crowd)).iter("text") if (part.text or "").startswith("stage")]
    assert 2 <= len(texts) < 30
    corners = []
    for part in texts:
        width, x = 7.2 * len(part.text or ""), float(part.get("x", ""))
        x -= {"middle": width / 2, "end": width}.get(part.get("text-anchor", ""), 0)
        corners.append((x, float(part.get("y", "")), width))
    for number, (x, y, width) in enumerate(corners):
        for x2, y2, width2 in corners[:number]:
            assert x + width <= x2 + 0.2 or x2 + width2 <= x + 0.2 or abs(y - y2) >= 12.9


def test_one_point_is_a_picture_too() -> None:
    assert len(classed(scatter(POINTS[:1]), "point")) == 1


def test_a_histogram_is_as_high_as_its_counts() -> None:
    latency = {"p50": 1.1, "p90": 1.5, "p99": 2.0}
    counts = {"low_ms": 1.0, "high_ms": 2.0, "counts": [6, 0, 3, 1], "above": 2}
    picture = histogram("model.onnx", latency, counts)
    heights = [float(part.get("height", "")) for part in classed(picture, "bar")]
    assert heights[1:] == pytest.approx([heights[0] / 2, heights[0] / 6], abs=0.1)  # empty bins are not drawn
    assert all(
        float(part.get("y")) + float(part.get("height")) == pytest.approx(BOTTOM, abs=0.1) for part in classed(picture, "bar")
    )
    label = ET.fromstring(picture).get("aria-label")
    assert label == "model.onnx: 12 calls, in ms p50 1.1, p90 1.5, p99 2; 2 took longer than the axis reaches"
    assert [part.text for part in ET.fromstring(picture).iter("text")][-4:-1] == ["p50 1.1", "p90 1.5", "p99 2"]
    slow = histogram("slow", {**latency, "p99": 9.0}, counts)
    assert [part.text for part in ET.fromstring(slow).iter("text")][-2] == "p99 9 →"
    assert ET.fromstring(histogram("none", latency, {**counts, "counts": [0, 0]})) is not None


def test_curves_go_through_their_points_and_tell_two_apart_without_colour() -> None:
    picture = curves(
        "net", "accuracy, %", [Curve("training", [(1, 50.0), (2, 70.0), (3, 80.0)]), Curve("validation", [(2, 60.0)])]
    )
    marks = [part for part in classed(picture, "mark") if ", epoch" in (part[0].text or "")]
    assert [part.tag for part in marks] == ["circle", "circle", "circle", "rect"]
    heights = [float(part.get("cy", "")) for part in marks[:3]]
    assert heights[0] - heights[1] == pytest.approx(2 * (heights[1] - heights[2]), abs=0.3)
    assert ET.fromstring(picture).get("aria-label") == (
        "net: training 50 after epoch 1, 80 after epoch 3; validation 60 after epoch 2"
    )


def test_a_long_training_keeps_its_ends_and_its_shape() -> None:
    points = [(number, float(number**2)) for number in range(1, 1002)]
    thin = thinned(points)
    assert (len(thin), thin[0], thin[-1]) == (MOST_POINTS, points[0], points[-1])
    assert set(thin) <= set(points) and thin == sorted(set(thin))
    assert thinned(points[:3]) == points[:3]
    assert len(curves("net", "loss", [Curve("loss", points)])) < 10_000
