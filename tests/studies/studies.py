"""Which studies there are, and the command that runs each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path("results/studies")


@dataclass(frozen=True)
class Study:
    """A study: its config file's name, the command that runs it, and the data file it needs."""

    name: str
    runs: str = "evaluate"
    file: str = ""

    @property
    def config(self) -> Path:
        """The config file."""
        return FOLDER / f"{self.name}.toml"

    def command(self, data: Path | None, results: Path) -> list[str]:
        """Return the arguments of dentbench; ``data``: the folder of the data file."""
        result = [self.runs, "--config", str(self.config), "--results", str(results)]
        if self.file:
            assert data is not None
            result += ["--data", str(data / self.file)]
        return result


_TEST: Final = "cifar10-jpeg-test.parquet"

STUDIES: Final = (
    Study("demo"),
    Study("digits-decided"),
    Study("table1-decided", file=_TEST),
    Study("digits-standard"),
    Study("digits-quick"),
    Study("digits-curves"),
    Study("table1-standard", file=_TEST),
    Study("table1-quick", file=_TEST),
    Study("table2", "ablate", file=_TEST),
    Study("table2-calibration", "ablate", file="cifar10-jpeg-train.parquet"),
    Study("table2-shape", "ablate", file=_TEST),
    Study("gain", file=_TEST),
    Study("et3", file=_TEST),
)
"""In the order in which they are run."""
