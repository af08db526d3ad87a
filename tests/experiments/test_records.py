"""What is written is what is read, a record is kept as it was first written, a file is whole."""

import math
import os

import pytest

from experiments import records


def step(number, loss=1.0, algorithm="sgd", diverged=False):
    return records.Convergence("mlm", 0, algorithm, "1e-3", number, 1, loss, diverged)


def test_round_trip_is_exact(tmp_path):
    cell = ("mlm", "sgd", 0, 2, 1, "adam")
    rows = [
        step(1, 0.1 + 0.2),
        step(2, math.inf, diverged=True),
        records.Histogram(*cell, "update", -math.inf, -12.0, 2**40),
        records.Histogram(*cell, "update", 1.0, math.inf, 0),
        records.Landscape(*cell, 5e-324, 1 / 3),
    ]
    records.append(tmp_path, rows)
    read = [r for t in (records.Convergence, records.Histogram) for r in records.read(tmp_path, t)]
    assert read == rows[:4]
    assert records.read(tmp_path, records.Landscape) == rows[4:]
    records.append(tmp_path, [step(3, math.nan)])
    assert math.isnan(records.read(tmp_path, records.Convergence)[-1].loss)


def test_absent_table_is_empty(tmp_path):
    assert records.read(tmp_path, records.Sharpness) == []


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
    assert [r.step for r in records.read(tmp_path / "whole", records.Convergence)][:4] == [
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
    with pytest.raises(ValueError, match=r"convergence\.csv: columns are \['task', 'seed'\]"):
        records.read(tmp_path, records.Convergence)


def test_drop_removes_only_what_matches(tmp_path):
    records.append(tmp_path, [step(1), step(2), step(1, algorithm="adam")])
    records.drop(tmp_path, records.Convergence, algorithm="sgd", task="mlm")
    assert records.read(tmp_path, records.Convergence) == [step(1, algorithm="adam")]


def test_json_is_written_whole(tmp_path):
    records.write_json(tmp_path / "new" / "config.json", {"preset": "démo"})
    text = (tmp_path / "new" / "config.json").read_text(encoding="utf-8")
    assert text == '{\n  "preset": "démo"\n}\n'
