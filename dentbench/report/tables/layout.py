"""The paper's tables of the records, in the paper's layout, and then the rest.

A number stands under the eps that it was measured at: a record at another eps than the paper's has
a table of its own in the same layout, whose heading says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from dentbench.paper import ABLATION_THREATS, TABLE1, TABLE2, THREAT
from dentbench.records.outcome import Record, eps_of
from dentbench.report.table import Table
from dentbench.report.tables.ablation import Threat, slot_of, table2
from dentbench.report.tables.listing import listing
from dentbench.report.tables.natural import natural
from dentbench.report.tables.published import table1
from dentbench.report.tables.records import all_records
from dentbench.spec.evaluation import parse_eps

_OF_TABLE1: Final = frozenset((row.mode, row.steps) for row in TABLE1.rows)
"""The mode and the steps of every row of the paper's Table 1."""

_OF_TABLE2: Final = frozenset((row.delta, row.sigma, row.steps) for row in TABLE2)
"""Delta, Sigma and the steps of every row of the paper's Table 2."""


def laid_out(
    records: Sequence[Record], models: Collection[str] | None = None, *, not_run: bool = False
) -> list[Table]:
    """Return the paper's Table 1 and Table 2 of the records, the verdicts, and the other records.

    ``not_run``: rows of the paper that were not run stand there too.
    """
    chosen = [record for record in records if models is None or record.model in models]
    tables = [*table1s(chosen, not_run=not_run), *table2s(chosen, not_run=not_run)]
    attacked = [record for record in chosen if record.protocol]
    dynamic = [record for record in attacked if record.mode != "static"]
    judged = [record for record in dynamic if _is_of_table1(record) or is_ablated(record)]
    beside = {_baseline(record) for record in judged}
    rest = [
        record
        for record in attacked
        if not (
            _baseline(record) in beside
            if record.mode == "static"
            else _is_of_table1(record) or is_ablated(record)
        )
    ]
    tables += [listing(judged, "Verdicts")] if judged else []
    tables += [all_records(rest)] if rest else []
    plain = [record for record in chosen if not record.protocol]
    return [*tables, natural(plain)] if plain else tables


def table1s(
    records: Sequence[Record], models: Collection[str] | None = None, *, not_run: bool = False
) -> list[Table]:
    """Return Table 1 at the paper's threat model, if it has records, and at every other."""
    chosen = [record for record in records if models is None or record.model in models]
    texts = dict.fromkeys((row.norm, row.eps) for row in chosen if _is_of_table1(row))
    others = dict.fromkeys((norm, parse_eps(eps)) for norm, eps in texts)
    threats = [THREAT, *(threat for threat in others if threat != THREAT)]
    tables = [table1(chosen, models, threat=threat, not_run=not_run) for threat in threats]
    return [table for table in tables if table.rows]


def table2s(
    records: Sequence[Record], models: Collection[str] | None = None, *, not_run: bool = False
) -> list[Table]:
    """Return Table 2 at the paper's threat models, if anything is in it, and at every other."""
    chosen = [record for record in records if models is None or record.model in models]
    pairs: dict[tuple[Threat, ...], set[str]] = {}
    for model in dict.fromkeys(record.model for record in chosen):
        ablated = [member for member in chosen if member.model == model and is_ablated(member)]
        others = {member.norm: _threat(member) for member in ablated}
        at_papers = [_threat(member) for member in ablated if _threat(member) in ABLATION_THREATS]
        if at_papers:
            pairs.setdefault(ABLATION_THREATS, set()).add(model)
            others = {
                norm: threat for norm, threat in others.items() if threat not in ABLATION_THREATS
            }
        if others:
            pairs.setdefault(tuple(others.values()), set()).add(model)
    pairs = {ABLATION_THREATS: pairs.pop(ABLATION_THREATS, set()), **pairs}
    tables = [
        table2(
            [record for record in chosen if record.model in names],
            threats=threats,
            run_only=not (not_run and threats == ABLATION_THREATS),
        )
        for threats, names in pairs.items()
    ]
    return [table for table in tables if table.rows]


def is_ablated(record: Record) -> bool:
    """Return whether a record is a row of Table 2 that only an ablation makes."""
    return bool(record.protocol) and record.mode == "batch" and slot_of(record) in _OF_TABLE2


def _threat(record: Record) -> Threat:
    return record.norm, eps_of(record)


def _is_of_table1(record: Record) -> bool:
    return bool(record.protocol) and (record.mode, record.steps) in _OF_TABLE1


def _baseline(record: Record) -> tuple[str, str]:
    """Return the columns that a record shares with its static model's."""
    return record.model, record.data_sha256
