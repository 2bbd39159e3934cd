"""Options of the attack, its threat model and the protocols."""

from __future__ import annotations

from typing import Annotated

import typer

from dentbench.cli.names import listed, names_of, number_option

Attack = Annotated[
    str | None,
    typer.Option(
        "--attack",
        metavar="NAME",
        autocompletion=names_of("dentbench.attacks.catalogue", "ATTACKS"),
        help=f"{listed('dentbench.spec.attack_plans', 'ATTACKS')}, or module:function that takes a "
        "classifier, images, labels and a threat model, and returns points. The first three are "
        "AutoAttack's; quick is short; none counts natural accuracy alone. Default: standard; on "
        "corruption sets none.",
    ),
]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        autocompletion=names_of("dentbench.attacks.catalogue", "PROTOCOLS"),
        help="How the defense is attacked: "
        f"{listed('dentbench.attacks.catalogue', 'PROTOCOLS')}, all, or module:function that takes "
        "an attack context and returns points; repeatable. Default: published, transfer.",
    ),
]
Norm = Annotated[
    str | None, typer.Option("--norm", metavar="NORM", help="Linf, L2 or L1. Default: the model's.")
]
Eps = Annotated[
    str | None,
    typer.Option("--eps", metavar="8/255", help="Exact radius. Default: the model's."),
]
EpsGrid = Annotated[
    str | None,
    typer.Option(
        "--eps-grid",
        metavar="0..16/255",
        help="Every eps of a range, or values with commas; report draws the curve. At eps 0, "
        "robust accuracy is natural accuracy.",
    ),
]
Threats = Annotated[
    list[str] | None,
    typer.Option(
        "--threat",
        metavar="NORM:EPS",
        help="Threat model, such as Linf:1.5/255 or L2:0.2; repeatable. Default: these two, or "
        "the data set's own.",
    ),
]
Iterations = Annotated[
    int | None,
    number_option(
        int, "--iterations", 100, metavar="N", help="Iterations in place of the attack's own."
    ),
]
Targets = Annotated[
    int | None,
    number_option(
        int, "--targets", 9, metavar="N", help="Target classes in place of the attack's own."
    ),
]
Queries = Annotated[
    int | None,
    number_option(
        int, "--queries", 5000, metavar="N", help="Square's queries in place of the attack's own."
    ),
]
ProtocolSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol-set",
        metavar="NAME=VALUE",
        help="A setting of the protocols: iterations, targets, rounds, restarts (fpa, gmsa), "
        "last (unrolled: steps that the gradient goes through), draws and eot=mean (eot), queries "
        "(scores, decision), fractions (batch-mates, such as 0.01,0.05), every (judged iterates) "
        "or draws_judged (random defenses); repeatable.",
    ),
]
NoCascade = Annotated[
    bool,
    typer.Option(
        "--no-cascade",
        help="Run every protocol alone: from scratch, on all images, with its full budget.",
    ),
]
Batching = Annotated[
    str,
    typer.Option(
        "--batching",
        metavar="HOW",
        help="declared: the defense sees only its declared batches; autoattack: AutoAttack's "
        "own packing of survivors.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="fp32|tf32|bf16",
        help="Precision of attacks; every image is judged in fp32 at the end, and the record says "
        "how many changed. tf32 needs a CUDA GPU; where bf16 is no faster, a line says so.",
    ),
]
Seed = Annotated[int, number_option(int, "--seed", 0, metavar="N", help="Seed of every attack.")]
