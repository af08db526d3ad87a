"""The search of rates over the whole horizon, and optimizers measured on their own trajectories."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import optax
import pytest

import sharpjax
from experiments import records
from experiments.errors import DamagedError
from experiments.horizon_rows import Own, Trial
from experiments.rows import Convergence, Tuning
from experiments.run import convergence, own, training
from experiments.run.progress import Watch
from experiments.run.study import Study
from tests.experiments import tiny

KEY = ("mlm", 0, "sgd")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


def searched(losses, horizon="whole", known=()):
    """The search of SGD's rate where a run's losses are `losses(rate)`; its trials and rows."""
    rows, runs = [*known], []
    config = tiny.config(tune=True, tune_horizon=horizon, algorithms=("sgd",))

    def recorded(table, key):
        return [r for r in rows if type(r) is table and r.key[: len(key)] == key]

    def train(what, start, observe):
        rate = float(what.name.rpartition(" ")[2])
        runs.append(rate)
        for number, loss in enumerate(losses(rate, what.steps), start=1):
            if observe(SimpleNamespace(number=number, loss=loss)):
                break

    study = SimpleNamespace(config=config, recorded=recorded, record=rows.extend, train=train)
    task = SimpleNamespace(
        name="mlm", seed=0, training_loss_fn=None, training_batches=None, dropout_key=None
    )
    chosen = convergence.tune(study, task, None)
    return chosen["sgd"], rows, runs


def bowl(least, edge=math.inf):
    """Losses that fall to (log₁₀(rate/least))², and leave the numbers beyond `edge` at step 3."""

    def losses(rate, steps):
        end = math.log10(rate / least) ** 2
        made = [9.0] * (steps - 4) + [end - 1, end, end, end + 1]
        return [*made[:2], math.nan] if rate > edge else made

    return losses


def test_the_score_is_the_last_epochs_mean_and_the_best_rate_is_refined():
    chosen, rows, runs = searched(bowl(0.055))  # From Table 2's 1e-2.
    coarse, refined = [0.0316, 0.01, 0.1], [0.0178, 0.0562]
    assert runs == pytest.approx([*coarse, *refined], rel=0.01)
    assert float(chosen) == pytest.approx(0.0562, rel=0.01)
    trials = {r.learning_rate: r for r in rows if isinstance(r, Trial)}
    for rate, row in trials.items():
        assert row.loss == pytest.approx(math.log10(float(rate) / 0.055) ** 2)
        assert (row.steps, row.diverged_at) == (8, 0)
    tuned = [r for r in rows if isinstance(r, Tuning)]
    assert {r.learning_rate: r.loss for r in tuned} == {k: r.loss for k, r in trials.items()}
    assert [r.learning_rate for r in tuned if r.chosen] == [chosen]


def test_a_rate_diverges_and_the_search_goes_on_below_it():
    chosen, rows, _ = searched(bowl(1e-4, edge=1e-4))  # All of the first three diverge.
    assert float(chosen) == pytest.approx(1e-4, rel=0.01)
    lost = [r for r in rows if isinstance(r, Trial) and r.diverged_at]
    assert len(lost) >= 4 and {(r.loss, r.diverged_at) for r in lost} == {(math.inf, 3)}
    assert all(float(r.learning_rate) > 1.05e-4 for r in lost)
    assert {r.diverged for r in rows if isinstance(r, Tuning) and r.chosen} == {False}
    chosen, rows, runs = searched(bowl(1.0, edge=0.0))  # Nothing converges: it ends nevertheless.
    assert len(runs) <= convergence.MAX_TRIALS + 2
    assert all(math.isinf(r.loss) for r in rows)


def test_an_interrupted_search_goes_on_with_the_next_rate():
    _, rows, runs = searched(bowl(0.055))
    trials = [r for r in rows if isinstance(r, Trial)]
    chosen, again, left = searched(bowl(0.055), known=trials[:3])
    assert left == runs[3:] and {*again} == {*rows}
    same, _, none = searched(bowl(0.055), known=rows)  # Complete: nothing runs.
    assert (same, none) == (chosen, [])


def test_a_short_horizon_is_searched_as_before():
    def losses(rate, steps):
        assert steps == 3
        return [5.0, 4.0, abs(math.log10(rate) + 1.0)]

    chosen, rows, runs = searched(losses, horizon="steps")
    assert float(chosen) == pytest.approx(0.1) and not [r for r in rows if isinstance(r, Trial)]
    assert np.diff(sorted(np.log10(runs))) == pytest.approx(0.5, abs=0.01)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two optimizers on their own, one of which diverges."""
    made = tmp_path_factory.mktemp("own")
    follow(made)
    return made


def follow(directory, names=("sgd", "adam")):
    config = tiny.config(algorithms=names, epochs=2, measured_epochs=(1,))
    with Study(directory, config, Watch()).open() as study:
        study.convergence("mlm", measured=True)


def test_each_optimizer_is_measured_twice_an_epoch_where_it_is(directory):
    rows = records.read(directory, Own)
    losses = {(r.algorithm, r.step): r for r in records.read(directory, Convergence)}
    for name in ("sgd", "adam"):
        mine = [r for r in rows if r.algorithm == name]
        assert [r.step for r in mine] == [1, 3, 5, 7]
        for r in mine:
            trained = losses[name, r.step]
            assert (r.training_loss, r.learning_rate) == (trained.loss, trained.learning_rate)
            assert r.step_ratio == pytest.approx(r.update_norm / r.newton_step, rel=1e-4)
    (ours, theirs) = (next(r for r in rows if r.algorithm == n) for n in ("sgd", "adam"))
    assert ours.loss == theirs.loss and ours.slope != theirs.slope  # One start.


def test_its_numbers_are_the_librarys(directory):
    """The second measured point of SGD's run, with two plain updates made here."""
    config = tiny.config(algorithms=("sgd", "adam"), epochs=2, measured_epochs=(1,))
    with Study(directory, config, Watch()).open() as study:
        task = study.task("mlm", 0)
        params = study.start(task)
    (row,) = [r for r in records.read(directory, Own) if (r.algorithm, r.step) == ("sgd", 3)]
    tx = sharpjax.sgd(float(row.learning_rate))
    state, batches = tx.init(params), task.training_batches(0)
    for _ in range(3):
        _, grads = training.gradient(task.training_loss_fn, params, next(batches), None)
        point = params
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    found = sharpjax.measure_directions(task.loss_fn, point, {"u": updates}, task.test)["u"]
    for name in ("loss", "slope", "sharpness", "update_norm", "step_ratio"):
        assert getattr(row, name) == pytest.approx(float(getattr(found, name)), rel=1e-3), name


def test_the_same_again_changes_nothing_and_what_is_lost_is_said(directory):
    before = {p.name: p.read_bytes() for p in directory.glob("*.csv")}
    follow(directory)
    assert {p.name: p.read_bytes() for p in directory.glob("*.csv")} == before
    (directory / Own.FILE).unlink()
    with pytest.raises(DamagedError, match=r"own\.csv has lost records of sgd \(step 1 is missing"):
        follow(directory)


def test_what_diverged_is_measured_up_to_there():
    study = SimpleNamespace(config=tiny.config(), recorded=lambda *a: [])
    assert own.missing(study, KEY, 8) == {1, 3, 5, 7}
    assert own.missing(study, KEY, 5) == {1, 3}  # Step 5 is the one that is not finite.
    one = dataclasses.replace(study.config, batch_size=64, measured_batches=1)
    assert own.missing(SimpleNamespace(config=one, recorded=lambda *a: []), KEY, 2) == {1, 2}
