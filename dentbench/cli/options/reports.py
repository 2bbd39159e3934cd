"""Options of ``dentbench report``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli.names import one_of


class Format(StrEnum):
    """The format of a report."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


class TableName(StrEnum):
    """The table of a report."""

    ONE = "1"
    TWO = "2"
    README = "readme"
    PROTOCOLS = "protocols"
    MATES = "batch-mates"
    NATURAL = "natural"
    ALL = "all"


SUFFIXES = {
    ".md": Format.MARKDOWN,
    ".tex": Format.LATEX,
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".html": Format.HTML,
    ".txt": Format.TERMINAL,
}
TableOption = Annotated[
    TableName | None,
    typer.Option(
        "--table",
        metavar="NAME",
        **one_of("table", TableName),
        help="Default: the paper's tables of what was run, then the rest; of csv and json, "
        "all. 1 and 2: the paper's; readme: the released README's, all three beside the "
        "published numbers; protocols: one row per attack on a defense; batch-mates: other "
        "batches and malicious mates; natural: accuracy without an attack, by corruption; "
        "all: one row per record.",
    ),
]
NotRun = Annotated[
    bool,
    typer.Option("--not-run", help="With the rows of the paper's tables that were not run."),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        **one_of("format", Format),
        help="terminal, markdown, latex, csv, json, or html: one page with verdicts, charts, "
        "images and tables. Default: by --out's suffix, else terminal on a terminal and "
        "markdown in a pipe.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write this file instead of printing.", metavar="FILE"),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        "--figures",
        help="Write every chart into this folder, as pdf, svg and png, sized for a column of "
        "a paper; needs matplotlib (pip install 'dentbench[figures]').",
        metavar="DIR",
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--samples",
        help="Write one row per image, protocol and record into this file, .parquet or .csv: "
        "label, right or not, the attack that broke it, norms.",
        metavar="FILE",
    ),
]
Standalone = Annotated[
    bool, typer.Option("--standalone", help="latex: a whole document, which compiles.")
]
Fragment = Annotated[
    bool, typer.Option("--fragment", help="html: the table alone, for a page of your own.")
]
Cite = Annotated[
    bool,
    typer.Option("--cite", help=r"latex: \cite the sources; their entries: --bibtex."),
]
Bibtex = Annotated[
    bool, typer.Option("--bibtex", help="Print the BibTeX entries of --cite and end.")
]
ModelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Only this model, by name or its beginning; repeatable.", metavar="NAME"
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only records with this value in a column of results.csv, such as mode=batch, a "
        "range such as eps<=8/255 or n>=1000, or verdict=holds; repeatable.",
        metavar="COLUMN=VALUE",
    ),
]
Latest = Annotated[
    bool,
    typer.Option(
        "--latest/--all-rows",
        help="Of equal runs a single row with all results, or all rows.",
    ),
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        help="Two results.csv files or folders: which accuracies changed beyond the interval.",
        metavar="A.csv B.csv",
    ),
]
