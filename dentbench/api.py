"""The evaluation as a function: any nn.Module, any tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from dentbench.attacks.base import Defense
from dentbench.attacks.checks import failed
from dentbench.attacks.user_attack import attack_name_of
from dentbench.defenses.user_defined import spec_of_object
from dentbench.errors import DataError, ModelError, SpecError, staying
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.progress.display import shown_progress
from dentbench.evaluation.progress.events import Progress
from dentbench.evaluation.progress.names import DISPLAYS
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.placement import Placement, device_named
from dentbench.paths import expanded
from dentbench.records.outcome import Record
from dentbench.report.formats.render import render
from dentbench.report.formats.terminal import WIDTH, print_table
from dentbench.report.next_step import next_step
from dentbench.report.table import Table
from dentbench.report.tables import records as tables
from dentbench.report.verdict import Verdict, verdict
from dentbench.spec.attack_plans import is_users
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DefenseSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
    exact_eps,
    format_eps,
)
from dentbench.study.defenses import choose_defenses
from dentbench.study.limits import parse_duration
from dentbench.study.parsing import Normalization, OwnModel, require_channels
from dentbench.study.study import choose_attack, choose_protocols
from dentbench.zoo.arrays import Dataset, checked, slice_of
from dentbench.zoo.datafiles import RawData
from dentbench.zoo.datasets import own_name
from dentbench.zoo.models import code_of, normalized
from dentbench.zoo.weights import weights_sha256

if TYPE_CHECKING:
    from pandas import DataFrame


class Evaluated(NamedTuple):
    """The static and the defended record of one evaluation; a notebook shows their table."""

    static: Record
    defended: Record

    @property
    def table(self) -> Table:
        """The short table: natural, each protocol, and the worst case beside the static model's."""
        if not self.defended.protocol:
            return tables.natural(self)
        return tables.summary(self.static, self.defended)

    @property
    def verdict(self) -> Verdict:
        """What the evaluation says of the defense; without an attack there is none: SpecError."""
        return verdict(self.static, self.defended)

    def to_pandas(self) -> DataFrame:
        """Return both records as :func:`dentbench.read_results` does: a row per protocol."""
        from dentbench.records.frame import by_protocol

        return by_protocol(self)

    def __str__(self) -> str:
        """Return the short table, the verdict and the failed checks, as on a terminal."""
        text = StringIO()
        print_table(self.table, Console(file=text, width=WIDTH, no_color=True))
        lines = [text.getvalue().rstrip()]
        lines += [self.verdict.sentence] if self.defended.protocol else []
        return "\n\n".join([*lines, *self._failed(), *self._next()])

    def _next(self) -> list[str]:
        """Return what would settle a verdict that is not final; nothing of another."""
        step = next_step(self.verdict, self.defended) if self.defended.protocol else ""
        return [step] if step else []

    def _failed(self) -> list[str]:
        whose = ("Check of the static model", self.static), ("Check", self.defended)
        return [
            f"{of} {check.name} failed: {check.sentence}."
            for of, record in whose
            for check in failed(record.checks)
        ]

    def _repr_html_(self) -> str:
        attacked = bool(self.defended.protocol)
        said = [f"<p><strong>{escape(self.verdict.sentence)}</strong></p>"] if attacked else []
        said += [f"<p>{escape(sentence)}</p>" for sentence in (*self._failed(), *self._next())]
        return "\n".join([render(self.table, "html"), *said])


