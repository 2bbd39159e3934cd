"""The origin of a record: versions, device and revision; loads torch only when it must."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "pyautoattack", "robustbench")


@cache
def versions() -> str:
    """Return the versions of dentbench, Python and the libraries that matter, as JSON."""
    installed = {"dentbench": version_of("dentbench"), "python": platform.python_version()}
    installed |= {library: version_of(library) for library in LIBRARIES}
    return json.dumps({name: version for name, version in installed.items() if version})


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution, "" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache
def git_revision() -> str:
    """Return the revision of the checkout that dentbench runs from, "+" when changed, or ""."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def device_name(device: str) -> str:
    """Return a device in words: "cpu" with its threads, or the GPU's name."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'' if threads == 1 else 's'})"


def provenance(device: str) -> dict[str, Any]:
    """Return the columns of a record that say when, where and with which versions it was made."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "versions": versions(),
        "git_revision": git_revision(),
    }
