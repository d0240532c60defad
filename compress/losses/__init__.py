"""What a student is trained to: functions of its tensors and its teacher's, differentiable in the student's, one number out.

All of them take floats, of which the teacher's carry no gradient, and give the mean over the batch. N is the batch. Half
precision should be widened first: sums of squares do not fit into it.
"""

from compress.losses.contrastive import Contrastive
from compress.losses.features import attention_transfer, hint
from compress.losses.logits import decoupled, distillation, soft_targets
from compress.losses.relations import relational_angle, relational_distance
from compress.losses.transformers import (
    attention_scores,
    relation,
    transformer_attention,
    transformer_hidden,
    transformer_prediction,
)

__all__ = [
    "Contrastive",
    "attention_scores",
    "attention_transfer",
    "decoupled",
    "distillation",
    "hint",
    "relation",
    "relational_angle",
    "relational_distance",
    "soft_targets",
    "transformer_attention",
    "transformer_hidden",
    "transformer_prediction",
]
