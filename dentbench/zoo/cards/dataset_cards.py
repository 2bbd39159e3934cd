"""Data set cards: the facts of every data set that can be named. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from dentbench.registry import Registry


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """A data set: its honest display name, the shape (C, H, W) of an image, its threat model.

    ``source`` is "embedded", "download", "folder" (of the user's own) or the name of the installed
    package that has its files. ``archive_*`` is the download: of it ``file`` is kept, or all
    where ``corruptions`` (file stem -> MD5) are its files. ``parquet_url``: a copy as PNG pictures,
    identified by its first 20 (``head_sha256``, of their pixels (20, C, H, W) and labels as bytes).
    ``ablation_threats``: NORM:EPS of an ablation of nominal models, where those of the paper's
    Table 2 (Linf:1.5/255 and L2:0.2, for CIFAR-10) would say little.
    """

    id: str
    aliases: tuple[str, ...] = ()
    name: str
    shape: tuple[int, int, int]
    classes: int
    norm: str
    eps: str
    license: str
    source: str
    url: str = ""
    archive_url: str = ""
    archive_md5: str = ""
    file: str = ""
    file_md5: str = ""
    archive_size: int = 0
    label_key: str = ""
    count: int = 10_000
    parquet_url: str = ""
    head_sha256: str = ""
    corruptions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ablation_threats: tuple[str, ...] = ()


DATASETS: Final[Registry[DatasetCard]] = Registry("data set", listed_by="dentbench fetch --list")

_CIFAR = "not stated; made for research"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_PARQUET_URL = "https://huggingface.co/datasets/uoft-cs/{}/test-00000-of-00001.parquet"
_ZENODO_URL = "https://zenodo.org/records/{}"
_CORRUPTED = json.loads(Path(__file__).with_name("corruptions.json").read_text(encoding="utf-8"))


def _corrupted(number: str, name: str, classes: int, md5: str, size: int) -> DatasetCard:
    """A corruption set of Hendrycks and Dietterich 2019, as Zenodo has it."""
    short = name.lower()
    identifier = short.replace("cifar-", "cifar")
    return DatasetCard(
        id=identifier,
        aliases=(short, identifier.replace("-", "")),
        name=name,
        shape=(3, 32, 32),
        classes=classes,
        norm="Linf",
        eps="8/255",
        license="CC-BY-4.0",
        source="download",
        url=_ZENODO_URL.format(number),
        archive_url=f"{_ZENODO_URL.format(number)}/files/{name}.tar",
        archive_md5=md5,
        archive_size=size,
        corruptions=MappingProxyType(_CORRUPTED[identifier]),
    )


for _card in (
    DatasetCard(
        id="digits",
        count=500,
        aliases=("uci-digits", "optdigits"),
        name="UCI digits (test)",
        shape=(1, 8, 8),
        classes=10,
        norm="Linf",
        eps="0.15",
        license="CC-BY-4.0",
        source="embedded",
        url="https://doi.org/10.24432/C50P49",
        # They leave digits-nominal 9 and 12 of 128 images right under PGD of 20 steps: about as
        # many as the paper's leave of its nominal model (8.8% and 9.2%).
        ablation_threats=("Linf:0.15", "L2:0.7"),
    ),
    DatasetCard(
        id="cifar10",
        aliases=("cifar-10",),
        name="CIFAR-10 (test)",
        shape=(3, 32, 32),
        classes=10,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="download",
        url=_CIFAR_URL + "cifar.html",
        archive_url=_CIFAR_URL + "cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        file="cifar-10-batches-py/test_batch",
        file_md5="40351d587109b95175f43aff81a1287e",
        label_key="labels",
        parquet_url=_PARQUET_URL.format("cifar10/resolve/main/plain_text"),
        head_sha256="b92d7dfc28e661b1596e3d7ebe6f560c66a9676dedcd6a2ff31e2db87b29688e",
    ),
    DatasetCard(
        id="cifar10-sample",
        count=20,
        aliases=("cifar-10-sample",),
        name="CIFAR-10 (first 20 test images)",
        shape=(3, 32, 32),
        classes=10,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="foolbox",
        url=_CIFAR_URL + "cifar.html",
    ),
    DatasetCard(
        id="cifar100",
        aliases=("cifar-100",),
        name="CIFAR-100 (test)",
        shape=(3, 32, 32),
        classes=100,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="download",
        url=_CIFAR_URL + "cifar.html",
        archive_url=_CIFAR_URL + "cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        file="cifar-100-python/test",
        file_md5="f0ef6b0ae62326f3e7ffdfab6717acfc",
        label_key="fine_labels",
        parquet_url=_PARQUET_URL.format("cifar100/resolve/main/cifar100"),
        head_sha256="bcda9e4798e527bb66a524173a1be08144f9dccc06abb7cf2ee3b84f44e92c5d",
    ),
    _corrupted("2535967", "CIFAR-10-C", 10, "56bf5dcef84df0e2308c6dcbcbbd8499", 2_918_471_680),
    _corrupted("3555552", "CIFAR-100-C", 100, "11f0ed0f1191edbf9fa23466ae6021d3", 2_918_473_216),
    DatasetCard(
        id="imagenet",
        count=5_000,
        aliases=("imagenet-1k",),
        name="ImageNet (RobustBench's 5,000)",
        shape=(3, 224, 224),
        classes=1000,
        norm="Linf",
        eps="4/255",
        license="non-commercial research",
        source="folder",
        url="https://www.image-net.org/",
    ),
):
    DATASETS.add(_card.id, _card, _card.aliases)
