"""From a name to a network with its weights: embedded, pyautoattack's, RobustBench's or your own.

RobustBench's constructors are used (:mod:`dentbench.zoo.robustbench.architectures`), never its code
for downloading and loading.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from dentbench.errors import ModelError
from dentbench.identity.fingerprint import fingerprint
from dentbench.paths import expanded
from dentbench.spec.evaluation import digest
from dentbench.zoo.cards.model_cards import ASSETS, MODELS, ModelCard
from dentbench.zoo.checkpoints import read_checkpoint, require_file, state_dict_of
from dentbench.zoo.download.sources import FetchOptions, fetch_model_files
from dentbench.zoo.download.transfer import Progress
from dentbench.zoo.factories import Source, network_of_factory
from dentbench.zoo.model_names import is_checkpoint
from dentbench.zoo.networks import CODE_VERSION, NETWORKS, Normalize
from dentbench.zoo.robustbench import architectures
from dentbench.zoo.robustbench.checkpoint_parts import load_part
from dentbench.zoo.timm_networks import TIMM, from_timm
from dentbench.zoo.weights import load_state, require_values, told_by_state, weights_sha256


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network in eval mode on the CPU: images (B, C, H, W) in [0, 1] -> logits (B, classes).

    ``sha256`` is of the weights, whatever file they came in; ``code`` is of the code and of all
    settings that are no weights; ``card`` is None for own models.
    """

    network: nn.Module
    name: str
    sha256: str
    code: str
    card: ModelCard | None


def load_model(
    name_or_path: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    arch: str | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    mirrors: Sequence[str] = (),
    progress: Progress | None = None,
) -> LoadedModel:
    """Return a model by name, alias, ``module:callable`` or checkpoint path (with ``arch``).

    A RobustBench checkpoint that is not in ``cache`` is fetched, unless ``offline``. ``arch`` names
    the network of a checkpoint file: a card, ``module:callable``, ``path/to/net.py:callable`` or
    ``timm:NAME`` (see :func:`~dentbench.zoo.timm_networks.from_timm`). ``normalize``: mean and
    standard deviation per channel, put in front of your own model. Torch's random state is
    kept. Raises :class:`~dentbench.errors.UnknownNameError`, ``ModelError`` or ``FetchError``.
    """
    if is_checkpoint(name_or_path):
        path = expanded(name_or_path)
        network, source = _from_file(path, arch, normalized=normalize is not None)
        return _finish(normalized(network, normalize), path.name, source)
    if name_or_path.startswith(TIMM):
        raise ModelError(
            f"{name_or_path} is a network without weights; name their file with --model and the "
            f"network with --arch {name_or_path}"
        )
    if ":" in name_or_path:
        network, source = network_of_factory(name_or_path)
        return _finish(normalized(network, normalize), name_or_path, source)
    card = MODELS[name_or_path]
    request = FetchOptions(cache=cache, offline=offline, mirrors=tuple(mirrors), progress=progress)
    if card.source == "robustbench":
        paths = fetch_model(card, request)
        network = build(card)
        for index, path in enumerate(paths):
            load_part(network, card, index, path)
    else:
        network = build(card)
        path = _packaged_weights(card)
        load_state(network, state_dict_of(read_checkpoint(path), path.name), path.name)
    return _finish(network, card.id, card)


def untrained_model(card: ModelCard) -> LoadedModel:
    """Return a card's network without its weights: its passes cost the same."""
    return _finish(build(card), card.id, card)


def code_of(network: nn.Module, source: Source | None = None) -> str:
    """Return the SHA-256 of a network's code and of all its settings that are no weights.

    ``source``: of its code, where it is known. The same in any process as long as the code is.
    Raises :class:`~dentbench.errors.ModelError` for a setting that has no stable writing, and for
    tensors without values.
    """
    require_values(network)
    source = source or Source("")
    own = fingerprint(network, told_by_state(network), texts=source.is_steady)
    return digest([source.sha256, own])


