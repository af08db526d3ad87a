"""Numbers as the tables print them, and the tables that word them."""

import math

import pytest

from experiments import records
from experiments.report import claims, table, tables
from experiments.report.recorded import Run
from experiments.rows import Convergence, Search, Sharpness


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.10431, "0.104"),
        (31.04433, "31.0"),
        (3.1928e-6, "3.19×10⁻⁶"),
        (-0.5, "−0.500"),
        (-2e-5, "−2.00×10⁻⁵"),
        (1234.5, "1234"),
        (123456.0, "1.23×10⁵"),
        (0.0, "0"),
        (math.nan, "n/a"),
        (math.inf, "∞"),
    ],
)
def test_number(value, text):
    assert table.number(value) == text


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (claims.Summary(0.1043, 0.0123, 5, 0), "0.104 ± 0.012"),
        (claims.Summary(1.64e-5, 2e-6, 5, 0), "(1.64 ± 0.20)×10⁻⁵"),
        (claims.Summary(-0.02, 0.01, 5, 5), "−0.0200 ± 0.0100"),
        (claims.Summary(0.5, math.nan, 1, 0), "0.500"),
        (claims.Summary(math.inf, math.nan, 2, 0), "∞"),
    ],
)
def test_plus_minus(summary, text):
    assert table.plus_minus(summary) == text


@pytest.mark.parametrize(
    ("sgd", "clipped", "text"),
    [
        (3.68, 3.7, "SGD, clipped (3.70) is not below SGD (3.68)"),
        (3.68012, 3.68034, "SGD, clipped (3.6803) is not below SGD (3.6801)"),
        (3.68, 3.68, "SGD, clipped (3.68) is not below SGD (3.68)"),
    ],
)
def test_what_did_not_hold_is_told_apart(sgd, clipped, text):
    rows = [
        Convergence("mlm", 0, algorithm, "0.1", 1, 1, loss, False)
        for algorithm, loss in (("sgd", sgd), ("sgd_clip", clipped))
    ]
    (row,) = tables.remark_table(claims.evaluate(rows)).rows
    assert row[2] == text


def test_learning_rates_share_a_notation(tmp_path):
    rows = [("sgd", "0.01"), ("normalized_sgd", "5e-05"), ("adafactor", "relative")]
    records.append(
        tmp_path,
        [Convergence("mlm", 0, a, rate, 1, 1, 4.0, False) for a, rate in rows],
    )
    printed = {row[0]: row[1:] for row in tables.rate_table(Run(tmp_path)).rows}
    assert printed["SGD"] == ("0.01", "0.01")
    assert printed["Normalized SGD"] == ("5e-5", "5e-5")
    assert printed["Adafactor"][0] == "relative" and printed["Adam"][0] == "–"


def test_steps_and_overlaps_are_summed_up(tmp_path):
    """Of two batches; the critical step of one landscape, in Newton steps; Adam's rate is 0.1."""
    made = []
    for batch, ratio, overlap in ((1, 5.0, 0.2), (2, 15.0, 0.4)):
        for name in ("sgd", "adam"):
            cell = ("mlm", "adam", 0, 1, batch, name)
            later = {"step_ratio": ratio, "overlap_sgd": 1.0 if name == "sgd" else overlap}
            made.append(
                Sharpness(*cell, 1.0, -1.0, 2.0, 0.1, 1.0, 1.0, 0.1, 0.5, 0.25, 0.3, **later)
            )
    made.append(Search("mlm", "adam", 0, 1, 1, "sgd", 0.5, 0.25, 1.5, "minimum"))
    records.append(tmp_path, made)
    records.write_json(tmp_path / "config.json", {"adam_learning_rate": 0.1})
    run = Run(tmp_path)
    critical = {row[0]: row[1:] for row in tables.critical_table(run).rows}
    assert critical["SGD"] == ("3.00",) and critical["Adam"] == ("n/a",)
    assert critical["as training goes"] == ("1.00",)  # 0.1 times the median of 5 and 15.
    overlap = {row[0]: row[1:] for row in tables.overlap_table(run).rows}
    assert overlap["SGD"] == ("100.0 % / n/a",) and overlap["Adam"] == ("30.0 % / n/a",)


def test_records_of_earlier_versions_have_no_such_tables(tmp_path):
    cell = ("mlm", "adam", 0, 1, 1, "sgd")
    numbers = (1.0, -1.0, 2.0, 0.1, 1.0, 1.0, 0.1, 0.5, 0.25, 0.3)
    records.append(tmp_path, [Sharpness(*cell, *numbers)])
    run = Run(tmp_path)
    assert tables.critical_table(run) is tables.overlap_table(run) is None
