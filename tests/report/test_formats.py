"""Every format of every table against a golden file that was read by eye.

To renew the files after a deliberate change, delete them and run the tests: a missing file is
written and its test fails once.
"""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from tabulate import tabulate

from dentbench.errors import SpecError
from dentbench.records.outcome import Record
from dentbench.report.formats import latex, latex_text
from dentbench.report.formats.latex import LONG
from dentbench.report.formats.page import to_page
from dentbench.report.formats.render import FORMATS, render
from dentbench.report.formats.terminal import print_table
from dentbench.report.numbers import Paired, Points, Share
from dentbench.report.table import Cell, Column, Table
from dentbench.report.tables import records as tables
from dentbench.report.tables.compare import compare
from dentbench.stats import percent_text
from tests.report.fixed_records import DENT, check, coupled, make

SUFFIX = {"markdown": "md", "latex": "tex", "csv": "csv", "json": "json", "html": "html"}


def batch_mates(records: list[Record]) -> Table:
    """The table of batch mates of a record that has them."""
    return tables.batch_mates([*records, coupled(make)])


def natural(records: list[Record]) -> Table:
    """The table of natural accuracy: two corruptions without and with dent, and no corruption."""
    names = ("CIFAR-10-C fog, severity 3", "CIFAR-10-C snow, severity 3", "CIFAR-10 (test)")
    plain = {"attack": "none", "attack_label": "no attack: natural accuracy alone", "n": 200}
    plain |= {"protocol": "", "by_protocol": "{}", "count": 200}
    result = [
        make(10 * number + bool(dent), 150 + number, {"none": 0}, dataset=name, **plain, **dent)
        for number, name in enumerate(names)
        for dent in ({}, {**DENT, "gained": 0, "lost": 0})
    ]
    return tables.natural(result)


TABLES = {
    "table1": tables.table1,
    "table2": tables.table2,
    "readme": tables.readme,
    "protocols": tables.protocols,
    "batch-mates": batch_mates,
    "natural": natural,
    "all": tables.all_records,
}
HOSTILE = "\\{}_%&#$~^|<>\"'`[]*--,,=é中\u202e\x1b[31m\n\t\ud800"
TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from(HOSTILE), max_size=20)


def in_terminal(table: Table, width: int = 80) -> str:
    text = StringIO()
    print_table(table, Console(file=text, width=width, no_color=True))
    return text.getvalue()


@pytest.mark.parametrize("form", [*FORMATS, "terminal"])
@pytest.mark.parametrize("name", TABLES)
def test_golden(records: list[Record], name: str, form: str) -> None:
    table = TABLES[name](records)
    text = in_terminal(table) if form == "terminal" else render(table, form)
    check(f"{name}.{SUFFIX.get(form, 'txt')}", text)


def test_golden_documents(records: list[Record]) -> None:
    check("table1.document.tex", render(tables.table1(records), "latex", standalone=True))
    cited = render(tables.protocols(records), "latex", standalone=True, cite=True)
    check("protocols.cited.tex", cited)


def test_golden_page(records: list[Record]) -> None:
    check("page.html", to_page(records, [tables.table1(records)], Path("results")))


def test_golden_comparison(records: list[Record], make_record: Callable[..., Record]) -> None:
    changed = [replace(records[1], by_protocol='{"published": 8000, "transfer": 5963}')]
    other = make_record(30, 100, {"published": 50}, model="Another", n=200)
    actual = compare(records, [*changed, other], (Path("old.csv"), Path("new.csv")))
    check("compare.txt", in_terminal(actual))
    check("compare.md", render(actual, "markdown"))


def test_of_many_runs_that_one_file_alone_has_the_newest_are_named(
    make_record: Callable[..., Record],
) -> None:
    many = [make_record(number, 90, {"published": 50}, model=f"m{number}") for number in range(30)]
    actual = compare(many, [], (Path("old.csv"), Path("new.csv")))
    note = actual.notes[-1]
    assert note.startswith("Only in old.csv: 10 more; m10, ") and note.count("; m") == 20


