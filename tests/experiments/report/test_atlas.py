"""The report of an atlas: its tables and figures are of the records, and nothing else."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from experiments import algorithms, records
from experiments.explanation_rows import Cosine, FrequencyPart
from experiments.horizon_rows import Own
from experiments.report import atlas
from experiments.report.page import as_markdown, make_parts
from experiments.report.recorded import Run
from experiments.report.table import cell
from experiments.rows import Convergence, Search, Sharpness, Tuning
from sharpjax.plot import label

AT = ("mlm", "sgd", 0)
NAMES = algorithms.ATLAS
STATS = ("slope", "slope_se", "sharpness", "sharpness_se", "update_norm", "newton_step")


def numbers(slope, sharpness):
    return {
        **dict.fromkeys(STATS, 0.1),
        "slope": slope,
        "sharpness": sharpness,
        "predicted_decrease": slope**2 / (2 * sharpness),
        "newton_step": -slope / sharpness,
        "step_ratio": 0.5,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two points of all optimizers; the i-th has sharpness i + 1 at the first, i + 3 after."""
    directory = tmp_path_factory.mktemp("atlas")
    for epoch in (1, 2):
        for i, name in enumerate(NAMES):
            key = (*AT, epoch, 1, name)
            more = dict.fromkeys(("ratio", "threshold", "top_share"), 0.5) | {"loss": 3.0}
            more |= {"cosine_gradient": 0.25 * epoch, "cosine_adam": -0.5}
            measured = numbers(-0.1 * epoch, i - 1.0 + 2 * epoch)
            search = {"best_step": 1.0, "best_decrease": 0.2, "critical_step": 2.0 * epoch}
            rows = [Sharpness.of(key, **measured, **more)]
            rows.append(Search.of(key, **search, status="ok"))
            if epoch == 1:
                rows += [Cosine.of((*key, k), squared_cosine=0.1) for k in range(3)]
                rows += [
                    FrequencyPart.of(
                        (*key, part),
                        ranks=str(part),
                        tokens=tokens,
                        slope=-0.1 * (part + 1),
                        slope_se=0.0,
                        sharpness=1.0,
                        sharpness_se=0.0,
                    )
                    for part, tokens in enumerate((0.3, 0.25, 0.25, 0.2))
                ]
            records.append(directory, rows)
    records.append(directory / "own", alone())
    return Run(directory)


def alone(names=algorithms.OWN):
    """The i-th optimizer falls from 4 by i + 1 in three measurements, its sharpness 10 − i."""
    rows = []
    for i, name in enumerate(names):
        key = ("mlm", 0, name)
        for step, loss in ((1, 4.0), (2, 4.0 - i - 1), (3, 4.0 - 1.5 * (i + 1))):
            of = numbers(-0.1 * step, 10.0 - i)
            of |= {"learning_rate": "0.1", "training_loss": loss, "loss": loss}
            rows.append(Own.of((*key, step), **of))
            one = {"learning_rate": "0.1", "epoch": step, "loss": loss, "diverged": False}
            rows.append(Convergence.of((*key, step), **one))
    return rows


def test_the_table_has_the_means_of_every_optimizer(run):
    table = atlas.shared_table(run, "mlm")
    assert [row[0] for row in table.rows] == [label(n) for n in reversed(NAMES)]  # By sharpness.
    for i, name in enumerate(NAMES):
        row = next(r for r in table.rows if r[0] == label(name))
        assert row[1:3] == ("SGD", "−0.150") and float(row[3].split(" ± ")[0]) == i + 2
        assert row[6:10] == ("0.200", "3.00", "0.38", "−0.50")
        # Three eigenvectors; the bins of 0.3 and 0.25 are the first half of the text.
        assert row[10:] == ("30.0 %", "30.0 %", "50.0 %")


def test_a_trajectory_alone_and_all_of_them_across(run):
    assert atlas.shared_table(run, "mlm", "sgd").rows == atlas.shared_table(run, "mlm").rows
    assert atlas.shared_table(run, "mlm", "adam").rows == []
    table = atlas.across_table(run)
    assert table.header == ("", "mlm, SGD") and "2 points of seed 0" in table.caption
    assert table.rows[:-1] == [(label(name), "0.200") for name in run.measured]
    assert table.rows[-1][1] == "n/a"  # All go equally far.


def test_where_the_flatter_go_farther_the_ranks_say_so(run, tmp_path):
    rows = [r for r in run[Sharpness] if r.epoch == 1 or r.algorithm != "muon"]
    further = {name: {"best_decrease": -i} for i, name in enumerate(NAMES)}
    searched = [dataclasses.replace(r, **further[r.algorithm]) for r in run[Search] if r.epoch == 1]
    records.append(tmp_path, [*rows, *searched])
    table = atlas.across_table(Run(tmp_path))
    assert table.rows[-1] == ("rank correlation with sharpness", "−1.00")
    assert "1 point of seed 0" in table.caption


def test_marks_that_coincide_are_drawn_once_and_named(run):
    frame = run.frame(Sharpness)
    assert atlas.coincident(frame) == {}
    near = frame.algorithm.isin(["adamw", "radam"])
    adam = frame.loc[frame.algorithm == "adam", "sharpness"].to_numpy()
    frame.loc[near, "sharpness"] = [*(1.005 * adam), *(0.995 * adam)]
    assert atlas.coincident(frame) == {"adam": ["adamw", "radam"]}
    figure = atlas.shared_figure(frame)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert label("adam") in written and label("radam") not in written


