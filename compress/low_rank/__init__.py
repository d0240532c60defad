"""A layer as two thin ones behind each other: which rank, which numbers, and the modules that hold them."""
