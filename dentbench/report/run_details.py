"""Details of a run beside its record: counts by class, and a few images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dentbench.records import examples, per_class
from dentbench.records.examples import Pictures
from dentbench.records.outcome import NATURAL
from dentbench.records.per_class import SURVIVES, Breakdown
from dentbench.report import departures
from dentbench.report.chart import Bar, BarChart, Chart, Role
from dentbench.report.charts import accuracies, heading, name_of, protocols
from dentbench.report.numbers import Share
from dentbench.report.pairing import Pair
from dentbench.report.table import Column, Table


def charts_of(pair: Pair, results: Path) -> list[Chart]:
    """Return every chart of a pair: accuracies, protocols, and first breaks."""
    charts: list[Chart] = [accuracies(pair)]
    if len(pair.defended.protocol_counts) > 1:
        charts.append(protocols(pair))
    _, own = breakdowns(results, pair)
    return charts if own is None else [*charts, first_to_break(pair, own)]


def tables_of(pair: Pair, results: Path) -> list[Table]:
    """Return the tables by attack and by class of one pair, where the runs kept them."""
    static, own = breakdowns(results, pair)
    if own is None:
        return []
    sides = [("static", static), (departures.defense_name(pair.defended), own)]
    kept = [(name, breakdown) for name, breakdown in sides if breakdown is not None]
    return [by_attack(pair, kept), by_class(pair, own, static)]


def first_to_break(pair: Pair, breakdown: Breakdown) -> BarChart:
    """Return the first protocol to break each image; every image is in one bar."""
    total = sum(breakdown.images)
    roles: dict[str, Role] = {
        NATURAL: "natural",
        departures.published_protocol(pair.defended): "published",
        SURVIVES: "worst",  # the images that survive are the worst case's
    }
    bars = []
    for stage, counts in breakdown.first.items():
        called = departures.called_protocol(pair.defended, stage)
        label = {NATURAL: "wrong before", SURVIVES: "survives all"}.get(stage, called)
        bars.append(Bar(label, Share(sum(counts), total), roles.get(stage, "other")))
    name = name_of("broke", pair.defended)
    subtitle = "The first protocol to break each image, in the order in which they were run."
    return BarChart(name, heading(pair.defended), subtitle, tuple(bars))


def by_attack(pair: Pair, sides: Sequence[tuple[str, Breakdown]]) -> Table:
    """Return how many images of each class every attack broke.

    ``sides``: the name of each side ("static", the defense) and its breakdown.
    """
    classes = len(sides[0][1].images)
    rows: list[list[object]] = []
    for who, breakdown in sides:
        for stage, attacks in breakdown.broken.items():
            for attack, counts in attacks.items():
                rows.append([who, stage, attack, sum(counts), *counts])
    columns = (
        *(Column(name) for name in ("model", "protocol", "attack")),
        Column("all", "right", "images broken, of class"),
        *(Column(str(number), "right", "images broken, of class") for number in range(classes)),
    )
    return Table.of(f"By attack: {heading(pair.defended)}", columns, rows, stub=1)


def by_class(pair: Pair, breakdown: Breakdown, static: Breakdown | None) -> Table:
    """Return the shares right of each class: static, then under each protocol and under all."""
    shown = list(breakdown.right)
    columns = [Column("class"), Column("images", "right")]
    if static is not None:
        columns += [Column(name, "right", "static") for name in ("natural", "attacked")]
    who = departures.defense_name(pair.defended)
    columns += [Column(name, "right", who) for name in shown]
    rows: list[list[object]] = []
    for number, images in enumerate(breakdown.images):
        if not images:
            continue
        row: list[object] = [str(number), images]
        if static is not None:
            row += [Share(static.right[name][number], images) for name in (NATURAL, "worst")]
        rows.append([*row, *(Share(breakdown.right[name][number], images) for name in shown)])
    return Table.of(f"By class: {heading(pair.defended)}", columns, rows, stub=1)


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture with its description; ``source`` is a data URL of a PNG."""

    label: str
    source: str


@dataclass(frozen=True)
class Prediction:
    """A class, the confidence in percent, and whether it is right."""

    name: str
    percent: int
    right: bool


@dataclass(frozen=True)
class Specimen:
    """An image of a run: its pictures, its fate, and each model's predictions.

    ``rows``: for the clean and the adversarial image, its name and the predictions of the static
    model and of the defense.
    """

    title: str
    fate: str
    fell: bool
    pictures: tuple[Picture, ...]
    rows: tuple[tuple[str, tuple[Prediction, Prediction]], ...]


def specimens(results: Path, pair: Pair) -> Iterator[Specimen]:
    """Yield the images kept of a defended run, in their order; none if none were."""
    gallery = examples.load(results, pair.defended.key)
    if gallery is None:
        return
    names = {
        "clean": "clean",
        "adversarial": "adversarial",
        "difference": "difference, around gray",
        "blurred_clean": "clean, as blurred",
        "blurred": "adversarial, as blurred",
    }
    columns = vars(gallery)
    for row, label in enumerate(gallery.label.tolist()):
        pictures = tuple(
            Picture(title, png(columns[name][row]))
            for name, title in names.items()
            if len(columns[name])
        )
        protocol, survives = str(gallery.protocol[row]), bool(gallery.survives[row])
        said = [
            Prediction(str(guess), round(100 * float(sure)), guess == label)
            for guess, sure in zip(
                gallery.predicted[row].tolist(), gallery.confidence[row].tolist(), strict=True
            )
        ]
        fate = f"survives all; shown: {protocol}" if survives else f"fell to {protocol}"
        if not survives and said[3].right:
            fate += ", in other company: here, in its own batch, it is right"
        yield Specimen(
            title=f"Image {pair.defended.first + int(gallery.index[row])}, class {label}",
            fate=fate,
            fell=not survives,
            pictures=pictures,
            rows=(("clean", (said[0], said[1])), ("adversarial", (said[2], said[3]))),
        )


def png(picture: Pictures) -> str:
    """Return a picture (H, W, C) of 1 or 3 channels as the data URL of a PNG."""
    from PIL import Image

    pixels = picture[..., 0] if picture.shape[-1] == 1 else picture
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def breakdowns(results: Path, pair: Pair) -> tuple[Breakdown | None, Breakdown | None]:
    """Return the details kept of a pair's static and defended run; None where nothing was."""
    static, defended = (
        per_class.load(results, record.key) for record in (pair.static, pair.defended)
    )
    return static, defended
