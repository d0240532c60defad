"""Losses on what a transformer computes for each token.

T is the number of tokens of a padded text, `mask` (N, T) is true where a token is real; None where all are. What stands at the
others has no influence. Means are over the real tokens of the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import UserError
from compress.losses.checks import check_fit, check_heads, check_mask, check_temperature


def transformer_hidden(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of hidden states, or of embeddings.

    Args:
        student, teacher: (N, T, width), of one width; where widths differ, the student's behind a learned projection.

    Raises:
        UserError: shapes that differ or have not three axes; a mask that does not fit.

    Source: Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", section 3.1, hidden states and
    embedding layer.
    """
    fits = student.ndim == 3 and student.shape == teacher.shape
    wanted = "both must be (N, T, width) of one shape; project the student's"
    check_fit(fits, "transformer_hidden", student, teacher, wanted)
    check_mask("transformer_hidden", mask, (student.shape[0], student.shape[1]))
    return F.mse_loss(_real(student, mask), _real(teacher, mask))


def transformer_attention(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of attention scores before the softmax, over all pairs of real tokens and all heads.

    Args:
        student, teacher: (N, heads, T, T), such as `attention_scores` gives; as many heads in both.

    Raises:
        UserError: shapes that differ or are not these; a mask that does not fit.

    Source: Jiao et al. 2020, "TinyBERT", section 3.1, attention matrices, which it takes unnormalized too.
    """
    fits = student.ndim == 4 and student.shape == teacher.shape and student.shape[2] == student.shape[3]
    check_fit(fits, "transformer_attention", student, teacher, "both must be (N, heads, T, T) with as many heads")
    check_mask("transformer_attention", mask, (student.shape[0], student.shape[2]))
    pairs = None if mask is None else mask[:, :, None] & mask[:, None, :]
    return F.mse_loss(_real(student.movedim(1, 3), pairs), _real(teacher.movedim(1, 3), pairs))


def transformer_prediction(student: Tensor, teacher: Tensor, *, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of the student's distribution with the teacher's, both at one temperature.

    At least the teacher's entropy, which is what a student that equals it is left with. Unlike in `soft_targets` there is no
    factor of T^2.

    Args:
        student, teacher: logits (N, classes), or (N, T, classes) of each token; only these take a mask.
        temperature: above 0; 1 in the paper's experiments.

    Raises:
        UserError: shapes that differ or are not these; a temperature of 0 or less; a mask that does not fit.

    Source: Jiao et al. 2020, "TinyBERT", section 3.1, prediction layer.
    """
    fits = student.ndim in (2, 3) and student.shape == teacher.shape
    wanted = "both must be (N, classes) or (N, T, classes) with the same classes"
    check_fit(fits, "transformer_prediction", student, teacher, wanted)
    check_temperature("transformer_prediction", temperature)
    if mask is not None and student.ndim == 2:
        shape = tuple(student.shape)
        raise UserError(f"transformer_prediction: a mask goes with logits of tokens (N, T, classes), not with {shape}")
    check_mask("transformer_prediction", mask, (student.shape[0], student.shape[1]))
    own, wanted_logits = (_real(x, mask).flatten(0, -2) / temperature for x in (student, teacher))
    return F.cross_entropy(own, wanted_logits.softmax(dim=1))


def relation(student: Tensor, teacher: Tensor, *, heads: int, mask: Tensor | None = None) -> Tensor:
    """How differently the tokens attend to each other by queries alone, keys alone or values alone; mean of KL over heads.

    The vectors X of each head relate to each other by softmax(X X^T / sqrt(width of a head)), in (T, T): KL(teacher || student)
    of its rows. Heads are cut anew for this comparison, so that both networks have as many, whatever their widths are.

    Args:
        student, teacher: (N, T, width), outputs of the same projection (queries, keys or values) in both; widths may differ.
        heads: must divide both widths; the paper takes more than the networks have.

    Raises:
        UserError: not three axes, another N or T; heads that do not divide a width; a mask that does not fit.

    Source: Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation", section 3.1.
    """
    fits = student.ndim == teacher.ndim == 3 and student.shape[:2] == teacher.shape[:2]
    check_fit(fits, "relation", student, teacher, "both must be (N, T, width) with the same N and T")
    check_mask("relation", mask, (student.shape[0], student.shape[1]))
    own, wanted = (_log_relations(x, heads, mask) for x in (student, teacher))
    divergence = F.kl_div(own, wanted, reduction="none", log_target=True).sum(dim=3)  # (N, heads, T)
    return _real(divergence.movedim(1, 2), mask).mean()


def attention_scores(query: Tensor, key: Tensor, *, heads: int) -> Tensor:
    """Q K^T / sqrt(width of a head) for each head, (N, heads, T, T), before any mask and softmax.

    Scores of padding are among them; `transformer_attention` leaves them out.

    Args:
        query, key: (N, T, width), as the projections of an attention give them.
        heads: must divide the width.

    Raises:
        UserError: shapes that differ or have not three axes; heads that do not divide the width.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
    """
    if query.ndim != 3 or query.shape != key.shape:
        shapes = f"queries {tuple(query.shape)} and keys {tuple(key.shape)}"
        raise UserError(f"attention_scores: {shapes} do not fit: both must be (N, T, width) of one shape")
    check_heads("attention_scores", query, heads)
    return _scores(query, key, heads)


def _scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    query, key = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key))  # (N, heads, T, width of a head)
    return query @ key.transpose(2, 3) / query.shape[3] ** 0.5


def _log_relations(x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """(N, T, width) to logarithms of distributions over the real tokens, (N, heads, T, T)."""
    check_heads("relation", x, heads)
    scores = _scores(x, x, heads)
    if mask is not None:
        # Not -inf, of which the divergence would be NaN where it should be zero.
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.log_softmax(dim=3)


def _real(x: Tensor, mask: Tensor | None) -> Tensor:
    """Those entries along the first axes that are true in `mask`, in one axis; all as they are for None."""
    return x if mask is None else x[mask]
