"""The table of `compress inspect`."""

from collections.abc import Sequence

from cli.show import Screen, make_table, print_json
from compress.inspection import Inspection
from compress.quant.layer_errors import LayerError


def inspection(screen: Screen, found: Inspection, layers: Sequence[LayerError]) -> None:
    """One line per layer, in the order of `layers`; as JSON all of it."""
    if screen.as_json:
        print_json(found.to_dict())
        return
    screen.console.print(make_table(*found.cells(layers)))
    for line in found.lines():
        screen.console.print(line, markup=False)