def evaluate(
    model: nn.Module,
    images: Tensor | Any,
    labels: Tensor | Any,
    *,
    defense: DentSpec | DefenseSpec | str | Defense | Callable[..., Any] | None = None,
    attack: AttackSpec | str | None = None,
    eps: Fraction | float | str | None = None,
    norm: str | None = None,
    protocols: str | Sequence[str | Callable[..., Any]] = (),
    protocol_settings: ProtocolSpec | None = None,
    batch_size: int = 128,
    seed: int = 0,
    precision: str = "fp32",
    compiling: str = "auto",
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    expect_clean: float | None = None,
    force: bool = False,
    name: str = "my model",
    data_name: str = "my data",
    until: str | None = None,
    time_limit: str | None = None,
    pass_limit: int | None = None,
    results: str | Path = "results",
    device: str | torch.device = "auto",
    progress: Progress | str | None = "auto",
) -> Evaluated:
    """Attack a model without and with a defense; return the static and the defended record.

    ``images`` (N, C, H, W) of 1 or 3 channels, float in [0, 1]; ``labels`` (N,), whole numbers
    from 0: tensors, NumPy arrays or lists. ``model`` maps such images to logits (N, classes) and
    is not changed; ``normalize``, mean and standard deviation per channel, is put in front of one
    that does not normalize them itself. Where its natural accuracy, in percent, is not
    ``expect_clean``, or is no better than chance, the run is stopped by
    :class:`~dentbench.errors.ModelError`, and by :class:`~dentbench.errors.SpecError` for an
    ``eps`` that can hardly be meant, such as Linf 8 for 8/255; ``force`` goes on. ``defense`` is
    the released dent and ``attack`` AutoAttack standard, Linf 8/255, by default; it may be a
    name, with ``eps`` ("8/255", 8 / 255) and ``norm`` beside it. ``device`` is a GPU where there is
    one. ``protocols`` are names of the catalogue ("all" for every one), or functions of a module
    that take an attack context and return points, as text "module:callable" or themselves;
    ``protocol_settings``: how they attack.

    A ``defense`` may be a spec; what ``--defense`` takes, such as "tent,steps=10"; anything that
    maps images to logits; an object with ``adapt(x)`` and ``predict(x, adaptation)``; or a class
    that makes such a thing of the network. Protocols that need more than it offers are skipped,
    and the record says so. Passes are counted where they go through the network handed in: one
    that brings a network of its own has none. Unless it has ``separable = True`` its answers are
    taken to depend on the batch. One that holds
    what has no stable writing is refused.

    ``precision`` and ``compiling`` are what ``--precision`` and ``--compile`` take. ``progress`` is
    what ``--progress`` takes: "auto" shows bars on a terminal, a single output in a notebook and
    lines elsewhere, "json" lines for schedulers, "none" or None nothing; or a callback, called with
    every event of :mod:`dentbench.evaluation.progress.events`. Records and per-image flags are
    written to the folder ``results``, from where a second call goes on. ``until`` "decided" stops
    when the verdict is decided; ``time_limit`` (such as "2h") and ``pass_limit`` end after as many
    rounds of batches as fit: see ``--until``, ``--time-limit`` and ``--pass-limit``. Raises
    :class:`~dentbench.errors.DentBenchError` for what can be mended.

    >>> import tempfile, torch
    >>> from fractions import Fraction
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
    ...                         nn.Linear(144, 10)).eval()
    >>> images = torch.rand(6, 3, 8, 8)
    >>> labels = network(images).argmax(1)
    >>> attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 255), iterations=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = evaluate(network, images, labels, defense=DentSpec(steps=1),
    ...                             attack=attack, results=folder, progress="none")
    >>> static, dent = found
    >>> static.natural_correct, dent.n, sorted(dent.protocol_counts)
    (6, 6, ['published', 'transfer'])
    >>> found.table.title  # a notebook shows the table itself
    'my model on my data, Linf 1/255, instance-wise dent, 1 step'
    >>> found.verdict.kind
    'undecided'
    """
    with _plain_torch():
        return _evaluated(
            model,
            _dataset(images, labels, _of_kind("data_name", data_name, str)),
            defense=defense,
            attack=_attack_of(attack, eps, norm),
            protocols=_listed(protocols),
            protocol_settings=_of_kind(
                "protocol_settings", protocol_settings, ProtocolSpec, optional=True
            ),
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            compiling=compiling,
            own=OwnModel(normalize=_plain(normalize), expect_clean=expect_clean),
            force=force,
            schedule=_schedule(until, time_limit, pass_limit),
            name=_of_kind("name", name, str),
            results=expanded(_of_kind("results", results, str, Path)),
            device=device_named(str(device)),
            progress=progress,
        )


def _schedule(until: Any, time_limit: Any, pass_limit: Any) -> Schedule:
    _of_kind("until", until, str, optional=True)
    _of_kind("time_limit", time_limit, str, optional=True)
    _of_kind("pass_limit", pass_limit, int, optional=True)
    seconds = None if time_limit is None else parse_duration(time_limit)
    return Schedule(until=until or "", time_limit=seconds, pass_limit=pass_limit)


def _evaluated(
    model: nn.Module,
    dataset: Dataset,
    *,
    defense: Any,
    attack: AttackSpec,
    protocols: Sequence[str | Callable[..., Any]],
    protocol_settings: ProtocolSpec | None,
    batch_size: int,
    seed: int,
    precision: str,
    compiling: str,
    own: OwnModel,
    force: bool,
    schedule: Schedule,
    name: str,
    results: Path,
    device: str,
    progress: Progress | str | None,
) -> Evaluated:
    """Evaluate a model on checked data; see :func:`evaluate`."""
    settings = ProtocolSpec() if protocol_settings is None else protocol_settings
    names = [_protocol_name(protocol) for protocol in protocols]
    choose_protocols(names, settings)  # refused before anything is hashed
    data = slice_of(dataset)
    require_channels(own.normalize, data[0].shape[1])
    network = normalized(_copy(model), own.normalize)
    static = EvalSpec(
        model=ModelSpec(name=name, sha256=weights_sha256(network), code=code_of(network)),
        data=data[2],
        batches=BatchPlan(size=batch_size),
        attack=attack,
        seed=seed,
        precision=precision,
    )
    inputs = RunInputs(
        network=network,
        images=data[0],
        labels=data[1],
        expected_natural=own.expect_clean,
    )
    chosen = _spec_of(defense)
    run = choose_protocols(names, settings, [chosen])
    named = defense is None or isinstance(defense, str | DentSpec | DefenseSpec)
    given = {} if named or not isinstance(chosen, DefenseSpec) else {chosen: defense}
    placement = Placement(devices=(device,), compiling=compiling)
    options = RunOptions(results=results, placement=placement, force=force, schedule=schedule)
    specs = [static, replace(static, defense=chosen, protocols=settings)]
    with _shown(progress) as shown:
        return Evaluated(*Evaluation(inputs, options, shown, given).run(specs, run))


