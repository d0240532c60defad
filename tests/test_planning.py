"""A plan says what a run then does, to the parameter, and touches nothing."""

import re

import pytest
import torch
import yaml
from torch import nn

import compress
from compress.errors import PassError, UserError
from compress.measure import count_macs, count_parameters
from compress.measure.cost import macs_by_layer
from compress.passes.prune_channels import PruneChannels
from compress.planning import GroupPlan, PruningPlan, parse_plan, plan
from compress.pruning.channels import widths
from compress.testing import tiny_model, tiny_task
from compress.testing.architectures import build


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export takes seconds."""
    monkeypatch.setattr("compress.planning._size", lambda network, artifact: 0)


@pytest.mark.parametrize(
    "pruning",
    [
        PruneChannels(target="macs=0.6", round_to=1),
        PruneChannels(ratio=0.3, criterion="taylor", round_to=1),
        PruneChannels(ratio=0.0, ratios={"body": 0.5}),
    ],
    ids=["target", "taylor", "per layer"],
)
def test_the_plan_is_what_the_run_does(pruning: PruneChannels) -> None:
    model, task = tiny_model(), tiny_task()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planned = plan(model, task, pruning)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    done = compress.run(model, task, [pruning], timing={"min_runs": 3, "min_seconds": 0.01})
    stages = done.report["stages"]
    assert planned.params == (stages[0]["params"], stages[1]["params"])
    assert planned.macs == (stages[0]["macs"], stages[1]["macs"])
    assert planned.size_bytes == (stages[0]["size_bytes"], stages[1]["size_bytes"])
    after = widths(done.model)
    assert planned.widths == {name: (old, after[name]) for name, old in widths(model).items() if after[name] != old}
    assert planned.widths
    assert planned.notes == tuple(stages[1]["notes"])
    assert "protected: head (an output of the model)" in planned.notes


def test_a_plan_of_nothing_is_refused_as_the_run_is() -> None:
    for options in ({"round_to": 16}, {"target": "params=1M"}):
        with pytest.raises(PassError) as planned:
            plan(tiny_model(), tiny_task(), PruneChannels(**options))
        with pytest.raises(PassError) as ran:
            compress.apply(PruneChannels(**options), tiny_model(), tiny_task())
        assert str(planned.value) == str(ran.value)
    accepted = plan(tiny_model(), tiny_task(), PruneChannels(round_to=16, allow_noop=True))
    assert (accepted.widths, accepted.ratios) == ({}, {})


def test_each_module_stays_in_the_mode_that_it_had(no_files: None) -> None:
    model = tiny_model().train()
    model.stem_bn.eval()
    before = {name: module.training for name, module in model.named_modules()}
    plan(model, tiny_task())
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("name", ["ResNet", "ViT", "BERT", "fused qkv (as in timm)"])
@pytest.mark.parametrize("size", [1, 8])
def test_the_ratios_of_a_plan_cut_the_same_to_the_parameter(name: str, size: int, no_files: None) -> None:
    model, inputs = build(name)
    wanted = plan(model, compress.Task(inputs), PruneChannels(target="macs=0.7", round_to=size))
    ratios = parse_plan(yaml.safe_dump(wanted.ratios))
    again = plan(model, compress.Task(inputs), PruneChannels(ratio=0.0, ratios=ratios, round_to=size))
    assert (again.params, again.macs, again.widths, again.ratios) == (wanted.params, wanted.macs, wanted.widths, wanted.ratios)
    assert again.params[1] < again.params[0]


class Parts(nn.Module):
    """Each half of `a` is tied to a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.c, self.e = nn.Conv2d(32, 8, 1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x) + torch.cat([self.b(x), self.d(x)], 1)
        return self.e(self.c(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("ratios", "kept"),
    [
        ({"a": 0.25}, (12, 12)),
        ({"a#1": 0.25}, (12, 16)),
        ({"a#2": 0.25}, (16, 12)),
        ({"a": 0.5, "a#2": 0.25}, (8, 12)),
        ({"a#2": 0.25, "a": 0.5}, (8, 8)),
        ({"*": 0.0, "a#1": 0.75}, (4, 16)),
    ],
)
def test_an_address_means_one_group_and_a_name_all_of_that_layer(
    ratios: dict[str, float], kept: tuple[int, int], no_files: None
) -> None:
    task = compress.Task((torch.randn(2, 3, 8, 8),))
    planned = plan(Parts().eval(), task, PruneChannels(ratio=0.0, ratios=ratios, round_to=1))
    rows = {row.name: row for row in planned.groups}
    assert (rows["a"].kept, rows["a#2"].kept) == kept
    assert set(planned.ratios) <= {"a#1", "a#2"}
    again = plan(Parts().eval(), task, PruneChannels(ratio=0.0, ratios=planned.ratios, round_to=1))
    assert again.groups == planned.groups


def test_an_address_that_means_nothing_is_told() -> None:
    task = compress.Task((torch.randn(2, 3, 8, 8),))
    for pattern, message in (
        ("a#3", "prune_channels: ratios: no group is called 'a#3'; of that layer there is a#1, a#2"),
        ("*#1", "prune_channels: ratios: no group is called '*#1'; of that layer there is none"),
    ):
        with pytest.raises(UserError) as error:
            plan(Parts().eval(), task, PruneChannels(ratios={pattern: 0.5}))
        assert str(error.value) == message


def test_rows_say_what_is_protected_and_what_it_weighs(no_files: None) -> None:
    planned = plan(tiny_model(), tiny_task())
    rows = {row.name: row for row in planned.groups}
    assert (rows["stem"].units, rows["stem"].kept, rows["stem"].reason) == (16, 8, None)
    assert set(rows["stem"].layers) == {"stem", "stem_bn", "body", "body_bn"}
    assert (rows["head"].kept, rows["head"].reason) == (4, "an output of the model")
    assert planned.protected_macs == 0.0
    assert rows["stem"].macs == 16 * 16 * 9 * (3 * 16 + 16 * 16) + 64


class HalfSorted(nn.Module):
    """The second convolution's channels are sorted, for which there is no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1)
        self.c, self.d = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sort(self.b(self.a(x)), 1).values
        return self.d(torch.sort(self.c(x), 1).values.mean((2, 3)))


def test_the_share_of_protected_work(no_files: None) -> None:
    model, x = HalfSorted().eval(), torch.randn(2, 3, 4, 4)
    planned = plan(model, compress.Task((x,)), PruneChannels(round_to=2))
    assert macs_by_layer(model, (x,)) == {"a": 16 * 24, "b": 16 * 128, "c": 16 * 256, "d": 80}
    assert planned.protected_macs == pytest.approx((16 * 256 + 80) / (16 * (24 + 128 + 256) + 80))
    assert {row.name: row.reason for row in planned.groups if row.reason} == {
        "b": "goes into sort, for which there is no rule",
        "c": "goes into sort, for which there is no rule",
        "d": "an output of the model",
    }


def test_heads_are_counted_as_heads(no_files: None) -> None:
    model, inputs = build("BERT")
    row = next(row for row in plan(model, compress.Task(inputs)).groups if "attention.self" in row.name)
    assert (row.units, row.width, row.kept) == (4, 8, 2)


def test_macs_by_layer_add_up() -> None:
    model, inputs = build("MobileNet v2")
    assert sum(macs_by_layer(model, inputs).values()) == count_macs(model, inputs)
    assert count_parameters(model) > 0


def test_a_plan_file() -> None:
    assert parse_plan("# why\nlayer1.*: 0.3\nfc: 1\n") == {"layer1.*": 0.3, "fc": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a plan maps layer names or shell patterns to ratios, such as 'layer1.*: 0.3'"),
        ("- a\n", "a plan maps layer names or shell patterns to ratios, such as 'layer1.*: 0.3'"),
        ("a: 0.5\nb: {\n", "line 3: not valid YAML"),
        ("a: half\n", "the ratio of 'a' must be a number in [0, 1], got 'half'"),
        ("a: true\n", "the ratio of 'a' must be a number in [0, 1], got True"),
        ("a: 1.5\n", "the ratio of 'a' must be a number in [0, 1], got 1.5"),
        ("1: 0.5\n", "the ratio of '1' must be a number in [0, 1], got 0.5"),
    ],
)
def test_what_is_no_plan(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_plan(text)
    assert str(error.value) == message


def test_a_target_that_cannot_be_reached_is_told_before_anything_is_cut() -> None:
    with pytest.raises(UserError) as error:
        plan(tiny_model(), tiny_task(), PruneChannels(target="params=0.01"))
    assert str(error.value) == (
        "the target params = 29 parameters cannot be reached: with every group at its narrowest it is "
        "860 parameters (round_to 8; 1 of 2 groups are protected)"
    )


def test_a_notebook_shows_what_the_terminal_does() -> None:
    groups = (
        GroupPlan("a<b>", 16, 8, 1, ("a<b>", "c"), 1_234_567, None),
        GroupPlan("heads", 4, 4, 32, ("q",), 10_000, "an output of the model"),
    )
    found = PruningPlan(groups, {}, (2000, 500), (10_000, 0), (None, None), 0.25, {}, ("protected: heads", "one & two"))
    page = found._repr_html_()
    assert re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page) == [
        *("group", "channels", "kept", "layers", "MMACs", ""),
        *("a&lt;b&gt;", "16", "8", "2", "1.23", ""),
        *("heads", "4 x 32", "4", "1", "0.01", "protected: an output of the model"),
    ]
    assert re.findall(r"<li>(.*?)</li>", page) == [
        "params: 2,000 -&gt; 500 (0.250)",
        "MACs: 10,000 -&gt; 0 (0.000)",
        "bytes: unknown, the model cannot be exported to ONNX",
        "protected: 25.0 % of the MACs are in layers of which nothing can be cut",
        "note: one &amp; two",
    ]
    assert re.findall(r'<th scope="col" style="text-align: (\w+)"', page) == ["left", *["right"] * 4, "left"]
