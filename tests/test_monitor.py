import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from sharpjax.monitor import scalars, sharpness_monitor, tensorboard_logger, wandb_logger
from tests.cases import network, network_loss

LOSS, PARAMS, BATCH = network_loss, *network(jax.random.key(0))[1:]
BATCHES = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), BATCH)
ALGORITHMS = {"sgd": sharpjax.sgd(1.0), "adam": sharpjax.adam(1e-2), "lion": optax.lion(1e-2)}


def run(monitor, steps=5, start=1):
    """(step, stats, params, grads) along plain SGD."""
    params, state = PARAMS, monitor.init(PARAMS)
    gradient = jax.jit(jax.grad(LOSS))
    for step in range(start, start + steps):
        grads = gradient(params, BATCH)
        state, stats = monitor.update(step, grads, state, params)
        yield step, stats, params, grads
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)


def test_every_nth_step_is_measured_as_if_by_hand():
    logged = []
    monitor = sharpness_monitor(
        LOSS, ALGORITHMS, BATCHES, every=2, log=lambda step, stats: logged.append((step, stats))
    )
    pseudo = sharpjax.pseudo_updates(ALGORITHMS)
    state = pseudo.init(PARAMS)
    measured = []
    for step, stats, params, grads in run(monitor):
        updates, state = pseudo.update(grads, state, params)
        if stats is None:
            continue
        measured.append((step, stats))
        assert list(stats) == list(ALGORITHMS)
        expected = sharpjax.measure_directions(LOSS, params, updates, BATCHES)
        chex.assert_trees_all_close(stats, expected, rtol=1e-4)
    assert [step for step, _ in measured] == [2, 4]
    assert logged == measured


def test_options_reach_the_measurement():
    calls = []

    def loss(params, batch, key):
        calls.append(key)
        return LOSS(params, batch)

    monitor = sharpness_monitor(
        loss, ALGORITHMS, BATCHES, every=1, method="forward", chunk=2, key=jax.random.key(3)
    )
    plain = sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=1)
    (_, forward, *_), (_, reverse, *_) = next(run(monitor)), next(run(plain))
    chex.assert_trees_all_close(forward, reverse, rtol=1e-4)
    assert calls


def test_nothing_is_compiled_twice():
    traces = chex.assert_max_traces(LOSS, n=8)
    monitor = sharpness_monitor(traces, ALGORITHMS, BATCHES, every=1)
    assert len(list(run(monitor, steps=8))) == 8


def test_extra_arguments_reach_the_optimizers_that_take_them():
    algorithms = {"plateau": optax.contrib.reduce_on_plateau(patience=1), "sgd": optax.sgd(0.1)}
    monitor = sharpness_monitor(LOSS, algorithms, BATCHES, every=2)
    state, grads = monitor.init(PARAMS), jax.grad(LOSS)(PARAMS, BATCH)
    for step in (1, 2):
        state, stats = monitor.update(step, grads, state, PARAMS, value=jnp.asarray(1.0))
    np.testing.assert_allclose(stats["plateau"].slope, -stats["sgd"].slope, rtol=1e-5)


def test_scalars_leave_out_what_is_not_finite():
    stat = sharpjax.DirectionStats(*jnp.arange(7.0))
    concave = stat._replace(newton_step=jnp.nan, predicted_decrease=jnp.inf)
    tags = scalars({"sgd": stat, "adam": concave})
    assert tags["measured_loss"] == 0
    assert tags["slope/adam"] == 1
    assert tags["sharpness/sgd"] == 2
    assert tags["newton_step/sgd"] == 5
    assert len(tags) == 1 + 6 + 4
    assert all(type(value) is float for value in tags.values())


class Recorder:
    """Stands for a SummaryWriter and for a run."""

    def __init__(self):
        self.rows = {}

    def add_scalar(self, tag, value, step):
        self.rows.setdefault(step, {})[tag] = value

    def log(self, mapping, step):
        self.rows[step] = mapping


@pytest.mark.parametrize("make", [tensorboard_logger, wandb_logger])
def test_loggers_write_the_scalars(make):
    recorder = Recorder()
    monitor = sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=2, log=make(recorder))
    expected = {step: scalars(stats) for step, stats, *_ in run(monitor) if stats is not None}
    assert recorder.rows == expected
    assert "sharpness/adam" in recorder.rows[2]


def test_a_tensorboard_file_holds_the_scalars(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.SummaryWriter(tmp_path) as writer:
        log = tensorboard_logger(writer)
        monitor = sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=2, log=log)
        expected = {step: scalars(stats) for step, stats, *_ in run(monitor) if stats is not None}
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(expected[2]) | set(expected[4])
    written = {event.step: event.value for event in events.Scalars("sharpness/sgd")}
    assert written == pytest.approx(
        {step: tags["sharpness/sgd"] for step, tags in expected.items()}
    )


def test_bad_input_names_the_argument_and_the_value():
    with pytest.raises(ValueError, match="every must be a positive integer, got 0"):
        sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=0)
    with pytest.raises(TypeError, match=r"every must be a positive integer, got 1\.5"):
        sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=1.5)
    with pytest.raises(ValueError, match="algorithms must name at least one optimizer"):
        sharpness_monitor(LOSS, {}, BATCHES)
    with pytest.raises(ValueError, match="batches must hold at least one array"):
        sharpness_monitor(LOSS, ALGORITHMS, {})
