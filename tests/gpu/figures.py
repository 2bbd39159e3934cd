"""The figures of a part, written down as they come, with where they were measured."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dentbench.records.provenance import git_revision, versions


class Figures:
    """A JSON file of figures; earlier figures stay, so that a part can go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, figures: Any) -> None:
        """Put ``figures`` under a name, and write the file anew in one step."""
        self.content[name] = figures
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.content, indent=1) + "\n")
        new.replace(self.path)

    def __contains__(self, name: str) -> bool:
        return name in self.content


def machine(device: str) -> dict[str, Any]:
    """Return the surroundings of figures: the device, its driver, and the versions."""
    facts: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.loads(versions()),
        "git_revision": git_revision(),
    }
    if device == "cpu":
        return {"device": f"cpu ({torch.get_num_threads()} threads)", **facts}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory GiB": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        **facts,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
