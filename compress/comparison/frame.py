"""Runs side by side as a pandas DataFrame."""

from typing import TYPE_CHECKING

from compress.comparison.results import Runs
from compress.comparison.rows import COLUMNS, FIGURES, SPREADS, compare_runs
from compress.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


def compare(runs: Runs, *, stages: bool = False) -> "DataFrame":
    """Accuracy, latency and size of several runs, a row each, after a row for the network that they started from.

    Runs of one recipe that differ only in the seed become one row: each figure is their mean, its column `..._std` the sample
    standard deviation, `n` their number. Runs of another model, other data, another number of evaluation samples or another
    machine (processor, instruction sets, runtime or its version, threads) have another number in `setting` and a baseline of
    their own; nothing is averaged or divided across settings.

    Columns:
        run, stage, n: name of the folder, last stage, number of runs.
        accuracy_percent, drop_points: on the evaluation data; points lost against the baseline.
        latency_ms_p50, latency_ms_p90, speedup: single calls; of baseline and result timed side by side at the end of the run.
        size_mb, size_ratio: of the ONNX file, in 10^6 bytes; how many times smaller than the baseline.
        params_m, nonzero_params_m, mmacs: in millions; one multiply-add is one MAC, batch 1.
        seconds: what the passes took, without measuring.
        passes, seeds: what was done, with the options that differ between these runs.
        setting, model, data, eval_samples, machine: what may be compared with what; `attrs["notes"]` says it in words.

    Args:
        runs: folders of runs and what `compress.run` gave back; as a mapping, the keys are their names.
        stages: a row for each stage instead of the last alone; latency is then that measured right after the stage.

    Raises:
        UserError: no runs, one of them twice, a folder without a finished run of this version, or pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError:
        raise UserError(
            "compress.compare gives a pandas DataFrame; install it with: pip install 'compress-toolkit[compare]' "
            "(the command compress compare needs none)"
        ) from None
    found = compare_runs(runs, stages=stages)
    numbers = dict.fromkeys((*FIGURES, *(f"{name}_std" for name in SPREADS)), "float64")  # also where none is known
    frame = DataFrame(list(found.rows), columns=list(COLUMNS)).astype({**numbers, "eval_samples": "Int64"})
    frame.attrs["notes"] = list(found.notes)
    return frame
