"""Few values for many weights: which values, and the file in which that saves bytes."""
