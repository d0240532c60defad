"""Where models come from: one file for each kind of MODEL that `compress run` takes."""
