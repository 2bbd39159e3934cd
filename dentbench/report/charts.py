"""Draw pairs of records as charts: accuracies, every protocol, and curves over eps and steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dentbench.paper import README, TABLE1, THREAT
from dentbench.records.outcome import NATURAL, WORST, Record, eps_of
from dentbench.report import departures
from dentbench.report.chart import Bar, BarChart, Line, LineChart, Role
from dentbench.report.coupling import share
from dentbench.report.numbers import Share
from dentbench.report.pairing import Pair, representatives, series
from dentbench.spec.evaluation import format_eps


def shown_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that have charts of their own: one pair of a series over eps or steps."""
    return representatives(pairs, [*_eps_series(pairs), *_steps_series(pairs)])


def name_of(kind: str, record: Record) -> str:
    """Return the file name of a chart of a defended record, without its ending."""
    threat = departures.threat_text(record.norm, eps_of(record))
    about = f"{record.model} {threat} {departures.defense_name(record)} {record.mode}"
    return f"{kind}-{re.sub('[^0-9A-Za-z.]+', '-', about)}-{record.key[:8]}"


def heading(record: Record) -> str:
    """Return the heading of a defended record: model, threat model and defense."""
    threat = departures.threat_text(record.norm, eps_of(record))
    return f"{record.model}, {threat}, {departures.defense_title(record)}"


def subheading(record: Record) -> str:
    """Return the rest that a reader needs: data set, images, attack, settings."""
    attack = departures.attack_departures(record) or (record.attack_label,)
    parts = (f"{record.dataset}, {record.n:,} images", *attack, departures.settings_text(record))
    return "; ".join(filter(None, parts))


def accuracies(pair: Pair) -> BarChart:
    """Return natural accuracy, static and defended, and robust accuracy beside published."""
    static, defended = pair.static, pair.defended
    counts, n = defended.protocol_counts, static.n  # a run that stops early has fewer images
    printed = _percentages(defended)
    who = departures.defense_name(defended)
    bars = [
        Bar("static, natural", Share(static.natural_correct, n), "natural", printed[0]),
        Bar(f"{who}, natural", share(defended, NATURAL), "natural", printed[1]),
        Bar("static, attacked", Share(static.robust_correct, n), "static", printed[2]),
    ]
    own = departures.published_protocol(defended)
    if own in counts:
        published, called = share(defended, own), departures.published_text(defended)
        bars.append(Bar(f"{who}, {called}", published, "published", printed[3]))
    bars.append(Bar(f"{who}, worst case", share(defended, WORST), "worst"))
    reference = Share(static.robust_correct, n)
    name = name_of("accuracy", defended)
    return BarChart(name, heading(defended), subheading(defended), tuple(bars), reference)


def protocols(pair: Pair) -> BarChart:
    """Return the images right under each protocol and under all of them, static as reference."""
    static, defended = pair.static, pair.defended
    own = departures.published_protocol(defended)
    bars = [
        Bar(
            departures.called_protocol(defended, name),
            share(defended, name),
            "published" if name == own else "other",
        )
        for name in defended.protocol_counts
    ]
    bars.append(Bar("worst case", share(defended, WORST), "worst"))
    reference = Share(static.robust_correct, static.n)
    name = name_of("protocols", defended)
    return BarChart(name, heading(defended), subheading(defended), tuple(bars), reference)


def _percentages(record: Record) -> tuple[float | None, ...]:
    """Return the published accuracies that a record may stand beside: static and dent, twice."""
    slot = (record.mode, record.steps, record.model)
    rows = (row for table in (TABLE1, README) for row in table.rows)
    row = next((row for row in rows if (row.mode, row.steps, row.model) == slot), None)
    if row is None or not departures.comparable(record, *THREAT):
        return (None,) * 4
    return row.natural_static, row.natural_dent, row.adversarial_static, row.adversarial_dent


# --- curves ---------------------------------------------------------------------------------------


def over_eps(pairs: Sequence[Pair]) -> list[LineChart]:
    """Return robust accuracy over eps for every series of pairs that differ in eps alone."""
    return [_eps_chart(group) for group in _eps_series(pairs)]


def over_steps(pairs: Sequence[Pair]) -> list[LineChart]:
    """Return robust accuracy over dent's steps for every series that differs in them alone."""
    return [_steps_chart(group) for group in _steps_series(pairs)]


def _eps_series(pairs: Sequence[Pair]) -> list[list[Pair]]:
    return series(pairs, "eps", eps_of)


def _steps_series(pairs: Sequence[Pair]) -> list[list[Pair]]:
    return series(pairs, "steps", lambda record: record.steps)


def _eps_chart(group: Sequence[Pair]) -> LineChart:
    record = group[-1].defended
    ticks = tuple(
        (float(eps_of(pair.defended)), format_eps(eps_of(pair.defended))) for pair in group
    )
    title = f"{record.model}, {departures.defense_title(record)}"
    return LineChart(
        name_of("eps", record),
        title,
        subheading(record),
        f"eps ({record.norm})",
        ticks,
        _lines(group, lambda record: float(eps_of(record)), ("static", "published", "worst")),
    )


def _steps_chart(group: Sequence[Pair]) -> LineChart:
    record = group[-1].defended
    ticks = tuple((float(pair.defended.steps or 0), str(pair.defended.steps)) for pair in group)
    threat = departures.threat_text(record.norm, eps_of(record))
    title = f"{record.model}, {threat}, {departures.defense_name(record)} over steps"
    return LineChart(
        name_of("steps", record),
        title,
        subheading(record),
        "adaptation steps",
        ticks,
        _lines(
            group,
            lambda record: float(record.steps or 0),
            ("natural", "static", "published", "worst"),
        ),
    )


def _lines(
    group: Sequence[Pair], place: Callable[[Record], float], roles: Sequence[Role]
) -> tuple[Line, ...]:
    who = departures.defense_name(group[0].defended)
    labels = {
        "natural": f"{who}, natural",
        "static": "static, attacked",
        "published": f"{who}, {departures.published_text(group[0].defended)}",
        "worst": f"{who}, worst case",
    }
    lines = []
    for role in roles:
        points = [(place(pair.defended), _share(pair, role)) for pair in group]
        drawn = tuple((x, share) for x, share in points if share is not None)
        if drawn:
            lines.append(Line(labels[role], role, drawn))
    return tuple(lines)


def _share(pair: Pair, role: Role) -> Share | None:
    defended, counts = pair.defended, pair.defended.protocol_counts
    counts_by_role: dict[Role, int | None] = {
        "natural": defended.natural_correct,
        "static": pair.static.robust_correct,
        "published": counts.get(departures.published_protocol(defended)),
        "worst": defended.robust_correct,
    }
    count, total = counts_by_role[role], (pair.static if role == "static" else defended).n
    return None if count is None else Share(count, total)
