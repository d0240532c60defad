"""The table of `compress inspect`."""

from collections.abc import Sequence

from cli.show import Screen, make_table, print_json
from compress.inspection import Inspection
from compress.quant.layer_errors import LayerError

COLUMNS = ("layer", "kind", "bits", "weight dB", "low", "high", "clipped %", "own dB", "channel dB", "all dB")
MEANING = (
    "dB of signal over error, 20 for a tenth of error: own with this layer alone in integers, channel the same for single "
    "channels, of which half are worse, all with the whole network in integers"
)


def inspection(screen: Screen, found: Inspection, layers: Sequence[LayerError]) -> None:
    """One line per layer, in the order of `layers`; as JSON all of it."""
    if screen.as_json:
        print_json(found.to_dict())
        return
    screen.console.print(make_table(COLUMNS, [_row(layer) for layer in layers]))
    screen.console.print(f"on {found.samples} calibration samples; {MEANING}", markup=False)


def _row(layer: LayerError) -> tuple[str, ...]:
    bits = "float" if layer.bits is None and layer.kind in ("conv", "linear") else _number(layer.bits, "d")
    clipped = None if layer.clipped is None else 100 * layer.clipped
    errors = (_number(error, ".1f") for error in (layer.own_db, layer.channel_db, layer.accumulated_db))
    limits = (_number(layer.low, ".4g"), _number(layer.high, ".4g"), _number(clipped, ".3f"))
    return (layer.name, layer.kind, bits, _number(layer.weight_db, ".1f"), *limits, *errors)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
