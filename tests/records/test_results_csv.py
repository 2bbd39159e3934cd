"""The results file: exact round trips, one writer at a time, crashes, files that are not ours."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dentbench.errors import StoreError
from dentbench.records import csv_codec, results_csv, safe_files, sheet
from dentbench.records.counts import BY_PROTOCOL, IMAGES
from dentbench.records.csv_codec import CHOICES, LEAST
from dentbench.records.outcome import SCHEMA, Record, column_names
from tests import renew

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
INTEGERS = st.integers(-(2**70), 2**70)
STRATEGIES = {
    "int": INTEGERS,
    "int | None": st.none() | INTEGERS,
    "float": st.floats(allow_nan=False),
    "float | None": st.none() | st.floats(allow_nan=False),
    "bool": st.booleans(),
    "bool | None": st.none() | st.booleans(),
    "str": TEXT,
    "str | None": st.none() | TEXT,
}


COUNTS = st.dictionaries(TEXT, INTEGERS, max_size=2)
CHECK = st.fixed_dictionaries(
    {"passed": st.none() | st.booleans(), "value": st.none() | INTEGERS, "sentence": TEXT}
)
MEASURES = st.fixed_dictionaries({"images": INTEGERS, "flips": INTEGERS, "sigma": INTEGERS})
JSON: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(BY_PROTOCOL, st.dictionaries(TEXT, st.integers(0, 100), max_size=2)),
    "skipped": st.dictionaries(TEXT, TEXT, max_size=2),
    "versions": st.dictionaries(TEXT, TEXT, max_size=2),
    "checks": st.dictionaries(TEXT, CHECK, max_size=2),
    "diagnostics": st.dictionaries(TEXT, MEASURES, max_size=2),
    "batch_mates": st.fixed_dictionaries(
        {part: st.dictionaries(TEXT, COUNTS, max_size=2) for part in ("compositions", "invading")}
    ),
}


def is_json(column: Any) -> bool:
    return bool(column.metadata["doc"].endswith("JSON object"))


def strategy(column: Any) -> st.SearchStrategy[Any]:
    if column.name == "schema":
        return st.just(SCHEMA)
    if column.name in IMAGES:
        return st.none() | st.integers(0, 100) if "None" in column.type else st.integers(0, 100)
    if column.name in CHOICES:
        return st.sampled_from(CHOICES[column.name])
    if column.name == "n":
        return st.integers(100, 2**70)
    if column.name in LEAST:
        return st.integers(LEAST[column.name], 2**70)
    if column.name == "eps":
        return st.fractions(0).map(str)
    if is_json(column):
        return JSON.get(column.name, st.dictionaries(TEXT, INTEGERS, max_size=2)).map(json.dumps)
    return STRATEGIES[column.type]


RECORDS = st.builds(Record, **{column.name: strategy(column) for column in fields(Record)})


def record(number: int = 1, **changes: Any) -> Record:
    """Return a record in which every column holds something of its type."""
    plain = {"int": number, "float": number / 3, "bool": True, "str": f"text {number}"}
    values = {
        column.name: "{}" if is_json(column) else plain[column.type.removesuffix(" | None")]
        for column in fields(Record)
    }
    values["batch_mates"] = '{"compositions": {}, "invading": {}}'
    values |= {name: least + number for name, least in LEAST.items()}
    values |= {"n": 100, "eps": "8/255", **{name: names[0] for name, names in CHOICES.items()}}
    return Record(**{**values, "schema": SCHEMA, "key": f"{number:016x}", **changes})


def path_in(folder: Path) -> Path:
    return folder / results_csv.RESULTS_FILE


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25, deadline=None)
@given(st.lists(RECORDS, max_size=3, unique_by=lambda record: record.key))
def test_records_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, records: Any) -> None:
    folder = tmp_path_factory.mktemp("results")
    for item in records:
        assert results_csv.append(folder, item)
    back = results_csv.read(folder)
    assert back == records
    assert [[type(v) for v in vars(r).values()] for r in back] == [
        [type(v) for v in vars(r).values()] for r in records
    ]
    lines = path_in(folder).read_bytes().split(b"\n") if records else [b""]
    assert len(lines) == len(records) + 1 + bool(records)  # one physical line per row


@given(TEXT)
def test_escaped_text_is_no_formula_and_comes_back(text: str) -> None:
    cell = csv_codec.escape(text)
    assert csv_codec.unescape(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", " "))
    assert cell.isprintable() or cell == text
    cell.encode()


def test_formulas_in_names_are_escaped_in_the_file(tmp_path: Path) -> None:
    names = ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\tx", "'quoted", "a,b", 'say "no"']
    for number, name in enumerate(names):
        results_csv.append(tmp_path, record(number, model=name, dataset=name))
    with path_in(tmp_path).open(newline="") as file:
        cells = [row["model"] for row in csv.DictReader(file)]
    assert not [cell for cell in cells if cell[0] in "=+-@\t"]
    assert cells[0] == "'=1+1" and cells[-2:] == names[-2:]
    assert [item.model for item in results_csv.read(tmp_path)] == names


def test_the_header_is_written_once(tmp_path: Path) -> None:
    assert results_csv.append(tmp_path / "new" / "folder", record(1))
    assert results_csv.append(tmp_path / "new" / "folder", record(2))
    lines = path_in(tmp_path / "new" / "folder").read_text().splitlines()
    assert lines[0] == ",".join(column_names()) and len(lines) == 3


def test_an_equal_record_is_not_added_again(tmp_path: Path) -> None:
    first = record(1, protocol="published transfer")
    assert results_csv.append(tmp_path, first)
    before = path_in(tmp_path).read_bytes()
    assert not results_csv.append(
        tmp_path, replace(first, time="later", seconds=9.0, device="cuda")
    )
    assert not results_csv.append(tmp_path, replace(first, protocol="transfer published"))
    assert path_in(tmp_path).read_bytes() == before
    assert results_csv.append(tmp_path, replace(first, protocol="published transfer fpa"))
    assert results_csv.append(
        tmp_path, replace(first, robust_correct=7)
    )  # other counts: another finding
    assert results_csv.append(tmp_path, replace(first, key="f" * 16))
    assert len(results_csv.read(tmp_path)) == 4


CHANGED = {
    "by_protocol": '{"published": 1, "transfer": 2}',
    "budgets": '{"published": {"passes": 1}}',
    "skipped": '{"fpa": "no adapt"}',
    "static_by_protocol": '{"published": 3}',
    "by_batch": '{"natural": [1]}',
    "autoattack_correct": 77,
    "static_checks": '{"modes": 1}',
}


@pytest.mark.parametrize("name", CHANGED)
def test_whatever_was_found_otherwise_is_another_row(tmp_path: Path, name: str) -> None:
    first = record(1, protocol="published transfer")
    assert results_csv.append(tmp_path, first)
    changed = replace(first, **{name: CHANGED[name]})
    assert results_csv.append(tmp_path, changed)
    assert not results_csv.append(tmp_path, replace(changed, time="later", source='{"model": "a"}'))


def test_the_order_in_an_object_is_no_finding(tmp_path: Path) -> None:
    first = record(1, by_protocol='{"published": 1, "transfer": 2}')
    assert results_csv.append(tmp_path, first)
    turned = replace(first, by_protocol='{"transfer": 2, "published": 1}')
    assert not results_csv.append(tmp_path, turned)


WRITER = """
import sys
sys.path.insert(0, {root!r})
from dentbench.records import csv_codec, results_csv, safe_files, sheet
from dentbench.records.outcome import Record
records = results_csv.read({seed!r})
start = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
from dataclasses import replace
for number in range(start, start + 50):
    assert results_csv.append({folder!r}, replace(records[0], key=f"{{number:016x}}"))