def normalized(
    network: nn.Module, normalize: tuple[Sequence[float], Sequence[float]] | None
) -> nn.Module:
    """Return a network with its normalization in front; None: it normalizes images itself."""
    return network if normalize is None else nn.Sequential(Normalize(*normalize), network)


def _finish(network: nn.Module, name: str, identity: ModelCard | Source) -> LoadedModel:
    """Return a network as loaded; ``identity``: its card, or the source of its code.

    The code of a card's network is identified by the card alone, whatever files are installed.
    """
    require_values(network)
    network.cpu()
    with contextlib.suppress(NotImplementedError):  # refused where it is evaluated
        network.eval()
    if isinstance(identity, ModelCard):
        code = digest([identity.source, identity.source_id, identity.architecture, CODE_VERSION])
    else:
        code = code_of(network, identity)
    return LoadedModel(
        network=network,
        name=name,
        sha256=weights_sha256(network),
        code=code,
        card=identity if isinstance(identity, ModelCard) else None,
    )


def build(card: ModelCard) -> nn.Module:
    """Return a card's network, freshly initialized; torch's random state is kept."""
    if card.source == "robustbench":
        return architectures.build(card.dataset, card.threat_model, card.source_id)
    with torch.random.fork_rng(devices=[]):
        if card.source == "pyautoattack":
            network: nn.Module = _pyautoattack_example().ResNet18()
            return network
        return NETWORKS[card.architecture]()


def fetch_model(card: ModelCard, request: FetchOptions) -> list[Path]:
    """Return the paths of a RobustBench model's files, fetching those that are not cached.

    A first download is accepted only if it loads into the card's network (where RobustBench cannot
    build that on this machine: if it is a readable checkpoint). Raises
    :class:`~dentbench.errors.FetchError`.
    """

    def check(index: int, path: Path) -> None:
        try:
            network = build(card)
        except ModelError:
            state_dict_of(read_checkpoint(path), path.name)
        else:
            load_part(network, card, index, path)

    return fetch_model_files(card, request, check)


def _packaged_weights(card: ModelCard) -> Path:
    """Return the file in which an installed package keeps a card's weights."""
    if card.source == "embedded":
        return ASSETS / f"{card.id}.safetensors"
    return _examples_folder() / "model_test.pt"


def _examples_folder() -> Path:
    """Return the folder of examples of the installed pyautoattack, without importing it."""
    spec = importlib.util.find_spec("pyautoattack")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        examples = Path(folder) / "examples"
        if (examples / "model_test.pt").is_file() and (examples / "resnet.py").is_file():
            return examples
    raise ModelError(
        "AutoAttackResNet18 comes with pyautoattack's wheel (examples/model_test.pt and "
        "examples/resnet.py), and the installed version lacks it; install pyautoattack==0.2.0"
    )


def _pyautoattack_example() -> ModuleType:
    path = _examples_folder() / "resnet.py"
    spec = importlib.util.spec_from_file_location("dentbench_pyautoattack_resnet", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_file(path: Path, arch: str | None, *, normalized: bool) -> tuple[nn.Module, Source]:
    """Return a checkpoint's network, and the source of its code.

    ``normalized``: whether a normalization is put in front of it.
    """
    if path.is_dir():
        require_file(path)
    if arch is None:
        held = (
            "is a checkpoint file" if path.is_file() else "is taken for a file, which is not there"
        )
        raise ModelError(
            f"{path} {held}; name its network with --arch, by a model's name, "
            "module:callable, path/to/net.py:callable or timm:NAME"
        )
    require_file(path)
    if arch.startswith(TIMM):
        network, source = from_timm(arch), Source(arch)
    elif ":" in arch:
        network, source = network_of_factory(arch)
    else:
        card = MODELS[arch]
        network, source = build(card), Source(card.id)
    state = state_dict_of(read_checkpoint(path), path.name)
    load_state(network, state, path.name, constants_elsewhere=normalized)
    return network, source
