"""The claims, on records whose answers are known; and a synthetic run for the report's tests."""

import dataclasses
import json
import math
import random

import pytest

from experiments import paper, records
from experiments.report import claims
from experiments.report.recorded import Run
from experiments.rows import (
    Convergence,
    Histogram,
    Landscape,
    Precision,
    Scales,
    Search,
    Sharpness,
    Tuning,
)

SHARP = {"translation": 31.0, "mlm": 55.0}
DECREASE = {  # What a quadratic with the paper's sharpness would let each direction gain, in nats.
    "sgd": 0.012,
    "sgd_clip": 0.018,
    "adam": 0.06,
    "adafactor": 0.02,
    "adafactor_clip": 0.024,
    "normalized_sgd": 0.03,
    "normalized_sgd_clip": 0.05,
}
RATE_OF_CONVERGENCE = {
    "sgd": 0.02,
    "sgd_clip": 0.09,
    "adam": 0.2,
    "adafactor": 0.1,
    "adafactor_clip": 0.14,
    "normalized_sgd": 0.06,
    "normalized_sgd_clip": 0.11,
}


def synthetic_rows(*, seeds=(0,), epochs=(2, 5, 10, 20), batches=5, columns=tuple(paper.TABLE)):
    """Records as a run would write them: the paper's ratios with noise, on cubic landscapes."""
    noise = random.Random(0)
    for task, trajectory in columns:
        for seed in seeds:
            for epoch in epochs:
                for batch in range(1, batches + 1):
                    yield from _point(task, trajectory, seed, epoch, batch, noise)
    for task in dict.fromkeys(task for task, _ in columns):
        yield from _convergence(task, noise)
        for rate, loss in (("1e-3", 4.1), ("1e-2", 3.2), ("1e-1", math.inf)):
            bad = not math.isfinite(loss)
            yield Tuning(task, 0, "sgd", rate, 40, loss, bad, rate == "1e-2")


def _point(task, trajectory, seed, epoch, batch, noise):
    loss = 4.0 - 0.4 * math.log(epoch)
    unit = SHARP[task] * math.exp(noise.gauss(0, 0.2))
    shift = math.exp(noise.gauss(0, 0.2))  # Shared, so that no ordering of the paper's breaks.
    for algorithm, ratio in paper.SHARPNESS_RATIO[task, trajectory, epoch].items():
        cell = (task, trajectory, seed, epoch, batch, algorithm)
        ratio = ratio * shift if algorithm != "sgd" else 1.0
        sharpness = unit * ratio
        decrease = DECREASE[algorithm]
        slope = -math.sqrt(2 * sharpness * decrease)
        newton = -slope / sharpness
        share = 0.97 if algorithm == "sgd" else 0.4
        yield Sharpness(
            *cell, loss, slope, sharpness, sharpness / 20, ratio, 1.0, 1e-4, newton, decrease, share
        )
        if batch == 1:
            # 2t = t² + t³/4 at t = 1.46, and its least value at 0.86.
            yield Search(*cell, 0.86 * newton, 0.94 * decrease, 1.46 * newton, "minimum")
            for i in range(24):
                t = 2.4 * i / 23
                along = loss + decrease * (-2 * t + t**2 + 0.25 * t**3)
                yield Landscape(*cell, newton * t, along)
            yield from _histograms(cell, noise)
    for kind, rms, share in (("embedding", 0.9, 0.7), ("attention", 0.05, 0.3)):
        numbers = (loss, 1000, rms, 0.01 * share, share)
        yield Scales(task, trajectory, seed, epoch, 1, kind, *numbers)
        if (epoch, batch) == (2, 1):
            yield Precision(*cell, sharpness, sharpness * (1 + 3e-4), 3e-4)


def _histograms(cell, noise):
    algorithm = cell[-1]
    kinds = [("update", -3.0, 1.3 - 0.15 * list(paper.ALGORITHMS).index(algorithm))]
    kinds += [("momentum", -6.0, 1.3), ("gradient", -5.6, 1.3)] if algorithm == "sgd" else []
    for quantity, centre, spread in kinds:
        yield Histogram(*cell, quantity, -math.inf, -12.0, 40_000)
        for lower in (x / 4 for x in range(-48, 4)):
            z = (lower - centre) / spread
            yield Histogram(*cell, quantity, lower, lower + 0.25, int(1e6 * math.exp(-z * z / 2)))
        yield Histogram(*cell, quantity, 1.0, math.inf, 0)


def _convergence(task, noise):
    for algorithm, rate in RATE_OF_CONVERGENCE.items():
        for step in range(1, 201):
            loss = 1.5 + 3 * math.exp(-rate * step / 10) + noise.gauss(0, 0.02)
            yield Convergence(
                task, 0, algorithm, paper.LEARNING_RATES[task][algorithm], step,
                (step + 9) // 10, loss, False,
            )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_rows())


def named(found):
    return {claim.name: claim for claim in found}


def changed(rows, table, change, **where):
    """Rows with `change` applied to those of a table whose columns equal `where`."""
    return [
        dataclasses.replace(r, **change(r))
        if isinstance(r, table) and all(getattr(r, k) == v for k, v in where.items())
        else r
        for r in rows
    ]


