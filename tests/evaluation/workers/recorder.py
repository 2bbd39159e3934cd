"""The events of a run, recorded."""

from __future__ import annotations

from pathlib import Path

from dentbench.attacks.attack_events import AttackBegan
from dentbench.evaluation.progress.events import Event, PassesDone, StageBegan


class Recorder:
    """Keeps the events of a run: the passes of each stage over its rounds, and the attacks.

    ``gate``: of a network. It is closed when stage ``at`` begins, and opened once passes and an
    attack of that stage are told.
    """

    def __init__(self, gate: Path | None = None, at: str = "") -> None:
        self.gate = gate
        self.at = at
        self.stage = ""
        self.before = 0
        self.passes: dict[str, list[int]] = {}
        self.attacks: list[tuple[str, AttackBegan]] = []

    def __call__(self, event: Event) -> None:
        match event:
            case StageBegan(stage=stage):
                self.stage = str(stage)
                self.before = self.passes.get(self.stage, [0])[-1]
                if self.gate and self.stage == self.at:
                    (self.gate / "closed").touch()
            case PassesDone(passes=passes):
                self.passes.setdefault(self.stage, []).append(self.before + passes)
            case AttackBegan():
                self.attacks.append((self.stage, event))
        if self.gate and self.at in self.passes and self.at in dict(self.attacks):
            (self.gate / "open").touch()
