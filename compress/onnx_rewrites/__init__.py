"""Small rewrites of an exported ONNX graph, most because ONNX Runtime has an integer kernel for the new form only.

Every function changes the graph in place; `rewrite` runs them all. None changes what the graph computes from
finite values, but for rows of an attention that look at nothing.
"""

import onnx

from compress.onnx_rewrites.amx import multiply_on_amx
from compress.onnx_rewrites.attention import guard_after_values
from compress.onnx_rewrites.blocks import store_blocks
from compress.onnx_rewrites.dynamic import multiply_integers
from compress.onnx_rewrites.embedding import gather_integers
from compress.onnx_rewrites.gemm import keep_in_integers, linear_as_gemm
from compress.onnx_rewrites.graph import Graph
from compress.onnx_rewrites.int4 import pack_int4
from compress.onnx_rewrites.integers import pad_integers, store_integer_biases, store_integer_weights
from compress.onnx_rewrites.masks import bound_masks
from compress.onnx_rewrites.names import name_layers
from compress.onnx_rewrites.nbits import declare_domains
from compress.onnx_rewrites.padding import fold_padding
from compress.onnx_rewrites.pool import global_average_pool
from compress.onnx_rewrites.shield import keep_in_float
from compress.onnx_rewrites.stem import space_to_depth


def rewrite(model: onnx.ModelProto, target: str = "ort-cpu", *, amx: bool = False) -> None:
    """All rewrites of this package, in place, then the removal of what is unused.

    Args:
        target: the runtime that integers are for. OpenVINO 2026.4 has no use for three of the rewrites: a ResNet-18 at 224x224
            without SpaceToDepth takes 4.1 instead of 4.3 ms, it cannot open a ViT whose Gemm goes into an attention, and it
            needs no Reshape behind one.
        amx: whether convolutions take the form that ONNX Runtime computes on the matrix unit.
    """
    graph = Graph(model)
    global_average_pool(graph)
    guard_after_values(graph)
    bound_masks(graph)
    store_blocks(graph)
    store_integer_weights(graph)
    multiply_integers(graph)
    gather_integers(graph)
    if target != "openvino":
        linear_as_gemm(graph)
    store_integer_biases(graph)
    pad_integers(graph)
    fold_padding(graph)
    if amx:
        multiply_on_amx(graph)
    if target != "openvino":
        space_to_depth(graph)
        keep_in_integers(graph)
    keep_in_float(graph)
    name_layers(graph)
    pack_int4(graph, model)
    graph.remove_unused()
    declare_domains(model)
