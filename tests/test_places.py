"""A step is compiled once, wherever its parameters lie."""

import contextlib
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import sharpjax
from experiments.run import training
from experiments.run.progress import Watch
from tests.devices import on_eight_devices

CODE = """
from tests.test_places import KINDS, compared, monitored
for kind in KINDS:
    monitored(8, kind), compared(8, kind)
print("passed")
"""
KINDS = (AxisType.Auto, AxisType.Explicit)
OPTIMIZERS = {"adam": optax.adam(0.1), "sgd": sharpjax.sgd(0.1, clip=0.1)}


@contextlib.contextmanager
def compiled():
    """The names of the programs that XLA compiles in this block."""
    names, logger = [], logging.getLogger("jax._src.dispatch")

    class Listener(logging.Handler):
        def emit(self, record):
            said = record.getMessage()
            if said.startswith("Finished XLA compilation of "):
                names.append(said.split()[4])

    listener = Listener()
    logger.addHandler(listener)
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(listener)


def loss(params, batch, key=None):
    return jnp.mean((batch @ params["w"] + params["b"][None]) ** 2)


def start(devices, kind):
    """Parameters split over that many devices, and a batch."""
    own = {"axis_types": (kind,), "devices": jax.devices()[:devices]}
    mesh = jax.make_mesh((devices,), ("fsdp",), **own)
    split = jax.NamedSharding(mesh, jax.P("fsdp"))
    params = {"w": jnp.ones((16, 8)), "b": jnp.ones(8)}
    batch = jax.device_put(jnp.ones((1, 4, 16)), jax.NamedSharding(mesh, jax.P()))
    return jax.device_put(params, split), batch


def monitored(devices, kind):
    params, batches = start(devices, kind)
    grads = jax.jit(jax.grad(loss))(params, batches[0])
    monitor = sharpjax.sharpness_monitor(loss, OPTIMIZERS, batches)
    state = monitor.init(params)
    state, _ = monitor.update(1, grads, state, params)
    with compiled() as names:
        for step in (2, 3):
            state, _ = monitor.update(step, grads, state, params)
    assert names == []


def compared(devices, kind):
    params, batches = start(devices, kind)
    with compiled() as names:
        sharpjax.compare(
            *(loss, params, OPTIMIZERS, [batches[0]] * 4, batches),
            **{"follow": "adam", "every": 4, "landscape": False, "span": False},
        )
    # One program of a step, and one that keeps the updates too.
    assert sum("_train" in name for name in names) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", [monitored, compared])
def test_on_a_mesh_of_one_device(check, kind):
    check(1, kind)


def test_on_a_mesh_of_eight_devices():
    assert on_eight_devices(CODE) == "passed"


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "muon", "many"])
def test_the_study_s_step(optimizer):
    made = sharpjax.pseudo_updates(OPTIMIZERS)
    rate = {"select": ("sgd", 0.1)} if optimizer == "many" else {}
    if optimizer != "many":
        made = sharpjax.named(optimizer, 0.1)
    batches = lambda done: iter([jnp.ones((1, 4, 16))] * 3)  # noqa: E731
    of_this_test = functools.partial(loss)
    params = {"w": np.ones((16, 8), np.float32), "b": np.ones(8, np.float32)}
    with compiled() as names:
        what = training.Training("toy", made, of_this_test, batches, 3, **rate)
        training.train(what, params, Watch())
    assert names.count("jit(update)") == names.count("jit(gradient)") == 1
