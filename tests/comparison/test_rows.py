"""Which figures stand in a row, which runs share one, and which are kept apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.comparison import compare_runs
from compress.comparison.rows import COLUMNS

Made = Callable[..., Path]
MACHINE = "A CPU (avx2 avx512_vnni), ort-cpu 1.31.1, batch 1, 1 thread"
ON_DIGITS = f"net on digits, 1000 evaluation samples, input 1x3x8x8; {MACHINE}"


def scored(accuracy: float, p50: float = 0.7, size: int = 500_000) -> Callable[[dict[str, Any]], None]:
    """Another result of the same recipe."""

    def change(report: dict[str, Any]) -> None:
        report["stages"][-1]["accuracy"] = accuracy
        report["stages"][-1]["size_bytes"] = size
        report["benchmarks"][1]["latency_ms"]["p50"] = p50

    return change


def figures(row: dict[str, Any]) -> dict[str, Any]:
    words = ("passes", "seeds", "setting", "model", "data", "eval_samples", "machine")
    return {name: value for name, value in row.items() if name not in words and not name.endswith("_std")}


def test_the_baseline_then_the_run_with_figures_of_its_report(made: Made) -> None:
    found = compare_runs([made("a")])
    baseline, row = found.rows
    assert tuple(row) == tuple(baseline) == COLUMNS
    assert figures(baseline) == {
        **{"run": "baseline", "stage": "baseline", "n": 1, "accuracy_percent": 90.0, "drop_points": 0.0},
        **{"latency_ms_p50": 4.2, "latency_ms_p90": 4.9, "size_mb": 8.0, "speedup": 1.0, "size_ratio": 1.0},
        **{"params_m": 2.0, "nonzero_params_m": 1.9, "mmacs": 80.0, "seconds": 0.0},
    }
    assert figures(row) == {
        **{"run": "a", "stage": "int8", "n": 1, "accuracy_percent": 88.0, "drop_points": 2.0},
        **{"latency_ms_p50": 0.7, "latency_ms_p90": 0.75, "size_mb": 0.5, "speedup": 6.0, "size_ratio": 16.0},
        **{"params_m": 0.5, "nonzero_params_m": 1.9, "mmacs": 20.0, "seconds": 3.5},
    }
    assert {row[name] for name in COLUMNS if name.endswith("_std")} == {None}  # one run has no spread
    assert (row["passes"], row["seeds"], row["setting"]) == ("prune_channels > int8", "0", 1)
    assert found.notes == ("a: prune_channels > int8; seed 0", ON_DIGITS)


def test_all_stages_have_the_latency_from_right_after_them(made: Made) -> None:
    rows = compare_runs([made("a")], stages=True).rows
    shown = [(row["run"], row["stage"], row["latency_ms_p50"], row["speedup"], row["seconds"]) for row in rows]
    assert shown == [
        ("baseline", "baseline", 4.0, 1.0, 0.0),
        ("a", "prune_channels", 2.0, 2.0, 1.5),
        ("a", "int8", 0.8, 5.0, 2.0),
    ]


def test_seeds_of_one_recipe_are_folded_to_mean_and_sample_deviation(made: Made) -> None:
    runs = [made("a", scored(0.88, 0.7)), made("b", scored(0.86, 0.9), seed=1), made("c", scored(0.84, 0.8), seed=2)]
    baseline, row = (found := compare_runs(runs)).rows
    assert (row["run"], row["n"], row["seeds"]) == ("a, b, c", 3, "0, 1, 2")
    assert (row["accuracy_percent"], row["accuracy_percent_std"]) == (86.0, 2.0)  # sqrt((4 + 0 + 4) / 2), not / 3
    assert (row["latency_ms_p50"], row["latency_ms_p50_std"]) == (0.8, 0.1)
    assert (row["drop_points"], row["size_mb_std"]) == (4.0, 0.0)
    assert (baseline["n"], baseline["seeds"], baseline["accuracy_percent_std"]) == (3, "", 0.0)
    assert found.notes[0] == "a, b, c: prune_channels > int8; seeds 0, 1, 2"
    more = compare_runs({f"a-long-name-{seed}": run for seed, run in enumerate(runs)})
    assert more.rows[1]["run"] == "a-long-name-0 and 2 more"
    assert more.notes[0] == "a-long-name-0, a-long-name-1, a-long-name-2: prune_channels > int8; seeds 0, 1, 2"


def test_one_seed_twice_is_no_spread_between_seeds_and_said_so(made: Made) -> None:
    found = compare_runs([made("a"), made("b")])
    assert found.notes[1] == "a, b: seeds are there more than once, so the spread is not that between seeds"


def test_other_options_or_training_samples_are_another_recipe(made: Made) -> None:
    def cut_less(report: dict[str, Any]) -> None:
        report["stages"][1]["options"]["ratio"] = 0.25

    found = compare_runs([made("a"), made("b", cut_less, seed=1), made("c", seed=2, limit_train=64)])
    assert [(row["run"], row["passes"]) for row in found.rows[1:]] == [
        ("a", "prune_channels(ratio=0.5) > int8, all training samples"),
        ("b", "prune_channels(ratio=0.25) > int8, all training samples"),
        ("c", "prune_channels(ratio=0.5) > int8, 64 training samples"),
    ]


def elsewhere(report: dict[str, Any]) -> None:
    report["environment"]["cpu"] = "B CPU"
    report["benchmarks"][1]["latency_ms"]["p50"] = 70.0
    report["benchmarks"][0]["latency_ms"]["p50"] = 420.0


def test_a_run_on_another_machine_has_its_own_baseline_and_spoils_no_mean(made: Made) -> None:
    found = compare_runs([made("a"), made("b", elsewhere, seed=1)])
    shown = [(row["setting"], row["run"], row["n"], row["latency_ms_p50"], row["speedup"]) for row in found.rows]
    assert shown == [(1, "baseline", 1, 4.2, 1.0), (1, "a", 1, 0.7, 6.0), (2, "baseline", 1, 420.0, 1.0), (2, "b", 1, 70.0, 6.0)]
    assert found.rows[-1]["machine"] == MACHINE.replace("A CPU", "B CPU")
    assert found.notes[2:] == (
        f"setting 1: {ON_DIGITS}",
        f"setting 2 differs from setting 1 in machine ({MACHINE.replace('A CPU', 'B CPU')}, not {MACHINE}): "
        "latency cannot be compared",
        "each setting has its own baseline, and ratios are to that one",
    )


def test_what_keeps_runs_apart(made: Made) -> None:
    def altered(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
        def change(report: dict[str, Any]) -> None:
            for part in path[:-1]:
                report = report[part]  # type: ignore[index]
            report[path[-1]] = value  # type: ignore[index]

        return change

    def fewer(report: dict[str, Any]) -> None:
        for stage in report["stages"]:
            stage["eval_samples"] = 100
        report["stages"][0]["accuracy"] = 0.91

    def more_threads(report: dict[str, Any]) -> None:
        report["stages"][0]["latency_ms"]["threads"] = 2

    original = "100 % of".replace("100 % of", "90 %, 2000000 parameters, 80000000 MACs")
    cases: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
        ("model", altered("model", value="other"), "model (other, not net)"),
        ("data", altered("data", value="letters"), "data (letters, not digits): accuracy cannot be compared"),
        ("samples", fewer, "evaluation samples (100, not 1000): accuracy cannot be compared"),
        ("input", altered("input_shape", value=[[1, 3, 9, 9]]), "input (1x3x9x9, not 1x3x8x8)"),
        (
            "original",
            altered("stages", 0, "accuracy", value=0.8),
            f"original ({original.replace('90', '80')}, not {original})",
        ),
        (
            "runtime",
            altered("environment", "versions", "onnxruntime", value="1.30.0"),
            f"machine ({MACHINE.replace('1.31.1', '1.30.0')}, not {MACHINE}): latency cannot be compared",
        ),
        (
            "flags",
            altered("environment", "isa_flags", value=["avx2"]),
            f"machine ({MACHINE.replace(' avx512_vnni', '')}, not {MACHINE}): latency cannot be compared",
        ),
        (
            "threads",
            more_threads,
            f"machine ({MACHINE.replace('1 thread', '2 threads')}, not {MACHINE}): latency cannot be compared",
        ),
    ]
    ours = made("ours")
    for name, change, difference in cases:
        found = compare_runs([ours, made(name, change, seed=1)])
        assert [row["setting"] for row in found.rows] == [1, 1, 2, 2], name
        assert found.notes[3] == f"setting 2 differs from setting 1 in {difference}"
    weights = compare_runs([ours, made("weights", seed=1, weights="w.pt")])
    assert weights.notes[3] == "setting 2 differs from setting 1 in weights (w.pt, not none)"


def test_data_without_a_name_are_the_same_only_if_the_original_scores_the_same(made: Made) -> None:
    def nameless(accuracy: float) -> Callable[[dict[str, Any]], None]:
        def change(report: dict[str, Any]) -> None:
            report["data"] = None
            report["stages"][0]["accuracy"] = accuracy

        return change

    found = compare_runs([made("a", nameless(0.9)), made("b", nameless(0.9), seed=1), made("c", nameless(0.8), seed=2)])
    assert [(row["run"], row["setting"]) for row in found.rows] == [("baseline", 1), ("a, b", 1), ("baseline", 2), ("c", 2)]
    assert found.notes[3].endswith(": accuracy cannot be compared")


def test_a_run_that_was_not_scored(made: Made) -> None:
    def unscored(report: dict[str, Any]) -> None:
        for stage in report["stages"]:
            stage["accuracy"] = stage["eval_samples"] = None

    found = compare_runs([made("a", unscored), made("b", unscored, seed=1)])
    assert [(row["accuracy_percent"], row["drop_points"], row["accuracy_percent_std"]) for row in found.rows] == [(None,) * 3] * 2
    assert found.notes[1].startswith("net on digits, not scored, input 1x3x8x8; ")
