"""Collect RobustBench's models into a table: ``python -m dentbench.zoo.robustbench.collect CLONE``.

CLONE is a checkout of github.com/RobustBench/robustbench, whose ``model_info`` folder holds the
published numbers; ids and weights' addresses come from the installed robustbench, and layers and
parameters are counted on its networks. Facts only. Rewrites ``zoo/cards/robustbench.json``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dentbench.errors import ModelError
from dentbench.zoo.robustbench.architectures import build, zoo

LISTS = (("cifar10", "Linf"), ("cifar10", "L2"), ("cifar100", "Linf"), ("imagenet", "Linf"))
TABLE = Path(__file__).parents[1] / "cards" / "robustbench.json"

# RobustBench's LICENSE file: MIT unless listed. (data sets, threat models, id prefix, license)
LICENSES = (
    ("cifar10", "Linf", "Hendrycks2019Using", "Apache-2.0"),
    ("cifar10", "Linf", "Pang2020Boosting", "Apache-2.0"),
    ("cifar10 cifar100", "Linf L2", "Gowal2020Uncovering", "Apache-2.0"),
    ("cifar10", "Linf L2", "Ding2020MMA", "CC-BY-NC-SA-4.0"),
    ("cifar10", "L2", "Rony2019Decoupling", "BSD-3-Clause"),
    ("cifar10 cifar100", "Linf L2", "Rebuffi2021Fixing", "Apache-2.0"),
    ("cifar10 cifar100", "Linf L2", "Gowal2021Improving", "Apache-2.0"),
)
RESNET50_URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
RELEASE_URL = "https://github.com/RobustBench/robustbench/releases/download/v1.1/{}.pth.tar"


def license_of(dataset: str, threat_model: str, identifier: str) -> str:
    """Return the SPDX name of the license of a model's weights."""
    for datasets, threats, prefix, name in LICENSES:
        listed = dataset in datasets.split() and threat_model in threats.split()
        if listed and identifier.startswith(prefix):
            return name
    return "BSD-3-Clause" if identifier == "Standard_R50" else "MIT"


def weights_of(dataset: str, threat_model: str, identifier: str, drive: Any) -> list[str]:
    """Return where a model's weights are: ``gdrive:ID`` or a URL, one per checkpoint file."""
    if drive is None:  # the three sizes of XCiT, on RobustBench's GitHub releases
        size = re.sub(r".*XCiT-([SML])12", r"\1", identifier).lower()
        name = f"debenedetti2022light-xcit-{size}-{dataset}-{threat_model.lower()}"
        return [RELEASE_URL.format(name)]
    if drive == "":
        return [RESNET50_URL]
    return [f"gdrive:{part}" for part in (drive if isinstance(drive, list) else [drive])]


def network_facts(dataset: str, threat_model: str, identifier: str) -> dict[str, int]:
    """Count parameters and BatchNorm2d layers; on the meta device where the constructor can."""
    try:
        with torch.device("meta"):
            network = build(dataset, threat_model, identifier)
    except (RuntimeError, NotImplementedError, ModelError):
        network = build(dataset, threat_model, identifier)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "batchnorm_layers": len(layers),
        "batchnorm_parameters": sum(p.numel() for layer in layers for p in layer.parameters()),
    }


def percent(info: dict[str, Any], key: str) -> float | None:
    """Return a published percentage, or None where there is none."""
    return float(info[key]) if info.get(key) not in (None, "") else None


def row(clone: Path, dataset: str, threat_model: str, identifier: str, entry: Any) -> Any:
    """Return the table's row of one model."""
    path = clone / "model_info" / dataset / threat_model / f"{identifier}.json"
    info = json.loads(path.read_text())
    return {
        "id": identifier,
        "dataset": dataset,
        "threat_model": threat_model,
        "eps": info["eps"],
        "architecture": info["architecture"],
        **network_facts(dataset, threat_model, identifier),
        "clean": percent(info, "clean_acc"),
        "autoattack": percent(info, "autoattack_acc"),
        "external": percent(info, "external"),
        "paper": info["name"],
        "url": info["link"],
        "license": license_of(dataset, threat_model, identifier),
        "preprocessing": entry.get("preprocessing"),
        "weights": weights_of(dataset, threat_model, identifier, entry["gdrive_id"]),
    }


def main() -> None:
    """Write the table, one model a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path)
    clone = parser.parse_args().clone
    # Two networks are built with .cuda(); counting layers does not need the device.
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    rows = []
    for dataset, threat_model in LISTS:
        for identifier, entry in zoo(dataset, threat_model).items():
            rows.append(row(clone, dataset, threat_model, identifier, entry))
            print(rows[-1]["dataset"], rows[-1]["id"], rows[-1]["batchnorm_layers"], flush=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
