"""The evaluation as a function: any nn.Module, any tensors."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from dentbench.api.arguments import (
    attack_of,
    copy_of,
    dataset_of,
    defense_spec_of,
    normalization_of,
    plain_number,
    protocol_name,
    protocols_listed,
    require_kind,
    schedule_of,
)
from dentbench.api.evaluated import Evaluated
from dentbench.attacks.base import Defense
from dentbench.containment import settings_kept, staying
from dentbench.defenses.build import identified
from dentbench.errors import SpecError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.progress.display import shown_progress
from dentbench.evaluation.progress.display_names import DISPLAYS
from dentbench.evaluation.progress.events import Progress
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.placement import Placement, device_named
from dentbench.identity.as_left import before_runs, known_again
from dentbench.identity.fingerprint import fingerprint
from dentbench.paths import expanded
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DefenseSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
)
from dentbench.study.choices import choose_protocols
from dentbench.study.parsing import OwnModel, require_channels
from dentbench.zoo.images.arrays import Dataset, slice_of
from dentbench.zoo.models import code_of, normalized
from dentbench.zoo.modes import evaluated
from dentbench.zoo.weights import weights_sha256

__all__ = ["Evaluated", "evaluate"]

_PROCESS: Final = os.getpid()
"""The process that imported this module."""


def evaluate(
    model: nn.Module,
    images: Tensor | Any,
    labels: Tensor | Any = None,
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
    from 0: tensors, NumPy arrays or lists. ``model`` maps such images to logits (N, classes), is
    evaluated in eval mode and is not changed; ``normalize``, mean and standard deviation per
    channel, is put in front of one that does not normalize them itself. Where its natural accuracy,
    in percent, is not ``expect_clean``, or is no better than chance, the run is stopped by
    :class:`~dentbench.errors.ModelError`, and by :class:`~dentbench.errors.SpecError` for an
    ``eps`` that can hardly be meant, such as Linf 8 for 8/255; ``force`` goes on. ``defense`` is
    the released dent and ``attack`` AutoAttack standard, Linf 8/255, by default; it may be a
    name, with ``eps`` ("8/255", 8 / 255) and ``norm`` beside it. ``device`` is a GPU where there is
    one. ``protocols`` are names of the catalogue ("all" for every one), or functions of a module
    that take an attack context and return points, as text "module:callable" or themselves;
    ``protocol_settings``: how they attack.

    A ``defense`` may be a spec; a text as ``--defense`` takes it, such as "tent,steps=10"; anything
    that maps images to logits; an object with ``adapt(x)`` and ``predict(x, adaptation)``; or a
    class that makes such a thing of the network. Protocols that need more than it offers are
    skipped, and the record says so. Passes are counted where they go through the network handed in,
    not through another. Unless it has ``separable = True`` its answers are taken to depend on the
    batch. A defense that holds a value without a stable writing is refused.

    ``precision`` and ``compiling`` take the values of ``--precision`` and ``--compile``,
    ``progress`` those of ``--progress``: "auto" shows bars on a terminal, a single output in a
    notebook and lines elsewhere, "json" lines for schedulers, "none" or None nothing; or a
    callback, called with every event of :mod:`dentbench.evaluation.progress.events`. Records and
    per-image flags are written to the folder ``results``, from where a second call goes on.
    ``until`` "decided" stops when the verdict is decided; ``time_limit`` (such as "2h") and
    ``pass_limit`` end after as many rounds of batches as fit: see ``--until``, ``--time-limit`` and
    ``--pass-limit``. Raises :class:`~dentbench.errors.DentBenchError` for a mistake that can be
    mended.

    >>> import tempfile, torch
    >>> from fractions import Fraction
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
    ...                         nn.Linear(144, 10)).eval()
    >>> images = torch.rand(6, 3, 8, 8)
    >>> labels = network(images).argmax(1)
    >>> attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 255), iterations=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     records = evaluate(network, images, labels, defense=DentSpec(steps=1),
    ...                        attack=attack, results=folder, progress="none")
    >>> static, dent = records
    >>> static.natural_correct, dent.n, sorted(dent.protocol_counts)
    (6, 6, ['published', 'transfer'])
    >>> records.table.title  # a notebook shows the table itself
    'my model on my data, Linf 1/255, instance-wise dent, 1 step'
    >>> records.verdict.kind
    'undecided'
    """
    with _plain_torch():
        return _evaluated(
            model,
            dataset_of(images, labels, require_kind("data_name", data_name, str)),
            defense=defense,
            attack=attack_of(attack, eps, norm),
            protocols=protocols_listed(protocols),
            protocol_settings=require_kind(
                "protocol_settings", protocol_settings, ProtocolSpec, optional=True
            ),
            batch_size=plain_number(batch_size),
            seed=plain_number(seed),
            precision=precision,
            compiling=compiling,
            own=OwnModel(
                normalize=normalization_of(normalize), expect_clean=plain_number(expect_clean)
            ),
            force=force,
            schedule=schedule_of(until, time_limit, pass_limit),
            name=require_kind("name", name, str),
            results=expanded(require_kind("results", results, str, Path)),
            device=device_named("auto" if device is None else str(device)),
            progress=progress,
        )


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
    settings = protocol_settings or ProtocolSpec()
    names = [protocol_name(protocol) for protocol in protocols]
    choose_protocols(names, settings)  # refused before anything is hashed
    data = slice_of(dataset)
    require_channels(own.normalize, data[0].shape[1])
    network = normalized(evaluated(copy_of(model)), own.normalize)
    code = before_runs(model, code_of(network))
    named = ModelSpec(name=name, sha256=weights_sha256(network), code=code)
    plan = BatchPlan(size=batch_size)
    static = EvalSpec(
        model=named, data=data[2], batches=plan, attack=attack, seed=seed, precision=precision
    )
    inputs = RunInputs(
        network=network,
        images=data[0],
        labels=data[1],
        expected_natural=own.expect_clean,
        available=len(data[1]),
    )
    chosen = defense_spec_of(defense)
    before = chosen.sha256 if isinstance(chosen, DefenseSpec) else ""
    run = choose_protocols(names, settings, [chosen])
    chosen = identified(chosen, network, defense if isinstance(defense, type) else None)
    by_name = defense is None or isinstance(defense, str | DentSpec | DefenseSpec)
    given = {} if by_name or not isinstance(chosen, DefenseSpec) else {chosen: defense}
    placement = Placement(devices=(device,), compiling=compiling)
    options = RunOptions(results=results, placement=placement, force=force, schedule=schedule)
    specs = [static, replace(static, defense=chosen, protocols=settings)]
    with ExitStack() as stack:
        shown = stack.enter_context(_shown(progress))
        stack.enter_context(
            known_again(model, code, lambda: code_of(normalized(model, own.normalize)))
        )
        if given:
            stack.enter_context(known_again(defense, before, lambda: fingerprint(defense)))
        return Evaluated(*Evaluation(inputs, options, shown, given).run(specs, run))


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Give the same answer whatever gradient mode, autocast, default dtype or device is set.

    Settings of the whole process, and its random numbers, are as before in the end.
    """
    with ExitStack() as stack:
        stack.enter_context(settings_kept())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if os.getpid() != _PROCESS:  # a fork has none of its parent's threads, and waits for them
            torch.set_num_threads(1)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.enter_context(staying())
        yield


def _shown(progress: Progress | str | None) -> AbstractContextManager[Progress | None]:
    """Return the display of progress during a run: by its name, or the callback."""
    if callable(progress):
        return nullcontext(progress)
    if not isinstance(progress, str | None):
        raise SpecError(f"progress is {progress!r}; give a name, a callback or None")
    return shown_progress(DISPLAYS["none" if progress is None else progress])
