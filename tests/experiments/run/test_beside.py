"""More optimizers and padding that counts, beside a small study."""

import dataclasses

import numpy as np
import pytest

from experiments import algorithms
from experiments.data.tasks import make_task
from experiments.report import beside as reported
from experiments.report import page
from experiments.report.recorded import Run
from experiments.rows import Landscape, Scales, Sharpness
from experiments.run import beside
from experiments.run.progress import Watch
from experiments.run.study import Study
from tests.experiments import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


@pytest.fixture(scope="module", name="study")
def _study(tmp_path_factory):
    with Study(tmp_path_factory.mktemp("beside"), tiny.config(), Watch()).open() as study:
        study.sharpness("translation", "sgd", 0)
        study.beside()
        yield study


def test_the_optimizers_are_measured_once_where_the_study_is(study):
    run, main = Run(study.directory / "beside" / "optimizers"), Run(study.directory)
    rows = {r.algorithm: r for r in run[Sharpness]}
    assert sorted(rows) == sorted(["sgd", *algorithms.BESIDE]) and len(run[Sharpness]) == len(rows)
    assert run[Landscape] and not run[Scales]
    (here,) = {r.key[:5] for r in run[Sharpness]}
    (sgd,) = [r for r in main[Sharpness] if r.key == (*here, "sgd")]
    assert here[3] == min(study.config.measured_epochs)
    assert rows["sgd"].sharpness == pytest.approx(sgd.sharpness, rel=1e-4)
    assert rows["sgd"].slope == pytest.approx(sgd.slope, rel=1e-5)


def test_padded_translations_are_those_of_a_study_of_that_padding(study):
    made = beside.padded(study.task("translation", 0))
    config = made.config
    assert config.translation.padding == "counted"
    asked = make_task("translation", dataclasses.replace(config, seed=0), 0)
    assert asked.about["target_padding"] == made.about["target_padding"] > 0.5
    for ours, theirs in ((made.examples, asked.examples), (made.test, asked.test)):
        assert ours.keys() == theirs.keys()
        for name, rows in theirs.items():
            np.testing.assert_array_equal(ours[name], rows)


def test_nothing_is_measured_twice(study):
    files = [*study.directory.glob("beside/*/*.csv")]
    before = {path: path.read_bytes() for path in files}
    study.beside()
    assert {path: path.read_bytes() for path in files} == before and len(before) == 4


def test_the_report_sets_both_beside_the_study(study):
    run = Run(study.directory)
    more, padding = reported.tables(run)
    assert len(more.rows) == 1 + len(algorithms.BESIDE)
    assert [row[0] for row in padding.rows] == ["masked", "counted"]
    masked, counted = (dict(zip(padding.header, row, strict=True)) for row in padding.rows)
    assert masked["SGD’s sharpness"] != counted["SGD’s sharpness"]
    assert all(cell != "–" for row in padding.rows for cell in row)
    part = next(part for part in page.make_parts(run) if part.name == "beside")
    assert len(part.pieces) == 3  # A figure and both tables.


def test_a_run_with_nothing_beside_it_has_no_such_part(study):
    run = Run(study.directory / "beside" / "optimizers")
    assert reported.tables(run) == [] and [*reported.figures(run)] == []
