"""Data sets by name, and their samples as the tensors that a model takes."""
