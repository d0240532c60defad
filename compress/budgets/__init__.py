"""A budget for a pruned network in its user's own unit, and the ratio that meets it."""

from compress.budgets.answer import Answer
from compress.budgets.cost import Cost, steady
from compress.budgets.ratio import ratio_for
from compress.budgets.target import KINDS, Budget, parse

__all__ = ["KINDS", "Answer", "Budget", "Cost", "parse", "ratio_for", "steady"]
