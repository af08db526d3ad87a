"""What is written is what is read, a record is kept as it was first written, a file is whole."""

import csv
import dataclasses
import math
import os
from pathlib import Path

import pytest

from experiments import anatomy_rows, records
from experiments.errors import DamagedError
from experiments.rows import TABLES, Convergence, Histogram, Landscape, Sharpness

SMALL = Path(__file__).parents[2] / "results" / "small"


def step(number, loss=1.0, algorithm="sgd", diverged=False):
    return Convergence("mlm", 0, algorithm, "1e-3", number, 1, loss, diverged)


def test_round_trip_is_exact(tmp_path):
    cell = ("mlm", "sgd", 0, 2, 1, "adam")
    rows = [
        step(1, 0.1 + 0.2),
        step(2, math.inf, diverged=True),
        Histogram(*cell, "update", -math.inf, -12.0, 2**40),
        Histogram(*cell, "update", 1.0, math.inf, 0),
        Landscape(*cell, 5e-324, 1 / 3),
    ]
    records.append(tmp_path, rows)
    read = [r for t in (Convergence, Histogram) for r in records.read(tmp_path, t)]
    assert read == rows[:4]
    assert records.read(tmp_path, Landscape) == rows[4:]
    records.append(tmp_path, [step(3, math.nan)])
    assert math.isnan(records.read(tmp_path, Convergence)[-1].loss)


def test_absent_table_is_empty(tmp_path):
    assert records.read(tmp_path, Sharpness) == []


def test_first_record_of_a_key_stays(tmp_path):
    records.append(tmp_path, [step(1, 1.0)])
    before = (tmp_path / "convergence.csv").read_bytes()
    records.append(tmp_path, [step(1, 2.0)])
    assert (tmp_path / "convergence.csv").read_bytes() == before


def test_order_of_writing_does_not_matter(tmp_path):
    rows = [step(n, 1 / n, a) for a in ("sgd", "adam") for n in (1, 2, 10, 11)]
    records.append(tmp_path / "whole", rows)
    for row in reversed(rows):
        records.append(tmp_path / "parts", [row])
    whole, parts = (tmp_path / d / "convergence.csv" for d in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert [r.step for r in records.read(tmp_path / "whole", Convergence)][:4] == [
        1, 2, 10, 11,
    ]  # fmt: skip


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    records.append(tmp_path, [step(1)])
    before = (tmp_path / "convergence.csv").read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        records.append(tmp_path, [step(2)])
    assert (tmp_path / "convergence.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["convergence.csv"]


def test_wrong_columns_are_refused(tmp_path):
    (tmp_path / "convergence.csv").write_text("task,seed\nmlm,0\n")
    with pytest.raises(DamagedError, match=r"convergence\.csv .* columns are \['task', 'seed'\]"):
        records.read(tmp_path, Convergence)


class Later(Sharpness):
    """A table as a later version has it: one column more, with what rows without it had."""

    probes: int = 7


def test_committed_records_are_read_by_a_later_version(tmp_path):
    ours = records.read(SMALL, Sharpness)
    read = records.read(SMALL, Later)
    assert len(read) == len(ours) > 100 and {row.probes for row in read} == {7}
    assert [dataclasses.astuple(r)[:-1] for r in read] == [dataclasses.astuple(r) for r in ours]
    # Columns are found by name: in another order they are the same.
    with (SMALL / "sharpness.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    with (tmp_path / "sharpness.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(row[::-1] for row in table)
    assert repr(records.read(tmp_path, Sharpness)) == repr(ours)
    # What is added to a file of an earlier version is written with all columns.
    records.append(tmp_path, [dataclasses.replace(read[0], seed=9, probes=8)])
    probes = {(row.seed, row.probes) for row in records.read(tmp_path, Later)}
    assert probes == {(0, 7), (1, 7), (9, 8)}


# Those that the committed run has: later ones came after it.
COMMITTED = [t for t in (*TABLES, *anatomy_rows.TABLES) if (SMALL / t.FILE).exists()]


def test_committed_rows_without_the_later_columns_have_their_defaults():
    assert len(COMMITTED) >= 16
    for row in records.read(SMALL, Sharpness)[:20]:
        later = row.slope_se, row.step_ratio, row.overlap_sgd, row.overlap_adam
        assert all(map(math.isnan, later)) and 0 < row.top_share <= 1


@pytest.mark.parametrize("table", COMMITTED)
def test_a_committed_table_without_a_column_that_it_needs_is_refused(table, tmp_path):
    path = SMALL / table.FILE
    lines = path.read_text(encoding="utf-8").splitlines()[:3]
    short = "".join(f"{line.rpartition(',')[0]}\n" for line in lines)
    (tmp_path / table.FILE).write_text(short, encoding="utf-8")
    with pytest.raises(DamagedError, match=f"{table.FILE} is damaged .its columns are"):
        records.read(tmp_path, table)


@pytest.mark.parametrize("keep", [0, 10, -1, -4, -30])
def test_an_emptied_or_cut_table_is_named_with_what_to_do(keep, tmp_path):
    records.append(tmp_path, [step(n, 1 / n) for n in (1, 2, 3)])
    path = tmp_path / "convergence.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    for touch in (
        lambda: records.read(tmp_path, Convergence),
        lambda: records.append(tmp_path, [step(4)]),
    ):
        with pytest.raises(
            DamagedError, match="put a whole copy of it back, or delete it"
        ) as error:
            touch()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert path.read_bytes() == whole[:keep]
    path.write_bytes(whole)
    assert len(records.read(tmp_path, Convergence)) == 3


@pytest.mark.parametrize("cell", ["x", "", "1,2", '"'])
def test_a_cell_that_is_no_number_is_named_with_its_line(cell, tmp_path):
    records.append(tmp_path, [step(1), step(2)])
    path = tmp_path / "convergence.csv"
    path.write_text(path.read_text().replace("2,1,1.0", f"{cell},1,1.0"))
    with pytest.raises(DamagedError, match="line 3 is no row of it"):
        records.read(tmp_path, Convergence)


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"[]", b"\xff\xfe"])
def test_an_emptied_or_cut_json_is_named_with_what_to_do(content, tmp_path):
    assert records.read_json(tmp_path / "config.json") == {}
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"config\.json is damaged .* put a whole copy") as error:
        records.read_json(tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_text_is_the_same_in_any_locale(monkeypatch):
    """A path of UTF-8 bytes, as Python reads it from a command line in three locales."""
    for encoding in ("utf-8", "ascii", "latin-1"):
        monkeypatch.setattr(os, "fsencode", lambda s, e=encoding: s.encode(e, "surrogateescape"))
        read = "café".encode().decode(encoding, "surrogateescape")
        assert records.as_text({"a": [read, 1, None]}) == {"a": ["café", 1, None]}
    assert records.as_text("8 × CPU, an é") == "8 × CPU, an é"  # Never on a command line.
    assert records.as_text("\udce9.csv") == "\\udce9.csv"  # No UTF-8 anywhere.


def test_json_is_written_whole(tmp_path):
    records.write_json(tmp_path / "new" / "config.json", {"preset": "démo"})
    text = (tmp_path / "new" / "config.json").read_text(encoding="utf-8")
    assert text == '{\n  "preset": "démo"\n}\n'
