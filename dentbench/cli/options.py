"""Options that more than one command takes, and the config file that gives them values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from dentbench.cli import config, keys
from dentbench.cli.names import names_of, one_of
from dentbench.evaluation.progress.names import Display

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=config.apply,
        help="Values for these options by name, or a study of several runs; the command line wins.",
    ),
]
FromRecord = Annotated[
    str | None,
    typer.Option(
        "--from-record",
        metavar="KEY",
        autocompletion=keys.complete,
        help="Repeat the run of a record, by the beginning of its key (dentbench list), latest, "
        "or FOLDER/KEY for another results folder; other options win.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        autocompletion=names_of("dentbench.zoo.cards", "MODELS"),
        help="Model by id or alias (see fetch --list), module:callable, or a checkpoint; "
        "repeatable. Default: the embedded digits-robust; of ablate digits-nominal, or on CIFAR-10 "
        "cifar10-resnet20-nominal.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME|MODULE:CALLABLE",
        help="Network of a checkpoint file: a model's name or a factory.",
    ),
]
Normalize = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--normalize",
        metavar="MEAN STD",
        help="Normalize images for a model of your own; one number per channel, commas between.",
    ),
]
ExpectClean = Annotated[
    float | None,
    typer.Option(
        "--expect-clean",
        metavar="PERCENT",
        help="Natural accuracy to find; stop where it is another (see --force).",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "--data",
        metavar="NAME|FILE",
        autocompletion=names_of("dentbench.zoo.cards", "DATASETS"),
        help="Data set by name, a .parquet, .npz or CIFAR file, or a folder of pictures with one "
        "folder per class. Default: the model's own.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder of ImageNet's val or of a corruption set's .npy files. Default: the cache.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="NAME",
        help="Of pictures: Res256Crop224, BicubicRes256Crop224, BicubicRes224Crop224, Res224 or "
        "Crop288. Default: the model's own.",
    ),
]
Corruptions = Annotated[
    list[str] | None,
    typer.Option(
        "--corruption",
        metavar="NAME",
        help="Of cifar10-c or cifar100-c, such as gaussian_noise; repeatable. Default: the 15.",
    ),
]
Severities = Annotated[
    list[int] | None,
    typer.Option("--severity", metavar="1-5", help="Of corruptions; repeatable. Default: 5."),
]
DataName = Annotated[
    str | None,
    typer.Option("--data-name", metavar="TEXT", help="Name for a data file of your own."),
]
DENT: Final[Mapping[str, tuple[type, Any]]] = {
    "steps": (int, typer.Option("--steps", metavar="N", help="Updates. Default: 6, batch 30.")),
    "delta": (
        str,
        typer.Option(
            "--delta", metavar="KIND", help="affine: adapt scales and shifts; none: leave them."
        ),
    ),
    "layers": (
        str,
        typer.Option(
            "--layers",
            metavar="KIND",
            help="Whose scales and shifts adapt: batchnorm (the paper's, default), groupnorm, "
            "layernorm or all of these.",
        ),
    ),
    "loss": (str, typer.Option("--loss", metavar="NAME", help="shot or entropy.")),
    "statistics": (
        str,
        typer.Option(
            "--statistics",
            metavar="NAME",
            help="Of BatchNorm: running (training, frozen), batch, median (of the batch, MedBN), "
            "or mix:ALPHA of the batch's.",
        ),
    ),
    "blur": (
        str,
        typer.Option("--blur", metavar="KIND", help="none, static or dynamic. Default: none."),
    ),
    "sigma": (
        float,
        typer.Option("--sigma", metavar="X", help="Blur in pixels, or where dynamic starts."),
    ),
    "padding": (
        str,
        typer.Option("--padding", metavar="KIND", help="Of the blur: zeros, reflect or replicate."),
    ),
    "optimizer": (
        str,
        typer.Option("--optimizer", metavar="NAME", help="adamod, adamod-paper, adam or sgd."),
    ),
    "lr": (
        float,
        typer.Option("--lr", metavar="X", help="Learning rate of scales and shifts."),
    ),
    "sigma_lr": (
        float,
        typer.Option("--sigma-lr", metavar="X", help="Learning rate of a dynamic sigma."),
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


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of dent: beta1, beta2, beta3, optimizer_eps, momentum, nesterov, "
        "gamma_lr or beta_lr; repeatable.",
    ),
]
Defenses = Annotated[
    list[str] | None,
    typer.Option(
        "--defense",
        metavar="NAME|MODULE:CALLABLE",
        autocompletion=names_of("dentbench.defenses.catalogue", "DEFENSES"),
        help="dent (default), none, norm, medbn, tent, tent-online, eata, sar, anti-adversary, "
        "hedge, et3, tte, ttc, ig-defense, diffpure, smoothing, jpeg, bit-depth, or "
        "module:callable that makes one from the network; settings after commas, as in "
        "tent,steps=10; a short title before it, as in ours=my_defense:make; repeatable.",
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
Order = Annotated[
    str,
    typer.Option(
        "--order",
        metavar="ORDER",
        help="given, or label-windows:N: sorted by label within windows of N images (Chen et "
        "al. 2022: 256), natural accuracy in the given order beside it.",
    ),
]
Diagnostics = Annotated[
    bool,
    typer.Option(
        "--diagnostics",
        help="Keep a diagnosis of every adaptation to natural images, and to attacked images where "
        "their points are kept.",
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
        help="Every eps of a range, or values with commas; report draws the curve. At 0 robust is "
        "natural.",
    ),
]
StepsGrid = Annotated[
    str | None,
    typer.Option(
        "--steps-grid",
        metavar="0..6",
        help="Every number of dent's steps of a range, or values with commas.",
    ),
]
Attack = Annotated[
    str | None,
    typer.Option(
        "--attack",
        metavar="NAME",
        autocompletion=names_of("dentbench.attacks.catalogue", "ATTACKS"),
        help="standard, plus or rand (AutoAttack); apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square; "
        "quick (short, not AutoAttack); none (natural accuracy alone); module:function of a "
        "classifier, images, labels and a threat model, which returns points. Default: standard, "
        "on corruption sets none.",
    ),
]
Iterations = Annotated[
    int | None, typer.Option("--iterations", metavar="N", help="In place of the attack's own.")
]
Targets = Annotated[
    int | None,
    typer.Option("--targets", metavar="N", help="Target classes in place of the attack's own."),
]
Queries = Annotated[
    int | None,
    typer.Option("--queries", metavar="N", help="Square's queries in place of the attack's own."),
]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        autocompletion=names_of("dentbench.attacks.catalogue", "PROTOCOLS"),
        help="How the defense is attacked: published, transfer, surrogate, warm, few-steps, bpda, "
        "surrogate-process, trajectory, "
        "fpa, gmsa-avg, gmsa-min, unrolled, eot, scores, decision, batch-mates, "
        "poisoned-stream, or all; repeatable. Default: published, transfer.",
    ),
]
ProtocolSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol-set",
        metavar="NAME=VALUE",
        help="A setting of the protocols: iterations, targets, rounds, restarts (fpa, gmsa), "
        "last (unrolled: steps that the gradient goes through), draws and eot=mean (eot), queries "
        "(scores, decision), fractions (batch-mates, such as 0.01,0.05) or every (judged "
        "iterates); repeatable.",
    ),
]
NoCascade = Annotated[
    bool,
    typer.Option(
        "--no-cascade",
        help="Every protocol stands alone, cold, on all images, with its full budget.",
    ),
]
Examples = Annotated[
    int | None, typer.Option("--examples", metavar="N", help="Number of images. Default: all.")
]
First = Annotated[int, typer.Option("--first", metavar="N", help="Number of the first image.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", metavar="N", help="Images that the defense sees together.")
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
        help="What attacks compute in; every image is judged in fp32 at the end, and the record "
        "says how many changed. tf32 needs a CUDA GPU; where bf16 is no faster, a line says so.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of every attack.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        "--devices",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N; several with commas have a worker each. With --dry-run "
        "also h100 or h200: the time on that GPU.",
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Where batches are worked on: here, or by Ray (pip install 'dentbench[ray]').",
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        help="Batches worked on at a time, each in a process. auto: one per GPU; on CPUs as "
        "many as are faster, where the run is long enough.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads per worker. Default: torch's choice; of several workers, equal shares.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster that is there, or auto. Default: one is started for the run.",
    ),
]
Compiling = Annotated[
    str,
    typer.Option(
        "--compile",
        metavar="auto|off",
        help="auto: on GPUs, CUDA graphs of whole adaptations, answers and gradients.",
    ),
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Results folder.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Cache folder; also DENTBENCH_CACHE."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Make no connection; also DENTBENCH_OFFLINE=1.")
]
Mirrors = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Try this copy of the cache's layout first; repeatable, also DENTBENCH_MIRRORS.",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        "--rounds",
        metavar="BATCHES",
        help="Batches that all protocols have their turn on before the next are begun. Default: "
        "as many as are worked on at a time.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="decided",
        help="decided: stop as soon as the verdict is decided, by intervals that allow for every "
        "look; the cheap protocols come first, and a gain is only believed after all.",
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="2h",
        help="As many rounds as fit, such as 90m or 1h30m; a larger limit goes on from there.",
    ),
]
PassLimit = Annotated[
    str | None,
    typer.Option(
        "--pass-limit",
        metavar="N",
        help="As many rounds as fit into so many passes of single images for each record, such as "
        "1e9; a larger limit goes on from there.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Forget stored outcomes of these runs and start over.")
]
SaveAdversarial = Annotated[
    bool, typer.Option("--save-adversarial", help="Keep the final points of every batch.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the stages that would run and their cost; attack nothing."
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Go on where natural accuracy is not the one published of the model or no better than "
        "chance, or eps can hardly be meant.",
    ),
]
RequireGain = Annotated[
    float | None,
    typer.Option(
        "--require-gain",
        metavar="POINTS",
        help="End with exit code 3 unless every defense holds and the 95% interval of its "
        "worst-case gain over static lies at or above so many percentage points.",
    ),
]
Progress = Annotated[
    Display,
    typer.Option(
        "--progress",
        metavar="HOW",
        **one_of("progress", Display),
        help="On the error stream: bars, lines, json (one object a line), none; auto: bars on a "
        "terminal, else lines.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the verdicts alone; no progress.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
