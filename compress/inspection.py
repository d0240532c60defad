"""What integers do to each layer of a quantized model: of a run's folder, or of a module at hand."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import fx, nn

from compress import zoo
from compress.errors import UserError
from compress.folder import RECIPE
from compress.pipeline import HOW_TO_GIVE
from compress.quant.layer_errors import LayerError, layer_errors
from compress.quant.ptq import quantizers_in
from compress.recipe import read as read_recipe
from compress.run import load
from compress.sources.source import Source
from compress.store import read_manifest
from compress.tables import html_block
from compress.task import Task

COLUMNS = ("layer", "kind", "bits", "weight dB", "low", "high", "clipped %", "own dB", "channel dB", "all dB")
MEANING = (
    "dB of signal over error, 20 for a tenth of error: own with this layer alone in integers, channel the same for single "
    "channels, of which half are worse, all with the whole network in integers"
)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        layers: in the order of the network.
        samples: of the calibration data, on which the errors were measured.
    """

    layers: tuple[LayerError, ...]
    samples: int

    def worst_first(self) -> list[LayerError]:
        """The layers, those first whose own error is largest beside their output."""
        return sorted(self.layers, key=lambda layer: float("inf") if layer.own_db is None else layer.own_db)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return {"samples": self.samples, "layers": [asdict(layer) for layer in self.layers]}

    def cells(self, layers: Sequence[LayerError] | None = None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header, and a row of texts for each layer, in the order of `layers` where given; the first two columns hold words."""
        return COLUMNS, [_cells(layer) for layer in (self.layers if layers is None else layers)]

    def lines(self) -> list[str]:
        """What the columns mean."""
        return [f"on {self.samples} calibration samples; {MEANING}"]

    def _repr_html_(self) -> str:
        return html_block(*self.cells(), self.lines(), left=(0, 1))


def inspect(model: Path | str | nn.Module, task: Task | None = None) -> Inspection:
    """The error of each layer of a quantized model on its calibration data, see `compress.quant.layer_errors`.

    What is exact is the model's own graph without rounding, with the weights as they are stored: pruning and training came
    before, and are not counted. The model is not changed.

    Args:
        model: the folder of a run, or a model that the pass `int8` gave.
        task: whose calibration data are used; of a folder, None takes the data that the run took.

    Raises:
        UserError: the model is not quantized, or there are no calibration data.
    """
    if isinstance(model, nn.Module):
        graph_module, what = model, "the model"
    else:
        what = str(model)
        if read_manifest(Path(model))["quantization"] is not None:
            task = task or folder_task(Path(model))
            graph_module = load(model)
        else:
            graph_module = nn.Module()
    if not isinstance(graph_module, fx.GraphModule) or not quantizers_in(graph_module):
        raise UserError(f"{what} is in float: there are no integers to inspect; quantize it with --int8, or with the pass int8")
    if task is None or task.calibration is None:
        raise UserError(f"inspecting needs calibration data, and the task has none; {HOW_TO_GIVE['calibration']}")
    layers, samples = layer_errors(graph_module, task.calibration())
    if samples == 0:
        raise UserError("inspecting needs calibration data, and they are empty")
    return Inspection(layers, samples)


def _cells(layer: LayerError) -> tuple[str, ...]:
    bits = "float" if layer.bits is None and layer.kind in ("conv", "linear") else _number(layer.bits, "d")
    clipped = None if layer.clipped is None else 100 * layer.clipped
    errors = (_number(error, ".1f") for error in (layer.own_db, layer.channel_db, layer.accumulated_db))
    limits = (_number(layer.low, ".4g"), _number(layer.high, ".4g"), _number(clipped, ".3f"))
    return (layer.name, layer.kind, bits, _number(layer.weight_db, ".1f"), *limits, *errors)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def folder_task(folder: Path, data: str | None = None, limit_train: int | None = None) -> Task:
    """The task of the run in a folder, with the data that it took, or others.

    Args:
        data, limit_train: as `compress run` takes them; None is as in the run.

    Raises:
        UserError: the folder holds no model, or its data were Python objects.
    """
    manifest, recipe = read_manifest(folder), read_recipe(folder / RECIPE)
    source, origin, data = Source.from_manifest(manifest), manifest["origin"], data or recipe.data
    if data is None and origin["kind"] == "file":
        source = zoo.load(f"{origin['path']}:{origin['function']}")
    if data is None and origin["kind"] == "module":
        raise UserError(f"the data of {folder} were given as a Python object and are not on disk; give a task, or --data")
    return zoo.load_task(source, data, limit_train or recipe.limit_train, recipe.limit_eval)
