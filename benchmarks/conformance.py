"""The table of architectures: what structural pruning does to each, held against the original without the cut channels.

    python benchmarks/conformance.py --docs docs/conformance.md

Each model is pruned at ratio 0.5, exported and held against torch, saved and loaded, and pruned a second time. A model of
which more than half the work is protected counts as failed, unless it is listed here with its reason.
"""

import argparse
import copy
import json
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import compress
from compress.errors import CompressError
from compress.export import export_onnx, signature
from compress.measure import count_macs, count_parameters, describe_environment, open_onnx
from compress.measure.cost import macs_by_layer
from compress.outputs import tensors
from compress.parity import check_parity
from compress.passes.prune_channels import PruneChannels, protected
from compress.planning import protected_macs
from compress.pruning.channels import ChannelPruner, Settings
from compress.pruning.groups import find_groups
from compress.pruning.oracle import difference
from compress.store import load_model, save_model
from compress.task import Task
from compress.testing.architectures import NAMES, build

# More than half protected, for a reason that stands; none so far.
LISTED: dict[str, str] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="write the table as Markdown")
    parser.add_argument("--result", type=Path, help="write the rows as JSON")
    parser.add_argument("--peer", action="store_true", help="also try torch-pruning's BasePruner on each")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in NAMES:
        rows.append(row(name) | ({"torch-pruning": peer(name)} if options.peer else {}))
        print(json.dumps(rows[-1]), flush=True)
    if options.result:
        command = "python benchmarks/conformance.py" + (" --peer" if options.peer else "")
        options.result.write_text(
            json.dumps({"command": command, "environment": describe_environment(1), "rows": rows}, indent=1) + "\n"
        )
    if options.docs:
        options.docs.parent.mkdir(exist_ok=True)
        options.docs.write_text(markdown(rows))


def row(name: str) -> dict[str, object]:
    """One architecture, and whether it passed."""
    model, inputs = build(name)
    task, begun = Task(inputs), time.perf_counter()
    pruner = ChannelPruner(model, inputs, Settings(round_to=2))
    cut, cuts = pruner.verified(0.5)
    found: dict[str, object] = {
        "name": name,
        "params": [count_parameters(model), count_parameters(cut)],
        "macs": [count_macs(model, inputs), count_macs(cut, inputs)],
        "protected": round(protected_macs(pruner.groups, macs_by_layer(model, inputs)), 3),
        "difference": difference(model, cut, cuts, inputs),
        "seconds": round(time.perf_counter() - begun, 2),
        "reasons": {reason: names for reason, names in protected(pruner).items() if reason != "an output of the model"},
    }
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            export_onnx(cut, inputs, path, signature(model, inputs))
            check_parity(cut, open_onnx(path).predict, task, "fp32", name)
            found["exports"] = True
            save_model(Path(scratch), cut, model, {"origin": {"kind": "module"}})
            loaded = load_model(Path(scratch), copy.deepcopy(model))
            with torch.no_grad():
                pairs = zip(tensors(loaded(*inputs)).values(), tensors(cut(*inputs)).values(), strict=True)
                found["reloads"] = all(torch.equal(one, other) for one, other in pairs)
        again = compress.apply(PruneChannels(ratio=0.5, round_to=1), cut, task)
        found["params again"] = count_parameters(again)
    except CompressError as error:
        found["error"] = str(error)
    passed = found["difference"] < 1e-5 and found.get("reloads") and "params again" in found  # type: ignore[operator]
    found["passed"] = bool(passed and (found["protected"] <= 0.5 or name in LISTED))  # type: ignore[operator]
    return found


def peer(name: str) -> str:
    """What torch-pruning makes of it: `cut`, `nothing cut`, or how it broke the model. Outputs are protected for it."""
    import torch_pruning

    model, inputs = build(name)
    modules, before = dict(model.named_modules()), count_parameters(model)
    shapes = {key: x.shape for key, x in tensors(model(*inputs)).items()}
    outputs = [g for g in find_groups(model, inputs) if g.fixed == "an output of the model"]
    ignored = [modules[layer] for g in outputs for layer in g.layers if isinstance(modules[layer], nn.Linear | nn.Conv2d)]
    try:
        torch_pruning.pruner.BasePruner(
            model,
            inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            round_to=2,
            ignored_layers=ignored,
            output_transform=lambda output: [x * 1 for x in tensors(output).values()],
        ).step()
        with torch.no_grad():
            after = {key: x.shape for key, x in tensors(model(*inputs)).items()}
    except Exception as error:
        return f"broken ({type(error).__name__})"
    if after != shapes:
        return "outputs changed"
    return "cut" if count_parameters(model) < before else "nothing cut"


def markdown(rows: list[dict[str, object]]) -> str:
    """The table and the reasons."""
    lines = [
        "# Architectures",
        "",
        "Written by `python benchmarks/conformance.py --docs docs/conformance.md`: tiny instances with random weights, pruned at",
        "ratio 0.5. Protected: share of the multiply-adds in layers of which nothing can be cut. Difference: largest, of the cut",
        "network's outputs from those of the original whose readers ignore the cut channels, in float64, relative to the",
        "largest output.",
        "",
        "| model | params after/before | MACs after/before | protected | difference | export, reload | again | |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for entry in rows:
        params, macs = entry["params"], entry["macs"]
        written = "yes" if entry.get("reloads") else f"no: {entry.get('error')}"
        again = entry["params again"] / params[1] if "params again" in entry else 1.0  # type: ignore[operator,index]
        lines.append(
            f"| {entry['name']} | {params[1] / params[0]:.3f} | {macs[1] / macs[0]:.3f} | {100 * entry['protected']:.1f} % "  # type: ignore[index,operator]
            f"| {entry['difference']:.0e} | {written} | {again:.3f} | {'passed' if entry['passed'] else 'failed'} |"
        )
    lines += ["", "## What is protected, and why", "", "The outputs of every model are; beyond them:", ""]
    for entry in rows:
        for reason, names in entry["reasons"].items():  # type: ignore[attr-defined]
            lines.append(f"- {entry['name']}: {', '.join(f'`{n}`' for n in names)}: {reason}")
    lines += ["", *[f"- {name} is more than half protected: {why}." for name, why in LISTED.items()], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
