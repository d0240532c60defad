"""Weight sharing: a layer's weights take few different values, and an index for each weight is what remains to store."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.artifact import Artifact
from compress.clustering.codebook import codes_of, encode, entropy_bits
from compress.clustering.kmeans import INITS, share_values
from compress.errors import PassError, UserError
from compress.layers import is_transposed_linear
from compress.store import shared_tensors

SAME_FILE = "the ONNX file holds the shared values as plain floats: its size and its latency do not change"


@dataclass(frozen=True)
class Cluster:
    """Replace the weights of each convolution and linear layer by 2^bits shared values, found by k-means.

    What it saves are bytes of a file with codebooks and indices, such as `compress.clustering.codebook.encode` makes; the
    report gives that file's real size. It saves no time, and the ONNX file stays as large as it was. Zeros that an earlier
    pass wrote stay zero. Biases, norms and embeddings keep their values, but for an embedding that is a linear layer's weight,
    too.

    Source: Han, Mao, Dally 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
    Huffman Coding", section 3. The centroids are not trained.

    Args:
        bits: of an index, in [1, 8]; a layer has at most 2^bits different values, zero among them.
        init: where k-means starts: evenly over the range of the weights (linear), with equally many weights around each value
            (density), or at weights drawn at random.
        exclude: shell patterns of layer names to leave alone.
        allow_noop: no error where no layer has more different values than that.
    """

    bits: int = 5
    init: Literal["linear", "density", "random"] = "linear"
    exclude: tuple[str, ...] = ()
    allow_noop: bool = False

    name: ClassVar[str] = "cluster"
    stage: ClassVar[str] = "cluster"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UserError(f"{self.name}: bits must be in [1, 8], got {self.bits}")
        if self.init not in INITS:
            raise UserError(f"{self.name}: init must be one of {', '.join(INITS)}, got '{self.init}'")

    @torch.no_grad()
    def apply(self, artifact: Artifact) -> nn.Module:
        model = artifact.model
        weights = weights_of(model)
        for glob in self.exclude:
            if not any(fnmatchcase(layer, glob) for layer in weights):
                raise UserError(f"{self.name}: exclude '{glob}' matches no convolution or linear layer")
        excluded = {layer: weight for layer, weight in weights.items() if any(fnmatchcase(layer, g) for g in self.exclude)}
        kept = {id(weight) for weight in excluded.values()}  # of a weight that two layers share, neither changes
        chosen = {layer: weight for layer, weight in weights.items() if id(weight) not in kept}
        before, changed = encode(stored(model)), False
        for weight in chosen.values():
            shared = share_values(weight, self.bits, self.init)
            changed = changed or not torch.equal(shared, weight)
            weight.copy_(shared)
        if not changed and not self.allow_noop:
            have = f"none has more than {2**self.bits} different weights" if chosen else "there is none"
            raise PassError(f"{self.name} found no layer to cluster: {have}; the model from before stands")
        if chosen:
            artifact.notes.extend(described(model, list(chosen), 2**self.bits, len(before)))
        if excluded:
            artifact.notes.append(f"excluded: {', '.join(excluded)}")
        return model


def described(model: nn.Module, layers: Sequence[str], values: int, before: int) -> list[str]:
    """Notes on the bytes that clustering saves, computed and really written.

    Args:
        layers: those whose weights have at most `values` different values.
        before: bytes of the file with float weights.
    """
    aliases, state = shared_tensors(model), stored(model)
    own = [f"{layer}.weight" if layer else "weight" for layer in layers]
    names = list(dict.fromkeys(aliases.get(name, name) for name in own))
    entropy = sum(entropy_bits(codes_of(state[name])[1]) * state[name].numel() for name in names)
    weights = sum(state[name].numel() for name in names)
    return [
        f"{weights} weights in {len(layers)} layers, at most {values} different ones in each; the entropy of their indices is "
        f"{entropy / weights:.2f} bits a weight, {entropy / 8e6:.3f} MB",
        f"written with codebooks and indices and deflated, the model takes {len(encode(state, names)) / 1e6:.3f} MB; with "
        f"its float weights from before, deflated, {before / 1e6:.3f} MB; {SAME_FILE}",
    ]


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight of every convolution, transposed ones too, and linear layer, by the layer's path."""
    found = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        transposed_linear = is_transposed_linear(module)
        known = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or transposed_linear
        if known and weight is not None and weight.is_floating_point():
            found[path] = weight
    return found


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with shared tensors once."""
    aliases = shared_tensors(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}
