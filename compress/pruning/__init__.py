"""Which weights matter, and taking the others away."""
