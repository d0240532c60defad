"""What each operator makes of the axes of its inputs, exactly; see `trace`.

A rule takes `(trace, out, args)`: the operator's result, and its positional arguments with defaults filled in. It gives each
result its axes with `trace.set`, ties what must be cut together, and fixes what must stay. `register` adds a rule for an
operator of your own.
"""

from compress.pruning.rules import layers, reductions, shapes
from compress.pruning.rules.pointwise import pointwise
from compress.pruning.rules.table import RULES, apply_rule, register

__all__ = ["RULES", "apply_rule", "layers", "pointwise", "reductions", "register", "shapes"]