def test_every_citation_has_an_entry(records: list[Record]) -> None:
    keys = set(re.findall(r"@\w+\{(\w+),", latex.bibliography()))
    assert set(latex_text._CITED.values()) == keys
    text = render(tables.protocols(records), "latex", cite=True)
    assert set(re.findall(r"\\cite\{(\w+)\}", text)) <= keys and text.count(r"\cite") == 3


def test_no_citation_stands_in_a_name(records: list[Record]) -> None:
    """A user's model, data and defense keep their names, whatever source they are called after."""
    names = {"model": "AutoAttackResNet18", "dataset": "AutoAttack faces"}
    own = {"defense": "arXiv 2105.08714", "mode": "other", "defense_settings": "{}"}
    renamed = [
        replace(record, **names, **(own if record.mode != "static" else {})) for record in records
    ]
    for name, table_of in TABLES.items():
        plain, text = (render(table_of(renamed), "latex", cite=cite) for cite in (False, True))
        for kept in (*names.values(), "arXiv 2105.08714 &", "arXiv 2105.08714 ("):
            assert text.count(kept) == plain.count(kept), name


def test_golden_summary(records: list[Record]) -> None:
    check("summary.txt", in_terminal(tables.summary(records[5], records[6])))


def small(*texts: str, rows: int = 2, stub: int = 0) -> Table:
    columns = [Column(text, "right", "both" if place else "") for place, text in enumerate(texts)]
    cells = [[Cell(text, (text,)) for text in texts] for _ in range(rows)]
    return Table.of(texts[0], columns, cells, caption=texts[-1], notes=texts, stub=stub)


def brace_depth(text: str) -> int:
    """Return the depth at the end, with escaped braces taken out; fail where it is negative."""
    depth = 0
    for char in re.sub(r"\\[{}\\]", "", text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    return depth


def check_latex(text: str) -> None:
    """Check braces, environments, cells per row and that no raw special character is left."""
    assert brace_depth(text) == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    tables = r"\\begin\{tabular\}\{(.*?)\}\n\\toprule(.*?)\\bottomrule"
    for preamble, body in re.findall(tables, text, re.DOTALL):
        columns = len(re.sub(r">\{.*?\}p\{\d+em\}", "l", preamble))
        for line in body.splitlines():
            if line.endswith(r"\\"):
                spans = [int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line)]
                assert len(re.findall(r"(?<!\\)&", line)) + sum(spans) == columns - 1
    assert all(char < "\x7f" or "\xc0" <= char <= "\xff" or char == "\n" for char in text)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("standalone", [False, True])
def test_latex_structure(records: list[Record], name: str, standalone: bool) -> None:
    table = TABLES[name](records)
    text = render(table, "latex", standalone=standalone)
    check_latex(text)
    assert text.count(r"\begin{document}") == standalone
    assert "siunitx" not in text and text.count(r"\toprule") == text.count(r"\bottomrule")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex is installed")
@pytest.mark.parametrize("name", TABLES)
def test_latex_compiles_onto_its_pages(records: list[Record], name: str, tmp_path: Path) -> None:
    own = "my_research_package.models.wide_resnet:make_adversarially_trained_wide_resnet_28_10"
    changed = {"model": own, "model_sha256": "1" * 64}
    named = [replace(record, **changed) for record in records[:3]]
    table = TABLES[name]([*records, *named])
    (tmp_path / "t.tex").write_text(render(table, "latex", standalone=True, cite=True))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "t.log").read_text(encoding="latin-1")
    assert not re.findall("Overfull.*|Float too large.*|Missing character.*", log)


