"""The study's figures: drawn from whatever is recorded, the same bytes each time, named truly."""

import dataclasses
import math

import matplotlib.pyplot as plt
import pytest

from experiments import paper, records
from experiments.report import figures
from experiments.report.recorded import Run, frame
from experiments.rows import Convergence, Landscape, Sharpness
from sharpjax.plot.style import COLOURS
from tests.experiments.report.test_claims import synthetic_rows

COLUMN = ("translation", "adam")


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_rows(columns=(COLUMN,), epochs=(2,), batches=2))


def of(rows, table):
    return frame([row for row in rows if isinstance(row, table)], table)


def test_every_figure_twice_the_same(rows, tmp_path):
    written = []
    for name in ("first", "second"):
        records.append(tmp_path / name, rows)
        drawn = [*figures.draw_all(Run(tmp_path / name))]
        assert [d.name for d in drawn] == [
            "sharpness_ratios",
            "landscape_translation_adam_epoch02",
            "histogram_translation_adam",
            "convergence_translation",
        ]
        written.append([p.read_bytes() for d in drawn for p in (d.svg, d.png)])
    ratios, landscape, histogram, convergence = drawn
    assert "(Table 5)" in ratios.title and "hollow: the paper’s value" in ratios.caption
    assert "(Figure 7)" in landscape.title and "(Figure 1)" in histogram.title
    assert "seven algorithms" in convergence.title and "(Figure 4)" in convergence.title
    assert not any("seeds" in d.caption for d in drawn)
    assert written[0] == written[1]
    assert plt.get_fignums() == []


def test_what_the_paper_has_not_is_not_said_to_be_its(rows, tmp_path):
    causal = [dataclasses.replace(r, task="causal") for r in rows if not hasattr(r, "kind")]
    again = [dataclasses.replace(r, seed=1) for r in causal]
    records.append(tmp_path, [*causal, *again])
    drawn = [*figures.draw_all(Run(tmp_path))]
    assert len(drawn) == 4
    for one in drawn:
        said = one.title + one.caption
        assert "Table" not in said and "Figure" not in said and "paper’s" not in said
    assert "batches and seeds" in drawn[0].caption and "mean over seeds" in drawn[-1].caption
    (legend,) = figures.ratio_figure(of(causal, Sharpness)).legends
    assert "the paper’s value" not in [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([("causal", "sgd")], ""),
        ([("mlm", "adam"), ("causal", "sgd")], " (Table 6)"),
        ([("mlm", "sgd"), ("translation", "adam")], " (Tables 4 and 5)"),
        ([("mlm", "adam"), ("translation", "sgd"), ("mlm", "sgd")], " (Tables 3, 4 and 6)"),
        (list(paper.TABLE), " (Tables 3 to 6)"),
    ],
)
def test_tables_are_numbered_as_in_the_paper(columns, said):
    assert figures.tables_of(columns) == said


def test_families_share_a_colour_and_clipped_ones_are_dashed(rows):
    axes = figures.convergence_figure(of(rows, Convergence)).axes[0]
    assert len(axes.lines) == len(paper.ALGORITHMS)
    for line, algorithm in zip(axes.lines, paper.ALGORITHMS, strict=True):
        assert line.get_color() == COLOURS[algorithm.removesuffix("_clip")]
        assert line.is_dashed() == algorithm.endswith("_clip")


def test_diverged_run_ends_in_a_cross(rows):
    losses = of(rows, Convergence)
    losses = losses[(losses["algorithm"] == "sgd") & (losses["step"] <= 50)].copy()
    losses.loc[losses["step"] == 50, ["loss", "diverged"]] = (math.inf, True)
    axes = figures.convergence_figure(losses).axes[0]
    assert [line.get_marker() for line in axes.lines] == ["o", "x"]


def test_landscapes_leave_adafactor_to_the_logarithmic_axis(rows):
    landscape, points = of(rows, Landscape), of(rows, Sharpness)
    linear, logarithmic = figures.landscape_figure(landscape, points).axes
    colours = {line.get_color() for line in linear.lines}
    assert COLOURS["adafactor"] not in colours and COLOURS["adam"] in colours
    assert COLOURS["adafactor"] in {line.get_color() for line in logarithmic.lines}
    assert linear.get_title(loc="left") == "without Adafactor"
    assert logarithmic.get_title(loc="left") == "all seven, logarithmic distance"


def test_published_values_are_those_of_the_tables(rows):
    printed = figures.published(of(rows, Sharpness))
    assert len(printed) == len(paper.ALGORITHMS)
    for row in printed.itertuples():
        assert row.ratio == paper.SHARPNESS_RATIO[row.task, row.trajectory, row.epoch][
            row.algorithm
        ]  # fmt: skip
