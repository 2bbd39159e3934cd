"""Inspect an installation: its parts, and errors in it; nothing is fetched or changed."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dentbench.errors import DentBenchError, joined_lines
from dentbench.records.provenance import git_revision, version_of
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.cards.model_cards import MODELS, ModelCard
from dentbench.zoo.download.cache import all_mirrors, default_cache, is_offline, shown
from dentbench.zoo.download.cached_files import cached_paths, is_cached, size_of
from dentbench.zoo.download.transfer import plain_reason
from dentbench.zoo.download.verify import HashFile


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the inspection: a part, its state, and advice unless that is right.

    ``ok`` is None where nothing can be right or wrong, or an optional part is missing.
    """

    what: str
    found: str
    ok: bool | None = True
    advice: str = ""


# The module of each distribution, and advice where its import fails.
_REQUIRED: Final = {
    "torch": ("torch", "pip install torch"),
    "torchvision": (
        "torchvision",
        "it must be of the same build as torch: pip install --force-reinstall torch torchvision",
    ),
    "numpy": ("numpy", "pip install numpy"),
    "pyautoattack": ("pyautoattack", "pip install 'pyautoattack>=0.2.0'"),
    "robustbench": (
        "robustbench",
        "pip install 'robustbench>=1.1.1' 'setuptools<81'; needed for its models only",
    ),
    "safetensors": ("safetensors.torch", "pip install safetensors"),
    "pyarrow": ("pyarrow.parquet", "pip install pyarrow; needed for .parquet files only"),
    "pillow": ("PIL.Image", "pip install pillow"),
    "filelock": ("filelock", "pip install filelock"),
    "rich": ("rich.progress", "pip install rich"),
    "typer": ("typer", "pip install 'typer>=0.20'"),
}
_OPTIONAL: Final = {
    "gdown": ("gdown", "a second way to Google Drive: pip install gdown"),
    "foolbox": ("foolbox", "for cifar10-sample: pip install 'dentbench[sample]'"),
    "ray": ("ray", "for --executor ray: pip install ray"),
}


CPU: Final = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
"""The command that installs PyTorch without CUDA."""

HOSTS: Final = {
    "drive.google.com": "most RobustBench models",
    "www.cs.toronto.edu": "CIFAR",
    "huggingface.co": "CIFAR as pictures",
    "zenodo.org": "corruption sets",
    "github.com": "some models",
}
"""Where files are fetched from, and which."""

PATIENCE: Final = 4.0
"""How many seconds a host has to answer."""


def findings(cache: Path | None = None, *, offline: bool = False) -> Iterator[Finding]:
    """Yield the findings of the installation, the devices and the cache, in order."""
    revision = git_revision()
    version = version_of("dentbench") or "not installed"
    yield Finding(what="dentbench", found=version + (f" (git {revision})" if revision else ""))
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding(what="python", found=f"{platform.python_version()}, {system}")
    for name, (module, advice) in _REQUIRED.items():
        yield _library(name, module, advice, required=True)
    for name, (module, advice) in _OPTIONAL.items():
        yield _library(name, module, advice, required=False)
    yield _devices()
    yield from _cache(cache or default_cache())
    yield from _connections(offline=offline)


def _library(name: str, module: str, advice: str, *, required: bool) -> Finding:
    """Say a library's version, once it was really imported."""
    version = version_of(name)
    if not version:
        return Finding(
            what=name,
            found="not installed" if required else "not installed, optional",
            ok=False if required else None,
            advice=advice,
        )
    try:
        if name == "robustbench":  # it cannot be imported without help
            from dentbench.zoo.robustbench.architectures import model_dicts

            model_dicts()
        elif name != "foolbox":  # its files are read, it is never imported
            importlib.import_module(module)
    except Exception as error:  # a broken installation raises anything
        words = joined_lines(error)
        return Finding(
            what=name, found=f"{version}, cannot be imported: {words}", ok=False, advice=advice
        )
    return Finding(what=name, found=version)


