"""Declare the options that ``evaluate`` and ``ablate`` share, and make studies of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from dentbench.cli.options import attacks, defenses, fetching, models, output, runs
from dentbench.cli.panels import HelpAll
from dentbench.errors import SpecError
from dentbench.evaluation.progress.display_names import Display

if TYPE_CHECKING:
    from dentbench.evaluation.context import RunOptions
    from dentbench.evaluation.schedule import Schedule
    from dentbench.study.study import Request

OWN_BEFORE: Final = "norm"
"""In the help a command's own options stand before this option."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options as given; each field's type declares the option, its parser and its help."""

    config: runs.Config = None
    model: models.Model = None
    arch: models.Arch = None
    normalize: models.Normalize = None
    expect_clean: models.ExpectClean = None
    dataset: models.Dataset = None
    data_name: models.DataName = None
    data_dir: models.DataDir = None
    preprocess: models.Preprocess = None
    norm: attacks.Norm = None
    eps: attacks.Eps = None
    attack: attacks.Attack = None
    iterations: attacks.Iterations = None
    targets: attacks.Targets = None
    queries: attacks.Queries = None
    protocol: attacks.Protocols = None
    protocol_set: attacks.ProtocolSettings = None
    no_cascade: attacks.NoCascade = False
    examples: models.Examples = None
    first: models.First = 0
    order: models.Order = "given"
    batch_size: runs.BatchSize = 128
    batching: attacks.Batching = "declared"
    precision: attacks.Precision = "fp32"
    seed: attacks.Seed = 0
    device: runs.Device = "auto"
    executor: runs.Executor = "local"
    workers: runs.Workers = "auto"
    threads: runs.Threads = None
    address: runs.Address = None
    compiling: runs.Compiling = "auto"
    results: output.Results = Path("results")
    cache: fetching.Cache = None
    mirror: fetching.Mirrors = None
    offline: fetching.Offline = False
    rounds: runs.Rounds = None
    until: runs.Until = None
    time_limit: runs.TimeLimit = None
    pass_limit: runs.PassLimit = None
    fresh: runs.Fresh = False
    save_adversarial: output.SaveAdversarial = False
    diagnostics: output.Diagnostics = False
    dry_run: runs.DryRun = False
    progress: output.Progress = Display.AUTO
    quiet: output.Quiet = False
    as_json: output.AsJson = False
    force: models.Force = False

    @property
    def display(self) -> Display:
        """How progress is shown."""
        return Display.NONE if self.quiet else self.progress

    @property
    def gpu(self) -> str | None:
        """The kind of GPU that a dry run estimates times for, where ``--device`` names one."""
        from dentbench.evaluation.estimates.measured_gpus import names

        kind = self.device.lower()
        if kind not in names():
            if self.dry_run and kind.partition(":")[0] not in ("auto", "cpu", "cuda"):
                raise SpecError(
                    f"device is {self.device!r}; allowed for --dry-run: auto, cpu, cuda, cuda:N, "
                    f"or a GPU whose speed is known: {', '.join(names())}"
                )
            return None
        if not self.dry_run:
            raise SpecError(
                f"device is {self.device!r}, which names a kind of GPU for --dry-run to tell times "
                "for; to compute on a GPU that is here use --device cuda"
            )
        return kind

    def request(self, models: Sequence[str], **own: Any) -> Request:
        """Return the study of some models; ``own``: fields that only one command sets."""
        from dentbench.spec.evaluation import BatchPlan
        from dentbench.study.parsing import OwnModel, parse_normalize, parse_protocol_settings
        from dentbench.study.study import Request
        from dentbench.zoo.data_choice import DataChoice

        values = {
            "own": OwnModel(
                arch=self.arch,
                normalize=parse_normalize(self.normalize),
                expect_clean=self.expect_clean,
            ),
            "data": DataChoice(
                dataset=self.dataset,
                data_name=self.data_name,
                folder=self.data_dir,
                preprocess=self.preprocess,
                first=self.first,
                examples=self.examples,
                order=self.order,
            ),
            "attack": self.attack,
            "budget": {
                "iterations": self.iterations,
                "targets": self.targets,
                "queries": self.queries,
            },
            "norm": self.norm,
            "eps": self.eps,
            "batches": BatchPlan(size=self.batch_size, batching=self.batching),
            "protocols": self.protocol or (),
            "protocol_settings": parse_protocol_settings(
                self.protocol_set or (), cascade=not self.no_cascade
            ),
            "seed": self.seed,
            "precision": self.precision,
            "force": self.force,
        }
        return Request(models=models, **{**values, **own})

    def run_options(self, *, measure_time: bool = False) -> RunOptions:
        """Return how runs are carried out, once their devices are known to be there."""
        from dentbench.cli.running import placement_of
        from dentbench.evaluation.context import RunOptions
        from dentbench.zoo.download.sources import FetchOptions

        return RunOptions(
            results=self.results,
            placement=placement_of(
                "cpu" if self.gpu else self.device,
                self.executor,
                self.workers,
                self.threads,
                self.address,
                self.compiling,
            ),
            fetch=FetchOptions(
                cache=self.cache, offline=self.offline, mirrors=tuple(self.mirror or ())
            ),
            schedule=self.schedule(),
            fresh=self.fresh,
            save_adversarial=self.save_adversarial,
            measure_time=measure_time,
            diagnostics=self.diagnostics,
            force=self.force,
        )

    def schedule(self) -> Schedule:
        """Return the rounds and limits asked for."""
        from dentbench.evaluation.schedule import Schedule
        from dentbench.study.limits import parse_duration, parse_passes

        return Schedule(
            rounds=self.rounds,
            until=self.until or "",
            time_limit=None if self.time_limit is None else parse_duration(self.time_limit),
            pass_limit=None if self.pass_limit is None else parse_passes(self.pass_limit),
        )


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options beside its own; it takes them as its first argument.

    A parameter ``dent`` stands for all of dent's options, and is called with their values by name.
    """
    hints = get_type_hints(SharedOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=item.default,
            annotation=hints[item.name],
        )
        for item in fields(SharedOptions)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own: list[inspect.Parameter] = []
    for parameter in [*inspect.signature(command).parameters.values()][1:]:
        if parameter.name == "dent":
            own += defenses.parameters_of(own_hints["dent"])
        else:
            hint = own_hints[parameter.name]
            own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
    place = [parameter.name for parameter in shared].index(OWN_BEFORE)
    every = inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll
    )
    parameters = [*shared[:place], *own, *shared[place:], every]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        del values[every.name]  # it has been answered
        given = SharedOptions(**{item.name: values.pop(item.name) for item in shared})
        dent = {name: values.pop(name) for name in defenses.DENT}
        command(given, dent=dent, **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
