"""DENTBENCH_OFFLINE=1: whatever the command, not a single socket is made."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers import UNCHECKED

SCRIPT = """
import sys

def refuse(event, arguments):
    if not event.startswith("socket."):
        return
    caller = sys._getframe(1)
    callers = caller.f_code.co_name, caller.f_back and caller.f_back.f_code.co_name
    # RobustBench imports urllib3, which asks, when it is imported, whether ::1 can be bound.
    if "_has_ipv6" not in callers:
        print("A SOCKET:", event, arguments, file=sys.stderr, flush=True)
        raise RuntimeError(f"{event} in offline mode")

sys.addaudithook(refuse)
UNCHECKED
import torch
from dentbench.cli.app import main
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.models import build

# here, so that RobustBench, which takes seconds to import, is imported once
torch.save(build(MODELS["Wong2020"]).state_dict(), "cache/models/cifar10/Linf/Wong2020Fast.pt")
for line in sys.stdin.read().splitlines():
    sys.argv[1:] = line.split()
    try:
        main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    print("ENDED", code, line, flush=True)
""".replace("UNCHECKED", UNCHECKED)

COMMANDS = {
    "evaluate --attack apgd-ce --iterations 1 --examples 4 --steps 1 --protocol transfer": 0,
    "evaluate --model Wong2020 --data few.npz --mode static --attack none": 0,
    "evaluate --model Carmon2019": 2,
    "evaluate --model cifar10-resnet20-robust --examples 2 --mirror http://127.0.0.1 --dry-run": 0,
    "evaluate --model Wong2020": 2,
    "ablate --model Carmon2019 --examples 2": 2,
    "fetch --paper --mirror http://127.0.0.1:9/m": 2,
    "fetch Carmon2019 --from http://127.0.0.1:9/net.pt": 2,
    "fetch Wong2020 digits": 0,
    "fetch --list": 0,
    "fetch --verify": 0,
    "report": 0,
}


# Looked for, not imported: only the commands' process needs it.
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_no_command_makes_a_socket(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "few.npz", images=rng.random((2, 32, 32, 3)), labels=np.arange(2), classes=10
    )
    (tmp_path / "cache/models/cifar10/Linf").mkdir(parents=True)
    settings = {"DENTBENCH_OFFLINE": "1", "DENTBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(COMMANDS),
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "A SOCKET" not in done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("ENDED")]
    assert ended == [f"ENDED {code} {line}" for line, code in COMMANDS.items()]
    assert "offline mode allows no connection" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hook_sees_a_socket() -> None:
    broken = SCRIPT.replace("from dentbench", "import socket; socket.socket()\nfrom dentbench")
    done = subprocess.run([sys.executable, "-c", broken], input="", capture_output=True, text=True)
    assert done.returncode != 0 and "A SOCKET: socket.__new__" in done.stderr
