"""Share a run with its checks, measurements and pictures, so that they need no runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.placement import Placement
from dentbench.evaluation.workers.worker import Worker
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import BatchOutcome
from dentbench.spec.evaluation import AttackSpec, EvalSpec
from dentbench.zoo.download.sources import FetchOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of it changes a number.

    ``results``: the results folder. ``placement``: where the work is done. ``fetch``: where models
    and data come from. ``fresh``: forget stored outcomes of these specs first.
    ``save_adversarial``: keep the final points of every batch and protocol. ``measure_time``: time
    every defense against the static model. ``diagnostics``: keep the diagnosis of every adaptation.
    ``force``: go on where natural accuracy or eps is implausible. ``source``: options that say
    where a user's model and data come from, for the record. ``schedule``: in which rounds, and when
    it may stop. ``untimed``: compute the network without timing engines, which would take longer
    than the run.
    """

    results: Path
    placement: Placement = field(default_factory=Placement)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    fresh: bool = False
    save_adversarial: bool = False
    measure_time: bool = False
    diagnostics: bool = False
    force: bool = False
    source: Mapping[str, str] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    untimed: bool = False


@dataclass(frozen=True, kw_only=True)
class SharedResults:
    """Results that specs of one run have in common when they differ in the attack alone.

    ``natural``: outcomes without an attack, by :meth:`key` and batch. ``time_ratio``: relative
    times by :meth:`key`.
    """

    natural: dict[tuple[str, int], BatchOutcome] = field(default_factory=dict)
    time_ratio: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def key(spec: EvalSpec) -> str:
        """Return the key of a spec that any attack leaves the same."""
        return replace(spec, attack=AttackSpec()).key()


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run as its checks, measurements and pictures see it.

    ``inputs``: the network and the images. ``worker``: computes on this process's device.
    ``outcomes``: returns a stage's outcomes on all batches, and makes those that are missing.
    ``natural_given``: returns how many images are right, unattacked, in the data set's own order;
    None where the run has that order itself. ``shared``: results of specs that differ in the
    attack alone.
    """

    inputs: RunInputs
    worker: Worker
    options: RunOptions
    outcomes: Callable[[EvalSpec, str], Sequence[BatchOutcome]]
    natural_given: Callable[[EvalSpec], int | None]
    shared: SharedResults = field(default_factory=SharedResults)

    def folder(self, spec: EvalSpec) -> RunFolder:
        """Return the folder of a spec's outcomes and notes."""
        return RunFolder(self.options.results, spec)
