"""The errors that a person meets, each with the exit code it gives on the command line."""


class CompressError(Exception):
    """Anything that this package raises on purpose; its text is written for the person who reads it."""

    exit_code = 1


class UserError(CompressError):
    """What was asked for, or given, cannot work: a name, an option, a file, a device. Exit code 2."""

    exit_code = 2


class PassError(CompressError):
    """A pass failed one of its post-conditions; the artefact from before the pass stands. Exit code 1."""


class WorkerError(CompressError):
    """Another process of the same run failed, was killed, or cannot be reached any more. Exit code 1."""


class ParityError(CompressError):
    """The written ONNX file and the torch model disagree by more than the tolerance. Exit code 1."""


def did_you_mean(value: str, known: list[str]) -> str:
    """`" Did you mean 'resnet18'?"` for a near miss, or the known names where nothing is near."""
    import difflib

    near = [name for name in known if len(value) > 2 and name.startswith(value)]
    near = near or difflib.get_close_matches(value, known, n=1, cutoff=0.55)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."
