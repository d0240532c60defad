"""What 2:4 zeros bring on a GPU: linear layers pruned by `prune_weights`, dense beside torch's semi-structured kernels.

    python benchmarks/semi_structured.py --result FILE

Half precision, batches of tokens, the layer sizes of BERT-base and of a 7-billion-parameter language model. Timed alternately
in one process; the outputs of both are compared. Needs an NVIDIA GPU of compute capability 8.0 or newer.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

import compress
from compress.files import write_atomically
from compress.measure import describe_environment, time_interleaved
from compress.passes.prune_weights import PruneWeights

LAYERS = {"bert-base attention": (768, 768), "bert-base up": (768, 3072), "bert-base down": (3072, 768), "7b up": (4096, 11008)}
TOKENS = (128, 1024, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        sys.exit("error: 2:4 kernels need an NVIDIA GPU of compute capability 8.0 or newer; none is here")
    rows = [measure(name, *shape, tokens) for name, shape in LAYERS.items() for tokens in TOKENS]
    result = {
        "command": "python benchmarks/semi_structured.py " + " ".join(sys.argv[1:]),
        "environment": describe_environment(torch.get_num_threads()),
        "rows": rows,
    }
    write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode())


def measure(name: str, inputs: int, outputs: int, tokens: int) -> dict[str, object]:
    """One layer and number of tokens; milliseconds p50."""
    torch.manual_seed(0)
    task = compress.Task((torch.randn(2, inputs),))
    pruned = compress.apply(PruneWeights(pattern="2:4", dense_ends=False), nn.Sequential(nn.Linear(inputs, outputs)), task)
    dense = pruned.half().cuda()
    sparse = copy.deepcopy(dense)
    sparse[0].weight = nn.Parameter(to_sparse_semi_structured(sparse[0].weight.detach()), requires_grad=False)
    x = torch.randn(tokens, inputs, device="cuda", dtype=torch.half)

    def call(model: nn.Module) -> Tensor:
        y: Tensor = model(x)
        torch.cuda.synchronize()
        return y

    with torch.inference_mode():
        difference = (call(dense) - call(sparse)).abs().max() / call(dense).abs().max()
        times = time_interleaved({"dense": lambda: call(dense), "sparse": lambda: call(sparse)})
    before, after = (float(np.median(times[key])) for key in ("dense", "sparse"))
    row = {"layer": name, "inputs": inputs, "outputs": outputs, "tokens": tokens, "dense_ms": before, "sparse_ms": after}
    print(json.dumps(row | {"faster": before / after, "relative_difference": float(difference)}), flush=True)
    return row | {"faster": before / after, "relative_difference": float(difference)}


if __name__ == "__main__":
    main()