"""


def test_two_processes_append_together(tmp_path: Path) -> None:
    results_csv.append(tmp_path / "seed", record(1))
    code = WRITER.format(
        root=str(Path(results_csv.__file__).parents[2]),
        seed=str(tmp_path / "seed"),
        folder=str(tmp_path / "out"),
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in (1000, 2000)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("\n", timeout=300)
        assert writer.returncode == 0
    keys = [int(item.key, 16) for item in results_csv.read(tmp_path / "out")]
    assert sorted(keys) == [*range(1000, 1050), *range(2000, 2050)]


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_last_line_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    results_csv.append(tmp_path, record(1))
    whole = path_in(tmp_path).read_bytes()
    results_csv.append(tmp_path, record(2))
    torn = path_in(tmp_path).read_bytes()[len(whole) :][:left]
    path_in(tmp_path).write_bytes(whole + torn)

    assert results_csv.read(tmp_path) == [record(1)]
    assert "incomplete" in caplog.text and path_in(tmp_path).read_bytes() == whole + torn
    assert results_csv.append(tmp_path, record(2)) and results_csv.append(tmp_path, record(3))
    assert results_csv.read(tmp_path) == [record(1), record(2), record(3)]
    assert (tmp_path / "results.csv.torn").read_bytes() == torn + b"\n"
    assert "results.csv.torn" in caplog.text


def test_a_torn_header_and_an_empty_file_start_anew(tmp_path: Path) -> None:
    path_in(tmp_path).write_bytes(b"")
    assert results_csv.read(tmp_path) == [] and results_csv.append(tmp_path, record(1))
    path_in(tmp_path).write_bytes(b"schema,key,ti")
    assert results_csv.read(tmp_path) == [] and results_csv.append(tmp_path, record(1))
    assert results_csv.read(tmp_path) == [record(1)]


def edited(folder: Path, old: str, new: str) -> bytes:
    """Write a results file of two records with a text replaced and return its bytes."""
    results_csv.append(folder, record(1))
    results_csv.append(folder, record(2))
    data = path_in(folder).read_bytes().replace(old.encode(), new.encode())
    path_in(folder).write_bytes(data)
    return data


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema,key", "a,b", "is not a results file of dentbench"),
        (",natural_correct", ",natural", "header of .* was changed .*'natural'"),
        (",natural_correct", "", "header of .* was changed .*'robust_correct'"),
        ("key,time", "time,key", "header of .* was changed .*'time'"),
        (",git_revision", ",git_revision,extra", "header of .* was changed .*'extra'"),
        (f"\n{SCHEMA},", f"\n{SCHEMA + 1},", rf"\(schema {SCHEMA + 1}, this one knows {SCHEMA}\)"),
        ("schema,key", "schéma,key", "is not a results file"),
    ],
)
def test_a_file_that_is_refused_is_left_as_it_is(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    data = edited(tmp_path, old, new)
    for call in (
        lambda: results_csv.append(tmp_path, record(3)),
        lambda: results_csv.read(tmp_path),
    ):
        with pytest.raises(StoreError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert path_in(tmp_path).read_bytes() == data


def test_a_file_saved_in_another_encoding_is_refused_and_left(tmp_path: Path) -> None:
    results_csv.append(tmp_path, record(1, model="M\xfcller"))
    text = path_in(tmp_path).read_text(encoding="utf-8")
    for encoding, words in (
        ("latin-1", r"\(line 2 is not UTF-8 text; save the file as UTF-8\), so it is left"),
        ("utf-16", "it is UTF-16 text, not UTF-8"),
    ):
        path_in(tmp_path).write_bytes(text.encode(encoding))
        with pytest.raises(StoreError, match=words):
            results_csv.read(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"name;value\n1;2", b"\n\n", b'"open\n', b"x"])
def test_foreign_bytes_are_refused_and_left(tmp_path: Path, data: bytes) -> None:
    path_in(tmp_path).write_bytes(data)
    with pytest.raises(StoreError, match="not a results file of dentbench"):
        results_csv.append(tmp_path, record(1))
    with pytest.raises(StoreError, match="not a results file of dentbench"):
        results_csv.read(tmp_path)
    assert path_in(tmp_path).read_bytes() == data


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",true,", ",TRUE,", "line 2: nesterov is 'TRUE'; allowed: true or false, or nothing"),
        (",8/255,", ",banana,", "line 2: eps is 'banana'; allowed: a fraction or a number"),
        ("8/255,2,", "8/255,0,", "line 2: batch_size is '0'; allowed: a whole number from 1"),
        (",Linf,", ",L9,", "line 2: norm is 'L9'; allowed: Linf or L2 or L1"),
        (",static,", ",foo,", "line 2: mode is 'foo'; allowed: static or batch or"),
        ("text 2,text 2", "text 2", "line 3 has"),
        ("{}", "[]", r"is '\[\]'; allowed: a JSON object"),
        ("text 1", "'\\x", "line 2"),
        (f"\n{SCHEMA},", "\none,", "line 2: schema is 'one'"),
    ],
)
def test_a_broken_cell_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    edited(tmp_path, old, new)
    with pytest.raises(StoreError, match=message):
        results_csv.read(tmp_path)


def test_an_older_schema_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results_csv.append(tmp_path, record(1))
    with path_in(tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = ("lost", "seconds", "git_revision")
    names = [name for name in column_names() if name not in lacking]
    with path_in(tmp_path).open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    before = path_in(tmp_path).read_bytes()
    monkeypatch.setattr(sheet, "SCHEMA", SCHEMA + 1)

    old = replace(record(1), lost=None, seconds=None, git_revision="")  # type: ignore[arg-type]
    assert results_csv.read(tmp_path) == [old]
    assert results_csv.append(tmp_path, record(2, schema=SCHEMA + 1))
    assert results_csv.read(tmp_path) == [old, record(2, schema=SCHEMA + 1)]
    assert path_in(tmp_path).read_text().splitlines()[0] == ",".join(column_names())
    assert (tmp_path / f"results.csv.schema-{SCHEMA}").read_bytes() == before


def test_every_backup_of_an_older_file_is_kept(tmp_path: Path) -> None:
    for number in range(2):
        path_in(tmp_path).write_text(f"schema,key,protocol\n1,{number},published\n")
        assert results_csv.append(tmp_path, record(number))
    kept = [tmp_path / f"results.csv.schema-1{end}" for end in ("", ".1")]
    assert [path.read_text().splitlines()[1][2] for path in kept] == ["0", "1"]


def test_schema_is_raised_with_the_columns() -> None:
    known = json.loads(renew.COLUMNS.read_text())
    assert not renew.what_to_do(renew.COLUMNS, renew.columns(), known)


@pytest.mark.parametrize("change", ["a new one", "another type", "another order"])
def test_a_change_of_columns_is_noticed(change: str) -> None:
    known = renew.columns()
    now: dict[str, str] = dict(known["columns"])
    if change == "a new one":
        now["new"] = "int | None"
    elif change == "another type":
        now["seed"] = "str"
    else:
        now = dict(reversed(now.items()))
    asked = renew.what_to_do(renew.COLUMNS, {"schema": SCHEMA, "columns": now}, known)
    assert asked.startswith("the columns changed: raise SCHEMA")
    raised = {"schema": SCHEMA + 1, "columns": now}
    assert "python -m tests.renew columns" in renew.what_to_do(renew.COLUMNS, raised, known)


def test_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    edited(tmp_path, "\n", "\r\n")
    assert results_csv.read(tmp_path) == [record(1), record(2)]
    assert results_csv.append(tmp_path, record(3)) and len(results_csv.read(tmp_path)) == 3


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no results folder"):
        results_csv.read(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        results_csv.append(tmp_path / "file", record(1))
    with pytest.raises(StoreError, match=r"cannot write .*: "):
        results_csv.append(tmp_path / "file" / "deeper", record(1))
    path_in(tmp_path).mkdir()
    with pytest.raises(StoreError, match=r"cannot read .*: it is a folder"):
        results_csv.read(tmp_path)


def test_a_lock_that_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_csv, "LOCK_SECONDS", 0.01)
    with (
        FileLock(f"{path_in(tmp_path)}.lock"),
        pytest.raises(StoreError, match="another process has held"),
    ):
        results_csv.append(tmp_path, record(1))


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results_csv.append(tmp_path, record(1))
    before = path_in(tmp_path).read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        results_csv.append(tmp_path, record(2))
    with pytest.raises(StoreError, match="No space left on device"):
        safe_files.write_atomic(path_in(tmp_path), "new")
    assert path_in(tmp_path).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.csv.lock"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room, and the same command goes on: what was finished is kept"),
        (errno.EFBIG, "raise the limit of a file's size"),
        (errno.EROFS, "choose a folder that can be written"),
    ],
)
def test_what_cannot_be_written_says_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StoreError, match=words), safe_files.explained("write", tmp_path / "a"):
        raise OSError(number, "no")
    with pytest.raises(StoreError) as caught, safe_files.explained("read", tmp_path / "a"):
        raise OSError(number, "no")
    assert words not in str(caught.value)


def test_write_atomic(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    safe_files.write_atomic(target, "é\r\n")
    assert target.read_bytes() == "é\r\n".encode()
    target.chmod(0o640)
    link.symlink_to(target)
    safe_files.write_atomic(link, b"\x00new")
    assert link.is_symlink() and target.read_bytes() == b"\x00new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]
    with pytest.raises(StoreError, match=r"cannot write .*: there is no folder"):
        safe_files.write_atomic(tmp_path / "missing" / "file", "x")


def test_values_of_wrong_types_never_reach_the_file(tmp_path: Path) -> None:
    for wrong in ({"n": 1.5}, {"model": 3}, {"nesterov": "yes"}, {"seconds": "long"}):
        with pytest.raises((TypeError, KeyError, ValueError)):
            results_csv.append(tmp_path, record(1, **wrong))
    assert not path_in(tmp_path).exists()


def test_reading_loads_nothing_heavy() -> None:
    code = (
        "import sys, dentbench.records.results_csv; "
        "print([m for m in ('torch', 'pandas', 'numpy', 'filelock', 'rich') if m in sys.modules])"
    )
    root = str(Path(results_csv.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("by_protocol", '{"published": "many"}'),
        ("by_protocol", '{"published": true}'),
        ("checks", '{"repeatable": {"passed": true}}'),
        ("checks", '{"repeatable": []}'),
        ("diagnostics", '{"natural": {"images": 3}}'),
        ("batch_mates", '{"compositions": {}}'),
        ("skipped", '{"eot": 3}'),
    ],
)
def test_json_that_does_not_hold_what_its_column_does_is_named(
    tmp_path: Path, column: str, text: str
) -> None:
    results_csv.append(tmp_path, record(1, **{column: text}))
    with pytest.raises(StoreError, match=f"line 2: {column} is"):
        results_csv.read(tmp_path)


def test_old_rows_call_protocols_by_their_present_names(tmp_path: Path) -> None:
    """Until schema 4, Square on scores was called decision; new rows mean what they say."""
    named = {
        "protocol": "published decision",
        "worst_protocol": "decision",
        "by_protocol": json.dumps({"published": 60, "decision": 50}),
        "passes": json.dumps({"decision": 7}),
    }
    rows = record(1, **named, schema=3), record(2, **named)
    for row in rows:
        results_csv.append(tmp_path, row)
    before = path_in(tmp_path).read_bytes()
    was, now = results_csv.read(tmp_path)
    assert now == rows[1]
    assert was.protocol_counts == {"published": 60, "scores": 50}
    assert (was.protocol, was.worst_protocol) == ("published scores", "scores")
    assert was == replace(rows[0], **{k: v.replace("decision", "scores") for k, v in named.items()})
    assert path_in(tmp_path).read_bytes() == before, "reading changes nothing"


def test_dent_of_older_rows_adapts_batchnorm() -> None:
    old = results_csv.read(Path(__file__).parents[1] / "golden" / "results-0.1")
    assert {(item.mode, item.layers) for item in old} == {("static", None), ("batch", "batchnorm")}
    assert all((item.layers == "batchnorm") == (item.mode in ("batch", "instance")) for item in old)


REVISION = "46e99a0b12cd"


def test_a_last_row_without_its_line_end_is_a_row(tmp_path: Path) -> None:
    rows = [record(number, git_revision=REVISION) for number in (1, 2)]
    for row in rows:
        results_csv.append(tmp_path, row)
    path_in(tmp_path).write_bytes(path_in(tmp_path).read_bytes().rstrip(b"\n"))
    assert results_csv.read(tmp_path) == rows
    third = record(3, git_revision=REVISION)
    assert results_csv.append(tmp_path, third) and not results_csv.append(tmp_path, rows[1])
    assert results_csv.read(tmp_path) == [*rows, third]
    assert not list(tmp_path.glob("*.torn"))


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    results_csv.append(tmp_path, record(1))
    text = path_in(tmp_path).read_bytes().replace(b"\n", b"\r\n")
    path_in(tmp_path).write_bytes(b"\xef\xbb\xbf" + text)
    assert results_csv.append(tmp_path, record(2))
    assert results_csv.read(tmp_path) == [record(1), record(2)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"robust_correct": 13}, "line 3: robust_correct is 13 of 12 images"),
        ({"natural_correct": -1}, "line 3: natural_correct is -1 of 12 images"),
        ({"lost": 20}, "line 3: lost is 20 of 12 images"),
        ({"by_protocol": '{"transfer": 13}'}, "line 3: by_protocol, transfer is 13 of 12 images"),
    ],
)
def test_counts_that_cannot_be_are_told(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    results_csv.append(tmp_path, record(1))
    results_csv.append(tmp_path, replace(record(2, n=12), **changes))
    before = path_in(tmp_path).read_bytes()
    with pytest.raises(StoreError, match=words):
        results_csv.read(tmp_path)
    assert path_in(tmp_path).read_bytes() == before


def test_what_cannot_be_appended_to_is_refused_before_a_run(tmp_path: Path) -> None:
    results_csv.require_usable(tmp_path / "new")
    results_csv.append(tmp_path / "new", record(1))
    results_csv.require_usable(tmp_path / "new")
    file = tmp_path / "new" / "results.csv"
    before = file.read_bytes()
    for broken in (before.replace(b"schema", b"scheme", 1), b"a,b\n1,2\n"):
        file.write_bytes(broken)
        with pytest.raises(StoreError, match="left as it is"):
            results_csv.require_usable(tmp_path / "new")
        assert file.read_bytes() == broken
    (tmp_path / "folder" / "results.csv").mkdir(parents=True)
    with pytest.raises(StoreError, match="it is a folder"):
        results_csv.require_usable(tmp_path / "folder")
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*taken"):
        results_csv.require_usable(tmp_path / "taken")