def _of_kind(name: str, value: Any, *kinds: type, optional: bool = False) -> Any:
    """Return a value, or raise SpecError where it is not of one of some types."""
    if not (isinstance(value, kinds) or (optional and value is None)):
        words = " or ".join(kind.__name__ for kind in kinds)
        raise SpecError(f"{name} is {value!r}; give a {words}")
    return value


def _listed(protocols: Any) -> Sequence[str | Callable[..., Any]]:
    """Return protocols one by one: of a text, a function, or several of them."""
    if isinstance(protocols, str):
        return protocols.replace(",", " ").split()
    listed = [protocols] if callable(protocols) else protocols
    if not isinstance(listed, Sequence) or not all(
        isinstance(p, str) or callable(p) for p in listed
    ):
        raise SpecError(f'protocols is {protocols!r}; give names, functions or "all"')
    return list(listed)


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Give the same answer whatever gradient mode, autocast, default dtype or device is set."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(staying())
        yield


def _attack_of(
    attack: AttackSpec | str | None, eps: Fraction | float | str | None, norm: str | None
) -> AttackSpec:
    """Return the attack, AutoAttack standard by default; a user's gets the hash of its source."""
    if isinstance(attack, AttackSpec):
        if eps is not None or norm is not None:
            raise SpecError("eps or norm is given beside an AttackSpec, which has its own")
        chosen = attack
    else:
        _of_kind("attack", attack, AttackSpec, str, optional=True)
        _of_kind("norm", norm, str, optional=True)
        radius = None if eps is None else format_eps(exact_eps(eps))
        chosen = choose_attack(None, name=attack or "standard", norm=norm, eps=radius)
    return replace(chosen, name=attack_name_of(chosen.name)) if is_users(chosen.name) else chosen


def _protocol_name(protocol: str | Callable[..., Any]) -> str:
    """Return a protocol's name; a function is known by its module, for other processes too."""
    if isinstance(protocol, str):
        return protocol
    module, name = getattr(protocol, "__module__", ""), getattr(protocol, "__qualname__", "")
    if not module or module == "__main__" or not name or "<" in name:
        raise SpecError(
            f"protocol {name or protocol!r} is no function of a module's top level; put it into a "
            "file and hand it in from there"
        )
    return f"{module}:{name}"


def _shown(progress: Progress | str | None) -> AbstractContextManager[Progress | None]:
    """Return what shows progress for the time of a run: a display by its name, or the callback."""
    if progress is not None and not isinstance(progress, str):
        return nullcontext(progress)
    return shown_progress(DISPLAYS["none" if progress is None else progress])


def _spec_of(defense: Any) -> DentSpec | DefenseSpec:
    """Return a defense's spec: itself, of a name, or of an object."""
    if isinstance(defense, DentSpec | DefenseSpec):
        return defense
    if defense is not None and not isinstance(defense, str):
        return spec_of_object(defense)
    ((spec, _),) = choose_defenses([defense or "dent"], None, {}, None)
    if spec is None:
        raise SpecError(f"defense is {defense!r}; name one, for the static model is always run")
    return spec


def _plain(
    normalize: tuple[Sequence[float], Sequence[float]] | None,
) -> Normalization | None:
    """Return mean and standard deviation as tuples of numbers; tensors and lists will do."""
    if normalize is None:
        return None
    try:
        mean, std = (tuple(float(value) for value in part) for part in normalize)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"normalize is {normalize!r}; give the mean and the standard deviation of each channel"
        ) from error
    return mean, std


def _dataset(images: Any, labels: Any, name: str) -> Dataset:
    """Return tensors, arrays or lists as a data set, checked as a file's contents are."""
    raw = RawData(images=_array(images, "images"), labels=_array(labels, "labels"))
    return checked(raw, "the data given", own_name(name))


def _array(values: Any, name: str) -> Any:
    """Return a tensor, an array or nested lists as a NumPy array."""
    try:
        if not isinstance(values, Tensor):
            return np.asarray(values)
        plain = values.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the {name} given are no tensor, NumPy array or list of equal sizes ({error})"
        ) from error


def _copy(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module; put a function into "
            "the forward of one"
        )
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {error}") from error
