"""The spec of dent: every part of the defense that can be switched, checked and in one writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.registry import Registry
from dentbench.validation import require_choice, require_count, require_number

STATISTICS: Final = ("running", "batch", "median", "mix:ALPHA")
OPTIMIZERS: Final = ("adamod", "adamod-paper", "adam", "sgd")
DELTAS: Final = ("affine", "affine-after:N", "none")
LAYERS: Final = ("batchnorm", "groupnorm", "layernorm", "all")
"""The kinds of layers whose scales and shifts adapt; the paper's and the released code's first."""
PADDINGS: Final = ("zeros", "reflect", "replicate")

ALTERNATIVES: Final = (
    "run --defense hedge, anti-adversary or one of your own, or the static model alone "
    "(--mode static)"
)
"""The modes of a model that dent cannot adapt."""

BY_MODE: Any = None
"""Placeholder of a :class:`DentSpec` field whose default depends on the mode."""

BY_BLUR: Any = None
"""Placeholder of a :class:`DentSpec` field whose default depends on the kind of blur."""

# Instance-wise is the released configuration. Batch-wise: 30 steps are the paper's; the loss and
# the statistics follow the paper's text (2.2); the learning rate is that of the released
# instance-wise dent. That these three do well together was measured: results/calibration.md.
MODE_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "instance": {"steps": 6, "loss": "shot", "statistics": "running", "lr": 6e-3},
        "batch": {"steps": 30, "loss": "entropy", "statistics": "batch", "lr": 6e-3},
    }
)

# Nothing about dent's blur is established but that it is Gaussian with one sigma: these are ours,
# measured in results/calibration.md. Where a dynamic one starts and the padding are also the same
# authors' for another paper (arXiv 1904.11487).
BLUR_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "none": {},
        "static": {"sigma": 0.6, "padding": "zeros"},
        "dynamic": {"sigma": 1.0, "padding": "zeros", "sigma_lr": 0.1},
    }
)
"""Each kind of blur with the defaults of the settings that it has; it has no others."""

_FLOATS: Final = ("lr", "gamma_lr", "beta_lr", "sigma", "sigma_lr", "beta1", "beta2", "beta3")


@dataclass(frozen=True, kw_only=True)
class LossCard:
    """A loss that dent minimizes.

    ``function``: ``module:name`` of a function of logits (B, C) and the number of images that a
    mean is over, which returns a scalar. ``separable``: whether it is a mean over the images, so
    that each image's gradient is its own.
    """

    function: str
    separable: bool = False


LOSSES: Final[Registry[LossCard]] = Registry("loss")
LOSSES.add("shot", LossCard(function="dentbench.adapt.losses:shot"))
LOSSES.add("entropy", LossCard(function="dentbench.adapt.losses:entropy", separable=True))


@dataclass(frozen=True, kw_only=True)
class DentSpec:
    """One configuration of dent; the defaults are the released (dent, revision 263b6b1).

    ``mode``: "instance" adapts parameters of its own to every image, "batch" shared parameters.
    ``steps`` >= 0 updates are made per batch; with 0 nothing adapts, the layers' statistics are
    the model's and ``delta`` is "none". ``delta``: "affine" adapts the scale gamma and shift beta
    of the normalization layers, "none" leaves them, and "affine-after:N", which is ours, lets a
    dynamic blur's sigma move alone for the first N < ``steps`` updates. ``layers``: whose:
    "batchnorm" (BatchNorm2d, the paper's), "groupnorm", "layernorm" or "all" of them, which is
    ours. ``loss`` is "shot" (entropy minus the entropy of the batch-mean prediction) or "entropy".

    ``statistics``: "running" (of training, frozen), "batch" (re-estimated at every forward),
    "median" (the batch's medians, and mean squared distances from them: MedBN, arXiv 2403.19326) or
    "mix:ALPHA", ALPHA in [0, 1] of the batch's mean and variance and the rest of the running
    statistics (Schneider et al. 2020); mix:0 and mix:1 are kept as "running" and "batch". They are
    of BatchNorm alone: with "groupnorm" or "layernorm" all BatchNorm layers are as trained, and the
    statistics are "running".

    ``blur`` of the images: "none", "static" (Gaussian of ``sigma`` >= 0 pixels) or "dynamic"
    (``sigma`` > 0 is where it starts, and it is adapted by the same loss; batch-wise one sigma,
    instance-wise one per image, which is ours). ``padding``: "zeros", "reflect" or "replicate".
    ``sigma``, ``padding`` and ``sigma_lr`` are None where there is no such thing.

    ``optimizer``: "adamod" (the package that made dent's numbers), "adamod-paper" (the form of
    arXiv 1910.12249), "adam" or "sgd". ``lr`` > 0 is the learning rate of gamma and beta, which
    ``gamma_lr`` and ``beta_lr`` >= 0 override (None where they are the same); ``sigma_lr`` > 0
    is sigma's. Fields left out take the default of the mode or of the blur. Raises
    :class:`~dentbench.errors.SpecError` for bad values and for settings that would be ignored.

    >>> spec = DentSpec()
    >>> spec.mode, spec.steps, spec.loss, spec.statistics, spec.optimizer, spec.lr
    ('instance', 6, 'shot', 'running', 'adamod', 0.006)
    >>> DentSpec(mode="batch").steps
    30
    """

    mode: str = "instance"
    steps: int = BY_MODE
    delta: str = "affine"
    layers: str = "batchnorm"
    loss: str = BY_MODE
    statistics: str = BY_MODE
    blur: str = "none"
    sigma: float | None = BY_BLUR
    padding: str | None = BY_BLUR
    optimizer: str = "adamod"
    lr: float = BY_MODE
    gamma_lr: float | None = None
    beta_lr: float | None = None
    sigma_lr: float | None = BY_BLUR
    beta1: float = 0.99
    beta2: float = 0.999
    beta3: float = 0.6
    optimizer_eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, tuple(MODE_DEFAULTS))
        _require_delta(self.delta)
        require_choice("blur", self.blur, tuple(BLUR_DEFAULTS))
        if self.steps is BY_MODE and self.delta == "none" and self.blur != "dynamic":
            self._set("steps", 0)
        require_choice("layers", self.layers, LAYERS)
        if not self.estimates and self.statistics is BY_MODE:
            self._set("statistics", "running")
        for name, default in MODE_DEFAULTS[self.mode].items():
            if getattr(self, name) is BY_MODE:
                self._set(name, default)
        require_count("steps", self.steps, 0)
        require_choice("loss", self.loss, tuple(LOSSES))
        self._set("statistics", _one_writing(self.statistics))
        if not self.estimates and self.statistics != "running":
            raise SpecError(
                f"statistics is {self.statistics!r}, but layers is {self.layers!r}, which keep "
                "none of a batch; leave it out, or choose layers batchnorm or all"
            )
        self._check_blur()
        self._check_optimizer()
        self._check_what_adapts()
        for name in (*_FLOATS, "optimizer_eps", "momentum"):
            if getattr(self, name) is not None:
                self._set(name, float(getattr(self, name)) + 0.0)  # 0 and -0.0 are one
        self._set("nesterov", bool(self.nesterov))

    @property
    def published_protocol(self) -> str:
        """The protocol that dent's paper attacked it by."""
        return "published"

    @property
    def separable(self) -> bool:
        """Whether each image's prediction is independent of its batch mates.

        True for zero steps, and for parameters of each image's own (sigma among them) with a
        per-image loss and frozen statistics; the number of images that the mean loss is over is
        then a fixed constant.
        """
        alone = self.mode == "instance" and LOSSES[self.loss].separable
        alone = alone and self.statistics == "running"
        return alone or self.steps == 0

    @property
    def alone(self) -> int:
        """The number of first updates in which sigma moves alone: N of "affine-after:N"."""
        return int(self.delta.partition(":")[2] or 0)

    def with_steps(self, steps: int) -> DentSpec:
        """Return the same configuration with so many updates per batch."""
        return replace(self, steps=steps, **self._share_alone(steps))

    def with_larger_steps(self, steps: int) -> DentSpec:
        """Return it with so many updates that go as far: learning rates in proportion."""
        names = ["lr", "gamma_lr", "beta_lr"] if self.delta != "none" else []
        names += ["sigma_lr"] if self.blur == "dynamic" else []
        rates = {name: rate for name in names if (rate := getattr(self, name)) is not None}
        longer = {name: rate * self.steps / steps for name, rate in rates.items()}
        return replace(self, steps=steps, **longer, **self._share_alone(steps))

    def _share_alone(self, steps: int) -> dict[str, Any]:
        """Return a delta in which sigma moves alone for no larger share of so many updates."""
        if not self.alone:
            return {}
        alone = self.alone * steps // self.steps
        return {"delta": f"affine-after:{alone}" if alone else "affine"}

    @property
    def estimates(self) -> bool:
        """Whether BatchNorm layers adapt, which have statistics of the batch."""
        return self.layers in ("batchnorm", "all")

    @property
    def batch_share(self) -> float:
        """The share, in [0, 1], of the batch's own statistics in those that are used."""
        if self.statistics in ("running", "batch", "median"):
            return float(self.statistics != "running")
        return float(self.statistics.partition(":")[2])

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_blur(self) -> None:
        defaults = BLUR_DEFAULTS[self.blur]
        for name in ("sigma", "padding", "sigma_lr"):
            if getattr(self, name) is BY_BLUR:
                self._set(name, defaults.get(name))
            elif name not in defaults:
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, but blur is {self.blur!r}, which has no "
                    f"{name}; leave it out or choose blur "
                    + " or ".join(kind for kind, has in BLUR_DEFAULTS.items() if name in has)
                )
        dynamic = self.blur == "dynamic"
        if self.sigma is not None:  # a dynamic blur that starts at 0 gets no gradient
            require_number("sigma", self.sigma, 0, open_low=dynamic)
            require_choice("padding", self.padding, PADDINGS)
        if self.sigma_lr is not None:
            require_number("sigma_lr", self.sigma_lr, 0, open_low=True)
        if dynamic and self.steps == 0:
            raise SpecError(
                "blur is 'dynamic', but steps is 0, so sigma would never move; "
                "choose blur static or at least 1 step"
            )

    def _check_optimizer(self) -> None:
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_number("lr", self.lr, 0, open_low=True)
        for name in ("gamma_lr", "beta_lr"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), 0)
                if getattr(self, name) == self.lr:
                    self._set(name, None)
        for name in ("beta1", "beta2", "beta3", "momentum"):
            require_number(name, getattr(self, name), 0, 1 - 1e-12)
        require_number("optimizer_eps", self.optimizer_eps, 0, open_low=True)
        if self.nesterov not in (True, False):
            raise SpecError(f"nesterov is {self.nesterov!r}; allowed: true, false")

    def _check_what_adapts(self) -> None:
        if self.steps == 0:
            self._set("delta", "none")
        elif self.alone and self.blur != "dynamic":
            raise SpecError(
                f"delta is {self.delta!r}, but blur is {self.blur!r}, which has no sigma that "
                "moves alone; choose delta affine or blur dynamic"
            )
        elif self.alone >= self.steps:
            raise SpecError(
                f"delta is {self.delta!r}, but steps is {self.steps}, so scales and shifts would "
                "never move; choose a smaller N, more steps or delta none"
            )
        elif self.delta == "none":
            if self.blur != "dynamic":
                raise SpecError(
                    f"delta is 'none' and blur is {self.blur!r}, so nothing would adapt in "
                    f"{self.steps} steps; choose 0 steps, delta affine or blur dynamic"
                )
            for name in ("gamma_lr", "beta_lr"):
                if getattr(self, name) is not None:
                    raise SpecError(f"{name} is given, but delta is 'none'; leave one of them out")
            if self.lr != MODE_DEFAULTS[self.mode]["lr"]:
                raise SpecError(
                    f"lr is {self.lr!r}, the learning rate of gamma and beta, but delta is "
                    "'none'; leave it out, and give sigma_lr for sigma"
                )
        elif self.gamma_lr == self.beta_lr == 0:
            raise SpecError("gamma_lr and beta_lr are both 0; choose delta none instead")


def _require_delta(delta: object) -> None:
    kind, _, number = str(delta).partition(":")
    if kind != "affine-after":
        require_choice("delta", delta, DELTAS)
    elif not number.isdecimal() or number.startswith("0"):
        raise SpecError(
            f"delta is {delta!r}; write the number of updates in which sigma moves alone, at "
            "least 1, after the colon, such as affine-after:3"
        )


def _one_writing(statistics: object) -> str:
    """Return the canonical writing of statistics; raises SpecError for bad statistics."""
    if statistics in ("running", "batch", "median"):
        return str(statistics)
    kind, _, share = str(statistics).partition(":")
    if kind != "mix" or not isinstance(statistics, str):
        require_choice("statistics", statistics, STATISTICS)
    try:
        alpha = float(share)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise SpecError(
            f"statistics is {statistics!r}; write the batch's share, a number from 0 to 1, "
            "after the colon, such as mix:0.5"
        )
    return {0.0: "running", 1.0: "batch"}.get(alpha, f"mix:{alpha!r}")
