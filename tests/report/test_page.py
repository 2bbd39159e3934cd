"""The page: self-contained, escaped, whole; and its layout in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import numpy as np
import pytest

from dentbench.records import examples, per_class
from dentbench.records.examples import Gallery
from dentbench.records.outcome import Record, column_names
from dentbench.records.per_class import Breakdown
from dentbench.records.safe_files import write_atomic
from dentbench.report import charts
from dentbench.report.formats import page
from dentbench.report.formats.page import to_page
from dentbench.report.formats.svg import described, to_svg
from dentbench.report.pairing import CHOSEN, pair_up
from dentbench.report.tables import records as tables
from dentbench.report.verdict import Kind
from tests.report.fixed_records import grid, long_named

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Page(HTMLParser):
    """A page as a browser sees it: elements, their attributes, and the texts."""

    EMPTY = {"meta", "img", "br", "link", "i"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert not [tag for tag in self.open if tag not in self.EMPTY]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def results(tmp_path: Path, records: list[Record]) -> Path:
    """A folder with the files of the seventh record's run: three classes, two images."""
    defended = records[6]
    run = tmp_path / "runs" / defended.key
    run.mkdir(parents=True)
    result = Breakdown(
        images=(200, 212, 100),
        right={
            "natural": (200, 205, 100),
            "published": (150, 152, 100),
            "transfer": (149, 150, 50),
            "worst": (149, 150, 50),
        },
        broken={"published": {"apgd-ce": (50, 50, 0), "apgd-t": (0, 3, 0)}, "transfer": {}},
        first={
            "natural": (0, 7, 0),
            "published": (50, 53, 0),
            "transfer": (1, 2, 50),
            "survives": (149, 150, 50),
        },
    )
    write_atomic(run / "breakdown.json", json.dumps(vars(result)))
    pictures = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    kept = Gallery(
        index=np.array([3, 5]),
        label=np.array([1, 2]),
        protocol=np.array(["transfer", "published"]),
        survives=np.array([False, True]),
        clean=pictures,
        adversarial=pictures,
        difference=pictures,
        blurred_clean=pictures[:0],
        blurred=pictures[:0],
        predicted=np.array([[1, 1, 0, 0], [2, 2, 2, 2]]),
        confidence=np.full((2, 4), 0.75, np.float32),
    )
    examples.save(tmp_path, defended.key, kept)
    return tmp_path


@pytest.fixture
def text(records: list[Record], results: Path) -> str:
    return to_page(records, [tables.all_records(records)], results)


def test_the_page_needs_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert not re.findall(r"https?://|url\(|@import", text)
    assert all(item["src"].startswith("data:image/png;base64,") for item in page.named("img"))
    (policy,) = [item for item in page.named("meta") if "http-equiv" in item]
    assert policy["content"].startswith("default-src 'none'")


def test_every_link_has_its_place_and_every_id_is_one(text: str) -> None:
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {item["href"].removeprefix("#") for item in page.named("a")} <= set(ids)


def test_every_picture_and_chart_is_told_in_words(text: str) -> None:
    page = Page(text)
    assert len(page.named("img")) == 6 and all(item["alt"] for item in page.named("img"))
    charts_ = page.named("svg")
    assert charts_ and all(item["role"] == "img" and item["aria-label"] for item in charts_)
    assert "static, attacked: 67.8% (347/512), 95% interval 63.6-71.7." in text


def test_headings_are_in_order_and_tables_have_heads(text: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(text).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(item["scope"] for item in Page(text).named("th"))


def test_the_verdicts_come_first_and_as_the_rule_says(text: str, records: list[Record]) -> None:
    first = text[: text.index("<svg viewBox")]
    said = html.unescape(re.sub(r"</?span[^>]*>", "", first))
    assert all(pair.verdict.sentence in said for pair in pair_up(records))
    broken = re.sub(r'<span class="option">--[a-z-]+</span>', "", first[first.index("<body>") :])
    assert "--" in said and "--" not in broken, "an option stays in one line"


def test_the_first_line_says_how_many_hold() -> None:
    def said(*kinds: Kind) -> str:
        verdicts: list[Any] = [SimpleNamespace(kind=kind) for kind in kinds]
        return page.answer(verdicts)

    assert said() == "" and said("holds") == "1 of 1 holds."
    assert said("holds", "holds") == "2 of 2 hold."
    mixed = said("undecided", "no gain", "holds", "weaker than static", "no gain")
    assert mixed == "1 of 5 hold: 1 weaker than static, 2 no gain, 1 undecided."


def test_every_verdict_has_a_sign_a_color_and_a_border_of_its_own(text: str) -> None:
    kinds = get_args(Kind)
    assert {*page.SIGNS} == {*kinds} and len(set(page.SIGNS.values())) == len(kinds)
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+);", part))
        for part in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    named = dict(re.findall(r"\.([a-z-]+) \.kind \{ color: var\(--(\w+)\); \}", style))
    named["undecided"] = "doubt"  # the color of every verdict that has no other
    assert {*named} == {kind.replace(" ", "-") for kind in kinds}
    for colors in (light, dark):
        assert len({colors[name] for name in named.values()}) == len(kinds)


