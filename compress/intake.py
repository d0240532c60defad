"""The model that somebody gives, as one of our own: copied, in eval mode, or refused with what would help."""

import copy

import torch
from torch import nn

from compress.errors import UserError


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` on the CPU, in eval mode, so that the one that was given is never changed: neither its weights, nor
    its buffers, nor its mode.

    Raises:
        UserError: it is wrapped or compiled, cannot be copied, has no parameters, or has weights or buffers that are no
            numbers.
    """
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(f"the model is wrapped in {kind}; give the one inside: model.module")
    if hasattr(model, "_orig_mod"):
        raise UserError("the model was compiled by torch.compile; give the one that was compiled: model._orig_mod")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a TorchScript module cannot be changed; give the nn.Module that it was made from")
    if not any(True for _ in model.parameters()):
        raise UserError(f"{kind} has no parameters: there is nothing to compress")
    for name, tensor in model.named_parameters():
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise UserError(f"the weight '{name}' has no shape yet; call the model once on an example before it is compressed")
        if tensor.is_meta:
            raise UserError(f"the weight '{name}' is on the device 'meta' and holds no numbers; load the weights first")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"the weight '{name}' holds NaN or infinity; a model must work before it can be compressed")
    for name, buffer in model.named_buffers():
        if buffer.isnan().any():  # infinity is what a mask may be made of
            raise UserError(f"the buffer '{name}' holds NaN; a model must work before it can be compressed")
    try:
        return copy.deepcopy(model).cpu().eval()
    except Exception as error:  # an attribute of any kind may refuse
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{kind} cannot be copied by copy.deepcopy, which is how yours stays unchanged ({first})") from error


def check_float32(model: nn.Module) -> None:
    """Raise UserError where a model computes in another precision, which a written file of it could not be run in."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise UserError(
                f"the weight '{name}' is {kind}, and ONNX Runtime on the CPU computes in float32; give model.float() and inputs "
                "in float32 (fp16 writes a file in half precision beside the others)"
            )
