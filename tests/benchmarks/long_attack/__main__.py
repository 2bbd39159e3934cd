"""The command: prepare, attack, report."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.compute.precision import full_float32
from tests.benchmarks import long_attack
from tests.benchmarks.long_attack.ascent import Restart, State, Target, ascend
from tests.benchmarks.long_attack.cases import BATCH, CASES, Case, Choice, prepare

FOLDER: Final = Path("results/runs/long-attack")
TOGETHER: Final = ("right in the worst whole batch", "and of the long attack")
REPORT: Final = Path("results/benchmarks/long-attack.json")


def attack(case: Case, folder: Path, options: argparse.Namespace) -> None:
    """Carry out the restarts of this share that are not done yet, until the time is up."""
    full_float32()  # dent is asked as an evaluation asks it
    part, parts = map(int, options.share.split("/"))
    until = time.monotonic() + options.limit
    with np.load(folder / f"{case.name}.npz") as result:
        arrays = dict(result)
    for first in range(0, len(arrays["labels"]), BATCH):
        target = Target.of(case, arrays, slice(first, first + BATCH), options.device)
        known = broken_by_others(folder / case.name, first, target.right)
        if not (target.right & ~known).any():
            continue
        starts = target.starts()
        # Stored points must have been judged rightly, before anything new is tried.
        none, natural = torch.zeros_like(target.right), int(target.natural.sum())
        state = State(0, target.images, target.images, none, 0.0, target.together())
        for stored in starts:
            state.broken |= (target.judge(stored) > 0) & target.right
        if state.broken.any():
            print(f"{case.name}: {int(state.broken.sum())} images are broken by stored points")
        state.at_the_end().save(folder / case.name / f"{first:05d}-stored.npz")
        for number in range(part, options.restarts, parts):
            restart = Restart(number=number)
            path = folder / case.name / f"{first:05d}-{number:03d}.npz"
            if path.exists():
                state = State.load(path, target.images.device)
                if state.step >= options.steps:
                    continue
            else:
                points = target.project(restart.start(target, starts, options.seed))
                state = State(0, points, torch.zeros_like(points), known.clone(), 0.0, natural)
            state.broken |= known
            ascend(target, restart, state, options.steps, until)
            known |= state.broken
            (state.at_the_end() if state.step >= options.steps else state).save(path)
            left = int((target.right & ~known).sum())
            print(
                f"{case.name} batch {first // BATCH + 1}, restart {number} ({restart.loss}, "
                f"{restart.gradient}): step {state.step}, {left} images are still right",
                flush=True,
            )
            if time.monotonic() >= until:
                print("the time is up; run it again to go on")
                return


def broken_by_others(folder: Path, first: int, right: Tensor) -> Tensor:
    """Return which images (B,) of a batch any restart so far broke."""
    known = torch.zeros_like(right)
    for path in sorted(folder.glob(f"{first:05d}-*.npz")):
        known |= State.load(path, right.device).broken
    return known & right


def reported(case: Case, folder: Path, steps: int) -> dict[str, Any] | None:
    """Return the results of a case's restarts, or None for a case that was not attacked."""
    if not (folder / case.name).is_dir():
        return None
    with np.load(folder / f"{case.name}.npz") as result:
        right = torch.from_numpy(result["right"])
        natural = len(right)
    broken, states, together = 0, [], [0, 0]
    for first in range(0, natural, BATCH):
        batch = right[first : first + BATCH]
        broken += int(broken_by_others(folder / case.name, first, batch).sum())
        own = [
            State.load(path, torch.device("cpu"))
            for path in sorted((folder / case.name).glob(f"{first:05d}-*.npz"))
        ]
        *numbered, stored = own  # numbers come before words
        together[0] += stored.together
        together[1] += min((state.together for state in numbered), default=stored.together)
        states += numbered
    still = int(right.sum())
    return {
        "images": natural,
        "worst case right": still,
        "of them broken by the long attack": broken,
        "broken in 128": round(128 * broken / max(still, 1), 2),
        "restarts finished": sum(state.step >= steps for state in states),
        "steps of a restart": steps,
        "steps in all": sum(state.step for state in states),
        "seconds": round(sum(state.seconds for state in states)),
        **({} if case.defense.separable else dict(zip(TOGETHER, together, strict=True))),
        **json.loads((folder / f"{case.name}.json").read_text()),
    }


def main(words: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(long_attack.__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("prepare", "attack", "report"))
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--images", type=int, default=BATCH)
    parser.add_argument("--data", help="a file to take the images from")
    parser.add_argument("--data-name", help="its name")
    parser.add_argument("--attack", default="standard", help="of the evaluation")
    parser.add_argument("--without", action="append", default=[], help="a protocol to leave out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--share", default="0/1", help="this process's restarts: PART/PARTS")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(words)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.case or CASES:
        if options.what == "prepare":
            prepare(CASES[name], options.folder, choice(options))
        elif options.what == "attack":
            attack(CASES[name], options.folder, options)
    if options.what == "report":
        report(options)


def choice(options: argparse.Namespace) -> Choice:
    """Return what to evaluate on."""
    return Choice(
        images=options.images,
        data=options.data,
        data_name=options.data_name,
        attack=options.attack,
        without=tuple(options.without),
        device=options.device,
    )


def report(options: argparse.Namespace) -> None:
    """Write the result of every case that was attacked; earlier results stay."""
    from dentbench.records.provenance import device_name, git_revision, versions

    known = json.loads(options.report.read_text()) if options.report.exists() else {}
    for name, case in CASES.items():
        result = reported(case, options.folder, options.steps)
        if result is not None:
            known[name] = {
                **result,
                "device": device_name(options.device),
                "versions": json.loads(versions()),
                "git_revision": git_revision(),
            }
            print(name, json.dumps(result))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