def _devices() -> Finding:
    try:
        import torch
    except Exception:  # told above
        return Finding(what="devices", found="unknown without torch", ok=None)
    cpu = f"cpu ({torch.get_num_threads()} of {os.cpu_count()} threads)"
    if not torch.cuda.is_available():
        advice = ""
        if torch.version.cuda:
            built = f"built for CUDA {torch.version.cuda}, but sees no GPU (nvidia-smi)"
            advice = f"{built}; without one, 4 GB less: {CPU}"
        return Finding(what="devices", found=cpu, ok=None, advice=advice)
    cards = [
        f"cuda:{number} ({gpu.name}, {gpu.total_memory / 2**30:.0f} GiB)"
        for number in range(torch.cuda.device_count())
        for gpu in [torch.cuda.get_device_properties(number)]
    ]
    return Finding(what="devices", found=", ".join([cpu, *cards]))


def _cache(folder: Path) -> Iterator[Finding]:
    """Report where the cache is, whether it can be used, and which files it holds."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    usable = there.is_dir() and os.access(there, os.W_OK)
    free = shutil.disk_usage(there).free / 1e9
    state = "writable" if usable else "cannot be written"
    yield Finding(
        what="cache",
        found=f"{_private(folder)} ({state}, {free:.0f} GB free)",
        ok=usable,
        advice="" if usable else "choose another one with --cache or DENTBENCH_CACHE",
    )
    known: list[ModelCard | DatasetCard] = [*DATASETS.values(), *MODELS.values()]
    cards = [card for card in known if cached_paths(card) and is_cached(card, folder)]
    size = sum(size_of(card, folder) for card in cards) / 1e6
    names = ", ".join(card.id for card in cards) or "nothing yet"
    aside = len([*folder.rglob("*.rejected")]) if folder.is_dir() else 0
    part = len([*folder.rglob("*.part")]) if folder.is_dir() else 0
    rest = f"; {part} unfinished" * bool(part) + f"; {aside} set aside" * bool(aside)
    advice = "dentbench fetch --remove NAME clears what was left of one" if rest else ""
    yield Finding(what="cached", found=f"{names} ({size:.0f} MB){rest}", ok=None, advice=advice)
    try:
        HashFile(folder).read()
    except DentBenchError as error:
        words, _, advice = str(error).replace(str(folder), _private(folder)).partition("; ")
        yield Finding(what="hashes", found=words, ok=False, advice=advice)


def _connections(*, offline: bool) -> Iterator[Finding]:
    """Report whether connections are made, to which mirrors first, and which hosts answer."""
    if is_offline(offline):
        how = "--offline" if offline else "DENTBENCH_OFFLINE"
        yield Finding(what="network", found=f"offline ({how}), nothing was tried", ok=None)
        return
    mirrors = ", ".join(map(shown, all_mirrors())) or "no mirrors"
    proxy = any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy"))
    yield Finding(what="network", found=f"{mirrors}{', a proxy' if proxy else ''}", ok=None)
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        reasons = dict(zip(HOSTS, pool.map(unreachable, HOSTS), strict=True))
    reached = [host for host in HOSTS if not reasons[host]]
    blocked = [f"{host} ({HOSTS[host]}: {reasons[host]})" for host in HOSTS if reasons[host]]
    yield Finding(what="reached", found=", ".join(reached) or "no source of files", ok=None)
    if blocked:
        advice = "fetch NAME --from FILE imports a copy, --mirror URL adds a source"
        yield Finding(what="not reached", found="; ".join(blocked), ok=None, advice=advice)


def unreachable(host: str) -> str:
    """Return why a host does not answer, in few words; "" for a host that answers."""
    request = urllib.request.Request(f"https://{host}/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError:
        return ""  # it is there, and does not like the question
    except (OSError, ValueError) as error:
        return plain_reason(getattr(error, "reason", error))


def _private(path: Path) -> str:
    """Return a path as it can be shown to others: the home folder as ~."""
    try:
        return f"~/{path.resolve().relative_to(Path.home().resolve()).as_posix()}"
    except (ValueError, RuntimeError):
        return str(path)
