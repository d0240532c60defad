"""The command line: the only place that parses arguments, prints, draws progress or picks a device."""
