"""``dentbench doctor``: the installation in a few lines, to be pasted into a bug report."""

from __future__ import annotations

import typer

from dentbench.cli import json_output
from dentbench.cli.options import fetching, output

WRONG = 2
"""The exit code when something required does not work."""


def doctor(
    cache: fetching.Cache = None,
    offline: fetching.Offline = False,
    as_json: output.AsJson = False,
) -> None:
    """List the parts that are installed and work, and how to mend the rest.

    Made to be pasted into bug reports. It fetches and changes nothing, but asks the hosts that
    files come from whether they answer. Exit code 2: something required does not work.

    Examples:

    dentbench doctor

    dentbench doctor --cache /data/dentbench --json
    """
    from dataclasses import asdict

    from dentbench.cli.installation import findings

    wrong = False
    parts = []
    for part in findings(cache, offline=offline):
        wrong = wrong or part.ok is False
        parts.append(asdict(part))
        if not as_json:
            mark = {True: "ok", False: "WRONG", None: "-"}[part.ok]
            typer.echo(f"{mark:5} {part.what:12} {part.found}")
            if part.advice:
                typer.echo(f"{'':18} -> {part.advice}")
    if as_json:
        json_output.print_document(parts)
    if wrong:
        raise typer.Exit(WRONG)
