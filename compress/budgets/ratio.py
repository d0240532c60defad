"""The ratio that meets a budget: which costs are counted, which are measured, and what predicts these."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from compress.budgets.answer import Answer, protected
from compress.budgets.cost import Cost
from compress.budgets.counted import search_counts
from compress.budgets.files import CutFiles
from compress.budgets.measured import search_measurements
from compress.budgets.target import Budget
from compress.measure import count_macs, count_parameters
from compress.measure.layers import LayerTable, layer_shapes
from compress.pruning.channels import ChannelPruner


def ratio_for(
    budget: Budget,
    pruner: ChannelPruner,
    reference: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    threads: int = 1,
    table: LayerTable | None = None,
) -> Answer:
    """The smallest ratio whose network is within the budget; size and latency are those of written files.

    Groups whose cut does not stand the comparison with the original are protected on the way, in `pruner`.

    Args:
        reference: the network that fractions refer to.
        threads: of the runtime that is timed.
        table: layer times to search in; a wrong one costs time and changes nothing in the answer.

    Raises:
        UserError: no ratio is enough; says how close one can get.
    """
    with tempfile.TemporaryDirectory() as folder:
        search = _search(budget, pruner, reference, example_inputs, Path(folder), table or LayerTable(threads))
        while True:
            before = protected(pruner)
            answer = search()
            pruner.verified(answer.ratio)
            if protected(pruner) == before:  # else costs from before and after were mixed
                return answer


def _search(
    budget: Budget,
    pruner: ChannelPruner,
    reference: nn.Module,
    example_inputs: tuple[Tensor, ...],
    folder: Path,
    table: LayerTable,
) -> Callable[[], Answer]:
    """The search for one budget, to be called again where it protected a group."""

    def cut(ratio: float) -> nn.Module:
        # Verified, since one that breaks the forward could not even be counted. The narrowest, of which every search asks
        # first, protects nearly all that cannot be cut.
        return pruner.verified(ratio)[0]

    if budget.kind == "params":
        return lambda: search_counts(budget, pruner, count_parameters(reference), pruner.parameters_left)
    if budget.kind == "macs":
        macs = count_macs(reference, example_inputs)
        return lambda: search_counts(budget, pruner, macs, lambda ratio: count_macs(cut(ratio), example_inputs))
    files = CutFiles(reference, pruner, example_inputs, folder, table.threads)
    if budget.kind == "size":
        rest = files.size(0.0) - 4 * pruner.parameters_left(0.0)
        return lambda: search_measurements(
            budget,
            pruner,
            files.baseline_size,
            lambda ratio: 4 * pruner.parameters_left(ratio) + rest,
            lambda ratio: Cost(files.size(ratio)),
        )
    return lambda: search_measurements(
        budget,
        pruner,
        files.baseline_latency,
        lambda ratio: table.total(layer_shapes(cut(ratio), example_inputs)),
        lambda ratio: files.latency(ratio, budget),
        noisy=True,
    )
