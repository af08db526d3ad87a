"""Figures are drawn from whatever is there, the same bytes each time, and mark what they say."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import figures, paper, records
from experiments.look import COLOURS
from tests.experiments.test_claims import synthetic_rows

COLUMN = ("translation", "adam")


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_rows(columns=(COLUMN,), epochs=(2,), batches=2))


def of(rows, table):
    return [row for row in rows if isinstance(row, table)]


def test_every_figure_twice_the_same(rows, tmp_path):
    written = []
    for name in ("first", "second"):
        records.append(tmp_path / name, rows)
        drawn = figures.draw_all(tmp_path / name)
        assert [d.name for d in drawn] == [
            "sharpness_ratios",
            "landscape_translation_adam_epoch02",
            "histogram_translation_adam",
            "convergence_translation",
        ]
        assert "Figure 7" in drawn[1].title
        written.append([p.read_bytes() for d in drawn for p in (d.svg, d.png)])
    assert written[0] == written[1]
    assert plt.get_fignums() == []


def test_nothing_recorded_draws_nothing(tmp_path):
    assert figures.draw_all(tmp_path) == []
    assert not (tmp_path / "figures").exists()


def test_families_share_a_colour_and_clipped_ones_are_dashed(rows):
    axes = figures.convergence_figure(of(rows, records.Convergence)).axes[0]
    assert len(axes.lines) == len(paper.ALGORITHMS)
    for line, algorithm in zip(axes.lines, paper.ALGORITHMS, strict=True):
        assert line.get_color() == COLOURS[algorithm.removesuffix("_clip")]
        assert line.is_dashed() == algorithm.endswith("_clip")


def test_diverged_run_ends_in_a_cross(rows):
    losses = [
        dataclasses.replace(r, loss=math.nan, diverged=True) if r.step == 50 else r
        for r in of(rows, records.Convergence)
        if r.algorithm == "sgd" and r.step <= 50
    ]
    axes = figures.convergence_figure(losses).axes[0]
    assert [line.get_marker() for line in axes.lines] == ["o", "x"]


def test_explosion_does_not_flatten_the_others(rows):
    losses = of(rows, records.Convergence)
    exploded = [
        dataclasses.replace(r, loss=1e6 if r.step < 20 else math.inf, diverged=r.step == 20)
        for r in losses
        if r.algorithm == "adam" and 10 < r.step <= 20
    ]
    others = [r for r in losses if r.algorithm != "adam" or r.step <= 10]
    lost = dataclasses.replace(losses[0], algorithm="sgd", loss=math.nan, diverged=True)
    axes = figures.convergence_figure([*others, *exploded]).axes[0]
    assert axes.get_ylim()[1] < 10
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_ydata()[0] < axes.get_ylim()[1]
    axes = figures.convergence_figure([lost]).axes[0]  # At once.
    assert [line.get_marker() for line in axes.lines] == ["x"]


def test_landscape_marks_both_minima(rows):
    landscape = [r for r in of(rows, records.Landscape) if r.algorithm == "sgd"]
    point = next(r for r in of(rows, records.Sharpness) if r.algorithm == "sgd")
    far = dataclasses.replace(landscape[-1], step=1e6, loss=math.inf)  # From bracketing.
    figure = figures.landscape_figure([*landscape, far], {"sgd": point})
    linear, logarithmic = figure.axes
    assert logarithmic.get_xscale() == "log"
    filled = next(line for line in linear.lines if line.get_marker() == "o")
    best = min(landscape, key=lambda r: r.loss)
    assert (filled.get_xdata()[0], filled.get_ydata()[0]) == (best.step, best.loss)
    hollow = next(line for line in linear.lines if line.get_marker() in ("D", "v"))
    assert hollow.get_xdata()[0] == point.newton_step
    assert linear.get_xlim()[1] < 3 * best.step


@pytest.mark.parametrize("ratio", [-0.3, 0.0, math.nan])
def test_ratios_that_have_no_logarithm(rows, ratio):
    changed = [
        dataclasses.replace(r, ratio=ratio, newton_step=math.nan) if r.algorithm == "adam" else r
        for r in of(rows, records.Sharpness)
    ]
    figure = figures.ratio_figure(changed)
    triangles = [x for line in figure.axes[0].lines if line.get_marker() == "v"
                 for x in line.get_xdata()]  # fmt: skip
    assert len(triangles) == (not math.isnan(ratio))
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_landscape_without_a_descent_or_a_measurement():
    cell = ("mlm", "sgd", 0, 2, 1)
    flat = [records.Landscape(*cell, "adafactor", s, 3.0 + s) for s in (0.0, 1e-3, 1.0)]
    figure = figures.landscape_figure(flat, {})
    figure.canvas.draw()


def test_histogram_of_gradients_only(rows):
    gradient = [r for r in of(rows, records.Histogram) if r.quantity == "gradient"]
    figures.histogram_figure(gradient).canvas.draw()


def test_empty_bins_of_a_histogram_are_seen():
    bins = [(-5.0, 3), (-4.75, 1), (-2.0, 7)]  # Bins without a coordinate are not recorded.
    rows = [
        records.Histogram("mlm", "sgd", 0, 2, 1, "sgd", "gradient", lower, lower + 0.25, count)
        for lower, count in bins
    ]
    (line,) = figures.histogram_figure(rows).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [-4.875, -4.625, -4.375, -2.125, -1.875])
    np.testing.assert_array_equal(line.get_ydata(), [3, 1, 0, 0, 7])


def test_landscape_passes_through_what_was_measured(rows):
    landscape = sorted((r for r in of(rows, records.Landscape) if r.algorithm == "adam"),
                       key=lambda r: r.step)  # fmt: skip
    first = [r for r in landscape if r.batch == landscape[0].batch]
    linear, logarithmic = figures.landscape_figure(first, {}).axes
    for axes in (linear, logarithmic):
        line = max(axes.lines, key=lambda line: len(line.get_xdata()))
        x, y = line.get_data()
        seen = [r for r in first if x[0] <= r.step <= x[-1]]
        assert len(seen) > 3
        depth = max(r.loss for r in seen) - min(r.loss for r in seen)
        losses = np.interp([r.step for r in seen], x, y)
        np.testing.assert_allclose(losses, [r.loss for r in seen], atol=0.01 * depth)
        assert axes.get_xlim()[0] == x[0]  # No gap at the left.
