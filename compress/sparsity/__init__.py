"""Zeros inside the weights: which ones, in what pattern, with what compensation, and how they stay zero."""