def test_the_papers_own_tables_hold_all_112_orderings():
    rows = [
        Sharpness(*cell[:2], 0, cell[2], 1, algorithm, 1.0, -1.0, ratio, math.nan, ratio,
                          1.0, 1.0, 1.0, 1.0, 0.9)
        for cell, ratios in paper.SHARPNESS_RATIO.items()
        for algorithm, ratio in ratios.items()
    ]  # fmt: skip
    found = claims.evaluate(rows)
    assert claims.orderings(found) == (112, 112)
    assert sum(claim.is_ordering for claim in found) == 7
    for claim in found:
        if claim.is_ordering:
            assert all(detail.ours == detail.paper for detail in claim.details)


def test_no_records_is_no_verdict():
    found = claims.evaluate([])
    assert {(claim.held, claim.total) for claim in found} == {(0, 0)}
    assert len({claim.name for claim in found}) == len(found) == 15


def test_synthetic_run_holds(rows, tmp_path):
    found = claims.evaluate(rows)
    assert all(claim.held == claim.total > 0 for claim in found)
    records.append(tmp_path, rows)
    assert claims.evaluate(Run(tmp_path).rows) == found


def test_ratio_is_the_mean_of_ratios_not_the_ratio_of_means():
    point = ("mlm", "sgd", 0, 2)
    rows = []
    for batch, scale, ratio in ((1, 1.0, 0.9), (2, 100.0, 0.3)):
        for algorithm, r in (("sgd", 1.0), ("sgd_clip", ratio)):
            rows.append(
                Sharpness(*point, batch, algorithm, 1.0, -1.0, r * scale, math.nan, r,
                                  1.0, 1.0, 1.0, 1.0, 0.9)
            )  # fmt: skip
    claim = named(claims.evaluate(rows))["clipping_flattens_sgd"]
    assert claim.details[0].ours["sgd_clip"] == pytest.approx(0.6)
    assert named(claims.evaluate(rows))["sgd_sharpest"].total == 0  # Five algorithms are missing.


def test_one_broken_ordering_is_counted_once_where_it_broke(rows):
    where = {"task": "mlm", "trajectory": "adam", "epoch": 5}
    broken = changed(rows, Sharpness, lambda r: {"ratio": 1.2}, algorithm="sgd_clip", **where)
    found = named(claims.evaluate(broken))
    assert claims.orderings(found.values()) == (110, 112)
    for name in ("sgd_sharpest", "clipping_flattens_sgd"):
        assert [d.cell for d in found[name].details if not d.held] == [where]


def test_negative_sharpness_is_compared_with_its_sign_and_noted(rows):
    negative = changed(
        rows,
        Sharpness,
        lambda r: {"ratio": -abs(r.ratio)},
        algorithm="sgd",
        task="mlm",
        trajectory="sgd",
        epoch=2,
    )
    claim = named(claims.evaluate(negative))["sgd_sharpest"]
    assert (claim.held, claim.total) == (15, 16)
    (detail,) = [d for d in claim.details if not d.held]
    assert detail.note == "SGD: negative at 5 of 5 batches"


def test_not_a_number_never_holds(rows):
    nan = changed(
        rows, Sharpness, lambda r: {"ratio": math.nan, "slope": math.nan}, algorithm="adam"
    )
    found = named(claims.evaluate(nan))
    assert found["adam_below_clipped_sgd"].held == found["sgd_steepest"].held == 0
    assert "not a finite number" in found["sgd_steepest"].details[0].note
    json.dumps(claims.to_json(found.values()), allow_nan=False)


def test_best_decrease_ignores_overflow_and_needs_its_start():
    at = ("mlm", "sgd", 0, 2, 1)
    rows = [
        Landscape(*at, "sgd", step, loss)
        for step, loss in ((0.0, 3.0), (1.0, 2.5), (2.0, math.nan), (3.0, math.inf))
    ]
    rows.append(Landscape(*at, "adam", 1.0, 2.0))
    assert claims.best_decreases(rows) == {(*at, "sgd"): 0.5}


def run_of(algorithm, losses, diverged=False, epoch_length=2):
    return [
        Convergence("mlm", 0, algorithm, "1", i + 1, i // epoch_length + 1, loss,
                            diverged and i + 1 == len(losses))
        for i, loss in enumerate(losses)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "clipped", "held", "total"),
    [
        (run_of("sgd", [5, 4, 3, 2]), run_of("sgd_clip", [5, 4, 2, 1]), 1, 1),
        (run_of("sgd", [5, 4, 3, 2]), run_of("sgd_clip", [5, 4, 3, 2]), 0, 1),
        (run_of("sgd", [5, math.nan], True), run_of("sgd_clip", [5, 4, 4, 4]), 1, 1),
        (run_of("sgd", [5, 4, 3, 2]), run_of("sgd_clip", [5, math.inf], True), 0, 1),
        (run_of("sgd", [5, math.nan], True), run_of("sgd_clip", [math.nan], True), 0, 1),
        (run_of("sgd", [5, 4, 3, 2]), run_of("sgd_clip", [5, 4, 1]), 0, 0),  # On its way.
    ],
)
def test_final_loss(plain, clipped, held, total):
    claim = named(claims.evaluate([*plain, *clipped]))["clipping_converges_lower_sgd"]
    assert (claim.held, claim.total) == (held, total)


def test_summary():
    assert claims.summarize([1.0, 3.0]) == claims.Summary(2.0, math.sqrt(2), 2, 0)
    assert math.isnan(claims.summarize([1.0]).sd)
    assert claims.summarize([1.0, math.inf]).mean == math.inf
