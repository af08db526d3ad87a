import dataclasses
import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from sharpjax.monitor import (
    compiled_updates,
    scalars,
    sharpness_monitor,
    tensorboard_logger,
    wandb_logger,
)
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
        return LOSS(params, batch), {"unused": 0}

    options = {"args": (jax.random.key(3),), "has_aux": True}
    monitor = sharpness_monitor(
        loss, ALGORITHMS, BATCHES, every=1, method="forward", chunk=2, **options
    )
    plain = sharpness_monitor(LOSS, ALGORITHMS, BATCHES, every=1)
    (_, forward, *_), (_, other, *_) = next(run(monitor)), next(run(plain))
    chex.assert_trees_all_close(forward, other, rtol=1e-4)
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


def bowl(params, batch):
    return jnp.sum(batch * params**2) / 2 + jnp.sum(params)


def of_batch(batch, params):
    return bowl(params, batch[0])


SEARCHING = {
    "lbfgs": optax.lbfgs(memory_size=2),
    "backtracking": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=5)
    ),
    "sophia": optax.contrib.sophia(0.1),
    "sgd": optax.sgd(0.1),
}


def test_optimizers_that_take_functions():
    """L-BFGS, a line search and sophia propose what they propose on their own."""
    params, batches = jnp.array([1.0, -2.0, 0.5]), jnp.array([[1.0, 3.0, 10.0]])
    function = functools.partial(of_batch, batches)
    monitor = sharpness_monitor(bowl, SEARCHING, batches, every=2)
    state = monitor.init(params)
    alone = {name: optax.with_extra_args_support(tx) for name, tx in SEARCHING.items()}
    states = {name: tx.init(params) for name, tx in alone.items()}
    for step in (1, 2):
        value, grads = jax.value_and_grad(function)(params)
        of_all = {"value": value, "grad": grads}
        updates = {}
        for name, tx in alone.items():
            extra = of_all | {"obj_fn" if name == "sophia" else "value_fn": function}
            updates[name], states[name] = tx.update(grads, states[name], params, **extra)
        state, stats = monitor.update(
            step, grads, state, params, value_fn=function, obj_fn=function, **of_all
        )
        if step == 2:
            expected = sharpjax.measure_directions(bowl, params, updates, batches)
            chex.assert_trees_all_close(stats, expected, rtol=1e-4)
            assert len({float(s.slope) for s in stats.values()}) > 1
        params = optax.apply_updates(params, updates["sgd"])


def test_a_partial_function_of_each_batch_compiles_once():
    traces, counts = [], []

    def value_of(batch, params):
        traces.append(1)
        return of_batch(batch, params)

    tx = optax.scale_by_backtracking_linesearch(max_backtracking_steps=30)
    followed = compiled_updates({"search": optax.chain(optax.sgd(1.0), tx)})
    params = jnp.array([1.0, -2.0, 0.5])
    state = followed.init(params)
    for scale in (1.0, 5.0, 20.0):
        batch = jnp.full((1, 3), scale)
        value, grads = jax.value_and_grad(bowl)(params, batch[0])
        extra = {"value": value, "grad": grads, "value_fn": functools.partial(value_of, batch)}
        updates, _ = followed.propose(grads, state, params, **extra)
        counts.append(len(traces))
        # Of this batch, not of the first: what lowers its loss is shorter each time.
        there = optax.apply_updates(params, updates["search"])
        assert bowl(there, batch[0]) < value
    assert counts[0] == counts[-1]


def test_new_functions_are_not_kept_for_ever():
    followed = compiled_updates({"sgd": optax.sgd(1.0)})
    state, grads = followed.init(PARAMS), PARAMS
    functions = [lambda p, i=i: i for i in range(12)]
    alive = [weakref.ref(f) for f in functions]
    for f in functions:
        followed.advance(grads, state, PARAMS, value_fn=f)
    del functions, f
    gc.collect()
    assert sum(f() is not None for f in alive) <= 8


def test_arguments_of_a_step_take_the_place_of_the_monitors_own():
    """Statistics that change every step cost no compilation after the first."""
    traces = []

    def loss(params, batch, statistics):
        traces.append(1)
        return statistics["scale"] * LOSS(params, batch)

    one = {"scale": jnp.asarray(1.0)}
    monitor = sharpness_monitor(loss, ALGORITHMS, BATCHES, every=1, args=(one,))
    state, grads = monitor.init(PARAMS), jax.grad(LOSS)(PARAMS, BATCH)
    _, first = monitor.update(1, grads, state, PARAMS)
    count = len(traces)
    for scale in (2.0, 3.0):
        other = {"scale": jnp.asarray(scale)}
        _, stats = monitor.update(1, grads, state, PARAMS, args=(other,))
        chex.assert_trees_all_close(
            stats["adam"].sharpness, scale * first["adam"].sharpness, rtol=1e-4
        )
    assert len(traces) == count


def test_scalars_leave_out_what_is_not_finite():
    stat = sharpjax.DirectionStats(*jnp.arange(8.0))
    concave = dataclasses.replace(stat, newton_step=jnp.nan, predicted_decrease=jnp.inf)
    tags = scalars({"sgd": stat, "adam": concave})
    assert tags["measured_loss"] == 0
    assert tags["slope/adam"] == 1
    assert tags["sharpness/sgd"] == 3
    assert tags["newton_step/sgd"] == 6
    assert len(tags) == 1 + 7 + 5
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
