"""Integers for reals: which tensors, with which scales, and how a network is rewritten for it."""
