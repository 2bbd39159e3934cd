"""Name -> built-in defense: the only place to add a defense; no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from dentbench.registry import Registry
from dentbench.spec.defense import DefenseSpec
from dentbench.spec.dent import DentSpec

DENT: Final = "dent"
"""The defense whose settings have options of their own."""

NONE: Final = "none"
"""No defense: the static model alone."""


@dataclass(frozen=True, kw_only=True)
class DefenseCard:
    """A built-in defense, by its properties.

    ``function``: "module:name" of its factory, called with the network and the settings.
    ``version``: the number of its code, raised when its answers change. ``settings``: names and
    defaults; a given value is of the default's type; a number is positive, and a share or a rate at
    most 1 unless it is one of ``above_one``. ``claim``: its paper's claim, in few words.
    ``separable`` and ``random``: as in a spec. ``chance``: whether it draws random numbers, which a
    check finds out where no card says it. ``published_protocol``: the protocol by which its
    own paper attacked it; dent's where that paper attacked nothing. ``views``: a spec's ``views``,
    from the settings. ``batchnorm``: whether it needs a model with BatchNorm2d layers.
    """

    function: str
    summary: str
    source: str
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    above_one: frozenset[str] = frozenset()
    claim: str = ""
    separable: bool = False
    random: bool = False
    chance: bool = False
    published_protocol: str = "published"
    views: Callable[[Mapping[str, Any]], int] = lambda settings: 1
    batchnorm: bool = False


DEFENSES: Final[Registry[DefenseCard]] = Registry("defense", has_code=True)
"""Every defense that ``--defense`` takes by name."""

DEFENSES.add(
    DENT,
    DefenseCard(
        function="dentbench.adapt.dent:Dent",
        summary="dent, with the settings of its own options",
        source="arXiv 2105.08714",
        claim="20 and more points under AutoAttack at Linf 8/255 on CIFAR-10",
        batchnorm=True,
    ),
)
DEFENSES.add(
    NONE,
    DefenseCard(function="", summary="the static model alone", source=""),
    aliases=("static",),
)
DEFENSES.add(
    "norm",
    DefenseCard(
        function="dentbench.defenses.norm:norm",
        summary="batch normalization with the statistics of the test batch, nothing optimized",
        source="Schneider et al. 2020, arXiv 2006.16971",
        settings={"share": 1.0},
        claim="error (mCE) of a ResNet-50 on ImageNet-C from 76.7% to 62.2%; no attack",
        batchnorm=True,
    ),
)
DEFENSES.add(
    "medbn",
    DefenseCard(
        function="dentbench.defenses.norm:medbn",
        summary="batch normalization with the medians of the test batch, nothing optimized",
        source="Park et al. 2024, arXiv 2403.19326",
        claim="keeps its accuracy where some images of the batch are malicious",
        published_protocol="batch-mates",
        batchnorm=True,
    ),
)
DEFENSES.add(
    "tent",
    DefenseCard(
        function="dentbench.defenses.tent:tent",
        summary="entropy minimization over scales and shifts, made afresh for every batch",
        source="Wang et al. 2021, arXiv 2006.10726",
        settings={"steps": 1, "lr": 1e-3},
        claim="fewer errors on corrupted images, the fewest yet on ImageNet-C; no attack",
        batchnorm=True,
    ),
)
DEFENSES.add(
    "tent-online",
    DefenseCard(
        function="dentbench.defenses.tent:tent_online",
        summary="tent with the state that the natural batches before leave behind",
        source="Wang et al. 2021, arXiv 2006.10726",
        settings={"lr": 1e-3},
        claim="fewer errors on corrupted images, the fewest yet on ImageNet-C; no attack",
        batchnorm=True,
    ),
)
DEFENSES.add(
    "eata",
    DefenseCard(
        function="dentbench.defenses.eata:eata",
        summary="tent on reliable images alone, the surer the more, in any normalization layers",
        source="Niu et al. 2022, arXiv 2204.02610",
        version=2,
        settings={"steps": 1, "lr": 2.5e-4, "margin": 0.4},
        claim="better and cheaper than tent on corrupted images; no attack",
    ),
)
DEFENSES.add(
    "sar",
    DefenseCard(
        function="dentbench.defenses.sar:Sar",
        summary="sharpness-aware tent on reliable images alone, in any normalization layers",
        source="Niu et al. 2023, arXiv 2302.12400",
        settings={"steps": 1, "lr": 2.5e-4, "margin": 0.4, "rho": 0.05},
        claim="stable where tent collapses, on networks with group or layer norm; no attack",
        views=lambda settings: 2,
    ),
)
DEFENSES.add(
    "anti-adversary",
    DefenseCard(
        function="dentbench.defenses.anti_adversary:AntiAdversary",
        summary="the image is moved to raise the confidence in the predicted class",
        source="Alfarra et al. 2021, arXiv 2103.14347",
        settings={"steps": 2, "alpha": 0.15},
        claim="significantly more robust, black-box to adaptive, at no cost in natural accuracy",
        separable=True,
    ),
)
DEFENSES.add(
    "hedge",
    DefenseCard(
        function="dentbench.defenses.hedge:Hedge",
        summary="the image is moved, from a random start, to raise the loss of all classes at once",
        source="Wu et al. 2021, arXiv 2106.04938",
        settings={"steps": 20, "eps": Fraction(8, 255), "step_size": Fraction(4, 255)},
        claim="from 66.2% to 72.7% under AutoAttack on CIFAR-10, of a state-of-the-art network",
        separable=True,
        chance=True,
        published_protocol="transfer",
    ),
)
DEFENSES.add(
    "et3",
    DefenseCard(
        function="dentbench.defenses.et3:ET3",
        summary="the image is moved down the energy of the network's logits",
        source="Mirza et al. 2026, arXiv 2603.26984",
        settings={"steps": 1, "alpha": 2.5, "radius": 5.0},
        above_one=frozenset({"alpha", "radius"}),
        claim="a strong defense for classifiers, CLIP and vision-language models",
        separable=True,
    ),
)
DEFENSES.add(
    "tte",
    DefenseCard(
        function="dentbench.defenses.tte:Ensembling",
        summary="the logits of the image, its mirror image and crops are averaged",
        source="Perez et al. 2021, arXiv 2107.14110",
        settings={"crops": 4, "flip": True},
        claim="more robust to powerful attacks at virtually no loss of natural accuracy",
        separable=True,
        views=lambda settings: (1 + settings["flip"]) * (1 + settings["crops"]),
    ),
)
DEFENSES.add(
    "ttc",
    DefenseCard(
        function="dentbench.defenses.ttc:Counterattack",
        summary="the image is moved to change its features, unless a random start does",
        source="Xing et al. 2025, arXiv 2503.03613",
        settings={
            "steps": 2,
            "eps": Fraction(4, 255),
            "step_size": Fraction(1, 255),
            "tau": 0.2,
            "beta": 2.0,
        },
        above_one=frozenset({"beta"}),
        claim="stable and consistent gains on 16 data sets, natural images noticeably unimpaired",
        separable=True,
        chance=True,
        published_protocol="transfer",
        views=lambda settings: 2,
    ),
)
DEFENSES.add(
    "ig-defense",
    DefenseCard(
        function="dentbench.defenses.ig_defense:Masking",
        summary="only the features that matter for the class of a first pass are left",
        source="Kulkarni and Weng 2024, arXiv 2409.15190",
        settings={"keep": 0.1, "sigma": Fraction(4, 255)},
        claim="up to 3.4 points under white-box, 3.8 under black-box, 1.5 under adaptive attacks",
        separable=True,
        chance=True,
        random=True,
        views=lambda settings: 2,
    ),
)
DEFENSES.add(
    "diffpure",
    DefenseCard(
        function="dentbench.defenses.diffpure:Purification",
        summary="each image is diffused a little and denoised, by a small denoiser of the package; "
        "of digits and 32x32 images alone",
        source="Nie et al. 2022, arXiv 2205.07460",
        settings={"steps": 4, "time": 0.1},
        claim="70.6% under AutoAttack at Linf 8/255 on CIFAR-10, of a nominal WRN-28-10",
        separable=True,
        chance=True,
        published_protocol="unrolled",
    ),
    aliases=("purification",),
)
DEFENSES.add(
    "smoothing",
    DefenseCard(
        function="dentbench.defenses.smoothing:Smoothing",
        summary="the probabilities under Gaussian noise are averaged; nothing is certified",
        source="Cohen et al. 2019, arXiv 1902.02918",
        settings={"sigma": 0.06, "draws": 8},
        claim="certified in L2 where the network is trained under the same noise",
        separable=True,
        chance=True,
        published_protocol="eot",
        views=lambda settings: int(settings["draws"]),
    ),
    aliases=("randomized-smoothing",),
)
DEFENSES.add(
    "jpeg",
    DefenseCard(
        function="dentbench.defenses.jpeg:Jpeg",
        summary="each image is compressed as JPEG, colours not subsampled",
        source="Guo et al. 2018, arXiv 1711.00117",
        settings={"quality": 75},
        claim="removes much of the effect of attacks that do not know of it",
        separable=True,
        published_protocol="transfer",
    ),
)
DEFENSES.add(
    "bit-depth",
    DefenseCard(
        function="dentbench.defenses.bit_depth:BitDepth",
        summary="each pixel is rounded to few levels",
        source="Xu et al. 2018, arXiv 1704.01155",
        settings={"bits": 3},
        claim="removes some of the effect of attacks that do not know of it",
        separable=True,
        published_protocol="transfer",
    ),
)


def needs_batchnorm(defense: DentSpec | DefenseSpec) -> bool:
    """Return whether a defense can be put around models with BatchNorm2d layers only."""
    if isinstance(defense, DentSpec):
        return defense.layers == "batchnorm"
    return not defense.sha256 and DEFENSES[defense.name].batchnorm
