"""A small comparison and its page."""

import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.report import write_comparison

NAMES = ("sgd", "adam", "sgd_clip", "lion")


def compared(names, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 12)).astype(np.float32) * np.logspace(0, -1, 12, dtype=np.float32)
    y = (x @ rng.normal(size=12)).astype(np.float32)

    def loss(w, batch):
        return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)

    training = [(x[i % 4], y[i % 4]) for i in range(20)]
    options |= {"every": 10, "learning_rate": 0.05, "fraction": 0.25}
    return sharpjax.compare(loss, jnp.full(12, 0.1), names, training, (x, y), **options)


@pytest.fixture(scope="session")
def comparison():
    return compared(NAMES, follow="adam")


@pytest.fixture(scope="session")
def page(comparison, tmp_path_factory):
    return write_comparison(comparison, tmp_path_factory.mktemp("report") / "page.html")
