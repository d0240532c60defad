"""Runs side by side: accuracy, latency and size, with seeds folded and machines kept apart."""

from compress.comparison.frame import compare
from compress.comparison.rows import Comparison, compare_runs

__all__ = ["Comparison", "compare", "compare_runs"]
