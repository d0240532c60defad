"""`compress plan` and `compress sensitivity` as a person meets them, and what mistakes about pruning are told."""

import json
from pathlib import Path

import pytest
import torch
from command_line import in_process


def cifar_weights(folder: Path) -> Path:
    """A state dict with the names and shapes of ResNet-20."""
    from compress.models.cifar_resnet import resnet20

    torch.save(resnet20().state_dict(), folder / "resnet20.pt")
    return folder / "resnet20.pt"


def test_a_plan_is_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = in_process(capsys, "plan", "resnet20", "--prune", "0.5", "--weights", str(cifar_weights(tmp_path)))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["group", "channels", "kept", "layers", "MMACs"]
    assert lines[1].split(maxsplit=5)[:3] == ["conv1", "16", "16"]
    assert lines[1].endswith("protected: padded with a fixed number of channels")
    assert "params: 269,722 -> 135,754 (0.503)" in lines
    assert lines[-2] == "protected: 1.1 % of the MACs are in layers of which nothing can be cut"
    assert lines[-1].startswith("note: 9 layers narrowed: layer1.0.conv1 16->8, ")


NET = "from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n"


def test_a_saved_plan_repeats_what_was_found_for_a_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, plan = tmp_path / "mine.py", tmp_path / "plan.yaml"
    file.write_text(NET)
    options = ["--pass", "prune_channels:round_to=1"]
    code, out, err = in_process(
        capsys, "plan", f"{file}:net", "--prune-target", "macs=0.5", *options, "--save", str(plan), "--threads", "2"
    )
    assert (code, err) == (0, "")
    target, narrowed, saved = out.splitlines()[-3:]
    assert target.startswith("note: target macs=0.5: 0.2996 MMACs of 0.7005 MMACs (0.428); ratio 0.3")
    assert narrowed == "note: 2 layers narrowed: stem 16->10, body 16->10"
    assert saved == f"note: the ratios are in {plan}; --prune-plan {plan} cuts the same again"
    assert plan.read_text() == f"# Repeat it with --prune-plan {plan} --pass prune_channels:round_to=1\nstem: 0.375\n"
    _, out, _ = in_process(capsys, "plan", f"{file}:net", "--prune-plan", str(plan), *options, "--json")
    assert json.loads(out)["widths"] == {"stem": [16, 10], "body": [16, 10]}


def test_a_plan_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NET)
    options = ["--prune", "0.5", "--pass", "prune_channels:round_to=16"]
    code, out, err = in_process(capsys, "plan", f"{file}:net", *options)
    assert (code, out) == (1, "")
    assert err == (
        "error: prune_channels could remove nothing at ratio 0.5; 1 groups are too narrow for round_to 16; "
        "the model from before stands; protected are head: an output of the model\n"
    )
    options += ["--pass", "prune_channels:allow_noop=true", "--save", str(tmp_path / "plan.yaml")]
    code, _, err = in_process(capsys, "plan", f"{file}:net", *options)
    assert (code, err) == (2, "error: nothing is cut, so there is no plan to save\n")


def test_plan_takes_the_defaults_of_the_model_as_a_run_does() -> None:
    from cli import flags
    from compress.sources.source import Source

    source = Source(torch.nn.Linear(1, 1), {}, defaults={"prune_channels": {"round_to": 4, "criterion": "l1"}})
    extra = ("prune_channels:criterion=fpgm",)
    step = flags.to_pruning(prune=0.3, prune_target=None, prune_plan=None, extra=extra, threads=2)
    made = flags.make_pruning(step, source)
    assert (made.ratio, made.round_to, made.criterion, made.threads) == (0.3, 4, "fpgm", 2)


def test_sensitivity_shows_a_bar_and_saves_a_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, plan, picture = tmp_path / "mine.py", tmp_path / "plan.yaml", tmp_path / "drops.svg"
    file.write_text("from compress.testing import tiny_model, tiny_task\ndef net():\n    return tiny_model(), tiny_task()\n")
    code, out, err = in_process(
        capsys, "sensitivity", f"{file}:net", "--ratios", "0.5", "--within", "100", "--save", str(plan), "--plot", str(picture),
        "--save-rows", str(tmp_path / "rows.jsonl"),
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert picture.read_text().startswith("<?xml")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["name"], row["change"], row["ratio"]) for row in rows] == [("stem", "prune 0.50", 0.5)]
    lines = out.splitlines()
    assert lines[0].split() == ["group", "change", "accuracy", "%", "drop", "ms", "p50", "saved", "ms", "params", "M"]
    assert lines[1].split()[:3] == ["stem", "prune", "0.50"]
    assert lines[3:] == [
        "protected: head (an output of the model)",
        "suggested (at most 100 points each): {'stem': 0.5}",
        f"note: the suggested ratios are in {plan}; use them with --prune-plan {plan}",
        f"note: the picture is in {picture}",
    ]
    assert plan.read_text() == (
        "# Largest ratio of each group whose drop alone is at most 100 points, on validate data.\nstem: 0.5\n"
    )
    code, out, _ = in_process(capsys, "plan", f"{file}:net", "--prune-plan", str(plan), "--json")
    assert json.loads(out)["widths"] == {"stem": [16, 8], "body": [16, 8]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["run", "resnet18", "--prune", "0.5", "--prune-target", "macs=0.5"], "--prune and --prune-target contradict each other; give one of them"),
        (["run", "resnet18", "--int8", "--prune-steps", "2"], "--prune-steps needs --prune or --prune-target: it says in how many steps"),
        (["run", "resnet18", "--prune-target", "latency=1ms", "--prune-steps", "2"], "--prune-steps needs a target that is a fraction of the original, such as macs=0.5, got latency=1ms"),
        (["run", "resnet18", "--prune-target", "speed=2"], "prune_channels: target must be macs, params, size or latency, got 'speed=2'. Known: macs, params, size, latency."),
        (["run", "resnet18", "--prune-plan", "nowhere.yaml"], "the plan nowhere.yaml cannot be read: No such file or directory"),
        (["plan", "resnet18"], "say how much to prune: --prune RATIO, --prune-target COST=VALUE or --prune-plan FILE"),
        (["plan", "resnet18", "--prune", "0.5", "--pass", "int8"], "only options of prune_channels can be given here, not int8"),
        (["plan", "resnet18", "--prune", "0.5", "--pass", "prune_channels:criterion=best"], "prune_channels: criterion must be one of l2, l1, fpgm, bn_scale, lamp, taylor, obd, activation, apoz, elastic_net, nuclear, random, got 'best'"),
        (["sensitivity", "resnet18", "--save", "no/a.yaml"], "no/a.yaml cannot be written: there is no folder no"),
        (["sensitivity", "resnet18", "--plot", "a.jpg"], "a picture's name ends in .png, .svg or .pdf, got a.jpg"),
        (["sensitivity", "resnet18", "--save-rows", "no/such/rows.jsonl"], "no/such/rows.jsonl cannot be written: No such file or directory"),
        (["sensitivity", "resnet18", "--ratios", "0.5,2"], "--ratios takes numbers in (0, 1), such as 0.25,0.5, got '0.5,2'"),
    ],
)  # fmt: skip
def test_mistakes_about_pruning_are_told(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert in_process(capsys, *flags) == (2, "", f"error: {message}\n")
