"""The page as a whole."""

from collections.abc import Callable
from importlib import resources
from typing import Any

from compress.report.html import again, network, overview, timing, training
from compress.report.html.parts import anchor
from compress.tables import html_escaped

# Nothing may be loaded or executed, whatever names a report holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Report = dict[str, Any]


def to_html(report: Report, recipe: str = "", by_name: bool = True) -> str:
    """The report as one HTML page in ASCII, with its style and pictures in it, and without scripts.

    Args:
        recipe: text of the run's `recipe.yaml`.
        by_name: whether the model was asked for by a name, so that the recipe repeats the run on the command line.

    Raises:
        ValueError: a figure is NaN or infinite.
    """
    sections: dict[str, Callable[[], str]] = {
        "Stages": lambda: overview.stages(report),
        "Accuracy against latency": lambda: overview.trade(report),
        "Layers": lambda: network.layers(report),
        "Integers": lambda: network.integers(report),
        "Latency": lambda: timing.latency(report),
        "Training": lambda: training.training(report),
        "Machine": lambda: again.machine(report),
        "To repeat it": lambda: again.repeat(report, recipe, by_name),
    }
    made = {title: text for title, make in sections.items() if (text := make())}
    links = "".join(f'<li><a href="#{anchor(title)}">{title}</a></li>\n' for title in made)
    shapes = ", ".join("x".join(map(str, shape)) for shape in report["input_shape"])
    setting = html_escaped(f"input {shapes}, data {report['data'] or 'none'}, seed {report['seed']}")
    model = html_escaped(report["model"])
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{model}: compress report</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{model}</h1>
<p class="muted">{setting}</p>
{overview.tiles(report)}<nav aria-label="Sections">
<ul>
{links}</ul>
</nav>
</header>
<main>
{"".join(made.values())}</main>
</body>
</html>
"""
