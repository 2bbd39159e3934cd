"""Options of the defense, and dent's settings among them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from dentbench.cli.names import listed, names_of, number_option

Defenses = Annotated[
    list[str] | None,
    typer.Option(
        "--defense",
        metavar="NAME|MODULE:CALLABLE",
        autocompletion=names_of("dentbench.defenses.catalogue", "DEFENSES"),
        help=f"{listed('dentbench.defenses.catalogue', 'DEFENSES')}, or module:callable that makes "
        "a defense from the network; settings after commas, as in tent,steps=10; a title before "
        "it, as in ours=my_defense:make; repeatable. Default: dent.",
    ),
]
DENT: Final[Mapping[str, tuple[type, Any]]] = {
    "steps": (
        int,
        number_option(
            int, "--steps", 6, metavar="N", help="Updates of dent. Default: 6, batch-wise 30."
        ),
    ),
    "delta": (
        str,
        typer.Option(
            "--delta",
            metavar="KIND",
            help="affine: adapt scales and shifts; affine-after:N: after N updates of a dynamic "
            "sigma alone; none: keep them.",
        ),
    ),
    "layers": (
        str,
        typer.Option(
            "--layers",
            metavar="KIND",
            help="Layers whose scales and shifts adapt: batchnorm (the paper's, default), "
            "groupnorm, layernorm or all.",
        ),
    ),
    "loss": (
        str,
        typer.Option(
            "--loss",
            metavar="NAME",
            help=f"The loss that dent minimizes: {listed('dentbench.spec.dent', 'LOSSES')}.",
        ),
    ),
    "statistics": (
        str,
        typer.Option(
            "--statistics",
            metavar="NAME",
            help="BatchNorm's statistics: running (frozen, of training), batch, median (of the "
            "batch, MedBN), or mix:ALPHA (the share of the batch's).",
        ),
    ),
    "blur": (
        str,
        typer.Option("--blur", metavar="KIND", help="none, static or dynamic. Default: none."),
    ),
    "sigma": (
        float,
        number_option(
            float,
            "--sigma",
            0.7,
            metavar="X",
            help="Width of the blur in pixels; of a dynamic blur, at the start.",
        ),
    ),
    "padding": (
        str,
        typer.Option(
            "--padding", metavar="KIND", help="Padding of the blur: zeros, reflect or replicate."
        ),
    ),
    "optimizer": (
        str,
        typer.Option(
            "--optimizer",
            metavar="NAME",
            help=f"Dent's optimizer: {listed('dentbench.spec.dent', 'OPTIMIZERS')}.",
        ),
    ),
    "lr": (
        float,
        number_option(
            float, "--lr", 0.006, metavar="X", help="Learning rate of scales and shifts."
        ),
    ),
    "sigma_lr": (
        float,
        number_option(
            float, "--sigma-lr", 0.006, metavar="X", help="Learning rate of a dynamic sigma."
        ),
    ),
}
"""Dent's settings that are options, by the name of their field: the type and the option."""
_SEVERAL: Final = "several"
DentSettings = Annotated[Mapping[str, Any], DENT]
"""A value for each of :data:`DENT`, None where the default is meant."""
DentAxes = Annotated[Mapping[str, Any], DENT, _SEVERAL]
"""Several values for each of :data:`DENT`, none where the default is meant: axes of a grid."""
NONE_GIVEN: Final[Mapping[str, Any]] = MappingProxyType({})
"""The default of either in a command's signature; the command is called with all of them."""


def parameters_of(group: Any) -> list[inspect.Parameter]:
    """Return the parameters that a command has for :data:`DentSettings` or :data:`DentAxes`."""
    declared, *several = group.__metadata__
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[(list[kind] if several else kind) | None, option],  # type: ignore
        )
        for name, (kind, option) in declared.items()
    ]


StepsGrid = Annotated[
    str | None,
    typer.Option(
        "--steps-grid",
        metavar="0..6",
        help="Every number of dent's steps of a range, or values with commas.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of dent: "
        f"{listed('dentbench.study.parsing', 'SET_NAMES')}; repeatable.",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="instance (default) or batch: dent beside static; or static alone.",
    ),
]
Modes = Annotated[
    list[str] | None,
    typer.Option("--mode", metavar="MODE", help="batch or instance. Default: batch."),
]
