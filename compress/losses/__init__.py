"""What a student is trained to: functions of its tensors and its teacher's, differentiable in the student's, one number out.

All of them take floats, of which the teacher's carry no gradient, and give the mean over the batch. N is the batch. Half
precision should be widened first: sums of squares do not fit into it.
"""

from compress.losses.features import attention_transfer, hint
from compress.losses.logits import decoupled, distillation, soft_targets

__all__ = ["attention_transfer", "decoupled", "distillation", "hint", "soft_targets"]
