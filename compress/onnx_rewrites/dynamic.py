"""Linear layers on activations that are quantized as they come, as products of integers."""

from onnx import TensorProto, helper

from compress.onnx_rewrites.graph import DQ, Graph


def multiply_integers(graph: Graph) -> None:
    """DynamicQuantizeLinear, DQ, MatMul or Gemm by a quantized matrix: MatMulInteger, Cast, Mul by both scales; in place.

    ONNX Runtime merges these, and a bias added behind them, into one operator. The sums are exact, where those of the floats
    were rounded.
    """
    for product in [node for node in graph.proto.node if node.op_type in ("MatMul", "Gemm")]:
        x = graph.producer.get(product.input[0])
        dynamic = graph.producer.get(x.input[0]) if x is not None and x.op_type == DQ else None
        if dynamic is None or dynamic.op_type != "DynamicQuantizeLinear":
            continue
        weight = graph.producer.get(product.input[1])
        if product.op_type == "MatMul":
            weight = graph.producer.get(weight.input[0]) if weight is not None and weight.op_type == "Transpose" else None
        scales = graph.array(weight.input[1]) if weight is not None and weight.op_type == DQ else None
        if weight is None or scales is None or graph.array(weight.input[0]) is None:
            continue
        activations, step, zero_point = dynamic.output
        name, result = product.name, product.output[0]
        steps = [
            helper.make_node("Transpose", [weight.input[0]], [f"{name}_codes"], perm=[1, 0]),
            helper.make_node("MatMulInteger", [activations, f"{name}_codes", zero_point], [f"{name}_sums"]),
            helper.make_node("Cast", [f"{name}_sums"], [f"{name}_floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [step, weight.input[1]], [f"{name}_scale"]),
        ]
        biased = len(product.input) > 2
        scaled = f"{name}_product" if biased else result
        if biased:
            steps.append(helper.make_node("Mul", [f"{name}_floats", f"{name}_scale"], [scaled]))
        for each in steps:
            each.name = each.output[0]
            graph.add_before(product, each)
        last = ["Add", scaled, product.input[2]] if biased else ["Mul", f"{name}_floats", f"{name}_scale"]
        product.CopyFrom(helper.make_node(last[0], last[1:], [result], name=name))
