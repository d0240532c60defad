"""How sparse a network is at each moment of the training that prunes it."""

SCHEDULES = ("constant", "linear", "cubic")
# The last quarter trains at the final sparsity, to recover from the last pruning.
RAMP = 0.75
PRUNINGS = 16


def sparsity_at(schedule: str, progress: float, final: float, initial: float = 0.0) -> float:
    """The sparsity after a share `progress` of the ramp, in [0, 1]: (t - t0) / (n * delta t) of the source.

    `cubic` is s_f + (s_i - s_f) * (1 - progress)^3: fast while there is much to spare. `linear` rises evenly, and `constant`
    is the final sparsity from the start.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", section 3, equation 1.
    """
    if schedule == "constant":
        return final
    exponent = {"linear": 1, "cubic": 3}[schedule]
    return final + (initial - final) * (1 - progress) ** exponent


def plan(schedule: str, final: float, steps: int) -> dict[int, float]:
    """Training step, from 0, before which to prune -> the sparsity to prune to.

    Up to 16 prunings, evenly over the first three quarters of the steps; the k-th of n is at progress k / n.
    """
    if schedule == "constant":
        return {0: final}
    ramp = max(1, round(RAMP * steps))
    count = min(PRUNINGS, ramp)
    return {(k - 1) * ramp // count: sparsity_at(schedule, k / count, final) for k in range(1, count + 1)}
