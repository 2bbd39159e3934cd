"""RobustBench's architectures, and nothing else of it: no download, no loading, no benchmark.

RobustBench 1.1.1 imports ``autoattack`` while its wheel depends on ``pyautoattack``, and imports
``pkg_resources``, which warns. Both are dealt with here, for the moment of the import only.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dentbench.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_LOCK = threading.Lock()


class _Absent:
    """Stands in for names that RobustBench imports from ``autoattack`` and DentBench never uses."""

    def __init__(self, *_: object, **__: object) -> None:
        raise ModelError("RobustBench's own evaluation is not available here; use DentBench's")


def _stand_in() -> dict[str, types.ModuleType]:
    package, state = types.ModuleType("autoattack"), types.ModuleType("autoattack.state")
    vars(package).update(AutoAttack=_Absent, state=state, __path__=[])
    vars(state).update(EvaluationState=_Absent)
    return {"autoattack": package, "autoattack.state": state}


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let ``import robustbench`` succeed quietly, and leave ``sys.modules`` without a stand-in."""
    added = _stand_in()
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        added = {}
    sys.modules.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def model_dicts() -> Mapping[Any, Any]:
    """Return RobustBench's ``model_dicts``: data set -> threat model -> id -> entry.

    Takes some 5 s the first time (timm, torchvision). Raises
    :class:`~dentbench.errors.ModelError` where RobustBench cannot be imported.
    """
    with _LOCK:
        loaded = sys.modules.get("robustbench.model_zoo")
        if loaded is None or not hasattr(loaded, "model_dicts"):
            try:
                with _importable():
                    importlib.import_module("robustbench")
                    loaded = importlib.import_module("robustbench.model_zoo")
            except ImportError as error:
                raise ModelError(
                    f"RobustBench cannot be imported ({error}); "
                    "install robustbench>=1.1.1 together with setuptools<81"
                ) from error
    dicts: Mapping[Any, Any] = loaded.model_dicts
    return dicts


def zoo(dataset: str, threat_model: str) -> Mapping[str, Mapping[str, Any]]:
    """Return RobustBench's entries by id for a data set ("cifar10") and threat model ("Linf")."""
    for data, by_threat in model_dicts().items():
        for threat, entries in by_threat.items():
            if (data.value, threat.value) == (dataset, threat_model):
                models: Mapping[str, Mapping[str, Any]] = entries
                return models
    raise ModelError(f"RobustBench has no models for {dataset} under {threat_model}")


def build(dataset: str, threat_model: str, identifier: str) -> nn.Module:
    """Return RobustBench's network of that id, freshly initialized, without any download.

    Images (B, C, H, W) in [0, 1] -> logits. Torch's global random state is left as it was. Raises
    :class:`~dentbench.errors.ModelError` for an id that the installed RobustBench lacks and for
    the few networks that it can build on a GPU only.
    """
    import torch

    entries = zoo(dataset, threat_model)
    if identifier not in entries:
        raise ModelError(
            f"the installed RobustBench has no model {identifier} for {dataset} {threat_model}"
        )
    construct = _constructor(dataset, threat_model, identifier, entries[identifier])
    with (
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            return construct()
        except RuntimeError as error:
            if "NVIDIA" not in str(error) and "CUDA" not in str(error):
                raise
            raise ModelError(
                f"RobustBench builds {identifier} on a GPU only, and this machine has none"
            ) from error


def _constructor(
    dataset: str, threat_model: str, identifier: str, entry: Mapping[str, Any]
) -> Callable[[], nn.Module]:
    """The entry's own constructor, or the same network where it would download weights."""
    timm_name = f"{identifier.lower().replace('-', '_')}_{dataset}_{threat_model.lower()}"
    if entry["gdrive_id"] is None:
        timm = importlib.import_module("timm")
        return lambda: timm.create_model(timm_name, pretrained=False)
    if entry["gdrive_id"] == "":  # ImageNet's Standard_R50: torchvision's weights
        imagenet = importlib.import_module("robustbench.model_zoo.imagenet")
        return lambda: imagenet.normalize_model(
            imagenet.pt_models.resnet50(), imagenet.mu, imagenet.sigma
        )
    construct: Callable[[], nn.Module] = entry["model"]
    return construct
