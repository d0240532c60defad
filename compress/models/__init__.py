"""The networks of the zoo that are built here; everything else comes from its own library."""
