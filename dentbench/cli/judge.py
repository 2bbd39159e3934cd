"""``dentbench judge``: judge adversarial points of any tool on a defense."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from dentbench.cli.evaluate import evaluate

Points = Annotated[
    Path,
    typer.Argument(
        metavar="POINTS",
        help="A file with points.",
        hidden=True,  # it is described above the options, without Python's type
    ),
]


def judge(points: Path, **options: Any) -> None:
    """Judge adversarial points of a file on the declared batches, and count the images they break.

    POINTS is a .npz, .npy or .safetensors file with points (images, C, H, W) in [0, 1], in the
    run's order. The options are those of evaluate, and say which record the points belong to;
    most simply --from-record KEY. The points are projected into the ball, clipped, judged, and
    kept: what they break counts in the worst case of that record from then on, as "claimed@" and
    the first digits of the file's SHA-256.

    Examples:

    dentbench judge points.npz --from-record 1a2b3c4d

    dentbench judge points.safetensors --model digits-robust --mode instance --examples 128

    Exit codes are those of evaluate.
    """
    from dentbench.attacks.protocol_cards import CLAIMED
    from dentbench.errors import SpecError
    from dentbench.records.claims import save_claim
    from dentbench.zoo.images.points_files import read_points

    if options.get("mode") == "static":
        raise SpecError("there is no defense to judge points on; leave --mode static out")
    array, sha256 = read_points(points)
    name = save_claim(Path(options["results"]), array, sha256)
    options["protocol"] = [*(options["protocol"] or ()), f"{CLAIMED}@{name}"]
    evaluate(**options)


def _signature() -> inspect.Signature:
    """Return the file of points, and the options of evaluate."""
    own = inspect.Parameter("points", inspect.Parameter.KEYWORD_ONLY, annotation=Points)
    return inspect.Signature([own, *inspect.signature(evaluate).parameters.values()])


judge.__signature__ = _signature()  # type: ignore[attr-defined]
judge.__annotations__ = {
    parameter.name: parameter.annotation
    for parameter in judge.__signature__.parameters.values()  # type: ignore[attr-defined]
}