@given(st.lists(TEXT, min_size=2, max_size=4), st.sampled_from([1, LONG + 1]), st.integers(0, 2))
def test_latex_of_hostile_names(texts: list[str], rows: int, stub: int) -> None:
    check_latex(render(small(*texts, rows=rows, stub=stub), "latex"))


def test_latex_escapes_every_special_character() -> None:
    text = render(Table.of("t", [Column("c")], [["\\{}_%&#$~^--,,[*"]]), "latex")
    assert (
        r"\textbackslash{}\{\}\_\%\&\#\$\textasciitilde{}\textasciicircum{}-{}-,{},{[}{*} \\"
    ) in text


HTML_TAGS = {
    "span",
    "figure",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "sup",
    "p",
    "figcaption",
}


class Tags(html.parser.HTMLParser):
    """Collects the elements that a browser would see and fails on unbalanced elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.lists(TEXT, min_size=2, max_size=4), st.integers(0, 2))
def test_html_of_hostile_names(texts: list[str], stub: int) -> None:
    page = Tags(render(small(*texts, stub=stub), "html"))
    assert page.seen <= HTML_TAGS


def test_html_never_runs_a_name() -> None:
    name = '<script>alert(1)</script>" onload="x'
    page = Tags(render(small(name, name), "html"))
    assert "script" not in page.seen and name in page.texts


@given(st.lists(st.lists(st.text("ab1.%é", max_size=9), min_size=3, max_size=3), max_size=5))
def test_markdown_is_laid_out_as_by_tabulate(rows: list[list[str]]) -> None:
    sides = ("left", "right", "center")
    columns = [Column(f"{side} side", side) for side in sides]
    shown = render(Table.of("title", columns, rows), "markdown").split("\n\n")[1].rstrip("\n")
    titles = [column.title for column in columns]
    assert shown == tabulate(rows, titles, tablefmt="pipe", colalign=sides, disable_numparse=True)


@given(st.lists(TEXT, min_size=2, max_size=4), st.integers(0, 2))
def test_markdown_of_hostile_names(texts: list[str], stub: int) -> None:
    lines = render(small(*texts, stub=stub), "markdown").split("\n")
    grid = [line for line in lines if line.startswith("|")]
    assert len(grid) == 4
    for line in grid:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(texts) + 1
    assert not [line for line in lines if "<" in line]


@given(st.lists(TEXT, min_size=2, max_size=4), st.integers(0, 2), st.integers(20, 100))
def test_terminal_of_hostile_names(texts: list[str], stub: int, width: int) -> None:
    text = in_terminal(small(*texts, stub=stub), width)
    assert "\x1b" not in text and "\u202e" not in text
    assert all(cell_len(line) <= width for line in text.split("\n"))


def test_terminal_markup_in_names_is_text() -> None:
    assert "[bold]x[/bold]" in in_terminal(small("[bold]x[/bold]", "b"))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
@pytest.mark.parametrize("name", TABLES)
def test_terminal_width(records: list[Record], name: str, width: int) -> None:
    text = in_terminal(TABLES[name](records), width)
    assert max(map(cell_len, text.split("\n"))) <= width
    assert "Carmon2019Unlabeled" in text or name == "table2"


@pytest.mark.parametrize(("width", "beside"), [(40, False), (50, False), (60, True), (160, True)])
def test_terminal_remarks_without_room_stand_below_once(width: int, beside: bool) -> None:
    about = "the newest adapted network is attacked as a fixed one, again and again, in rounds"
    columns = Column("model"), Column("protocol"), Column("right"), Column("done", remark=True)
    rows = [[model, "fpa", "88.6% (443/500)", about] for model in ("first", "second")]
    lines = in_terminal(Table.of("Protocols", columns, rows, stub=1), width).split("\n")
    assert sum("fpa" in line and "443" in line for line in lines) == 2
    assert any("443" in line and "newest" in line for line in lines) is beside
    assert sum(line.startswith("fpa: the newest") for line in lines) == (not beside)


def test_terminal_limit(records: list[Record]) -> None:
    text = StringIO()
    console = Console(file=text, width=80, no_color=True)
    print_table(tables.all_records(records), console, limit=2)
    assert "The last 2 rows; 17 older ones" in text.getvalue()
    assert "Ding2020MMA" not in text.getvalue()


def test_csv_is_safe_and_marked(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(render(tables.all_records(records), "csv"))))
    assert len(rows) == len(records)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in set("=+@\t")]
    assert rows[1]["robust transfer"] == "59.63" and rows[1]["minus static"] == "0.1"
    assert rows[6]["notes"] == records[6].attack_label and rows[0]["notes"] == ""


def test_json_has_numbers_and_texts(records: list[Record]) -> None:
    value = json.loads(render(tables.all_records(records), "json"))
    row = value["rows"][1]
    assert row["worst"] == {
        "percent": 59.63,
        "count": 5963,
        "total": 10000,
        "low": pytest.approx(58.665, abs=1e-3),
        "high": pytest.approx(60.588, abs=1e-3),
        "text": "59.6% (5963/10000)",
    }
    assert row["minus static"]["gained"] == 33 and row["model"] == "Carmon2019Unlabeled"
    assert value["rows"][6]["worst"]["notes"] == [records[6].attack_label]
    assert list(row) == value["columns"]


def test_numbers_are_written_one_way() -> None:
    assert str(Share(76, 128)) == "59.4% (76/128)" and str(Share(0, 0)) == "no images"
    assert percent_text(4, 64) == "6.3%" and percent_text(0, 0) == "0.0%"
    assert str(Share(76, 128).interval) == "50.7-67.5"
    assert [str(Points(x)) for x in (1.55, -0.04, 0.0, -3)] == ["+1.6", "0.0", "0.0", "-3.0"]
    assert str(Paired(3, 1, 128)) == "+1.6 (+3 -1, p = 0.62)"


def test_footnote_marks_go_past_z() -> None:
    table = Table.of("t", [Column("c")], [[Cell(n, (f"note {n}",))] for n in range(28)])
    assert [*table.footnotes.values()][24:] == ["y", "z", "aa", "ab"]


def test_what_is_refused(records: list[Record]) -> None:
    table = tables.table1(records)
    with pytest.raises(SpecError, match="format is 'pdf'; allowed: markdown, latex"):
        render(table, "pdf")
    with pytest.raises(SpecError, match="standalone and cite are of format latex, not csv"):
        render(table, "csv", standalone=True)
    with pytest.raises(ValueError, match="row 0 of 't' has 2 cells for 1 columns"):
        Table.of("t", [Column("c")], [[1, 2]])


def test_a_tabular_is_as_pandas_writes_it() -> None:
    """Rows are joined by us, all else is pandas': it is what Styler writes of the whole table."""
    columns = [Column("a"), Column("b", "right", "both"), Column("c", "right", "both")]
    rows = [["x_1", Share(1, 2), Points(0.5)], ["y", None, Points(-1.0)]]
    table = Table.of("Title", columns, rows)
    frame = pd.DataFrame(
        [[r"x\_1", r"50.0\% (1/2)", "$+0.5$"], ["y", "", "$-1.0$"]],
        columns=latex._head(table.columns),
    )
    whole = frame.style.hide(axis="index").to_latex(
        column_format="lrr", hrules=True, multicol_align="c"
    )
    assert whole.strip() in render(table, "latex")


def test_natural_images_alone_have_no_column_of_corruptions() -> None:
    plain = {"attack": "none", "protocol": "", "by_protocol": "{}", "n": 200, "count": 200}
    table = tables.natural([make(1, 150, {"none": 0}, dataset="CIFAR-10 (test)", **plain)])
    titles = [column.title for column in table.columns]
    assert titles == ["model", "data set", "severity", "images", "static model"]
    assert len(table.rows[0]) == len(titles) and "corruption" not in table.caption
