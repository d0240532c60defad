"""On what machine it was measured, and how to do it again."""

from typing import Any

from compress.report.html.parts import paragraph, section, table
from compress.tables import html_escaped


def machine(report: dict[str, Any]) -> str:
    """What the figures were measured on."""
    environment = report["environment"]
    rows = [
        ("processor", environment["cpu"]),
        ("instruction sets", ", ".join(environment["isa_flags"]) or "unknown"),
        ("cores", str(environment["cores"])),
        ("threads of a timed runtime", str(environment["threads"])),
        ("GPU", environment["gpu"] or "none"),
        ("system", environment["system"]),
        ("Python", environment["python"]),
        *environment["versions"].items(),
    ]
    return section("Machine", table("What the figures were measured on", ("what", "here"), rows, left=(0, 1)))


def repeat(report: dict[str, Any], recipe: str, by_name: bool) -> str:
    """The recipe, and the command that takes it."""
    threads = report["environment"]["threads"]
    command = "compress run --recipe recipe.yaml" + (f" --threads {threads}" if threads != 1 else "")
    if by_name:
        how = paragraph("With recipe.yaml from the folder of this page, where paths in it are as they were:")
        how += f"<pre>{html_escaped(command)}</pre>\n"
    else:
        how = paragraph(f"The network was given in Python, as a {report['model']}: call compress.run with it and these passes.")
    shown = f"<pre>{html_escaped(recipe.rstrip())}</pre>\n" if recipe else paragraph("The folder has no recipe.yaml.")
    return section("To repeat it", how, shown)
