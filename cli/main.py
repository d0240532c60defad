"""All commands, and what an error says. Torch is imported after the arguments are parsed: `compress --help` answers at once."""

import sys

import click

from cli.analysis import plan_, sensitivity_
from cli.listings import passes, zoo
from cli.recipes import recipes
from cli.results import bench, compare_, evaluate, inspect_, report_
from cli.run import run

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from cli.doctor import version_lines

        click.echo("\n".join(version_lines()))
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the versions that matter."
)
def cli() -> None:
    """Compress PyTorch models: prune, recover, quantize, export to ONNX, and measure what was written.

    Start with: compress run resnet18 --prune 0.5 --int8
    """


for command in (run, plan_, sensitivity_, bench, evaluate, inspect_, compare_, report_, zoo, passes, recipes):
    cli.add_command(command)


@cli.command("doctor")
@click.pass_context
def doctor_(context: click.Context) -> None:
    """Say what is installed here and works, and the line that installs what is missing."""
    from cli.doctor import doctor

    context.exit(0 if doctor() else 1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 what was asked for cannot work, 1 our fault, 130 interrupted."""
    sys.exit(_exit_code(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: list[str]) -> int:
    import logging
    import warnings

    # Libraries warn of what their own next version changes; nothing of it is the user's to act on.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    debug = "--debug" in arguments
    try:
        return cli.main(arguments, prog_name="compress", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _say(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted; what was finished is kept, and --resume with the same options and --out continues it", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, is gone
        sys.stderr.close()
        return 1
    except Exception as error:  # the last line of defence: one message, no traceback
        if debug:
            raise
        from compress.errors import CompressError

        if isinstance(error, CompressError):
            return _say(str(error), error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            return _say(f"{error.filename}: {error.strerror}", 2)
        first = (str(error).strip().splitlines() or [""])[0]
        return _say(f"internal error, please report it: {type(error).__name__}: {first} (--debug shows where)", 1)


def _say(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code
