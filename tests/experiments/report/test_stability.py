"""The edge of stability along training, on records whose eigenvalues are known."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments import algorithms, config, presets, records
from experiments.anatomy_rows import Ritz
from experiments.explanation_rows import Preconditioned
from experiments.report import page, stability
from experiments.report.recorded import Run
from sharpjax import plot
from tests.experiments.report.test_page import PROVENANCE

RATE = 0.5
STUDY = dataclasses.replace(
    presets.PRESETS["demo"], sgd_learning_rate=RATE, trajectory_rates=("sgd_clip=0.3",)
)


def spectrum(place, *eigenvalues, table=Ritz, **more):
    """One probe's Ritz values at a point of masked language modelling, each with residual 0.1."""
    return [
        table(*("mlm", *place), 0, i, value, 1 / len(eigenvalues), 0.1, 100, **more)
        for i, value in enumerate(sorted(eigenvalues))
    ]


@pytest.fixture(name="run")
def _run(tmp_path):
    rows = [*spectrum(("sgd", 0, 1, 3), -2.0, 19.0), *spectrum(("sgd", 0, 2, 1), 38.0)]
    for epoch, top in ((1, 190.0), (3, 380.0)):
        at = ("adam", 0, epoch, 1)
        rows += spectrum(at, 5.0) + spectrum(at, top, table=Preconditioned, edge=760.0)
    for epoch in (1, 2):
        rows += spectrum(("sgd_clip", 0, epoch, 1), 7.0 * epoch)
    rows += spectrum(("sgd", 1, 1, 1), 9.0)  # A seed with one point.
    records.append(tmp_path, rows)
    records.write_json(tmp_path / "config.json", config.as_json(STUDY))
    records.write_json(tmp_path / "provenance.json", PROVENANCE)
    return Run(tmp_path)


def test_each_optimizer_is_set_beside_its_own_edge(run):
    found = {(p.trajectory[1], p.step): p for p in stability.points(run)}
    batches = STUDY.batches_per_epoch
    steps = {"sgd": [3, batches + 1], "adam": [1, 2 * batches + 1], "sgd_clip": [1, batches + 1]}
    assert sorted(found) == sorted((name, step) for name, its in steps.items() for step in its)
    edge = (2 + 2 * 0.9) / (0.1 * RATE)
    assert [found["sgd", s].share for s in steps["sgd"]] == pytest.approx([19 / edge, 38 / edge])
    assert [found["adam", s].share for s in steps["adam"]] == pytest.approx([0.25, 0.5])
    assert found["sgd_clip", 1].share == pytest.approx(7 / (3.8 / 0.03))  # SGD's at that rate.


@pytest.mark.parametrize(("share", "grows"), [(0.99, False), (1.01, True)])
def test_the_study_s_sgd_diverges_on_a_quadratic_just_beyond_that_edge(run, share, grows):
    edge = next(p.edge for p in stability.points(run) if p.trajectory[1] == "sgd")
    tx = algorithms.build("sgd", STUDY.clip_fraction, repr(RATE))
    x = jnp.ones(())

    def step(carried, _):
        x, state = carried
        update, state = tx.update(share * edge * x, state, x)
        return (x + update, state), None

    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=500)
    assert (abs(x) > 1) == grows


def test_the_table_and_the_figure_have_every_point(run):
    table = stability.table(run)
    rows = {row[0]: row[1:] for row in table.rows}
    assert len(rows) == len(table.rows) == 6
    assert rows["Masked language modelling, SGD, step 3"][2:] == ("76.0", "25 %")
    assert rows["Masked language modelling, Adam, step 1"][1:] == ("190 ± 0.100", "760", "25 %")
    assert rows["Masked language modelling, SGD, clipped, step 1"][1:] == ("–", "127", "6 %")
    ((name, *_, draw),) = stability.figures(run, plot.Style(["sgd", "adam", "sgd_clip"]))
    (axis,) = draw().axes
    assert name == "stability_mlm" and len(axis.get_legend().get_texts()) == 3
    assert any(part.name == "stability" for part in page.make_parts(run))


def test_a_run_with_one_point_a_trajectory_has_none(tmp_path, run):
    records.append(tmp_path / "one", spectrum(("sgd", 0, 1, 3), 1.9))
    assert stability.table(Run(tmp_path / "one")) is None
    assert [*stability.figures(Run(tmp_path / "one"), plot.Style(["sgd"]))] == []
