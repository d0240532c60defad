"""The architecture, as a reader sees it: a module imports only from layers above its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. Modules of one line may import each other only within one package.
LAYERS = [
    "errors tables pareto progress outputs models quiet layers docstrings",
    "losses intake files sparsity workers convert recipes",
    "device measure quant pruning clustering low_rank onnx_rewrites",
    "export store",
    "gauge",
    "budgets task training",
    "distillation",
    "data guard parity slow_layers",
    "sources",
    "zoo artifact",
    "passes",
    "pipeline",
    "planning sensitivity",
    "plots recipe report folder",
    "side_by_side finished recipe_schema",
    "run",
    "bench comparison evaluate inspection launch launch_ray testing",
    "__init__",
]
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}


def files() -> list[Path]:
    return sorted((ROOT / "compress").rglob("*.py"))


def unit(path: Path) -> str:
    """The layer's unit that a file belongs to: a package, or a single module."""
    first = path.relative_to(ROOT / "compress").parts[0]
    return first.removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    from_root = [
        f"compress.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "compress" for a in n.names
    ]
    return {name.split(".")[1] for name in [*names, *from_root] if name.startswith("compress.")}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_above_its_own(path: Path) -> None:
    own = unit(path)
    for other in imported_units(path) - {own}:
        assert RANK[other] < RANK[own], f"{path.relative_to(ROOT)} imports compress.{other}, which is not above it"


def test_nothing_below_the_command_line_parses_or_prints() -> None:
    for path in files():
        tree = ast.parse(path.read_text())
        calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert "print" not in calls, path
        assert not {"click", "rich", "cli"} & {
            alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
        }, path