def test_the_report_has_the_atlas_and_the_ranks(run):
    said = as_markdown(run, make_parts(run))
    assert "## The atlas" in said and "figures/atlas_mlm_sgd.png" in said
    assert "Do the sharp ones end higher?" in said
    alone = Run(run.directory / "own")
    own = as_markdown(alone, make_parts(alone))
    assert "## The atlas" not in own and "figures/own_mlm.png" in own


def test_at_one_loss_each_is_where_it_came_down_to_it(run):
    own = Run(run.directory / "own")
    reached = dict.fromkeys(algorithms.OWN, 1.0)
    assert atlas.level_of(own[Own], reached) == 2.5  # The first optimizer's least.
    reached["sgd"] = math.inf  # It diverged, and the level is the second one's.
    assert atlas.level_of(own[Own], reached) == 1.0
    assert math.isnan(atlas.level_of(own[Own], {"sgd": math.inf}))
    found = atlas.at_level(own[Own], 2.5).set_index("algorithm")
    assert found.loc["sgd", "step"] == 3.0 and found.loc["sgd", "loss"] == 2.5
    muon = algorithms.OWN.index("muon")
    assert found.loc["muon", "step"] == pytest.approx(1 + 1.5 / (muon + 1))
    table = atlas.own_table(own, "mlm")
    assert [row[0] for row in table.rows] == [label(n) for n in reversed(algorithms.OWN)]
    assert cell(table, "SGD", "rate") == "0.1" and cell(table, "SGD", "step there") == "3.00"
    assert cell(table, "SGD", "sharpness") == "10.0"


def test_the_ranks_are_of_sharpness_with_the_loss_reached(run):
    own = Run(run.directory / "own")
    table = atlas.correlation_table(run, own)
    name = "Masked language modelling"
    assert [row[0] for row in table.rows] == [f"{name}, each on its own", f"{name}, SGD trajectory"]
    assert [row[1] for row in table.rows] == ["2.500", "–"]
    assert table.rows[0][2:4] == ("10", "1.00 [1.00, 1.00]")  # Sharper ends higher here.
    names = [n for n in NAMES if n in algorithms.OWN]
    place = [NAMES.index(n) for n in names]
    ends = [-algorithms.OWN.index(n) for n in names]
    expected = scipy.stats.spearmanr(place, ends).statistic
    assert table.rows[1][3].startswith(f"{expected:.2f} [".replace("-", "−"))
    assert [row[5] for row in table.rows] == ["n/a", "n/a"]  # All go equally far; not known there.
    assert len(atlas.correlation_table(None, own).header) == len(table.header) - 1


def test_how_far_each_would_go_ranks_with_the_loss_reached(run, tmp_path):
    far = {name: {"best_decrease": float(i)} for i, name in enumerate(algorithms.OWN)}
    rows = [dataclasses.replace(r, **far.get(r.algorithm, {})) for r in run[Search]]
    records.append(tmp_path, [*run[Sharpness], *rows])
    records.append(tmp_path / "own", alone())
    table = atlas.correlation_table(Run(tmp_path), Run(tmp_path / "own"))
    assert table.rows[1][5].startswith("−1.00 [")  # The i-th ends the lower, the larger i.


def test_rates_that_were_not_searched_are_told_apart(tmp_path):
    relative = {"learning_rate": "relative"}
    rows = [dataclasses.replace(r, **relative) if "adaf" in r.algorithm else r for r in alone()]
    records.append(tmp_path, rows)
    table = atlas.correlation_table(None, Run(tmp_path))
    assert [row[2] for row in table.rows] == ["10", "9"]
    assert table.rows[1][0].endswith("at a searched rate")
    assert "not searched" in table.caption
    assert "not searched" in atlas.own_table(Run(tmp_path), "mlm").caption


def test_a_relative_step_that_won_a_search_was_searched(tmp_path):
    relative = {"learning_rate": "relative"}
    rows = [dataclasses.replace(r, **relative) if "adaf" in r.algorithm else r for r in alone()]
    (key,) = {(r.task, r.seed, r.algorithm) for r in rows if "adaf" in r.algorithm}
    tried = {"relative": 1.0, "0.01": 2.0}
    tuning = [
        Tuning.of((*key, rate), steps=200, loss=loss, diverged=False, chosen=rate == "relative")
        for rate, loss in tried.items()
    ]
    records.append(tmp_path, [*rows, *tuning])
    table = atlas.correlation_table(None, Run(tmp_path))
    assert [row[2] for row in table.rows] == ["10"]
    assert "not searched" not in table.caption
    assert "not searched" not in atlas.own_table(Run(tmp_path), "mlm").caption


def test_the_interval_is_fiellers_and_pairs_without_a_number_are_left_out():
    draw = np.random.default_rng(0)
    a = draw.normal(size=30)
    b = a + draw.normal(size=30)
    found = atlas.ranks([*a, math.nan], [*b, 1.0])
    rho = scipy.stats.spearmanr(a, b).statistic
    spread = 1.96 * math.sqrt(1.06 / 27)
    assert found.count == 30 and found.correlation == pytest.approx(rho)
    ends = math.tanh(math.atanh(rho) - spread), math.tanh(math.atanh(rho) + spread)
    assert (found.low, found.high) == pytest.approx(ends)
    diverged = atlas.ranks([1, 2, 3, 4, 5], [1, 2, 3, 5, math.inf])
    assert diverged.correlation == pytest.approx(1.0)
    assert math.isnan(atlas.ranks([1, 2, 3], [1, 2, 3]).correlation)
    assert math.isnan(atlas.ranks([1, 1, 1, 1], [1, 2, 3, 4]).correlation)