def test_several_failed_checks_are_folded_below_their_names(
    records: list[Record], tmp_path: Path
) -> None:
    static, dent, *_ = records
    checks = {
        name: {"passed": False, "value": None, "sentence": f"{name} is wrong"} for name in "ab"
    }
    for number in (1, 2):
        some = json.dumps(dict([*checks.items()][:number]))
        page = to_page([static, replace(dent, checks=some)], [], tmp_path)
        assert page.count('<details class="check">') == number - 1
        assert f"Check {'ab'[number - 1]} failed: {'ab'[number - 1]} is wrong." in page
    assert "2 failed checks: a, b</summary>" in page


def test_names_are_never_markup(make_record: Callable[..., Record], tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\"'{{ 7 * 7 }} onload=x \u202e"
    static = make_record(1, 100, {"published": 50}, model=name, n=128, dataset=name)
    dent = {"mode": "instance", "steps": 6, "gained": 1, "lost": 0, "blur": "none"}
    defended = make_record(
        2, 99, {"published": 60, "transfer": 51}, model=name, n=128, dataset=name, **dent
    )
    actual = to_page([static, defended], [tables.all_records([static, defended])], tmp_path)
    page = Page(actual)
    assert not page.named("script") and "{{ 7 * 7 }}" in actual and "\u202e" not in actual
    assert not [names for _, names in page.tags if "onload" in names]


def test_without_a_defense_there_is_no_verdict(records: list[Record], tmp_path: Path) -> None:
    actual = to_page(records[:1], [tables.all_records(records[:1])], tmp_path)
    assert "No verdict" in actual and not Page(actual).named("svg")


# --- curves ---------------------------------------------------------------------------------------


def test_curves_are_the_series_that_differ_in_one_thing(records: list[Record]) -> None:
    pairs = pair_up([*records[:4], *grid(records)])
    (eps,), (steps,) = charts.over_eps(pairs), charts.over_steps(pairs)
    assert [text for _, text in eps.ticks] == ["0", "0.1", "0.15"]
    assert [text for _, text in steps.ticks] == ["1", "3", "6"]
    static, published, worst = eps.lines
    assert [share.count for _, share in static.points] == [505, 405, 347]
    assert [share.count for _, share in published.points] == [511, 411, 353]
    assert [share.count for _, share in worst.points] == [507, 407, 349]
    assert [line.role for line in steps.lines] == ["natural", "static", "published", "worst"]
    assert [share.count for _, share in steps.lines[2].points] == [348, 350, 353]


def test_every_column_is_either_chosen_or_found(records: list[Record]) -> None:
    actual = {
        *("schema", "key", "time", "n", "seconds", "device", "versions", "git_revision"),
        *(
            name
            for name in column_names()
            if name.startswith(("natural_", "robust_", "by_", "passes"))
        ),
    }
    assert set(column_names()) >= CHOSEN and not actual & CHOSEN


def test_one_pair_stands_for_all_of_its_series(records: list[Record]) -> None:
    shown = charts.shown_pairs(pair_up(grid(records)))
    assert [(pair.defended.eps, pair.defended.steps) for pair in shown] == [("0.15", 6)]


def test_a_chart_says_what_it_draws(records: list[Record]) -> None:
    (chart,) = charts.over_eps(pair_up(grid(records)))
    assert "static, attacked: 98.6% (505/512) at eps (Linf) 0, " in described(chart)
    drawn = to_svg(chart)
    assert drawn.count("<polyline") == 3 and drawn.count("NaN") == 0


def test_published_numbers_are_marked_only_where_they_may_be_compared(
    records: list[Record],
) -> None:
    by_key = {pair.defended.key: charts.accuracies(pair) for pair in pair_up(records)}
    carmon = by_key[records[1].key]
    assert [bar.published for bar in carmon.bars] == [89.7, 89.3, 59.5, 82.3, None]
    assert not [bar.published for bar in by_key[records[8].key].bars if bar.published]


# --- what a run kept ------------------------------------------------------------------------------


def test_the_breakdown_and_the_images_are_on_the_page(text: str) -> None:
    assert "First to break each image" in text and "wrong before: 1.4% (7/512)" in text
    assert ">survives all</text>" in text and "fell to transfer" in text
    assert "Image 3, class 1" in text and "0, 75% wrong" in text


def test_a_damaged_breakdown_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "k"
    run.mkdir(parents=True)
    (run / "breakdown.json").write_text('{"images": 3}')
    with pytest.raises(Exception, match="is not one of dentbench's"):
        per_class.load(tmp_path, "k")
    (run / "gallery.npz").write_text("no archive")
    with pytest.raises(Exception, match=r"gallery.npz cannot be read"):
        examples.load(tmp_path, "k")


# --- a real browser -------------------------------------------------------------------------------

PROBE = """<!DOCTYPE html><meta charset="utf-8">
<iframe style="width:%dpx;height:900px;border:0" srcdoc="%s"></iframe>
<pre id="found">nothing</pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(
    (element) => !element.closest(".scroll, svg, details, .skip")
      && element.getBoundingClientRect().right > frame.clientWidth + 1);
  const small = [...page.querySelectorAll("svg text")].filter(
    (element) => parseFloat(getComputedStyle(element).fontSize)
      * element.ownerSVGElement.getBoundingClientRect().width / 360 < 8);
  const cut = [...page.querySelectorAll("svg text")].filter((element) => {
    const inside = element.getBoundingClientRect();
    const around = element.ownerSVGElement.getBoundingClientRect();
    return inside.left < around.left - 1 || inside.right > around.right + 1;
  });
  document.querySelector("#found").textContent = JSON.stringify({
    overflow: root.scrollWidth - frame.clientWidth,
    wide: wide.map((element) => element.outerHTML.slice(0, 120)),
    small: small.length,
    cut: cut.map((element) => element.textContent),
    charts: [...page.querySelectorAll("svg")].filter((element) => element.clientHeight > 50).length,
    pictures: [...page.images].filter((element) => element.naturalWidth > 0).length,
    focusable: page.querySelectorAll("a[href], summary, [tabindex='0']").length,
  });
};
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(text: str, tmp_path: Path, width: int) -> None:
    actual = in_a_browser(text, tmp_path, width)
    assert actual["wide"] == actual["cut"] == [] and actual["overflow"] <= 0
    assert actual["small"] == 0 and actual["pictures"] == 6
    assert actual["charts"] == len(Page(text).named("svg")) and actual["focusable"] > 3


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_long_names_in_a_browser(tmp_path: Path) -> None:
    records = long_named()
    text = to_page(records, [tables.all_records(records)], tmp_path)
    actual = in_a_browser(text, tmp_path, 390)
    assert actual["wide"] == actual["cut"] == [] and actual["overflow"] <= 0


def in_a_browser(text: str, tmp_path: Path, width: int) -> dict[str, Any]:
    """A browser's answers to PROBE on a page of a width."""
    path = tmp_path / "probe.html"
    path.write_text(PROBE % (width, html.escape(text)), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match is not None
    result: dict[str, Any] = json.loads(html.unescape(match[1]))
    return result


class Nesting(HTMLParser):
    """Collects, for every table, the classes of the elements around it."""

    VOID: ClassVar = {"meta", "link", "img", "br", "hr", "input", "path", "line", "circle", "rect"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, set[str]]] = []
        self.around_tables: list[set[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = set((dict(attrs).get("class") or "").split())
        if tag == "table":
            self.around_tables.append({name for _, names in self.open for name in names})
        if tag not in self.VOID:
            self.open.append((tag, classes))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass


PHONE = 390
"""Pixels that a phone's page is wide."""


def test_nothing_is_wider_than_a_phone_but_what_scrolls(text: str) -> None:
    """A browser's measurements, by the page's structure and its style alone."""
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.around_tables
    assert all(around & {"scroll", "specimen"} for around in nesting.around_tables)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    style = text[text.index("<style>") : text.index("</style>")]
    rules = dict(re.findall(r"([^{}]+)\{([^{}]*)\}", style))
    body = next(rule for name, rule in rules.items() if name.strip().endswith("body"))
    assert "overflow-wrap: anywhere" in body  # a long name breaks
    assert "overflow-x: auto" in next(r for n, r in rules.items() if n.strip().endswith(".scroll"))
    fixed = re.findall(r"(?<![-\w])(?:min-)?width:\s*([\d.]+)(rem|em|px)", style)
    widths = [float(size) * (1 if unit == "px" else 16) for size, unit in fixed]
    assert widths and max(widths) < PHONE / 2
    assert "minmax(min(" in style and not re.search(r"minmax\(\d", style)
